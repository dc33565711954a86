use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::*;
use crate::{
    Action, DisconnectReason, Endpoint, Message, Pass, Rc4, ReliableChannel, SessionConfig,
    dialect::Dialect,
    framing::{CodecError, UserCodec},
    recording::RecordBudget,
};

const MS: Duration = Duration::from_millis(1);

/// A codec of an application.
#[derive(Debug)]
struct Inverts;

impl UserCodec for Inverts {
    fn encode(&self, body: &[u8], out: &mut Vec<u8>) {
        out.extend(body.iter().map(|byte| !byte));
    }

    fn decode(&self, body: &[u8], out: &mut Vec<u8>, _: usize) -> Result<(), CodecError> {
        self.encode(body, out);
        Ok(())
    }
}

fn config() -> SessionConfig {
    SessionConfig::builder("Replay").compression(true).build().unwrap()
}

/// The recordings of a client and its server that greet each other and close.
fn recordings(config: &SessionConfig, options: impl Fn(RecordOptions) -> RecordOptions) -> [Vec<Vec<u8>>; 2] {
    recordings_with(config, options, |_, _, _| {})
}

/// The same, and half-way `call` is made.
fn recordings_with(
    config: &SessionConfig,
    options: impl Fn(RecordOptions) -> RecordOptions,
    call: impl Fn(Instant, &mut Session, &mut Session),
) -> [Vec<Vec<u8>>; 2] {
    let mut now = Instant::now();
    let options = options(RecordOptions::new(now, 1_000_000_000));
    let mut client = Session::connect(now, config.clone(), 77);
    assert!(client.record(&options));
    let mut endpoint = Endpoint::new(now, config.clone().into(), [1; 16]);
    endpoint.record(Some(options));
    let (from, mut server, mut buf) = (SocketAddr::from(([192, 0, 2, 1], 7)), None::<Session>, Vec::new());
    client.set_send_key(Some(b"key")).unwrap();
    client.send_with_receipt("hello".into()).unwrap();
    for step in 0..400 {
        now += MS;
        if step == 100 {
            client.send(vec![7; 3_000].into()).unwrap();
            client.send(Vec::new().into()).unwrap_err();
        }
        if step == 150 {
            call(now, &mut client, server.as_mut().unwrap());
        }
        if step == 200 {
            client.close(now, DisconnectReason::Application);
        }
        for session in [Some(&mut client), server.as_mut()].into_iter().flatten() {
            session.handle_timeout(now);
            while session.poll_event().is_some() {}
            while session.recv().is_some() {}
        }
        while let Some(transmit) = client.poll_transmit(now, &mut buf) {
            for datagram in buf.chunks(transmit.segment_size) {
                match &mut server {
                    Some(server) => drop(server.handle_datagram(now, datagram.into())),
                    None => endpoint.handle_datagram(now, from.into(), datagram.into()),
                }
            }
            buf.clear();
        }
        while let Some(action) = endpoint.poll_action() {
            match action {
                Action::Open(opened) => {
                    server = Some(opened.session);
                    let server = server.as_mut().unwrap();
                    server.set_recv_key(Some(b"key")).unwrap();
                    server.set_recv_hook(ReliableChannel::THREE, None);
                }
                Action::Send { datagram, .. } => drop(client.handle_datagram(now, datagram[..].into())),
                _ => {}
            }
        }
        while let Some(transmit) = server.as_mut().and_then(|server| server.poll_transmit(now, &mut buf)) {
            buf.chunks(transmit.segment_size).for_each(|datagram| drop(client.handle_datagram(now, datagram.into())));
            buf.clear();
        }
    }
    assert!(client.closed().is_some());
    [client, server.unwrap()].map(|mut session| session.stop_recording().unwrap().take_pieces())
}

fn replayed(log: &[Vec<u8>]) -> Result<Replay, ReplayError> {
    let mut replay = Replay::new();
    log.iter().try_for_each(|piece| replay.feed(piece)).map(|()| replay)
}

#[test]
fn both_ends_say_again_what_they_said() {
    for log in recordings(&config(), |options| options) {
        let replay = replayed(&log).unwrap_or_else(|error| panic!("{error:#?}"));
        assert!(replay.calls() > 100 && replay.datagrams() > 2);
        assert_eq!(replay.recorded_by(), Some(env!("CARGO_PKG_VERSION")));
        assert!(replay.session().unwrap().closed().is_some());
        assert!(replay.elapsed() > 300 * MS);
    }
}

#[test]
fn calls_that_sessions_rarely_get_are_recorded_as_well() {
    type Call = fn(Instant, &mut Session, &mut Session);
    let calls: [(&str, u8, Call); 8] = [
        ("an ICMP error", log::UNREACHABLE, |now, _, server| server.handle_unreachable(now)),
        ("a remap", log::REMAP, |now, _, server| server.handle_remap(now)),
        ("a question", log::ASK_FOR_LIFE, |_, client, _| client.ask_for_life()),
        ("a message dropped", log::DROP_OLDEST, |_, client, _| {
            client.send(Message::unreliable("the oldest")).unwrap();
            client.send(Message::unreliable("the newest")).unwrap();
            assert!(client.drop_oldest_unreliable());
        }),
        ("a message beyond the send buffer", log::RESERVE, |_, client, _| {
            while client.send(Message::unreliable(vec![1; 400])).is_ok() {}
            client.reserve();
            client.send(Message::unreliable("promised")).unwrap();
        }),
        ("an abort", log::ABORT, |now, client, _| client.abort(now, DisconnectReason::Application, false)),
        ("an end", log::ABANDON, |now, client, _| client.abandon(now, DisconnectReason::Application, true)),
        ("a message that is none", log::SET_HOOK, |_, client, _| {
            client.set_send_hook(ReliableChannel::TWO, Some(Box::new(Rc4::new(b"a hook").unwrap())));
            client.send(Message::new(ReliableChannel::TWO, "sealed")).unwrap();
        }),
    ];
    for (what, tag, call) in calls {
        let logs = recordings_with(&config(), |options| options, call);
        for log in &logs {
            replayed(log).unwrap_or_else(|error| panic!("{what}: {error:#?}"));
        }
        // Without the call the session says something else.
        let without = logs.iter().any(|log| is_missed(&log.concat(), tag));
        assert!(without, "{what} makes no difference");
    }
}

/// Whether the replay of a log notices that its first entry with this tag is missing.
fn is_missed(log: &[u8], tag: u8) -> bool {
    let mut cursor = log::Cursor::new(log);
    let start = Start::take(&mut cursor, &[None, None]).unwrap();
    let mut reader = Reader::new(cursor.rest(), start.created);
    while let (before, Ok(Some(_))) = (reader.rest(), reader.next()) {
        if before[0] == tag {
            let until = log.len() - before.len();
            return replayed(&[[&log[..until], reader.rest()].concat()]).is_err();
        }
    }
    false
}

#[test]
fn a_session_that_behaves_otherwise_is_caught_at_the_first_byte() {
    let [log, _] = recordings(&config(), |options| options);
    let mut changed = log.concat();
    let at = changed.windows(5).position(|window| window == b"hello").unwrap();
    // Another message then gives another datagram now.
    changed[at] = b'j';
    let Err(ReplayError::Differs(difference)) = replayed(&[changed]) else { panic!("nothing was found") };
    assert!(difference.call > 1 && difference.elapsed > Duration::ZERO, "{difference:?}");
    assert_eq!(difference.input, "ask for datagrams to send");
    assert_ne!(difference.expected, difference.actual);
    assert!(difference.session.contains("0000004d"), "{}", difference.session);
    assert_eq!(difference.recorded_by, env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_result_that_is_missing_now_is_told_of_the_call_that_had_it() {
    let [log, _] = recordings(&config(), |options| options);
    let mut changed = log.concat();
    let at = changed.windows(5).position(|window| window == b"hello").unwrap();
    changed.insert(at + 5, log::PROMOTED);
    let Err(ReplayError::Differs(difference)) = replayed(&[changed]) else { panic!("nothing was found") };
    assert!(difference.input.starts_with("send 5 bytes"), "{difference:?}");
}

#[test]
fn a_recording_of_another_format_says_whose_it_is() {
    let [log, _] = recordings(&config(), |options| options);
    let mut log = log.concat();
    log[1] = 99;
    let error = replayed(&[log]).unwrap_err();
    assert_eq!(error, ReplayError::Format { format: 99, version: env!("CARGO_PKG_VERSION").into() });
}

#[test]
fn a_codec_of_the_application_is_asked_for_and_taken() {
    let dialect = Dialect::version3().with_codec(Codec::Custom(Arc::new(Inverts)));
    let config = SessionConfig::with_dialect(dialect).passes([Pass::UserCodec, Pass::None]).build().unwrap();
    for log in recordings(&config, |options| options) {
        assert_eq!(replayed(&log).unwrap_err(), ReplayError::NeedsCodec(0));
        let mut replay = Replay::new().with_codecs([Some(Codec::Custom(Arc::new(Inverts))), None]);
        log.iter().for_each(|piece| replay.feed(piece).unwrap());
    }
}

#[test]
fn at_its_bound_and_without_memory_a_recording_stops_and_the_rest_is_good() {
    let small = recordings(&config(), |options| options.limit(1));
    let poor = recordings(&config(), |options| options.budget(RecordBudget::new(0)));
    let marks = |log: &Vec<Vec<u8>>| replayed(log).unwrap().marks().to_vec();
    let [small, poor] = [small, poor].map(|logs| logs.iter().map(marks).collect::<Vec<_>>());
    // What fits the first piece is never cut: the client says more than that, the server less.
    assert_eq!(small, [vec![Mark::Full], vec![]]);
    assert_eq!(poor, [[Mark::NoRoom], [Mark::NoRoom]]);
}

#[test]
fn a_recording_may_stop_between_a_call_and_its_result() {
    let [log, _] = recordings(&config(), |options| options);
    let log = log.concat();
    // The empty message is refused as such.
    let refused = log.windows(5).position(|window| window == [log::SEND, 0, 0, log::REFUSED, 2]).unwrap();
    let stopped = |mark: Mark| [&log[..refused + 3], &[log::MARK, mark as u8]].concat();
    for mark in [Mark::Full, Mark::NoRoom] {
        assert_eq!(replayed(&[stopped(mark)]).unwrap().marks(), [mark]);
    }
    let Err(ReplayError::Differs(difference)) = replayed(&[log[..refused + 3].to_vec()]) else {
        panic!("a result is missing and nothing says why")
    };
    assert!(difference.input.starts_with("send 0 bytes"), "{difference:?}");
}

#[test]
fn another_message_of_the_same_length_is_a_difference() {
    let [_, log] = recordings(&config(), |options| options);
    let mut changed = log.concat();
    let set_key = [log::SET_KEY, Way::In as u8, 1, 3];
    let at = changed.windows(4).position(|window| window == set_key).unwrap();
    // Another key makes another message of the same datagram.
    changed[at + 4] ^= 1;
    let Err(ReplayError::Differs(difference)) = replayed(&[changed]) else { panic!("nothing was found") };
    assert_eq!(difference.input, "take a message", "{difference:?}");
}

#[test]
fn no_recording_goes_beyond_its_bounds_and_no_message_is_recorded_in_part() {
    let messages = [100, 6_000, 6_000, 6_000, 40_000, 100];
    let recorded = |options: &dyn Fn(RecordOptions) -> RecordOptions| {
        let now = Instant::now();
        let mut session = Session::connect(now, config(), 1);
        assert!(session.record(&options(RecordOptions::new(now, 0))));
        for length in messages {
            session.send(vec![9; length].into()).unwrap();
        }
        let mut recorder = session.stop_recording().unwrap();
        let (written, pieces) = (recorder.written(), recorder.take_pieces());
        let replay = replayed(&pieces).unwrap();
        (written, pieces, replay.calls(), replay.marks().to_vec())
    };
    let (_, pieces, calls, marks) = recorded(&|options| options);
    assert_eq!((calls, marks), (6, vec![]));
    // The reader of a piece has no other piece.
    let ends = pieces.iter().map(|piece| piece.ends_with(&[9; 100])).collect::<Vec<_>>();
    assert_eq!(ends, [true, true, true, true, true], "each piece ends with a message");
    for (limit, fit) in [(10_000, 2), (20_000, 4), (50_000, 4)] {
        let (written, _, calls, marks) = recorded(&|options| options.limit(limit));
        assert!(written <= limit, "{written} of {limit}");
        assert_eq!((calls, marks), (fit, vec![Mark::Full]));
    }
}

#[test]
fn a_recording_that_is_dropped_gives_its_memory_back() {
    // Room for the two recordings of one run.
    let budget = RecordBudget::new(256 << 10);
    for run in 0..20 {
        for log in recordings(&config(), |options| options.budget(Arc::clone(&budget))) {
            assert_eq!(replayed(&log).unwrap().marks(), [], "run {run}");
        }
    }
}

#[test]
fn a_damaged_log_is_an_error_and_never_a_panic() {
    let logs = recordings(&config(), |options| options).map(|log| log.concat());
    let mut random = 1_u64;
    let mut draw = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let (mut wrong, runs) = (0, 4_000);
    for run in 0..runs {
        let mut log = logs[run % 2].clone();
        for _ in 0..=draw(3) {
            let at = draw(log.len());
            match draw(3) {
                0 => log[at] ^= 1 << draw(8),
                1 => log[at] = draw(256) as u8,
                _ => log.truncate(at.max(1)),
            }
        }
        match replayed(&[log]) {
            Err(ReplayError::Differs(difference)) => {
                assert!(!difference.actual.contains("panicked"), "{difference:#?}");
                wrong += 1;
            }
            Err(_) => wrong += 1,
            Ok(_) => {}
        }
    }
    assert!(wrong > runs / 2, "{wrong}");
}

#[test]
fn a_session_that_was_used_is_not_recorded() {
    let now = Instant::now();
    let mut session = Session::connect(now, config(), 1);
    session.send("before".into()).unwrap();
    assert!(!session.record(&RecordOptions::new(now, 0)));
    assert!(session.recorder().is_none());
}

//! Whole simulated sessions of every dialect, as an onlooker follows them.

mod common;

use std::net::SocketAddr;

use common::{Heard, analysed, datagrams, plan, simulated};
use soe_core::Dialect;
use soe_tools::analysis::{
    Analyzer, Direction, Event, EventKind, Finding, Key, Options, Origin, Severity, Transmission,
};
use soe_tools::capture::Datagram;
use soe_tools::synthetic::{Plan, Written};

const DIRECTIONS: [Direction; 2] = [Direction::ToServer, Direction::ToClient];

/// Every message that the applications got was seen, in order per direction and channel.
fn assert_all_seen(heard: &Heard, written: &Written, what: &str) {
    assert!(written.delivered.len() > 100, "{what}: only {} messages", written.delivered.len());
    for direction in DIRECTIONS {
        for channel in 0..4 {
            let delivered: Vec<_> = written
                .delivered
                .iter()
                .filter(|delivered| delivered.direction == direction)
                .filter(|delivered| delivered.message.channel.to_string() == format!("reliable channel {channel}"))
                .map(|delivered| delivered.message.payload.to_vec())
                .collect();
            let seen = heard.of(direction, channel);
            assert!(seen.len() >= delivered.len(), "{what}, {direction:?}, channel {channel}: {}", seen.len());
            assert!(seen[..delivered.len()] == delivered, "{what}, {direction:?}, channel {channel} differs");
        }
    }
}

fn lossy(dialect: &str, loss: f64) -> Plan {
    let mut plan = plan(dialect);
    (plan.loss, plan.longest) = (loss, 1500);
    plan
}

#[test]
fn every_message_of_every_dialect_is_put_together_with_and_without_loss() {
    for name in Dialect::ALL_NAMES {
        for loss in [0.0, 0.05] {
            let (capture, written) = simulated(&lossy(name, loss));
            let heard = analysed(&datagrams(&capture), Options::default());
            let what = format!("{name} at a loss of {loss}");
            assert_all_seen(&heard, &written, &what);
            assert_eq!(heard.opened.len(), 1, "{what}");
            assert_eq!(heard.opened[0].origin, Origin::Handshake);
            assert_eq!(heard.totals.claimed, written.datagrams, "{what}");
            assert!(heard.closed[0].ended.is_some(), "{what}");
            let errors: Vec<_> =
                heard.findings.iter().filter(|finding| finding.severity() == Severity::Error).collect();
            assert!(errors.is_empty(), "{what}: {errors:?}");
            let resent =
                heard.closed[0].directions.iter().map(|counters| counters.resent() + counters.late).sum::<u64>();
            // Where nothing is lost a probe or two may run into an acknowledgement that waits for company.
            let (few, many) = (resent * 20 < written.datagrams, resent * 2 > written.lost);
            assert!(if written.lost == 0 { few } else { many }, "{what}: {resent} resent, {} lost", written.lost);
        }
    }
}

#[test]
fn a_session_is_found_out_without_its_handshake() {
    for name in Dialect::ALL_NAMES {
        let (capture, _) = simulated(&lossy(name, 0.02));
        let mut datagrams = datagrams(&capture);
        let (expected, all) = (analysed(&datagrams, Options::default()), datagrams.len());
        datagrams.drain(..all / 3);
        let heard = analysed(&datagrams, Options::default());
        let (info, known) = (&heard.opened[0], &expected.opened[0]);
        assert_eq!(info.origin, Origin::Inferred, "{name}");
        assert_eq!((info.crc_seed, info.crc_length), (known.crc_seed, known.crc_length), "{name}");
        assert_eq!(info.passes, known.passes, "{name}");
        assert_eq!((info.client, info.server), (known.client, known.server), "{name}");
        for direction in DIRECTIONS {
            let (seen, all) = (heard.of(direction, 0), expected.of(direction, 0));
            assert!(seen.len() * 10 >= all.len() * 5, "{name}, {direction:?}: {} of {}", seen.len(), all.len());
            assert!(all.ends_with(&seen[seen.len() / 4..]), "{name}, {direction:?}");
        }
    }
}

#[test]
fn a_damaged_datagram_is_reported_and_nothing_else_suffers() {
    let (capture, written) = simulated(&plan("h1z1"));
    let mut datagrams = datagrams(&capture);
    let copy = datagrams[40].clone();
    datagrams.insert(41, copy);
    *datagrams[40].3.last_mut().unwrap() ^= 1;
    let heard = analysed(&datagrams, Options::default());
    assert_all_seen(&heard, &written, "h1z1");
    let length = datagrams[40].3.len();
    let worse: Vec<_> = heard.findings.into_iter().filter(|finding| finding.severity() > Severity::Note).collect();
    assert_eq!(worse, [Finding::BadCrc { length }]);
}

#[test]
fn what_is_missing_from_the_capture_is_named_and_the_rest_goes_on() {
    let mut quiet = plan("version3");
    quiet.longest = 200;
    let (capture, _) = simulated(&quiet);
    let mut datagrams = datagrams(&capture);
    let expected = analysed(&datagrams, Options::default());
    datagrams.drain(60..90);
    let heard = analysed(&datagrams, Options::default());
    let missing = heard.findings.iter().any(|finding| matches!(finding, Finding::MissingFromCapture { .. }));
    assert!(missing, "{:?}", heard.findings);
    for direction in DIRECTIONS {
        let (seen, all) = (heard.of(direction, 0), expected.of(direction, 0));
        assert!(seen.len() < all.len() && seen.len() * 10 > all.len() * 8, "{} of {}", seen.len(), all.len());
        assert_eq!(seen.last(), all.last());
    }
}

#[test]
fn messages_are_decrypted_with_a_key_from_the_command_line() {
    let mut secret = plan("h1z1");
    secret.key = Some(b"a key".to_vec());
    let (capture, written) = simulated(&secret);
    let without = analysed(&datagrams(&capture), Options::default());
    assert_eq!(without.decrypted, 0);
    let mut options = Options::default();
    options.keys = vec!["rc4:61206b6579".parse::<Key>().unwrap()];
    let heard = analysed(&datagrams(&capture), options);
    assert_all_seen(&heard, &written, "with a key");
    assert_eq!(heard.decrypted, heard.messages.len());
}

#[test]
fn a_client_that_starts_again_from_its_port_gets_a_session_of_its_own() {
    let (first, _) = simulated(&plan("version3"));
    let mut second = plan("version3");
    second.seed = 2;
    let (second, written) = simulated(&second);
    let mut all = datagrams(&first);
    // The first ends without a word.
    all.truncate(all.len() / 2);
    all.extend(datagrams(&second));
    let heard = analysed(&all, Options::default());
    assert_eq!((heard.opened.len(), heard.closed.len()), (2, 2));
    assert_ne!(heard.opened[0].crc_seed, heard.opened[1].crc_seed);
    let of_second = heard.datagrams.iter().filter(|(session, _)| *session == 2).count() as u64;
    assert_eq!(of_second, written.datagrams);
}

#[test]
fn a_session_is_followed_to_another_port() {
    let (capture, written) = simulated(&plan("version3"));
    let mut datagrams = datagrams(&capture);
    let heard = analysed(&datagrams, Options::default());
    let (id, seed) = (heard.opened[0].session_id.unwrap(), heard.opened[0].crc_seed.unwrap());
    let mut elsewhere = common::client();
    elsewhere.set_port(50_001);
    let half = datagrams.len() / 2;
    for (_, from, to, _) in &mut datagrams[half..] {
        let moved = if *from == common::client() { from } else { to };
        *moved = elsewhere;
    }
    let remap = [&[0, 0x1E], &id.to_be_bytes()[..], &seed.to_be_bytes()].concat();
    datagrams.insert(half, (datagrams[half].0, elsewhere, common::server(), remap));
    let heard = analysed(&datagrams, Options::default());
    assert_all_seen(&heard, &written, "moved");
    assert_eq!(heard.opened.len(), 1);
    assert!(heard.findings.contains(&Finding::Moved { to: elsewhere.to_string() }));
}

#[test]
fn what_is_found_reads_as_a_sentence() {
    let resend = |cause, after| Finding::Resend { channel: 0, sequence: 7, cause, after, copies: 2 }.to_string();
    assert_eq!(
        resend(Transmission::ResendAfterTimeout, 1_500_000),
        "channel 0 #7 resent by timer, 1.500 ms after the last, seen 2 times"
    );
    assert_eq!(resend(Transmission::Late, 1000), "channel 0 #7 first seen behind newer packets, 0.001 ms after them");
    assert_eq!(resend(Transmission::ResendNeedless, 0), "channel 0 #7 resent although it was acknowledged");
}

#[test]
fn a_stall_and_what_ended_it_are_reported() {
    let (capture, _) = simulated(&plan("version3"));
    let mut datagrams = datagrams(&capture);
    let middle = datagrams.len() / 2;
    // Nothing is heard for three seconds.
    for (time, ..) in &mut datagrams[middle..] {
        *time += 3_000_000_000;
    }
    let heard = analysed(&datagrams, Options::default());
    let stalled =
        |finding: &Finding| matches!(finding, Finding::Stall { lasted: 3_000_000_000.., is_unfinished: false, .. });
    assert!(heard.findings.iter().any(stalled), "{:?}", heard.findings);
}

#[test]
fn the_link_that_loses_shows_resends_with_their_causes() {
    let (capture, written) = simulated(&lossy("version3", 0.1));
    let heard = analysed(&datagrams(&capture), Options::default());
    let count = |wanted: Transmission| {
        heard
            .findings
            .iter()
            .filter(|finding| matches!(finding, Finding::Resend { cause, .. } if *cause == wanted))
            .count()
    };
    assert!(written.lost > 20);
    // The capture is made at the client: its resends follow what its server acknowledged.
    assert!(count(Transmission::ResendAfterGap) > 5, "{:?}", heard.findings);
    assert!(count(Transmission::Late) > 5, "{:?}", heard.findings);
}

/// Datagrams of another protocol between two addresses of their own.
fn foreign(port: u16, make: impl Fn(u32) -> Vec<u8>) -> Vec<(u64, SocketAddr, SocketAddr, Vec<u8>)> {
    let (here, there) = (SocketAddr::from(([10, 0, 0, 9], 40_000)), SocketAddr::from(([10, 0, 0, 8], port)));
    (0..200u32)
        .map(|index| {
            let (from, to) = if index % 2 == 0 { (here, there) } else { (there, here) };
            (u64::from(index) * 10_000_000, from, to, make(index))
        })
        .collect()
}

/// A word that looks random.
fn scrambled(index: u32) -> u32 {
    (index + 1).wrapping_mul(0x9E37_79B9).rotate_left(index % 31) ^ 0x5BD1_E995
}

#[test]
fn dns_quic_and_rtp_are_not_taken_for_sessions() {
    // Every identifier that DNS can have, those that look like op codes among them.
    let dns = foreign(53, |index| {
        let flags = if index % 2 == 0 { [1, 0] } else { [0x81, 0x80] };
        let id = (index / 2 % 40) as u16;
        [&id.to_be_bytes()[..], &flags, b"\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01"].concat()
    });
    let rtp = foreign(5004, |index| {
        let header = [0x80, 0, (index >> 8) as u8, index as u8];
        [&header[..], &(index * 160).to_be_bytes(), &[1, 2, 3, 4], &scrambled(index).to_be_bytes().repeat(40)].concat()
    });
    let quic = foreign(443, |index| {
        let first = if index < 4 { 0xC0 } else { 0x40 } | scrambled(index) as u8 & 0x3F;
        [&[first][..], &scrambled(index).to_be_bytes().repeat(1 + index as usize % 60)].concat()
    });
    let mut all = [dns, rtp, quic].concat();
    all.sort_by_key(|(time, ..)| *time);
    let heard = analysed(&all, Options::default());
    assert_eq!((heard.totals.sessions, heard.totals.claimed, heard.totals.datagrams), (0, 0, 600));
    assert!(heard.datagrams.is_empty());
}

#[test]
fn conversations_beyond_the_limit_are_summed_up_and_let_go() {
    let mut options = Options::default();
    options.max_conversations = 64;
    let mut all = Vec::new();
    for number in 0..1000u16 {
        let client = SocketAddr::from(([10, 1, 0, 1], 1024 + number));
        let id = u32::from(number).to_be_bytes();
        let request = [&[0, 1, 0, 0, 0, 2][..], &id, &[0, 0, 2, 0]].concat();
        let response = [&[0, 2][..], &id, &[0, 0, 0, 9, 2, 0, 0, 0, 0, 2, 0]].concat();
        let time = u64::from(number) * 1_000_000;
        all.push((time, client, common::server(), request));
        all.push((time + 1, common::server(), client, response));
    }
    let (mut analyzer, mut open, mut most) = (Analyzer::new(options), 0usize, 0);
    let mut sink = |event: &Event<'_>| {
        match event.kind {
            EventKind::Opened(_) => open += 1,
            EventKind::Closed(_) => open -= 1,
            _ => {}
        }
        most = most.max(open);
        Ok(())
    };
    for (time, from, to, payload) in &all {
        analyzer.datagram(&Datagram::new(*time, *from, *to, payload), &mut sink).unwrap();
    }
    let totals = analyzer.finish(&mut sink).unwrap();
    assert_eq!(totals.sessions, 1000);
    assert!(most <= 64 && open == 0, "{most} at once, {open} left");
}

#[test]
fn the_parameters_of_a_session_come_from_the_secrets_of_the_capture() {
    let mut secret = plan("star-wars-galaxies");
    secret.key = Some(b"Key".to_vec());
    let (capture, _) = simulated(&secret);
    let whole = analysed(&datagrams(&capture), Options::default());
    let (id, seed) = (whole.opened[0].session_id.unwrap(), whole.opened[0].crc_seed.unwrap());
    // Without the handshake.
    let all: Vec<_> = datagrams(&capture).into_iter().filter(|(.., payload)| payload[1] > 2).collect();
    let lines =
        format!("SOE_SESSION {id:08x} {seed:08x} 2 1 4 star-wars-galaxies\nSOE_KEY {id:08x} to-server 0 rc4 4b6579\n");
    let (mut analyzer, mut heard) = (Analyzer::new(Options::default()), Heard::default());
    analyzer.secrets(lines.as_bytes());
    let mut sink = |event: &Event<'_>| {
        heard.take(event);
        Ok(())
    };
    for (time, from, to, payload) in &all {
        analyzer.datagram(&Datagram::new(*time, *from, *to, payload), &mut sink).unwrap();
    }
    analyzer.finish(&mut sink).unwrap();
    assert_eq!((heard.opened[0].origin, heard.opened[0].session_id), (Origin::Given, Some(id)));
    // Each of the two channels in use under a key stream of its own.
    let on = |channel| heard.of(Direction::ToServer, channel).len();
    assert_eq!(heard.decrypted, on(0) + on(1));
    assert!(on(0) > 20 && on(1) > 20);
}

#[test]
fn what_sessions_hold_together_is_bounded_and_what_is_dropped_is_said() {
    let mut options = Options::default();
    options.max_held = 1 << 20;
    let framing = Dialect::version3().framing(9, 2, [0, 0]).unwrap();
    let sealed = |packet: &[u8]| {
        let mut datagram = packet.to_vec();
        framing.seal(&mut datagram, 0);
        datagram
    };
    let mut all = Vec::new();
    for number in 0..200u16 {
        let (client, time) = (SocketAddr::from(([10, 1, 0, 1], 1024 + number)), u64::from(number) * 1_000_000);
        let response = vec![0, 2, 0, 0, 0, 1, 0, 0, 0, 9, 2, 0, 0, 0, 0, 2, 0];
        all.push((time, common::server(), client, response));
        for channel in 0..4 {
            // One packet, and one that is as far ahead as the wire can say.
            all.push((time, client, common::server(), sealed(&[0, 9 + channel, 0, 0, 1])));
            all.push((time, client, common::server(), sealed(&[0, 9 + channel, 0x70, 0, 1])));
        }
    }
    let heard = analysed(&all, options);
    let dropped = heard.findings.iter().filter(|finding| matches!(finding, Finding::BrokenTrain { .. })).count();
    assert!(dropped > 700, "{dropped} of 800 channels were dropped");
    let beyond = heard.findings.iter().filter(|finding| matches!(finding, Finding::OutOfWindow { .. })).count();
    assert_eq!(beyond, 800);
}

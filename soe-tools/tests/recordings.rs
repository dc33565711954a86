//! Sessions of the real driver, recorded; what is written replays with `soe replay` and decodes with `soe decode`.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::{Scratch, soe};
use serde_json::Value;
use soe_core::recording::{RecordOptions, RecordingWriter, Redact};
use soe_core::replay::Replay;
use soe_core::{Channel, Dialect, HookError, Rc4, Session};
use soe_testing::{LinkProfile, Loss, Network};
use soe_tokio::{
    DisconnectReason, ListenerConfig, Message, MessageHook, RecordWhen, RecorderConfig, RecordingFiles,
    ReliableChannel, SessionConfig, SoeListener, SoeSession,
};
use soe_tools::recording::RecordingReader;

/// A directory of this test alone.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static DIRECTORIES: AtomicU32 = AtomicU32::new(0);
        let name = format!("recordings-{}-{}", std::process::id(), DIRECTORIES.fetch_add(1, Ordering::Relaxed));
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config() -> SessionConfig {
    SessionConfig::builder("Recorded").compression(true).build().unwrap()
}

fn lines(output: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Both ends of a session over a lossy network, both recorded.
async fn pair(network: &Network, recorder: &RecorderConfig) -> (SoeListener, SoeSession, SoeSession) {
    network.link(LinkProfile::lossless().delay(Duration::from_millis(20)).loss(Loss::Uniform(0.1)));
    let listener = network.listener(ListenerConfig::new(config()).recorder(recorder.clone())).unwrap();
    let connector = network.connector(Network::client_address(0)).unwrap();
    connector.record(Some(recorder.clone()));
    let (client, server) = tokio::join!(connector.connect(Network::SERVER, config()), listener.accept());
    (listener, client.unwrap(), server.unwrap().accept())
}

/// The next reliable message.
async fn hear(session: &mut SoeSession) -> Bytes {
    loop {
        let message = session.recv().await.unwrap().unwrap();
        if message.channel.is_reliable() {
            return message.payload;
        }
    }
}

/// Messages of all sizes both ways, some of them under a key, some through a hook.
async fn talk(client: &mut SoeSession, server: &mut SoeSession) {
    for round in 0..30_usize {
        if round == 10 {
            client.set_send_key(Some(b"to the server")).unwrap();
            server.set_recv_key(Some(b"to the server")).unwrap();
        }
        let text = format!("round {round} of what is said to the server, ").repeat(1 + round);
        client.send(text.clone()).await.unwrap();
        client.send(Message::unreliable("where I stand")).await.unwrap();
        let heard = hear(server).await;
        assert_eq!(heard, text);
        if round == 5 {
            // It is promoted, and counts among the messages before the key.
            let large = "too large for one datagram, ".repeat(100);
            client.send(Message::unreliable(large.clone())).await.unwrap();
            assert_eq!(hear(server).await, large);
        }
        server.send(heard.slice(..heard.len() / 2)).await.unwrap();
        assert_eq!(client.recv().await.unwrap().unwrap().payload.len(), heard.len() / 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_abnormally_leaves_files_that_replay_and_decode() {
    let (directory, network) = (Directory::new(), Network::new(7));
    let files = RecordingFiles::in_directory(&directory.0).unwrap();
    let (_listener, mut client, mut server) = pair(&network, &RecorderConfig::new(files.clone())).await;
    talk(&mut client, &mut server).await;
    network.blackout(Duration::from_secs(600));
    while server.recv().await.expect("it ends by its time-out").is_ok() {}
    tokio::time::sleep(Duration::from_secs(60)).await;
    files.flush();
    let files = directory.files();
    assert_eq!(files.len(), 2, "both ends");
    #[cfg(unix)]
    for file in &files {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "recordings hold passwords");
    }
    for file in &files {
        let file = file.to_str().unwrap();
        let replayed = soe(&["replay", file]);
        let text = String::from_utf8_lossy(&replayed.stdout);
        assert_eq!(replayed.status.code(), Some(0), "{text}");
        assert!(text.contains("all the same"), "{text}");

        let decoded = soe(&["decode", file, "--json"]);
        let server = Network::SERVER.to_string();
        assert!(String::from_utf8_lossy(&decoded.stdout).contains(&server), "{file} does not name {server}");
        let events = lines(&decoded.stdout);
        // What the server sends back is not encrypted.
        let is_meant = |event: &&Value| event["event"] == "message" && event["direction"] == "to-server";
        let messages: Vec<_> = events.iter().filter(is_meant).collect();
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        for round in [3, 12, 29] {
            let text = hex(&format!("round {round} of what is said to the server, "));
            let is_seen = messages.iter().any(|message| message.to_string().contains(&text));
            assert!(is_seen, "{file}: round {round} is not there in plain text");
        }
        let totals = events.last().unwrap();
        assert_eq!(totals["totals"]["sessions"], 1, "{totals}");
        assert_eq!(totals["other_frames"], 0, "{totals}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_recording_that_was_changed_differs_from_there_on() {
    let (directory, network) = (Directory::new(), Network::new(8));
    let files = RecordingFiles::in_directory(&directory.0).unwrap();
    let recorder = RecorderConfig::new(files.clone()).when(RecordWhen::Continuously);
    let (_listener, mut client, mut server) = pair(&network, &recorder).await;
    talk(&mut client, &mut server).await;
    client.close(DisconnectReason::Application).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    files.flush();
    let file = fs::read(&directory.files()[0]).unwrap();
    let replayed = soe(&["replay", directory.files()[0].to_str().unwrap(), "--json"]);
    assert_eq!((replayed.status.code(), &lines(&replayed.stdout)[0]["result"]), (Some(0), &Value::from("same")));

    // The last byte of a datagram that went out: its packet has the flag of that direction behind it.
    let flag = [2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0];
    let at = file.windows(flag.len()).enumerate().filter(|(_, window)| *window == flag).nth(20).unwrap().0;
    let mut changed = file.clone();
    let last = (0..at).rev().find(|&at| changed[at] != 0).unwrap();
    changed[last] ^= 0x40;
    let scratch = Scratch::new("changed.pcapng", &changed);
    let replayed = soe(&["replay", scratch.path(), "--json"]);
    let found = &lines(&replayed.stdout)[0];
    assert_eq!((replayed.status.code(), &found["result"]), (Some(6), &Value::from("differs")), "{found}");
    let difference = &found["difference"];
    assert!(difference["call"].as_u64().unwrap() > 20, "{difference}");
    assert_ne!(difference["expected"], difference["actual"]);
    let text = soe(&["replay", scratch.path()]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("ask for datagrams to send"), "{text:?}");

    // A file that breaks off is replayed up to there.
    let scratch = Scratch::new("cut.pcapng", &file[..file.len() - 100]);
    let replayed = soe(&["replay", scratch.path(), "--json"]);
    assert_eq!(lines(&replayed.stdout).last().unwrap()["event"], "broken-off");
}

/// Hides all but the length of what begins with "password".
#[derive(Debug)]
struct Passwords;

impl Redact for Passwords {
    fn show(&self, _: Channel, message: &[u8]) -> Option<Vec<u8>> {
        (!message.starts_with(b"password")).then(|| message.to_vec())
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_redacted_is_nowhere_in_the_file_and_the_rest_decodes() {
    let (directory, network) = (Directory::new(), Network::new(9));
    let files = RecordingFiles::in_directory(&directory.0).unwrap();
    let recorder = RecorderConfig::new(files.clone()).when(RecordWhen::End).redact(Passwords);
    let (_listener, mut client, mut server) = pair(&network, &recorder).await;
    client.set_send_key(Some(b"a key that is secret")).unwrap();
    server.set_recv_key(Some(b"a key that is secret")).unwrap();
    client.send("password: swordfish").await.unwrap();
    client.send("a remark").await.unwrap();
    for _ in 0..2 {
        server.recv().await.unwrap().unwrap();
    }
    // In plain text, and over several packets.
    server.send("password of the server: ".repeat(100)).await.unwrap();
    server.send(Message::unreliable("password, unreliably")).await.unwrap();
    client.recv().await.unwrap().unwrap();
    client.close(DisconnectReason::Application).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    files.flush();
    for file in directory.files() {
        let bytes = fs::read(&file).unwrap();
        for secret in ["password", "swordfish", "a key that is secret"] {
            let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            for secret in [secret.as_bytes(), hex.as_bytes()] {
                assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", file.display());
            }
        }
        let file = file.to_str().unwrap();
        let replayed = soe(&["replay", file]);
        assert_eq!(replayed.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&replayed.stdout).contains("hides messages"));
        let decoded = soe(&["decode", file, "--json"]);
        let events = lines(&decoded.stdout);
        let is_wrong = |event: &&Value| event["finding"] == "bad-crc" || event["finding"] == "corrupt";
        assert_eq!(events.iter().find(is_wrong), None);
        assert!(events.iter().any(|event| event["event"] == "acknowledged"));
    }
}

/// A hook of the application that does what it should, until it is to panic.
#[derive(Debug)]
struct Panics;

impl MessageHook for Panics {
    fn seal(&mut self, mut message: BytesMut) -> BytesMut {
        assert!(!message.starts_with(b"panic"), "the application's hook panics");
        message.reverse();
        message
    }

    fn open(&mut self, message: Bytes, _: usize) -> Result<Bytes, HookError> {
        Ok(message.iter().rev().copied().collect::<Vec<_>>().into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_hands_the_recording_over_and_it_replays_with_hooks_of_the_application() {
    let (directory, network) = (Directory::new(), Network::new(10));
    let files = RecordingFiles::in_directory(&directory.0).unwrap();
    let (_listener, mut client, mut server) = pair(&network, &RecorderConfig::new(files.clone())).await;
    server.set_send_hook(ReliableChannel::ZERO, Some(Box::new(Panics)));
    client.set_recv_hook(ReliableChannel::ZERO, Some(Box::new(Panics)));
    server.send("forwards").await.unwrap();
    assert_eq!(client.recv().await.unwrap().unwrap().payload, "forwards");
    let panicked = tokio::spawn(async move { server.send("panic now").await }).await;
    assert!(panicked.unwrap_err().is_panic());
    tokio::time::sleep(Duration::from_secs(60)).await;
    files.flush();
    let [file] = &directory.files()[..] else { panic!("the end of the client is no failure: {:?}", directory.files()) };
    let replayed = soe(&["replay", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&replayed.stdout);
    assert_eq!(replayed.status.code(), Some(0), "{text}");
    assert!(text.contains("the session panicked"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_handle_gives_the_recording_while_the_session_goes_on() {
    let (sink, mut parts) = tokio::sync::mpsc::channel(16);
    let network = Network::new(11);
    let (_listener, mut client, mut server) = pair(&network, &RecorderConfig::new(sink)).await;
    talk(&mut client, &mut server).await;
    let file = server.handle().recording().expect("it is recorded");
    talk_more(&mut client, &mut server).await;
    let later = server.recording().expect("it still is");
    assert!(later.len() > file.len());
    for file in [file, later] {
        let mut reader = RecordingReader::new(&file[..]).unwrap();
        let mut replay = Replay::new();
        while let Some(piece) = reader.next().unwrap() {
            replay.feed(&piece.bytes).unwrap();
        }
        assert!(replay.calls() > 100 && replay.marks().is_empty());
    }
    client.close(DisconnectReason::Application).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(parts.try_recv().is_err(), "a session that the application ends leaves nothing");
    assert!(server.recording().is_none(), "its memory is free again");
}

async fn talk_more(client: &mut SoeSession, server: &mut SoeSession) {
    client.send("one more").await.unwrap();
    while server.recv().await.unwrap().unwrap().payload != "one more" {}
}

#[tokio::test(start_paused = true)]
async fn at_its_bound_a_recording_stops_and_what_it_has_replays() {
    let (directory, network) = (Directory::new(), Network::new(12));
    let files = RecordingFiles::in_directory(&directory.0).unwrap();
    let recorder = RecorderConfig::new(files.clone()).when(RecordWhen::End).session_bytes(40_000);
    let (_listener, mut client, mut server) = pair(&network, &recorder).await;
    for _ in 0..6 {
        talk(&mut client, &mut server).await;
    }
    client.close(DisconnectReason::Application).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    files.flush();
    for file in directory.files() {
        assert!(fs::metadata(&file).unwrap().len() < 100_000);
        let replayed = soe(&["replay", file.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&replayed.stdout);
        assert!(replayed.status.success() && text.contains("stops at its bound"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_replaces_another_gets_no_recording_without_its_beginning() {
    let (first, second, network) = (Directory::new(), Directory::new(), Network::new(14));
    let [early, late] = [&first, &second].map(|directory| RecordingFiles::in_directory(&directory.0).unwrap());
    let [early_recorder, late_recorder] =
        [&early, &late].map(|files| RecorderConfig::new(files.clone()).when(RecordWhen::Continuously));
    let (listener, mut client, mut server) = pair(&network, &early_recorder).await;
    for _ in 0..6 {
        talk(&mut client, &mut server).await;
    }
    listener.record(Some(late_recorder));
    talk(&mut client, &mut server).await;
    client.close(DisconnectReason::Application).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    early.flush();
    late.flush();
    assert_eq!(second.files(), Vec::<PathBuf>::new());
    assert_eq!(first.files().len(), 2);
    for file in first.files() {
        let length = fs::metadata(&file).unwrap().len();
        assert!(length > 200_000, "{length} bytes of all that was said before");
        let replayed = soe(&["replay", file.to_str().unwrap()]);
        assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stdout));
    }
}

#[tokio::test(start_paused = true)]
async fn recording_is_turned_on_and_off_while_the_server_runs() {
    let (directory, network) = (Directory::new(), Network::new(13));
    let files = RecordingFiles::in_directory(&directory.0).unwrap();
    let listener = network.listener(config()).unwrap();
    let recorder = RecorderConfig::new(files.clone()).when(RecordWhen::Continuously);
    let mut recorded = Vec::new();
    for recorder in [None, Some(recorder), None] {
        listener.record(recorder);
        let (client, server) = tokio::join!(network.client(config()), listener.accept());
        let (mut client, mut server) = (client.unwrap(), server.unwrap().accept());
        recorded.push(server.recording().is_some());
        for _ in 0..6 {
            talk(&mut client, &mut server).await;
        }
    }
    assert_eq!(recorded, [false, true, false]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    files.flush();
    let [file] = &directory.files()[..] else { panic!("{:?}", directory.files()) };
    // Its end came after recording was turned off: what had been handed over is there.
    let replayed = soe(&["replay", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&replayed.stdout);
    assert!(replayed.status.success() && text.contains("all the same"), "{text}");
}

#[test]
fn the_file_of_a_recording_is_the_recording() {
    for name in Dialect::ALL_NAMES {
        let now = std::time::Instant::now();
        let config = SessionConfig::with_dialect(Dialect::by_name(name).unwrap()).build().unwrap();
        let mut session = Session::connect(now, config, 42);
        assert!(session.record(&RecordOptions::new(now, 1_700_000_000_000_000_000)));
        let _ = session.poll_transmit(now, &mut Vec::new());
        session.send("while it connects".into()).unwrap();
        session.handle_timeout(now + Duration::from_secs(5));
        let _ = session.poll_transmit(now + Duration::from_secs(5), &mut Vec::new());
        let mut recorder = session.stop_recording().unwrap();
        let (mut writer, mut file) = (RecordingWriter::new(recorder.number()), Vec::new());
        let pieces = recorder.take_pieces();
        pieces.iter().for_each(|piece| writer.piece(piece, &mut file).unwrap());
        let mut reader = RecordingReader::new(&file[..]).unwrap();
        for piece in pieces {
            assert_eq!(reader.next().unwrap().unwrap().bytes, piece, "{name}");
        }
        assert!(reader.next().unwrap().is_none());
        assert_eq!(common::datagrams(&file).len(), 2, "{name}: two requests");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_set_while_other_channels_wait_is_decoded_on_each_channel_where_it_began() {
    let (directory, network) = (Directory::new(), Network::new(15));
    let files = RecordingFiles::in_directory(&directory.0).unwrap();
    let recorder = RecorderConfig::new(files.clone()).when(RecordWhen::End);
    let (_listener, mut client, mut server) = pair(&network, &recorder).await;
    // Channel 1 has a large message under way, which what follows on channel 0 overtakes.
    client.send(Message::new(ReliableChannel::ONE, "in plain, large: ".repeat(2_000))).await.unwrap();
    client.send("in plain, small").await.unwrap();
    client.set_send_key(Some(b"the key")).unwrap();
    for round in 0..5 {
        client.send(format!("sealed {round} on zero")).await.unwrap();
        client.send(Message::new(ReliableChannel::ONE, format!("sealed {round} on one"))).await.unwrap();
    }
    // A peer of another make: its key begins on each channel by itself.
    let mut heard = Vec::new();
    while heard.len() < 12 {
        let message = server.recv().await.unwrap().unwrap();
        if let (Channel::Reliable(channel), true) = (message.channel, message.payload.starts_with(b"in plain")) {
            server.set_recv_hook(channel, Some(Box::new(Rc4::new(b"the key").unwrap())));
        }
        heard.push(message);
    }
    let large = heard.iter().position(|message| message.payload.len() > 1_000);
    assert!(large > Some(1), "messages under the key overtake one before it: {large:?}");
    assert_eq!(heard.iter().filter(|message| message.payload.starts_with(b"sealed")).count(), 10, "{heard:?}");
    client.close(DisconnectReason::Application).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    files.flush();
    // The server's holds no key: hooks are the application's.
    let is_clients = |file: &PathBuf| {
        let replayed = soe(&["decode", file.to_str().unwrap()]);
        String::from_utf8_lossy(&replayed.stdout).contains("sealed 0 on zero")
    };
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let recordings = directory.files().into_iter().filter(is_clients).collect::<Vec<_>>();
    let [file] = &recordings[..] else { panic!("the client's recording has the key: {recordings:?}") };
    let decoded = soe(&["decode", file.to_str().unwrap(), "--json"]);
    let events = lines(&decoded.stdout);
    for round in 0..5 {
        for channel in ["zero", "one"] {
            let text = hex(&format!("sealed {round} on {channel}"));
            let is_there = |event: &Value| event["event"] == "message" && event.to_string().contains(&text);
            assert!(events.iter().any(is_there), "{round} on {channel} is not there");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_sink_is_bounded_and_the_recording_says_that_it_stopped() {
    let (sink, mut parts) = tokio::sync::mpsc::channel(1_000);
    let network = Network::new(16);
    let recorder = RecorderConfig::new(sink).when(RecordWhen::Continuously).total_bytes(100_000);
    let (_listener, mut client, _server) = pair(&network, &recorder).await;
    // The sink is called between two steps of the driver: while this does not wait, there is none.
    let message = Bytes::from(vec![7; 1_000]);
    let mut sent = 0;
    while client.try_send(message.clone()).is_ok() {
        sent += message.len();
    }
    assert!(sent > 400_000, "{sent} bytes");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut writers, mut replays) = (HashMap::new(), Vec::new());
    let mut take = || {
        let mut bytes = 0;
        while let Ok(part) = parts.try_recv() {
            let (writer, file) = writers.entry(part.recording).or_insert_with(|| (part.writer(), Vec::new()));
            part.write(writer, file).unwrap();
            bytes += part.bytes();
        }
        bytes
    };
    let waiting = take();
    assert!(waiting <= 200_000, "{waiting} bytes waited, of both ends");
    client.close(DisconnectReason::Application).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    take();
    for (_, file) in writers.into_values() {
        let scratch = Scratch::new("bounded.pcapng", &file);
        let replayed = soe(&["replay", scratch.path()]);
        replays.push(String::from_utf8_lossy(&replayed.stdout).into_owned());
        assert!(replayed.status.success(), "{replays:?}");
    }
    assert!(replays.iter().any(|text| text.contains("there is no room")), "{replays:?}");
}

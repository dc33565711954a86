//! `soe ping` against real servers on loopback.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use common::soe;
use serde_json::Value;
use soe_core::{AdmissionConfig, Dialect, StatusReply};
use soe_tokio::{SessionConfig, SoeListener};
use tokio::runtime::Runtime;

/// A server that accepts and listens, for as long as the runtime is there.
fn serve(dialect: &str, status: Option<StatusReply>) -> (SocketAddr, Runtime) {
    let config = SessionConfig::with_dialect(Dialect::by_name(dialect).unwrap()).protocol_name("Game_1".into());
    let config = AdmissionConfig::builder(config.build().unwrap()).server_status(status).build().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(SoeListener::bind("127.0.0.1:0", config)).unwrap();
    let address = listener.local_addr();
    runtime.spawn(async move {
        let mut sessions = Vec::new();
        while let Some(incoming) = listener.accept().await {
            sessions.push(incoming.accept());
        }
    });
    (address, runtime)
}

fn ping(address: SocketAddr, options: &[&str]) -> (Value, Option<i32>) {
    let (address, common) = (address.to_string(), ["--json", "--interval", "20ms"]);
    let output = soe(&[&["ping", &address][..], &common, options].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}")), output.status.code())
}

#[test]
fn every_dialect_says_what_it_offers_and_answers_every_question() {
    for name in Dialect::ALL_NAMES {
        let (address, _runtime) = serve(name, None);
        let dialect = Dialect::by_name(name).unwrap();
        let (found, code) = ping(address, &["--dialect", name, "--protocol", "Game_1", "--count", "3"]);
        assert_eq!(code, Some(0), "{name}: {found}");
        let (offer, trips) = (&found["offer"], &found["round_trips"]);
        assert_eq!(offer["passes"], serde_json::json!(dialect.offer.passes.map(u8::from)), "{name}");
        assert_eq!(
            (&offer["crc_length"], &offer["udp_length"]),
            (&2.into(), &dialect.offer.udp_length.into()),
            "{name}"
        );
        assert!(offer["dialects"].as_array().unwrap().contains(&name.into()), "{name}: {offer}");
        assert_eq!((&trips["sent"], &trips["answered"]), (&3.into(), &3.into()), "{name}: {trips}");
        assert!(trips["min"].as_u64() <= trips["max"].as_u64() && trips["max"].is_u64(), "{name}: {trips}");
        assert_eq!((&offer["refused"], &trips["lost_to_server"]), (&Value::Null, &0.0.into()), "{name}: {found}");
    }
}

#[test]
fn a_server_that_expects_another_name_still_says_what_it_offers() {
    let (address, _runtime) = serve("h1z1", None);
    let (found, code) = ping(address, &["--protocol", "Game_2"]);
    assert_eq!((code, &found["offer"]["passes"]), (Some(0), &serde_json::json!([1, 0])));
    assert_eq!(found["offer"]["refused"], "the protocols do not match");
    assert_eq!(found["round_trips"]["answered"], 0);
}

#[test]
fn an_older_server_is_asked_in_its_own_version() {
    let (address, _runtime) = serve("star-wars-galaxies", None);
    let (found, _) = ping(address, &[]);
    assert_eq!(found["round_trips"]["answered"], 5, "{found}");
    assert_eq!(found["offer"]["dialects"], serde_json::json!(["star-wars-galaxies"]));
}

#[test]
fn the_status_of_a_server_is_shown() {
    let (address, _runtime) = serve("version3", Some(StatusReply::new(|_| Some("open".into()))));
    let (found, _) = ping(address, &["--protocol", "Game_1", "--count", "1"]);
    assert_eq!(found["status"], "open");
    let address = address.to_string();
    let output = soe(&["ping", &address, "--protocol", "Game_1", "--count", "2", "--interval", "20ms"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for wanted in ["status: open", "offers: CRC 2 bytes", "fits: version3", "2 asked, 2 answered", "round trip: "] {
        assert!(text.contains(wanted), "no '{wanted}' in: {text}");
    }
}

#[test]
fn silence_has_an_exit_code_of_its_own() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (found, code) = ping(address, &["--timeout", "200ms"]);
    assert_eq!((code, &found["offer"]), (Some(3), &Value::Null));
    // Nobody at all, which loopback reports by ICMP.
    drop(socket);
    assert_eq!(ping(address, &["--timeout", "200ms"]).1, Some(3));
    assert_eq!(soe(&["ping", "nowhere"]).status.code(), Some(1));
}

#[test]
fn answers_that_make_no_sense_are_survived() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut buf = [0; 2048];
        // A status, a request, and whatever else comes until the request of the other version.
        loop {
            let (length, from) = socket.recv_from(&mut buf).unwrap();
            let request = &buf[..length];
            if length >= 14 && request[1] == 1 {
                socket.send_to(&[0, 2, 1], from).unwrap();
                socket.send_to(&[0xFF; 40], from).unwrap();
                // The right id, and a CRC of nine bytes.
                let response = [&[0, 2], &request[6..10], &[0, 0, 0, 7, 9, 0, 0, 0, 0, 2, 0]].concat();
                socket.send_to(&response, from).unwrap();
                return;
            }
        }
    });
    let (found, code) = ping(address, &[]);
    server.join().unwrap();
    assert_eq!((code, &found["offer"]["crc_length"]), (Some(0), &9.into()));
    assert!(found["offer"]["refused"].as_str().unwrap().starts_with("impossible for a client"), "{found}");
}

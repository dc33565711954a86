//! The dissector against `soe decode --json`, in tshark where that is there.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use common::{Scratch, datagrams, hex, plan, server, simulated, soe, vectors};
use serde_json::Value;
use soe_core::Dialect;
use soe_core::wire::schema::PACKETS;
use soe_tools::capture::{Datagram, PcapngWriter};

/// What both sides call the same, beside the numbers of the table.
const NAMES: [&str; 6] = ["op", "channel", "payload", "element", "data", "protocol_name"];

/// The values of every field in the order of the packet, and the messages that it completed.
type Fields = BTreeMap<String, Vec<String>>;

fn field_names() -> Vec<String> {
    let table = PACKETS.iter().flat_map(|schema| schema.fields).map(|field| field.name);
    let mut names: Vec<_> = table.chain(NAMES).chain(["message"]).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

fn script(name: &str) -> Scratch {
    let output = soe(&["dissector"]);
    assert!(output.status.success());
    Scratch::new(&format!("{name}.lua"), &output.stdout)
}

/// The lines that tshark prints; `None` where there is no tshark.
fn tshark(capture: &[u8], name: &str, arguments: &[&str]) -> Option<Vec<String>> {
    let (script, file) = (script(name), Scratch::new(&format!("{name}.pcapng"), capture));
    let load = format!("lua_script:{}", script.path());
    let mut command = Command::new("tshark");
    let output = match command.args(["-X", &load, "-r", file.path()]).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("not tested in Wireshark: tshark does not start: {error}");
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !errors.contains("Lua"), "{errors}");
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

fn dissected(capture: &[u8], name: &str, options: &[&str]) -> Option<Vec<Fields>> {
    let names = field_names();
    let mut arguments = vec!["-T".to_owned(), "fields".into(), "-E".into(), "separator=|".into()];
    for name in &names {
        arguments.extend(["-e".to_owned(), format!("soe.{name}")]);
    }
    arguments.extend(options.iter().map(|&option| option.to_owned()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let lines = tshark(capture, name, &arguments)?;
    let fields = |line: &String| {
        let values = names.iter().zip(line.split('|')).filter(|(_, values)| !values.is_empty());
        let value = |value: &str| match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).unwrap().to_string(),
            None => value.replace(':', ""),
        };
        values.map(|(name, values)| (name.clone(), values.split(',').map(value).collect())).collect()
    };
    Some(lines.iter().map(fields).collect())
}

/// The same from the program's own decoder: one entry for each datagram.
fn decoded(capture: &[u8], name: &str, options: &[&str]) -> Vec<Fields> {
    let file = Scratch::new(&format!("{name}.own.pcapng"), capture);
    let output = soe(&[&["decode", "--json", file.path()], options].concat());
    let mut all: Vec<Fields> = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["event"] == "datagram" {
            all.push(Fields::new());
            flatten(&event["packet"], all.last_mut().unwrap());
        } else if event["carrier"] == "reliable" {
            add(all.last_mut().unwrap(), "message", &event["payload"]);
        }
    }
    all
}

fn add(fields: &mut Fields, name: &str, value: &Value) {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    fields.entry(name.to_owned()).or_default().push(text);
}

fn flatten(packet: &Value, fields: &mut Fields) {
    let names = field_names();
    for (name, value) in packet.as_object().unwrap() {
        match name.as_str() {
            "name" => {}
            "pieces" => value.as_array().unwrap().iter().for_each(|piece| flatten(piece, fields)),
            "elements" => value.as_array().unwrap().iter().for_each(|element| add(fields, "element", element)),
            "payload" if packet["name"] == "data" => add(fields, "data", value),
            name if names.iter().any(|known| known == name) => add(fields, name, value),
            other => panic!("{other} is no field of the dissector"),
        }
    }
}

fn assert_same(capture: &[u8], name: &str, options: &[&str], own_options: &[&str]) {
    let Some(dissected) = dissected(capture, name, options) else { return };
    let decoded = decoded(capture, name, own_options);
    assert_eq!(dissected.len(), decoded.len(), "{name}");
    for (index, (theirs, ours)) in dissected.iter().zip(&decoded).enumerate() {
        assert_eq!(theirs, ours, "{name}, frame {}", index + 1);
    }
}

/// Every vector in a conversation of its own, behind a handshake with its parameters.
fn capture_of_vectors() -> (Vec<u8>, usize) {
    let mut writer = PcapngWriter::new(Vec::new()).unwrap();
    let (mut time, mut count) = (1_000_000_000, 0);
    for (port, vector) in (20_000u16..).zip(vectors()) {
        if vector["compare"] == "keystream" {
            continue;
        }
        let client = SocketAddr::from(([10, 0, 0, 1], port));
        let mut put = |from, to, payload: &[u8]| {
            time += 1_000_000;
            count += 1;
            writer.datagram(&Datagram::new(time, from, to, payload)).unwrap();
        };
        if vector["plain"].is_string() && vector["seed"].is_string() {
            let version: u32 = if vector["codec"] == "v3" || vector["dialect"] == "v3" { 3 } else { 2 };
            let mut request = [&[0, 1][..], &version.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 2, 0]].concat();
            if version == 3 {
                request.extend_from_slice(b"Game_1\0");
            }
            let byte = |value: &Value| u8::try_from(value.as_u64().unwrap()).unwrap();
            let seed = hex(vector["seed"].as_str().unwrap());
            let parameters = [byte(&vector["crc_len"]), byte(&vector["passes"][0]), byte(&vector["passes"][1])];
            let response = [&[0, 2, 0, 0, 0, 1][..], &seed, &parameters, &[0, 0, 2, 0]].concat();
            put(client, server(), &request);
            put(server(), client, &response);
        }
        put(client, server(), &hex(vector["wire"].as_str().unwrap()));
    }
    (writer.finish().unwrap(), count)
}

#[test]
fn every_vector_has_the_same_fields_in_wireshark_and_in_decode() {
    let (capture, count) = capture_of_vectors();
    assert!(count > 300, "only {count} datagrams");
    assert_eq!(decoded(&capture, "count", &[]).len(), count, "not every vector is decoded");
    assert_same(&capture, "vectors", &[], &[]);
}

#[test]
fn whole_sessions_of_every_dialect_have_the_same_fields_and_messages() {
    for name in Dialect::ALL_NAMES {
        let mut plan = plan(name);
        (plan.loss, plan.bytes, plan.longest) = (0.03, 30_000, 1500);
        let (capture, _) = simulated(&plan);
        assert_same(&capture, name, &[], &[]);
    }
}

#[test]
fn messages_are_decrypted_with_keys_from_the_preferences() {
    let mut plan = plan("h1z1");
    (plan.key, plan.bytes) = (Some(b"Key".to_vec()), 20_000);
    let (capture, _) = simulated(&plan);
    let preferences = ["-o", "soe.key_to_server:4b6579", "-o", "soe.key_to_client:4b6579"];
    assert_same(&capture, "keys", &preferences, &[]);
    let options = [&preferences[..], &["-Y", "soe.message.decrypted == 1"]].concat();
    let Some(frames) = tshark(&capture, "keys-2", &options) else { return };
    assert!(frames.len() > 10, "{} frames with decrypted messages", frames.len());
}

#[test]
fn a_wrong_crc_and_resends_are_marked() {
    let mut plan = plan("version3");
    (plan.loss, plan.bytes) = (0.05, 50_000);
    let (capture, _) = simulated(&plan);
    let mut all = datagrams(&capture);
    *all[20].3.last_mut().unwrap() ^= 1;
    let mut writer = PcapngWriter::new(Vec::new()).unwrap();
    for (time, from, to, payload) in &all {
        writer.datagram(&Datagram::new(*time, *from, *to, payload)).unwrap();
    }
    let capture = writer.finish().unwrap();
    let Some(wrong) = tshark(&capture, "marks", &["-Y", "soe.expert.bad_crc"]) else { return };
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    let resent = tshark(&capture, "marks-2", &["-Y", "soe.expert.resend"]).unwrap();
    assert!(!resent.is_empty());
}

#[test]
fn dns_quic_and_rtp_are_not_claimed() {
    let mut writer = PcapngWriter::new(Vec::new()).unwrap();
    let scrambled = |index: u32| (index + 1).wrapping_mul(0x9E37_79B9).rotate_left(index % 31) ^ 0x5BD1_E995;
    for index in 0..300u32 {
        let (port, payload) = match index % 3 {
            0 => {
                // The identifiers 0 to 99 in turn, those that look like op codes among them.
                let question = b"\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
                (53, [&(index as u16 / 3).to_be_bytes()[..], question].concat())
            }
            1 => (5004, [&[0x80, 0, 0, index as u8][..], &scrambled(index).to_be_bytes().repeat(40)].concat()),
            _ => (443, [&[0x40 | index as u8 & 0x3F][..], &scrambled(index).to_be_bytes().repeat(30)].concat()),
        };
        let (client, server) = (SocketAddr::from(([10, 0, 0, 3], 40_000)), SocketAddr::from(([10, 0, 0, 4], port)));
        writer.datagram(&Datagram::new(u64::from(index) * 1_000_000, client, server, &payload)).unwrap();
    }
    let Some(claimed) = tshark(&writer.finish().unwrap(), "foreign", &["-Y", "soe"]) else { return };
    assert!(claimed.is_empty(), "{claimed:?}");
}

//! `soe decode --messages`: whole messages as a capture of their own, read here and by tshark where that is there.

mod common;

use std::net::SocketAddr;
use std::process::Command;

use common::{Scratch, client, hex, plan, server, simulated, soe};
use soe_tools::analysis::Direction;

/// Who sent a message, and its bytes.
type Sent = (SocketAddr, Vec<u8>);

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The messages of a file of exported PDUs; the lengths that they have had; their comments.
fn exported(file: &[u8]) -> (Vec<Sent>, Vec<usize>, Vec<String>) {
    let (mut messages, mut lengths, mut comments) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = file;
    while !rest.is_empty() {
        let (block, behind) = rest.split_at(word(rest, 4) as usize);
        rest = behind;
        match word(block, 0) {
            1 => assert_eq!(block[8..10], [252, 0], "the link type"),
            6 => {
                let (captured, original) = (word(block, 20) as usize, word(block, 24) as usize);
                let (sender, message) = read(&block[28..28 + captured]);
                lengths.push(message.len() + original - captured);
                messages.push((sender, message));
                let options = &block[28 + captured.next_multiple_of(4)..];
                assert_eq!(options[..2], [1, 0], "a comment");
                let length = usize::from(u16::from_le_bytes([options[2], options[3]]));
                comments.push(String::from_utf8(options[4..4 + length].to_vec()).unwrap());
            }
            kind => assert_eq!(kind, 0x0A0D_0D0A),
        }
    }
    (messages, lengths, comments)
}

/// The tags of one frame, and what is behind them.
fn read(frame: &[u8]) -> Sent {
    let (mut rest, mut ip, mut port) = (frame, None, None);
    loop {
        let (tag, length) = (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]).into());
        let (value, behind) = rest[4..].split_at(length);
        rest = behind;
        match tag {
            0 => break,
            12 => assert_eq!(value, b"data"),
            20 => ip = <[u8; 4]>::try_from(value).ok(),
            25 => port = Some(u16::from_be_bytes([value[2], value[3]])),
            _ => {}
        }
    }
    (SocketAddr::from((ip.unwrap(), port.unwrap())), rest.to_vec())
}

#[test]
fn every_message_is_in_a_capture_of_its_own_whole_and_decrypted() {
    let mut plan = plan("h1z1");
    (plan.key, plan.bytes, plan.longest) = (Some(vec![1, 2, 3]), 100_000, 3_000);
    let (capture, written) = simulated(&plan);
    let (input, output) = (Scratch::new("whole.pcapng", &capture), Scratch::new("messages.pcapng", b""));
    let plain = soe(&["decode", input.path()]);
    let status = soe(&["decode", input.path(), "--messages", output.path()]);
    assert!(status.status.success(), "{status:?}");
    assert_eq!(plain.stdout, status.stdout, "what is shown does not change");

    let file = std::fs::read(output.path()).unwrap();
    let (mut messages, _, comments) = exported(&file);
    let mut expected: Vec<Sent> = written
        .delivered
        .iter()
        .map(|delivered| {
            let from = if delivered.direction == Direction::ToServer { client() } else { server() };
            (from, delivered.message.payload.to_vec())
        })
        .collect();
    if let Some(lines) = tshark(output.path()) {
        assert_eq!(lines, messages, "what tshark reads");
    }
    assert!(comments.iter().any(|comment| comment.starts_with("message 0 on channel 0 from #")), "{comments:?}");
    assert!(comments.iter().any(|comment| comment.contains("packets") && comment.ends_with("decrypted")));
    // The capture ends with what was sent last, which may not have been delivered.
    messages.sort();
    expected.sort();
    expected.retain(|sent| messages.binary_search(sent).is_err());
    assert!(messages.len() >= written.delivered.len() && expected.is_empty(), "{} are missing", expected.len());
}

#[test]
fn a_message_longer_than_wireshark_takes_is_cut_and_its_length_is_said() {
    let mut plan = plan("version3");
    (plan.messages, plan.longest, plan.bytes) = (1, 600_000, 8_000_000);
    let (capture, _) = simulated(&plan);
    let (input, output) = (Scratch::new("long.pcapng", &capture), Scratch::new("long.messages.pcapng", b""));
    let status = soe(&["decode", input.path(), "--messages", output.path(), "--show", "summary"]);
    assert!(status.status.success(), "{status:?}");
    let (messages, lengths, _) = exported(&std::fs::read(output.path()).unwrap());
    let longest = *lengths.iter().max().unwrap();
    assert!(longest > 262_144, "nothing was tested: {longest}");
    assert!(messages.iter().all(|(_, message)| message.len() <= 262_016));
    if let Some(lines) = tshark(output.path()) {
        assert_eq!(lines.len(), messages.len());
    }
}

#[test]
fn no_capture_is_overwritten_by_what_is_read_from_it() {
    let (capture, _) = simulated(&plan("version3"));
    let input = Scratch::new("itself.pcapng", &capture);
    for arguments in [&["decode", input.path(), "--messages"][..], &["report", input.path(), "-o"]] {
        let output = soe(&[arguments, &[input.path()]].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("the capture itself"), "{output:?}");
        assert!(std::fs::read(input.path()).unwrap() == capture);
    }
    assert_eq!(soe(&["decode", "0006", "--messages", "no.pcapng"]).status.code(), Some(1));
}

/// What tshark reads; `None` where there is no tshark.
fn tshark(file: &str) -> Option<Vec<Sent>> {
    let fields = ["-e", "exported_pdu.ipv4_src", "-e", "exported_pdu.src_port", "-e", "data.data"];
    let output = match Command::new("tshark").args(["-r", file, "-T", "fields"]).args(fields).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("not tested in Wireshark: tshark does not start: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let [ip, port, data] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        (SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap()), hex(data))
    };
    Some(text.lines().map(line).collect())
}

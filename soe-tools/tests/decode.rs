//! The program `soe decode`, run as a user runs it.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{Scratch, client, hex, plan, server, simulated, soe, vectors};
use serde_json::Value;
use soe_core::wire::{Packet, opcode};
use soe_tools::capture::PcapngWriter;

fn lines(output: &std::process::Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

#[test]
fn every_vector_is_decoded_with_its_seed_and_found_out_without_its_passes() {
    let mut decoded = 0;
    for vector in vectors().iter().filter(|vector| vector["plain"].is_string()) {
        let (id, wire) = (vector["id"].as_str().unwrap(), vector["wire"].as_str().unwrap());
        let plain = hex(vector["plain"].as_str().unwrap());
        if opcode::of(&plain).is_some_and(opcode::is_exempt) {
            continue;
        }
        let passes = format!("{},{}", vector["passes"][0], vector["passes"][1]);
        let crc = vector["crc_len"].to_string();
        let dialect = match vector["codec"].as_str() {
            Some("swg") => "star-wars-galaxies",
            Some("eq") => "everquest-zone",
            _ => "version3",
        };
        let seed = vector["seed"].as_str().unwrap();
        let options = ["--json", "--seed", seed, "--crc-length", &crc, "--passes", &passes, "--dialect", dialect];
        let output = soe(&[&["decode", wire][..], &options].concat());
        assert!(output.status.success(), "{id}: {output:?}");
        let [line] = &lines(&output)[..] else { panic!("{id}") };
        let packet = &line["packet"];
        match Packet::decode(&plain).unwrap() {
            Packet::Data(data) => assert_eq!(hex(packet["payload"].as_str().unwrap()), data, "{id}"),
            Packet::Reliable(data) => assert_eq!(packet["sequence"], data.sequence, "{id}"),
            Packet::Fragment(data) => assert_eq!(hex(packet["payload"].as_str().unwrap()), data.body, "{id}"),
            Packet::Multi(multi) => {
                assert_eq!(packet["pieces"].as_array().unwrap().len(), multi.pieces().count(), "{id}");
            }
            _ => assert_eq!(packet["op"], opcode::of(&plain).unwrap(), "{id}"),
        }
        decoded += 1;
    }
    assert_eq!(decoded, 132);
}

#[test]
fn a_single_datagram_is_guessed_from_its_structure() {
    let output = soe(&["decode", "--json", "00150000 0772ed"]);
    let line = &lines(&output)[0];
    assert_eq!(line["packet"]["name"], "acknowledge-all");
    assert_eq!((&line["crc_length"], &line["packet"]["sequence"]), (&2.into(), &7.into()));
}

#[test]
fn a_capture_is_a_timeline_for_readers_and_json_for_scripts() {
    let mut plan = plan("star-wars-galaxies");
    (plan.loss, plan.bytes) = (0.05, 50_000);
    let (capture, written) = simulated(&plan);
    let file = Scratch::new("timeline.pcapng", &capture);

    let output = soe(&["decode", file.path()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for wanted in ["SessionRequest", "star-wars-galaxies", "message 0 on channel 0", "resent", "summary", "Disconnect"]
    {
        assert!(text.contains(wanted), "no {wanted} in the timeline");
    }

    let output = soe(&["decode", "--json", file.path()]);
    let lines = lines(&output);
    let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count() as u64;
    assert_eq!(count("datagram"), written.datagrams);
    assert_eq!((count("opened"), count("closed"), count("totals")), (1, 1, 1));
    assert!(count("message") as usize >= written.delivered.len());
    assert!(count("round-trip") > 10 && count("finding") > 3);
}

#[test]
fn keys_are_taken_from_the_capture() {
    let mut plan = plan("h1z1");
    (plan.key, plan.bytes) = (Some(vec![1, 2, 3]), 30_000);
    let (capture, _) = simulated(&plan);
    let file = Scratch::new("keys.pcapng", &capture);
    let lines = lines(&soe(&["decode", "--json", file.path()]));
    let reliable: Vec<_> = lines.iter().filter(|line| line["carrier"] == "reliable").collect();
    assert!(reliable.len() > 10 && reliable.iter().all(|line| line["decrypted"] == true));
}

#[test]
fn exit_codes_tell_what_happened() {
    let code = |arguments: &[&str]| soe(arguments).status.code();
    let mut plan = plan("version3");
    plan.bytes = 10_000;
    let (capture, _) = simulated(&plan);
    let good = Scratch::new("good.pcapng", &capture);
    assert_eq!(code(&["decode", "--check", good.path()]), Some(0));
    let cut = Scratch::new("cut.pcapng", &capture[..capture.len() - 5]);
    assert_eq!(code(&["decode", cut.path()]), Some(0));
    assert_eq!(code(&["decode", "--check", cut.path()]), Some(4));
    let empty = Scratch::new("empty.pcapng", &capture[..48]);
    assert_eq!(code(&["decode", empty.path()]), Some(3));
    let text = Scratch::new("text", b"no capture");
    assert_eq!(code(&["decode", text.path()]), Some(1));
    assert_eq!(code(&["decode", "no hexadecimal"]), Some(1));
    assert_eq!(code(&["decode"]), Some(2));
    assert_eq!(code(&["decode", "--passes", "1,9", "00"]), Some(2));
}

/// The most memory that the process has taken so far, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn a_long_capture_from_a_pipe_takes_no_more_memory_than_a_short_one() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_soe"))
        .args(["decode", "-", "--show", "summary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut plan = plan("version3");
    (plan.loss, plan.messages, plan.longest, plan.bytes) = (0.01, 100, 1200, 2_000_000);
    let mut writer = PcapngWriter::new(child.stdin.take().unwrap()).unwrap();
    let mut peaks = Vec::new();
    for seed in 1..=10 {
        plan.seed = seed;
        soe_tools::synthetic::write(&plan, client(), server(), &mut writer).unwrap();
        peaks.push(peak_memory(child.id()));
    }
    writer.finish().unwrap().flush().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("in 10 sessions"));
    let (first, last) = (peaks[0], peaks[9]);
    assert!(last < first + (4 << 20) && last < 64 << 20, "{peaks:?}");
}

#[test]
fn a_finding_has_the_same_time_whatever_else_is_shown() {
    let mut plan = plan("version3");
    (plan.loss, plan.bytes) = (0.05, 50_000);
    let file = Scratch::new("findings.pcapng", &simulated(&plan).0);
    let findings = |show: &str| {
        let output = soe(&["decode", "--show", show, file.path()]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.contains("resent")).map(str::to_owned).collect::<Vec<_>>()
    };
    let alone = findings("findings");
    assert!(!alone.is_empty());
    assert_eq!(alone, findings("datagrams,findings"));
}

/// Help that nobody can read is not shown; a wrong command line is told where errors are.
#[cfg(target_os = "linux")]
#[test]
fn help_and_usage_end_as_they_are_documented() {
    let run = |options: &[&str], out: &str| {
        let out = std::fs::OpenOptions::new().write(true).open(out).unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_soe")).args(options).stdout(out).stderr(Stdio::null()).status();
        status.unwrap().code()
    };
    for help in [&["--help"][..], &["--version"], &["decode", "--help"], &["help", "proxy"]] {
        assert_eq!(run(help, "/dev/null"), Some(0), "{help:?}");
        assert_eq!(run(help, "/dev/full"), Some(1), "{help:?}");
    }
    for wrong in [&[][..], &["nonsense"], &["decode", "--nonsense"]] {
        assert_eq!(run(wrong, "/dev/null"), Some(2), "{wrong:?}");
    }
}

//! What the examples share: a command line, hex, and messages whose every byte can be checked.
#![allow(dead_code, reason = "each example uses a part of this")]

pub(crate) mod game;
pub(crate) mod metrics;

use std::{env, error::Error, fmt::Display, process, str::FromStr};

use soe_core::Dialect;
use soe_tokio::{Channel, ReliableChannel, SessionConfig};

/// The command line: `--option value` or `--option=value`, and flags without a value. What is wrong with it ends the
/// program with a message and exit code 2.
pub(crate) struct Args {
    usage: &'static str,
    given: Vec<(String, String)>,
}

impl Args {
    /// Reads the command line. `--help` prints `usage` and ends the program.
    pub(crate) fn parse(usage: &'static str, options: &[&str], flags: &[&str]) -> Self {
        let mut args = Self { usage, given: Vec::new() };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--help" || word == "-h" {
                println!("{usage}");
                if options.contains(&"dialect") {
                    println!("\ndialects: {}", Dialect::ALL_NAMES.join(", "));
                }
                process::exit(0);
            }
            let Some(word) = word.strip_prefix("--") else { args.refuse(format!("unexpected argument '{word}'")) };
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word.to_owned(), None),
            };
            let value = match value {
                None if flags.contains(&&*name) => String::new(),
                Some(_) if flags.contains(&&*name) => args.refuse(format!("--{name} takes no value")),
                _ if !options.contains(&&*name) => args.refuse(format!("unknown option --{name}")),
                Some(value) => value,
                None => match words.next() {
                    Some(value) if !value.starts_with("--") => value,
                    _ => args.refuse(format!("--{name} needs a value")),
                },
            };
            if args.flag(&name) {
                args.refuse(format!("--{name} is given twice"));
            }
            args.given.push((name, value));
        }
        args
    }

    /// Ends the program: the command line is wrong.
    pub(crate) fn refuse(&self, what: impl Display) -> ! {
        eprintln!("error: {what}\n\n{}", self.usage);
        process::exit(2)
    }

    /// Whether the option or flag is there.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.given.iter().find(|(given, _)| given == name).map(|(_, value)| &**value)
    }

    pub(crate) fn optional<T: FromStr<Err: Display>>(&self, name: &str) -> Option<T> {
        let value = self.text(name)?;
        Some(value.parse().unwrap_or_else(|error| self.refuse(format!("--{name} '{value}': {error}"))))
    }

    pub(crate) fn required<T: FromStr<Err: Display>>(&self, name: &str) -> T {
        self.optional(name).unwrap_or_else(|| self.refuse(format!("--{name} is missing")))
    }

    /// `--key`: an RC4 key in hex.
    pub(crate) fn key(&self) -> Option<Vec<u8>> {
        self.optional::<Hex>("key").map(|Hex(key)| key)
    }

    /// The session that `--dialect`, `--protocol`, `--udp-length`, `--crc-length` and `--compress` describe.
    pub(crate) fn session_config(&self) -> SessionConfig {
        let name = self.text("dialect").unwrap_or("version3");
        let Some(dialect) = Dialect::by_name(name) else {
            self.refuse(format!("--dialect '{name}' is not one of {}", Dialect::ALL_NAMES.join(", ")))
        };
        if dialect.handshake.named && !self.flag("protocol") {
            self.refuse("--protocol is missing");
        }
        if self.flag("compress") && dialect.codecs[0].is_none() {
            self.refuse(format!("--compress: the dialect {name} has no compression"));
        }
        let mut config = SessionConfig::with_dialect(dialect).protocol_name(self.text("protocol").unwrap_or("").into());
        if let Some(length) = self.optional("udp-length") {
            config = config.udp_length(length);
        }
        if let Some(length) = self.optional("crc-length") {
            config = config.crc_length(length).allow_unchecked(length == 0);
        }
        if self.flag("compress") {
            config = config.compression(true);
        }
        config.build().unwrap_or_else(|error| self.refuse(error))
    }
}

/// Bytes written as hex digits.
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl FromStr for Hex {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
        let digits = digits.ok_or("not hex digits")?;
        if digits.is_empty() || digits.len() % 2 != 0 || digits.len() > 512 {
            return Err("not 1 to 256 bytes of two hex digits each");
        }
        Ok(Self(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()))
    }
}

/// A channel as the command line names it.
pub(crate) struct ChannelName(pub(crate) Channel);

impl FromStr for ChannelName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "unreliable" {
            return Ok(Self(Channel::Unreliable));
        }
        let channel = text.parse().ok().and_then(ReliableChannel::new);
        channel.map(|channel| Self(channel.into())).ok_or("a channel is 0, 1, 2, 3 or unreliable")
    }
}

/// An error with what caused it.
pub(crate) fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Some errors repeat their cause in their own words.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// A message of `size` bytes that look random and depend on `seed` alone: no byte can be lost, swapped or left over
/// without being noticed.
pub(crate) fn pattern(seed: u64, size: usize) -> Vec<u8> {
    // SplitMix64: a few instructions for eight bytes, and neighbouring seeds have nothing in common.
    let words = (1_u64..).flat_map(|word| {
        let mut x = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).to_le_bytes()
    });
    words.take(size).collect()
}

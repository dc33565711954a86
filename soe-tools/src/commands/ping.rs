//! `soe ping`: what a server offers, and how far it is.

use std::fmt::Write as _;
use std::io;
use std::net::ToSocketAddrs;
use std::time::Duration;

use clap::Args;
use soe_core::{Dialect, Pass};

use crate::exit::Exit;
use crate::ping::{Found, Offer, Options, probe};
use crate::units::duration;

/// Ask a server what it offers, and measure round trip and loss.
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct Ping {
    /// The server, such as `localhost:20060`.
    #[arg(value_name = "HOST:PORT")]
    pub server: String,
    /// The application's name for what it speaks, in requests of version 3. A server may refuse another.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub protocol: String,
    /// Asks as clients of this game do. Without it a request of version 3 is tried, then one of version 2.
    #[arg(long, value_name = "NAME", value_parser = Dialect::ALL_NAMES)]
    pub dialect: Option<String>,
    /// How many round trips to measure.
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub count: u32,
    /// Between two of them, at least 10 ms.
    #[arg(short, long, default_value = "200ms", value_parser = duration)]
    pub interval: Duration,
    /// How long to wait for an answer.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub timeout: Duration,
    /// Writes one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Questions closer together would be a flood.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);

/// Runs the command.
///
/// # Errors
///
/// A host without an address, a socket that fails.
pub fn run(command: &Ping) -> io::Result<Exit> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", command.server));
    let to = command.server.to_socket_addrs()?.next().ok_or_else(unknown)?;
    let forms = match &command.dialect {
        Some(name) => vec![name.as_str()],
        None => vec!["version3", "everquest-login"],
    };
    let options = Options {
        to,
        dialects: forms.into_iter().filter_map(Dialect::by_name).collect(),
        protocol: command.protocol.clone(),
        count: command.count,
        interval: command.interval.max(LEAST_INTERVAL),
        timeout: command.timeout,
    };
    let is_shown = !command.json;
    let found = probe(&options, |number, time| {
        if is_shown {
            match time {
                Some(time) => println!("{number}: {} ms", millis(time)),
                None => println!("{number}: no answer yet"),
            }
        }
    })?;
    if command.json {
        println!("{}", serde_json::to_string(&found)?);
    } else {
        print!("{}", words(&found));
    }
    let has_answered = found.offer.is_some() || found.status.is_some();
    Ok(if has_answered { Exit::Done } else { Exit::Nothing })
}

fn words(found: &Found) -> String {
    let mut text = String::new();
    let _ = match &found.status {
        Some(status) => writeln!(text, "status: {status}"),
        None => writeln!(text, "status: no answer to a ServerStatus query"),
    };
    let Some(offer) = &found.offer else {
        let _ = writeln!(text, "{} does not answer a session request", found.server);
        return text;
    };
    put_offer(&mut text, found, offer);
    let trips = &found.round_trips;
    if trips.sent > 0 {
        let lost = f64::from(trips.sent - trips.answered) * 100.0 / f64::from(trips.sent);
        let _ = writeln!(text, "{} asked, {} answered, {lost:.1} % lost", trips.sent, trips.answered);
    }
    if let (Some(min), Some(average), Some(max)) = (trips.min, trips.average, trips.max) {
        let (min, average, max) = (millis(min), millis(average), millis(max));
        let _ = writeln!(text, "round trip: {min} / {average} / {max} ms (least, average, most)");
    }
    if let (Some(up), Some(down)) = (trips.lost_to_server, trips.lost_to_client) {
        let _ =
            writeln!(text, "by the server's counts: {:.1} % lost to it, {:.1} % lost back", up * 100.0, down * 100.0);
    }
    if trips.others > 0 {
        let _ = writeln!(text, "{} other datagrams came: the server speaks first", trips.others);
    }
    text
}

fn put_offer(text: &mut String, found: &Found, offer: &Offer) {
    let pass = |number: u8| Pass::try_from(number).map_or_else(|_| "unknown".into(), |pass| pass.to_string());
    let [first, second] = offer.passes;
    let (crc, length, took) = (offer.crc_length, offer.udp_length, millis(offer.took));
    let _ = writeln!(text, "{} answers requests of version {}, after {took} ms", found.server, offer.version);
    let _ = writeln!(
        text,
        "offers: CRC {crc} bytes, passes {first},{second} ({}, {}), udp length {length}",
        pass(first),
        pass(second)
    );
    let _ = match offer.trailing_version {
        Some(word) => writeln!(text, "the response ends with version {word}"),
        None => writeln!(text, "the response ends without a version"),
    };
    let fits = if offer.dialects.is_empty() { "no known game".into() } else { offer.dialects.join(", ") };
    let _ = writeln!(text, "fits: {fits}");
    if let Some(reason) = &offer.refused {
        let _ = writeln!(text, "refused, or ended: {reason}");
    }
}

/// Nanoseconds in milliseconds.
fn millis(nanoseconds: u64) -> String {
    format!("{:.3}", nanoseconds as f64 / 1e6)
}

//! The steps of a probe: status, handshake, questions, Disconnect.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::time::{Duration, Instant};

use soe_core::dialect::{Handshake, ResponseTrailer};
use soe_core::wire::{
    Disconnect, NetStatusRequest, NetStatusResponse, Packet, SessionRequest, SessionResponse, opcode,
};
use soe_core::{Dialect, DisconnectReason, Framing};

use super::exchange::{Exchange, each, opened};
use super::{Found, Offer, Options, RoundTrips};
use crate::analysis::dialect_of;

/// A question that was not answered is asked again after so long.
const REPEAT: Duration = Duration::from_millis(500);
/// How long a status query waits: most servers do not answer it.
const STATUS: Duration = Duration::from_millis(300);

/// Finds out what it can. `told` hears of each round trip as it is measured.
///
/// # Errors
///
/// Those of the socket. A server that does not answer is no error.
pub(crate) fn probe(options: &Options, mut told: impl FnMut(u32, Option<u64>)) -> io::Result<Found> {
    let mut exchange = Exchange::new(options.to)?;
    let status = status(&mut exchange)?;
    let mut found = Found { server: options.to, status, offer: None, round_trips: RoundTrips::default() };
    for dialect in &options.dialects {
        let Some((response, took)) = handshake(&mut exchange, options, dialect)? else { continue };
        let (mut offer, framing) = offer(dialect, options, &response, took);
        let Some(framing) = framing else {
            found.offer = Some(offer);
            return Ok(found);
        };
        let (round_trips, ended) = questions(&mut exchange, options, &framing, response.session_id, &mut told)?;
        offer.refused = ended;
        let is_refused = offer.refused.is_some();
        // What a server offers to those whom it refuses is better than nothing.
        if !is_refused || found.offer.is_none() {
            (found.offer, found.round_trips) = (Some(offer), round_trips);
        }
        if !is_refused {
            let reason = dialect.policies.disconnect_reason.then_some(DisconnectReason::Application);
            let disconnect = Packet::Disconnect(Disconnect { session_id: response.session_id, reason });
            exchange.send(&disconnect, Some(&framing))?;
            break;
        }
    }
    Ok(found)
}

fn status(exchange: &mut Exchange) -> io::Result<Option<String>> {
    // The query is two bytes long. Servers that send no more than a few times what they got answer a longer one.
    for padding in [&[][..], &[0; 172]] {
        exchange.send(&Packet::ServerStatus(padding), None)?;
        // Some answer with the op code in front, some with their bytes alone. A server may also say that it does not know us.
        match exchange.receive(Instant::now() + STATUS)? {
            None | Some([0, opcode::UNKNOWN_SENDER, ..]) => {}
            Some([0, opcode::SERVER_STATUS, reply @ ..] | reply) => return Ok(Some(reply.escape_ascii().to_string())),
        }
    }
    Ok(None)
}

/// The response to this form of request, and how long it took.
fn handshake(
    exchange: &mut Exchange,
    options: &Options,
    dialect: &Dialect,
) -> io::Result<Option<(SessionResponse, Duration)>> {
    let Handshake { version, named, .. } = dialect.handshake;
    // Whoever cannot read our datagrams cannot guess it.
    let session_id = RandomState::new().hash_one(options.to) as u32;
    let request = Packet::SessionRequest(SessionRequest {
        version,
        session_id,
        udp_length: dialect.offer.udp_length,
        protocol_name: named.then_some(options.protocol.as_bytes()),
    });
    let deadline = Instant::now() + options.timeout;
    while Instant::now() < deadline {
        let asked = Instant::now();
        exchange.send(&request, None)?;
        while let Some(datagram) = exchange.receive(deadline.min(asked + REPEAT))? {
            if let Ok(Packet::SessionResponse(response)) = Packet::decode(datagram)
                && response.session_id == session_id
            {
                return Ok(Some((response, asked.elapsed())));
            }
        }
    }
    Ok(None)
}

/// What the response offers, and the framing for it unless that is impossible.
fn offer(dialect: &Dialect, options: &Options, response: &SessionResponse, took: Duration) -> (Offer, Option<Framing>) {
    let Handshake { version, named, .. } = dialect.handshake;
    let name = named.then_some(options.protocol.as_str());
    let guess = dialect_of(Some(version), name, response);
    let framing = guess.framing(response.crc_seed, response.crc_length, response.passes);
    let refused = framing.as_ref().err().map(|error| format!("impossible for a client: {error}"));
    let offer = Offer {
        version,
        session_id: response.session_id,
        crc_length: response.crc_length,
        passes: response.passes,
        udp_length: response.udp_length,
        trailing_version: response.version,
        dialects: fitting(version, response),
        took: took.as_nanos() as u64,
        refused,
    };
    (offer, framing.ok())
}

/// The presets whose servers answer a request of this version so.
fn fitting(version: u32, response: &SessionResponse) -> Vec<String> {
    let fits = |dialect: &Dialect| {
        let trailer = match dialect.handshake.trailer {
            ResponseTrailer::None => None,
            ResponseTrailer::Version(word) => Some(word),
        };
        dialect.handshake.accepts.accept(version)
            && dialect.offer.passes.map(u8::from) == response.passes
            && trailer == response.version
    };
    let presets = Dialect::ALL_NAMES.into_iter().filter_map(Dialect::by_name);
    presets.filter(fits).map(|dialect| dialect.name.into_owned()).collect()
}

/// Asks for clock and statistics again and again, until the server ends the session: then its reason comes too. A server that
/// refuses does so right behind its response, or in answer to the first question.
fn questions(
    exchange: &mut Exchange,
    options: &Options,
    framing: &Framing,
    session_id: u32,
    told: &mut impl FnMut(u32, Option<u64>),
) -> io::Result<(RoundTrips, Option<String>)> {
    let mut asking = Asking::default();
    for number in 0..options.count {
        let now = Instant::now();
        asking.asked.push(now);
        asking.trips.times.push(None);
        asking.trips.sent += 1;
        // The stamp comes back: the number of the question serves as well as a clock, and is never the same twice.
        let (clock, sent, received) = (number as u16, u64::from(number) + 1, asking.received);
        let request = NetStatusRequest { clock, sent, received, ..NetStatusRequest::default() };
        exchange.send(&Packet::NetStatusRequest(request), Some(framing))?;
        let is_last = number + 1 == options.count;
        let deadline = now + if is_last { options.timeout } else { options.interval };
        while let Some(datagram) = exchange.receive(deadline)? {
            asking.take(datagram, framing, session_id, told);
            if asking.ended.is_some() || is_last && asking.trips.times.iter().all(Option::is_some) {
                break;
            }
        }
        if asking.ended.is_some() {
            break;
        }
        if asking.trips.times[number as usize].is_none() {
            told(number, None);
        }
    }
    let Asking { mut trips, received, counts, ended, .. } = asking;
    trips.sum_up();
    (trips.lost_to_server, trips.lost_to_client) = counted_losses(counts, received);
    Ok((trips, ended))
}

/// What has been asked and answered so far.
#[derive(Default)]
struct Asking {
    trips: RoundTrips,
    asked: Vec<Instant>,
    received: u64,
    counts: Option<NetStatusResponse>,
    ended: Option<String>,
}

impl Asking {
    fn take(&mut self, datagram: &[u8], framing: &Framing, session_id: u32, told: &mut impl FnMut(u32, Option<u64>)) {
        let arrived = Instant::now();
        self.received += 1;
        let Some(packet) = opened(datagram, framing) else { return };
        let mut is_expected = false;
        each(&packet, |packet| match packet {
            Packet::NetStatusResponse(response) => {
                is_expected = true;
                self.counts = Some(response);
                let index = usize::from(response.request_clock);
                if let (Some(time @ None), Some(asked)) = (self.trips.times.get_mut(index), self.asked.get(index)) {
                    let took = (arrived - *asked).as_nanos() as u64;
                    *time = Some(took);
                    told(index as u32, Some(took));
                }
            }
            Packet::Disconnect(disconnect) if disconnect.session_id == session_id => {
                is_expected = true;
                self.ended = Some(disconnect.reason.unwrap_or_default().to_string());
            }
            _ => {}
        });
        self.trips.others += u32::from(!is_expected);
    }
}

/// Shares lost each way, by the counts in the last response and what had come by then.
fn counted_losses(counts: Option<NetStatusResponse>, received: u64) -> (Option<f64>, Option<f64>) {
    let Some(counts) = counts else { return (None, None) };
    let share = |sent: u64, received: u64| {
        let lost = sent.saturating_sub(received);
        (sent > 0).then(|| lost as f64 / sent as f64)
    };
    let to_server = share(counts.requester_sent, counts.responder_received);
    (to_server, share(counts.responder_sent, received))
}

//! A receiver made by hand that holds so many packets ahead of a gap and no more, and does with those beyond what some
//! implementation does (section 13 of `docs/protocol.md`).

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use soe_testing::{Network, RawPeer};
use soe_tokio::{
    ReliableChannel,
    soe_core::{
        Framing,
        wire::{
            Acknowledge, AcknowledgeAll, NamedWindow, NetStatusRequest, NetStatusResponse, Packet, Payload,
            SessionResponse, group::GroupElements,
        },
    },
};
use tokio::time::{Instant, timeout};

use super::{MILLISECOND, handshake};

/// What becomes of a packet that is as far ahead as the receiver holds, or further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// It is dropped.
    Dropped,
    /// One that is exactly so far ahead takes the place of the expected one.
    TakesAPlace,
    /// The session fails.
    Fails,
}

/// What it says to the exchange of statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Unanswered,
    /// Answered, in 40 bytes.
    Answered,
    /// Answered, and asked in return with the figures of the request, and answered with those of the peer's answer.
    Mirrored,
    /// Names a window, true or not.
    Names(u16),
}

/// A receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    pub(crate) holds: u16,
    pub(crate) beyond: Beyond,
    pub(crate) status: Status,
    pub(crate) ack_delay: Duration,
    /// Whether packets ahead are acknowledged one by one.
    pub(crate) selective: bool,
}

/// What it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// Bytes of the datagrams that came, and their number.
    pub(crate) bytes: u64,
    pub(crate) datagrams: u64,
    /// The furthest that a packet was ahead of the expected one.
    pub(crate) furthest: u16,
    pub(crate) dropped: u64,
    /// Messages that were not the next in order: something else was delivered in a place.
    pub(crate) wrong: u64,
    pub(crate) failed: bool,
    /// From the first to the last message.
    pub(crate) elapsed: Duration,
}

const SEED: u32 = 0x0BAD_CAFE;
const ZERO: ReliableChannel = ReliableChannel::ZERO;

/// One session of such a receiver.
#[derive(Debug)]
pub(crate) struct HolderPeer {
    holder: Holder,
    raw: RawPeer,
    remote: SocketAddr,
    by_client: bool,
    framing: Framing,
    expected: u16,
    ahead: BTreeMap<u16, Vec<u8>>,
    partial: Option<(usize, Vec<u8>)>,
    next_message: u32,
    ack_due: Option<Instant>,
    seen: Seen,
}

impl HolderPeer {
    /// Opens a session with the server that listens at [`Network::SERVER`].
    pub(crate) async fn connect(network: &Network, holder: Holder) -> Self {
        let mut raw = network.raw(Network::client_address(9));
        let response = handshake::request(&mut raw, 9).await;
        let peer =
            Self::new(holder, raw, Network::SERVER, true, handshake::framing(response.crc_seed, response.crc_length));
        peer.say(&Packet::Heartbeat);
        if let Status::Names(_) = holder.status {
            peer.ask(NetStatusRequest::default());
        }
        peer
    }

    /// Waits at [`Network::SERVER`] for a client and lets it in.
    pub(crate) async fn accept(network: &Network, holder: Holder) -> Self {
        let mut raw = network.raw(Network::SERVER);
        let (from, session_id) = handshake::requested(&mut raw).await;
        let (passes, version) = ([0, 0], Some(3));
        let response = SessionResponse { session_id, crc_seed: SEED, crc_length: 2, passes, udp_length: 512, version };
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        raw.send(from, &bytes);
        let peer = Self::new(holder, raw, from, false, handshake::framing(SEED, 2));
        peer.say(&Packet::Heartbeat);
        peer
    }

    fn new(holder: Holder, raw: RawPeer, remote: SocketAddr, by_client: bool, framing: Framing) -> Self {
        Self {
            holder,
            raw,
            remote,
            by_client,
            framing,
            expected: 0,
            ahead: BTreeMap::new(),
            partial: None,
            next_message: 0,
            ack_due: None,
            seen: Seen::default(),
        }
    }

    fn say(&self, packet: &Packet<'_>) {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        self.framing.seal(&mut datagram, 0);
        self.raw.send(self.remote, &datagram);
    }

    fn named(&self) -> Option<NamedWindow> {
        match self.holder.status {
            Status::Names(packets) => Some(NamedWindow { by_client: self.by_client, packets }),
            _ => None,
        }
    }

    fn ask(&self, request: NetStatusRequest) {
        let request = self.named().map_or(request, |window| request.with_window(window));
        self.say(&Packet::NetStatusRequest(request));
    }

    /// Receives until so many messages have come, at most for this long.
    pub(crate) async fn take(&mut self, messages: u32, most: Duration) -> Seen {
        let mut start = Instant::now();
        while self.next_message < messages && start.elapsed() < most && !self.seen.failed {
            let wait = self.ack_due.map_or(MILLISECOND, |due| due.saturating_duration_since(Instant::now()));
            if let Ok((_, datagram)) = timeout(wait, self.raw.recv()).await {
                if self.seen.elapsed.is_zero() && self.expected == 0 {
                    start = Instant::now();
                }
                self.handle(&datagram);
                self.seen.elapsed = start.elapsed();
            }
            if self.ack_due.is_some_and(|due| due <= Instant::now()) {
                self.ack_due = None;
                self.acknowledge_all();
            }
        }
        self.acknowledge_all();
        self.seen
    }

    fn acknowledge_all(&self) {
        if self.expected > 0 {
            self.say(&Packet::AcknowledgeAll(AcknowledgeAll { channel: ZERO, sequence: self.expected - 1 }));
        }
    }

    fn handle(&mut self, datagram: &[u8]) {
        self.seen.bytes += datagram.len() as u64;
        self.seen.datagrams += 1;
        let Ok(packet) = self.framing.open(datagram.into()) else { return };
        match Packet::decode(&packet) {
            Ok(Packet::Multi(multi)) => multi.pieces().flatten().for_each(|piece| self.handle_packet(piece)),
            _ => self.handle_packet(&packet),
        }
    }

    fn handle_packet(&mut self, bytes: &[u8]) {
        match Packet::decode(bytes) {
            Ok(Packet::Reliable(data)) => self.handle_data(data.sequence, bytes),
            Ok(Packet::Fragment(fragment)) => self.handle_data(fragment.sequence, bytes),
            Ok(Packet::NetStatusRequest(request)) if self.holder.status != Status::Unanswered => {
                if self.holder.status == Status::Mirrored {
                    self.say(&Packet::NetStatusRequest(request));
                }
                let response = NetStatusResponse {
                    request_clock: request.clock,
                    requester_sent: request.sent,
                    requester_received: request.received,
                    ..NetStatusResponse::default()
                };
                let response = self.named().map_or(response, |window| response.with_window(window));
                self.say(&Packet::NetStatusResponse(response));
            }
            Ok(Packet::NetStatusResponse(response)) if self.holder.status == Status::Mirrored => {
                self.say(&Packet::NetStatusResponse(response));
            }
            _ => {}
        }
    }

    fn handle_data(&mut self, sequence: u16, bytes: &[u8]) {
        let Some(ahead) = sequence.checked_sub(self.expected) else {
            self.ack_due.get_or_insert_with(|| Instant::now() + self.holder.ack_delay);
            return;
        };
        self.seen.furthest = self.seen.furthest.max(ahead);
        let mut place = sequence;
        if ahead >= self.holder.holds {
            match self.holder.beyond {
                Beyond::TakesAPlace if ahead == self.holder.holds => place = self.expected,
                Beyond::Fails => return self.seen.failed = true,
                _ => return self.seen.dropped += 1,
            }
        }
        self.ahead.entry(place).or_insert_with(|| bytes.to_vec());
        if place > self.expected {
            if self.holder.selective {
                self.say(&Packet::Acknowledge(Acknowledge { channel: ZERO, sequence }));
            }
            return;
        }
        while let Some(bytes) = self.ahead.remove(&self.expected) {
            self.expected += 1;
            self.deliver(&bytes);
        }
        self.ack_due.get_or_insert_with(|| Instant::now() + self.holder.ack_delay);
    }

    fn deliver(&mut self, bytes: &[u8]) {
        match Packet::decode(bytes) {
            Ok(Packet::Reliable(data)) => match Payload::classify(data.payload) {
                Payload::Message(message) => self.count(message),
                Payload::Group(group) => self.count_all(group.elements()),
            },
            Ok(Packet::Fragment(fragment)) => {
                let mut body = fragment.body;
                let (total, message) = self.partial.get_or_insert_with(|| {
                    let (total, rest) = body.split_at(4);
                    body = rest;
                    (u32::from_be_bytes(total.try_into().expect("four bytes")) as usize, Vec::new())
                });
                message.extend_from_slice(body);
                if message.len() >= *total {
                    let (_, message) = self.partial.take().expect("just there");
                    self.count(&message);
                }
            }
            _ => {}
        }
    }

    fn count_all(&mut self, elements: GroupElements<'_>) {
        elements.flatten().for_each(|message| self.count(message));
    }

    fn count(&mut self, message: &[u8]) {
        let number = message.get(1..5).and_then(|number| number.try_into().ok()).map(u32::from_be_bytes);
        self.seen.wrong += u64::from(number != Some(self.next_message));
        self.next_message += 1;
    }
}

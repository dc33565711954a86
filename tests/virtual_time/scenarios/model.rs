//! A peer made by hand, with the habits of implementations in the field.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use soe_testing::{Network, RawPeer};
use soe_tokio::{
    DisconnectReason, ReliableChannel,
    soe_core::{
        Framing,
        wire::{
            Acknowledge, AcknowledgeAll, Disconnect, NetStatusRequest, NetStatusResponse, Packet, Payload,
            ReliableData, SessionResponse,
        },
    },
};
use tokio::time::{Instant, sleep};

use super::{MILLISECOND, handshake};
use crate::checker::{Checker, Side};

/// What a peer does, and what it leaves out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) answers_heartbeats: bool,
    pub(crate) answers_status: bool,
    pub(crate) heartbeat_every: Option<Duration>,
    pub(crate) status_every: Option<Duration>,
    pub(crate) heartbeats_are_checked: bool,
    /// How long an acknowledgement waits; it names the newest packet in order.
    pub(crate) ack_delay: Duration,
    /// Whether a packet that came before is acknowledged again.
    pub(crate) acknowledges_again: bool,
    /// Whether Acknowledge is read as a request for everything up to it.
    pub(crate) sends_again_what_is_acknowledged: bool,
    pub(crate) resend_after: Duration,
    pub(crate) echoes_the_response: bool,
    pub(crate) reason: Option<DisconnectReason>,
}

impl Default for Model {
    /// Does all that the protocol asks for.
    fn default() -> Self {
        Self {
            answers_heartbeats: true,
            answers_status: true,
            heartbeat_every: None,
            status_every: None,
            heartbeats_are_checked: true,
            ack_delay: Duration::ZERO,
            acknowledges_again: true,
            sends_again_what_is_acknowledged: false,
            resend_after: 300 * MILLISECOND,
            echoes_the_response: false,
            reason: Some(DisconnectReason::Application),
        }
    }
}

/// One session of such a peer.
#[derive(Debug)]
pub(crate) struct ModelPeer {
    model: Model,
    raw: RawPeer,
    remote: SocketAddr,
    session_id: u32,
    side: Side,
    framing: Framing,
    checker: Checker,
    next: u16,
    in_flight: BTreeMap<u16, (Vec<u8>, Instant)>,
    expected: u16,
    ahead: BTreeMap<u16, Vec<u8>>,
    ack_due: Option<Instant>,
    heard: u64,
    sent: u64,
    pub(crate) ended: Option<Option<DisconnectReason>>,
    /// How often the other side said that it does not know this one.
    pub(crate) disowned: u32,
}

const SEED: u32 = 0x0BAD_CAFE;
const ZERO: ReliableChannel = ReliableChannel::ZERO;

impl ModelPeer {
    /// Opens a session with the server that listens at [`Network::SERVER`].
    pub(crate) async fn connect(network: &Network, address: SocketAddr, model: Model, checker: &Checker) -> Self {
        let mut raw = network.raw(address);
        let session_id = 0x1000_0000 | u32::from(address.port()) << 8 | 1;
        let response = handshake::request(&mut raw, session_id).await;
        if model.echoes_the_response {
            let mut echo = Vec::new();
            response.encode(&mut echo);
            raw.send(Network::SERVER, &echo);
        }
        let framing = handshake::framing(response.crc_seed, response.crc_length);
        let mut peer = Self::new(model, raw, Network::SERVER, session_id, Side::Client, framing, checker);
        peer.say(&Packet::Heartbeat);
        peer
    }

    /// Waits at [`Network::SERVER`] for a client and lets it in.
    pub(crate) async fn accept(network: &Network, model: Model, checker: &Checker) -> Self {
        let mut raw = network.raw(Network::SERVER);
        let (from, session_id) = handshake::requested(&mut raw).await;
        Self::new(model, raw, from, session_id, Side::Server, handshake::framing(SEED, 2), checker).with_response()
    }

    fn new(
        model: Model,
        raw: RawPeer,
        remote: SocketAddr,
        session_id: u32,
        side: Side,
        framing: Framing,
        checker: &Checker,
    ) -> Self {
        let checker = checker.clone();
        checker.received_by_hand(session_id, side, None);
        let (in_flight, ahead) = (BTreeMap::new(), BTreeMap::new());
        let (next, expected, heard, sent) = (0, 0, 0, 0);
        let (ack_due, ended) = (None, None);
        Self {
            model,
            raw,
            remote,
            session_id,
            side,
            framing,
            checker,
            next,
            in_flight,
            expected,
            ahead,
            ack_due,
            heard,
            sent,
            ended,
            disowned: 0,
        }
    }

    fn with_response(self) -> Self {
        self.respond();
        self
    }

    fn respond(&self) {
        let (session_id, passes, version) = (self.session_id, [0, 0], Some(3));
        let response = SessionResponse { session_id, crc_seed: SEED, crc_length: 2, passes, udp_length: 512, version };
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        self.raw.send(self.remote, &bytes);
    }

    fn say(&mut self, packet: &Packet<'_>) {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        if self.model.heartbeats_are_checked || *packet != Packet::Heartbeat {
            self.framing.seal(&mut datagram, 0);
        }
        self.sent += 1;
        self.raw.send(self.remote, &datagram);
    }

    /// Lives for a time, sending a message of its own as often as this.
    pub(crate) async fn live(&mut self, time: Duration, message_every: Option<Duration>) {
        let start = Instant::now();
        let [mut message, mut heartbeat, mut status] = [start; 3];
        while start.elapsed() < time && self.ended.is_none() {
            while let Some((_, datagram)) = self.raw.try_recv() {
                self.handle(&datagram);
            }
            let now = Instant::now();
            if due(&mut message, message_every, now) {
                let payload = [&[0][..], &u32::from(self.next).to_be_bytes(), b"by hand"].concat();
                self.in_flight.insert(self.next, (payload, now - self.model.resend_after));
                self.next += 1;
            }
            if due(&mut heartbeat, self.model.heartbeat_every, now) {
                self.say(&Packet::Heartbeat);
            }
            if due(&mut status, self.model.status_every, now) {
                self.ask_status();
            }
            if self.ack_due.is_some_and(|due| due <= now) {
                self.ack_due = None;
                self.acknowledge_all();
            }
            self.send_again(now);
            sleep(10 * MILLISECOND).await;
        }
    }

    fn send_again(&mut self, now: Instant) {
        let late: Vec<u16> = self
            .in_flight
            .iter()
            .filter(|(_, (_, sent))| now.saturating_duration_since(*sent) >= self.model.resend_after)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in late.into_iter().take(32) {
            let Some((payload, sent)) = self.in_flight.get_mut(&sequence) else { continue };
            *sent = now;
            let payload = payload.clone();
            self.say(&Packet::Reliable(ReliableData { channel: ZERO, sequence, payload: &payload }));
        }
    }

    fn ask_status(&mut self) {
        let (sent, received) = (self.sent + 1, self.heard);
        let clock = u16::try_from(self.sent % 60_000).unwrap_or_default();
        let request = NetStatusRequest { clock, master: 0, average: 0, low: 0, high: 0, last: 0, sent, received };
        self.say(&Packet::NetStatusRequest(request));
    }

    fn acknowledge_all(&mut self) {
        if self.expected > 0 {
            self.say(&Packet::AcknowledgeAll(AcknowledgeAll { channel: ZERO, sequence: self.expected - 1 }));
        }
    }

    fn handle(&mut self, datagram: &[u8]) {
        match Packet::decode(datagram) {
            Ok(Packet::SessionRequest(_)) => return self.respond(),
            Ok(Packet::UnknownSender) => return self.disowned += 1,
            _ => {}
        }
        let Ok(packet) = self.framing.open(datagram.into()) else { return };
        self.heard += 1;
        match Packet::decode(&packet) {
            Ok(Packet::Multi(multi)) => multi.pieces().flatten().for_each(|piece| self.handle_packet(piece)),
            _ => self.handle_packet(&packet),
        }
    }

    fn handle_packet(&mut self, bytes: &[u8]) {
        match Packet::decode(bytes) {
            Ok(Packet::Reliable(data)) => self.handle_data(data.sequence, data.payload),
            Ok(Packet::AcknowledgeAll(ack)) => self.in_flight.retain(|sequence, _| *sequence > ack.sequence),
            Ok(Packet::Acknowledge(ack)) if self.model.sends_again_what_is_acknowledged => {
                let long_ago = Instant::now() - self.model.resend_after;
                self.in_flight.range_mut(..=ack.sequence).for_each(|(_, (_, sent))| *sent = long_ago);
            }
            Ok(Packet::Acknowledge(ack)) => _ = self.in_flight.remove(&ack.sequence),
            Ok(Packet::Heartbeat) if self.model.answers_heartbeats => self.say(&Packet::Heartbeat),
            Ok(Packet::NetStatusRequest(request)) if self.model.answers_status => {
                self.say(&Packet::NetStatusResponse(NetStatusResponse {
                    request_clock: request.clock,
                    responder_clock: 0,
                    requester_sent: request.sent,
                    requester_received: request.received,
                    responder_sent: self.sent + 1,
                    responder_received: self.heard,
                }));
            }
            Ok(Packet::Disconnect(disconnect)) => self.ended = Some(disconnect.reason),
            _ => {}
        }
    }

    fn handle_data(&mut self, sequence: u16, payload: &[u8]) {
        if sequence < self.expected {
            if self.model.acknowledges_again {
                self.ack_due.get_or_insert_with(|| Instant::now() + self.model.ack_delay);
            }
            return;
        }
        self.ahead.insert(sequence, payload.to_vec());
        if sequence > self.expected {
            return self.say(&Packet::Acknowledge(Acknowledge { channel: ZERO, sequence }));
        }
        while let Some(payload) = self.ahead.remove(&self.expected) {
            self.expected += 1;
            match Payload::classify(&payload) {
                Payload::Message(message) => self.deliver(message),
                Payload::Group(group) => group.elements().flatten().for_each(|message| self.deliver(message)),
            }
        }
        self.ack_due.get_or_insert_with(|| Instant::now() + self.model.ack_delay);
    }

    fn deliver(&self, message: &[u8]) {
        // The numbers of the checker's messages begin with 0, so that they come escaped.
        let number = message.get(1..5).and_then(|number| number.try_into().ok()).map(u32::from_be_bytes);
        self.checker.received_by_hand(self.session_id, self.side, number);
    }

    /// Says goodbye in its own way.
    pub(crate) fn leave(&mut self) {
        self.say(&Packet::Disconnect(Disconnect { session_id: self.session_id, reason: self.model.reason }));
    }

    /// How many of its own messages have not been acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.in_flight.len()
    }
}

/// Whether something that happens this often happens now.
fn due(last: &mut Instant, every: Option<Duration>, now: Instant) -> bool {
    let is_due = every.is_some_and(|every| now.saturating_duration_since(*last) >= every);
    if is_due {
        *last = now;
    }
    is_due
}

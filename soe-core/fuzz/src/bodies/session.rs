//! Datagrams against one session.

use std::{net::SocketAddr, time::Instant};

use bytes::BytesMut;
use soe_core::{
    Action, AdmissionConfig, Channel, DatagramOutcome, DisconnectReason, Endpoint, Framing, Message, ReliableChannel,
    Session, SessionConfig, wire,
};

use super::input::{Input, MS, start};

const SESSION_ID: u32 = 0x0102_0304;
/// More datagrams than this from one stimulus is a loop.
const MANY: usize = 5_000;

/// A session and what seals datagrams for it.
pub struct Target {
    pub now: Instant,
    pub session: Session,
    pub framing: Framing,
    out: Vec<u8>,
}

impl Target {
    pub fn client(config: &SessionConfig) -> Self {
        let now = start();
        let mut session = Session::connect(now, config.clone(), SESSION_ID);
        let mut response = Vec::new();
        wire::SessionResponse {
            session_id: SESSION_ID,
            crc_seed: 0x5EED_5EED,
            crc_length: config.crc_length,
            passes: config.passes.map(u8::from),
            udp_length: config.udp_length,
            version: None,
        }
        .encode(&mut response);
        let _ = session.handle_datagram(now, response[..].into());
        Self::new(session)
    }

    pub fn server(config: &SessionConfig) -> Self {
        let now = start();
        let mut client = Session::connect(now, config.clone(), SESSION_ID);
        let admission =
            AdmissionConfig::builder(config.clone()).max_pending_handshakes(1).build().expect("within the ranges");
        let mut endpoint = Endpoint::new(now, admission, [7; 16]);
        let from = SocketAddr::from(([192, 0, 2, 1], 7));
        for _ in 0..2 {
            let mut asks = Vec::new();
            let _ = client.poll_transmit(now, &mut asks);
            endpoint.handle_datagram(now, from.into(), asks[..].into());
            while let Some(action) = endpoint.poll_action() {
                match action {
                    Action::Open(opened) => return Self::new(opened.session),
                    Action::Send { datagram, .. } => _ = client.handle_datagram(now, datagram[..].into()),
                    _ => {}
                }
            }
        }
        unreachable!("an honest client gets a session");
    }

    fn new(session: Session) -> Self {
        let config = session.config();
        let passes = config.passes.map(u8::from);
        let framing = Framing::new(session.crc_seed(), config.crc_length, passes, &config.dialect.codecs);
        Self { now: start(), framing: framing.expect("the session has it too"), session, out: Vec::new() }
    }

    /// A packet of somebody who knows the seed.
    pub fn put(&mut self, packet: &[u8]) {
        let exempt = wire::opcode::of(packet).is_some_and(wire::opcode::is_exempt);
        if packet.is_empty() || *packet == [0] || exempt {
            return;
        }
        let mut datagram = packet.to_vec();
        self.framing.seal(&mut datagram, 0);
        let fits = datagram.len() <= self.session.config().udp_length as usize;
        let expected = if fits { DatagramOutcome::Authentic } else { DatagramOutcome::Unproven };
        assert_eq!(self.session.handle_datagram(self.now, datagram[..].into()), expected);
        self.check();
    }

    /// A datagram of anybody.
    pub fn put_raw(&mut self, datagram: &[u8]) {
        let before = (self.session.poll_timeout(), self.session.closed(), self.session.memory());
        let verdict = self.session.handle_datagram(self.now, BytesMut::from(datagram));
        let exempt = wire::opcode::of(datagram).is_some_and(wire::opcode::is_exempt);
        if !exempt && !self.framing.verify(datagram) {
            assert_ne!(verdict, DatagramOutcome::Authentic);
            assert_eq!(before, (self.session.poll_timeout(), self.session.closed(), self.session.memory()));
        }
        self.check();
    }

    pub fn check(&mut self) {
        let sent = (0..MANY).take_while(|_| {
            self.out.clear();
            let transmit = self.session.poll_transmit(self.now, &mut self.out);
            transmit.is_some_and(|transmit| transmit.size == self.out.len() && transmit.size > 0)
        });
        assert!(sent.count() < MANY, "it never stops sending");
        assert!(self.session.memory() <= self.session.config().memory_ceiling());
    }

    fn read(&mut self) {
        while let Some(message) = self.session.recv() {
            assert!(message.payload.len() <= self.session.config().max_message_size + 64);
        }
        while self.session.poll_event().is_some() {}
    }

    fn wait(&mut self, millis: u32) {
        self.now += MS * millis;
        self.session.handle_timeout(self.now);
        assert!(self.session.poll_timeout().is_none_or(|at| at > self.now), "a timer that has fired is still due");
        self.check();
    }
}

/// A session under a life that the bytes describe: datagrams sealed and not, time, and the application.
pub fn datagram_to_session(data: &[u8]) {
    let mut input = Input(data);
    let config = input.config();
    let mut target = if input.byte() & 1 == 0 { Target::server(&config) } else { Target::client(&config) };
    while !input.is_empty() {
        let op = input.byte();
        match op & 7 {
            0..=3 => target.put(input.chunk()),
            4 => target.put_raw(input.chunk()),
            5 => target.wait(u32::from(input.byte()) * 20),
            6 => {
                let channel = match op >> 3 & 7 {
                    n @ 0..=3 => Channel::Reliable(ReliableChannel::ALL[usize::from(n)]),
                    4 => Channel::Ordered,
                    5 => Channel::Ordered2,
                    _ => Channel::Unreliable,
                };
                let length = usize::from(input.byte()) * 9;
                let _ = target.session.send(Message::new(channel, vec![op; length]));
                target.check();
            }
            _ => match op >> 3 & 7 {
                0 => target.session.close(target.now, DisconnectReason::Application),
                1 => target.session.handle_unreachable(target.now),
                2 => target.session.set_recv_key(Some(&[op])).expect("a key of one byte"),
                _ => target.read(),
            },
        }
    }
    target.read();
    target.wait(100_000);
}

/// Reliable packets and fragments in any order, with any content.
pub fn fragments(data: &[u8]) {
    let mut input = Input(data);
    let config = input.config();
    let mut target = Target::server(&config);
    while !input.is_empty() {
        let (kind, sequence) = (input.byte(), input.byte());
        // Near the start, now and then far from it.
        let sequence = if kind & 0x40 == 0 { u16::from(sequence) } else { u16::from(sequence) << 8 };
        let mut packet = vec![0, 0x09 + (kind & 7)];
        packet.extend(sequence.to_be_bytes());
        packet.extend(input.chunk());
        target.put(&packet);
        if kind & 0x80 != 0 {
            target.read();
        }
    }
    target.read();
}

/// Multis and Groups in each other.
pub fn nesting(data: &[u8]) {
    let mut input = Input(data);
    let config = input.config();
    let (depth, kinds) = (input.byte() % 24, input.word());
    let mut packet = input.0.to_vec();
    for level in 0..depth {
        let op = if kinds >> level & 1 == 0 { wire::opcode::MULTI } else { wire::opcode::GROUP };
        let mut outer = vec![0, op];
        match u8::try_from(packet.len()) {
            Ok(length) if length < 255 => outer.push(length),
            _ => outer.extend([&[255][..], &(packet.len() as u16).to_be_bytes()].concat()),
        }
        outer.append(&mut packet);
        packet = outer;
    }
    for packet in [packet.clone(), [&[0, 0x09, 0, 0][..], &packet].concat()] {
        let mut target = Target::server(&config);
        target.put(&packet);
        target.put(&packet);
        target.read();
    }
}

//! A server whose every packet a test writes, under the right CRC.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use soe_core::{
    Framing, Message, ReliableChannel, Session, SessionConfig, SessionConfigBuilder,
    framing::Codec,
    wire::{Acknowledge, AcknowledgeAll, Packet, ReliableData, SessionResponse},
};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const ID: u32 = 0x1020_3040;
pub(crate) const SEED: u32 = 0x5EED_5EED;
pub(crate) const ZERO: ReliableChannel = ReliableChannel::ZERO;

/// A client session, and the keys of the server that the test plays.
pub(crate) struct ManualPeer {
    pub(crate) now: Instant,
    pub(crate) session: Session,
    pub(crate) framing: Framing,
}

pub(crate) fn config() -> SessionConfigBuilder {
    SessionConfig::builder("Trap").refusal_grace(Duration::ZERO)
}

impl ManualPeer {
    pub(crate) fn connected(config: SessionConfigBuilder) -> Self {
        Self::offering(config, 512, 2, [0, 0])
    }

    pub(crate) fn offering(config: SessionConfigBuilder, udp_length: u32, crc_length: u8, passes: [u8; 2]) -> Self {
        let (now, config) = (Instant::now(), config.build().unwrap());
        let codecs: [Option<Codec>; 2] = config.dialect.codecs.clone();
        let framing = Framing::new(SEED, crc_length, passes, &codecs).unwrap();
        let mut peer = Self { now, session: Session::connect(now, config, ID), framing };
        assert_eq!(peer.taken_bare().len(), 1, "one request");
        peer.bare(&peer.response(udp_length, crc_length, passes));
        assert!(peer.session.is_connected());
        let _ = peer.taken();
        peer
    }

    pub(crate) fn response(&self, udp_length: u32, crc_length: u8, passes: [u8; 2]) -> Packet<'static> {
        let version = Some(3);
        Packet::SessionResponse(SessionResponse {
            session_id: ID,
            crc_seed: SEED,
            crc_length,
            passes,
            udp_length,
            version,
        })
    }

    pub(crate) fn bare(&mut self, packet: &Packet<'_>) {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        let _ = self.session.handle_datagram(self.now, datagram[..].into());
    }

    pub(crate) fn say(&mut self, packet: &Packet<'_>) {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        self.say_bytes(datagram);
    }

    pub(crate) fn say_bytes(&mut self, mut packet: Vec<u8>) {
        self.framing.seal(&mut packet, 0);
        let _ = self.session.handle_datagram(self.now, packet[..].into());
    }

    pub(crate) fn data(&mut self, sequence: u16, payload: &[u8]) {
        self.say(&Packet::Reliable(ReliableData { channel: ZERO, sequence, payload }));
    }

    pub(crate) fn acknowledge(&mut self, sequence: u16) {
        self.say(&Packet::Acknowledge(Acknowledge { channel: ZERO, sequence }));
    }

    pub(crate) fn acknowledge_all(&mut self, sequence: u16) {
        self.say(&Packet::AcknowledgeAll(AcknowledgeAll { channel: ZERO, sequence }));
    }

    pub(crate) fn taken_bare(&mut self) -> Vec<Vec<u8>> {
        let (mut datagrams, mut buf) = (Vec::new(), Vec::new());
        while let Some(transmit) = self.session.poll_transmit(self.now, &mut buf) {
            datagrams.extend(buf.chunks(transmit.segment_size).map(<[u8]>::to_vec));
            buf.clear();
        }
        datagrams
    }

    /// The packets that the session sends now, those in Multis one by one.
    pub(crate) fn taken(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for datagram in self.taken_bare() {
            let Ok(packet) = self.framing.open(BytesMut::from(&datagram[..])) else { continue };
            match Packet::decode(&packet) {
                Ok(Packet::Multi(multi)) => packets.extend(multi.pieces().map(|piece| piece.unwrap().to_vec())),
                _ => packets.push(packet.to_vec()),
            }
        }
        packets
    }

    /// Lets time pass, and returns what is sent meanwhile.
    pub(crate) fn wait(&mut self, time: Duration) -> Vec<Vec<u8>> {
        let end = self.now + time;
        let mut packets = self.taken();
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
            packets.extend(self.taken());
        }
        self.now = end;
        packets
    }

    pub(crate) fn messages(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.session.recv()).map(|message| message.payload.to_vec()).collect()
    }

    pub(crate) fn send(&mut self, message: impl Into<Message>) {
        self.session.send(message.into()).unwrap();
    }
}

pub(crate) fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + 1) as u8 | 1).collect()
}

//! What strangers send: section 10 of `docs/protocol.md`, and whatever comes of damaging real traffic.

use bytes::BufMut;
use soe_core::{
    Dialect, Framing,
    wire::{Disconnect, DisconnectReason, RemapConnection, SessionRequest, SessionResponse, opcode},
};

use crate::{
    rng::Rng,
    world::{SESSION_ID, Side},
};

/// How many kinds of forged datagrams there are.
pub(crate) const KINDS: usize = 12;

/// A source of forged datagrams that has watched the session, and others before it, without their seeds.
pub(crate) struct Forger {
    pub(crate) rng: Rng,
    /// Real datagrams of this session.
    pub(crate) seen: Vec<Vec<u8>>,
    pub(crate) counts: [u64; KINDS],
}

impl Forger {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), seen: Vec::new(), counts: [0; KINDS] }
    }

    /// Remembers a real datagram.
    pub(crate) fn watch(&mut self, datagram: &[u8]) {
        if self.seen.len() < 4_096 {
            self.seen.push(datagram.to_vec());
        } else {
            let place = self.rng.below(self.seen.len());
            self.seen[place] = datagram.to_vec();
        }
    }

    /// The next forged datagram for this side.
    pub(crate) fn forge(&mut self, side: Side) -> Vec<u8> {
        let kind = self.rng.below(KINDS);
        self.counts[kind] += 1;
        let mut datagram = match kind {
            0 => self.random(),
            1 => self.flipped(),
            2 => self.cut_or_extended(),
            3 => self.spliced(),
            4 => self.sealed_with_another_seed(),
            5 => self.request(),
            6 => self.response(),
            7 => self.exempt(),
            8 => self.disconnect(),
            9 => self.hostile_content(),
            10 => self.short(),
            _ => self.with_guessed_crc(),
        };
        // UnknownSender makes a client ask its server: that has a test of its own.
        if side == Side::Client && datagram.starts_with(&[0, opcode::UNKNOWN_SENDER]) {
            datagram[1] = opcode::PORT_ALIVE;
        }
        datagram
    }

    fn any_seen(&mut self) -> Vec<u8> {
        if self.seen.is_empty() { self.random() } else { self.rng.pick(&self.seen).clone() }
    }

    /// Random bytes behind every op code there is, and some that there are not.
    fn random(&mut self) -> Vec<u8> {
        let length = self.rng.below(600);
        let mut datagram = vec![0, self.rng.below(0x22) as u8];
        datagram.extend(self.rng.bytes(length));
        if self.rng.one_in(10) {
            datagram[0] = self.rng.byte();
        }
        datagram
    }

    fn flipped(&mut self) -> Vec<u8> {
        let mut datagram = self.any_seen();
        for _ in 0..1 + self.rng.below(3) {
            let bit = self.rng.below(datagram.len() * 8);
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        datagram
    }

    fn cut_or_extended(&mut self) -> Vec<u8> {
        let mut datagram = self.any_seen();
        if self.rng.one_in(2) {
            let keep = self.rng.below(datagram.len());
            datagram.truncate(keep);
        } else {
            let more = 1 + self.rng.below(40);
            datagram.extend(self.rng.bytes(more));
        }
        datagram
    }

    /// The beginning of one datagram and the end of another.
    fn spliced(&mut self) -> Vec<u8> {
        let (mut head, tail) = (self.any_seen(), self.any_seen());
        head.truncate(self.rng.below(head.len()).max(1));
        head.extend(&tail[self.rng.below(tail.len())..]);
        head
    }

    /// Right in every respect, for a session with another seed: this one's of yesterday, or a guess.
    fn sealed_with_another_seed(&mut self) -> Vec<u8> {
        let crc_length = *self.rng.pick(&[1, 2, 4]);
        let passes = *self.rng.pick(&[[0, 0], [1, 0], [4, 0], [1, 4]]);
        let framing = Framing::new(self.rng.word(), crc_length, passes, &Dialect::version3().codecs).unwrap();
        let mut datagram = self.packet();
        framing.seal(&mut datagram, 0);
        datagram
    }

    /// A packet as a peer would send it.
    fn packet(&mut self) -> Vec<u8> {
        let mut packet = vec![0, 1 + self.rng.below(0x1B) as u8];
        match packet[1] {
            opcode::DISCONNECT => {
                packet.clear();
                Disconnect { session_id: SESSION_ID, reason: Some(DisconnectReason::Application) }.encode(&mut packet);
            }
            0x11..=0x18 => packet.put_u16(self.rng.word() as u16),
            _ => {
                let length = self.rng.below(100);
                packet.extend(self.rng.bytes(length));
            }
        }
        packet
    }

    /// Requests: of this very session, seen and sent again; of others; impossible ones.
    fn request(&mut self) -> Vec<u8> {
        let name = match self.rng.below(4) {
            0 => vec![b'x'; 60_000],
            1 => vec![0xFF, 0xFE, 0x80],
            _ => b"Test".to_vec(),
        };
        let mut datagram = Vec::new();
        SessionRequest {
            version: if self.rng.one_in(5) { self.rng.word() } else { 3 },
            session_id: if self.rng.one_in(3) { SESSION_ID } else { self.rng.word() },
            udp_length: *self.rng.pick(&[0, 5, 63, 512, 8192, u32::MAX]),
            protocol_name: Some(&name),
        }
        .encode(&mut datagram);
        datagram
    }

    fn response(&mut self) -> Vec<u8> {
        let mut datagram = Vec::new();
        SessionResponse {
            session_id: self.rng.word(),
            crc_seed: self.rng.word(),
            crc_length: self.rng.below(10) as u8,
            passes: [self.rng.below(6) as u8, self.rng.below(6) as u8],
            udp_length: *self.rng.pick(&[0, 5, 512, u32::MAX]),
            version: Some(3),
        }
        .encode(&mut datagram);
        datagram
    }

    /// Everything else that carries no CRC.
    fn exempt(&mut self) -> Vec<u8> {
        let mut datagram = vec![0, *self.rng.pick(&[0x1C, 0x1D, 0x1E, 0x1F, 0x20])];
        if datagram[1] == opcode::REMAP_CONNECTION {
            datagram.clear();
            let session_id = if self.rng.one_in(2) { SESSION_ID } else { self.rng.word() };
            RemapConnection { session_id, crc_seed: self.rng.word() }.encode(&mut datagram);
        }
        let more = self.rng.below(12);
        datagram.extend(self.rng.bytes(more));
        datagram
    }

    /// A Disconnect of this session, whose id was on the wire: all but the CRC is right.
    fn disconnect(&mut self) -> Vec<u8> {
        let mut datagram = Vec::new();
        Disconnect { session_id: SESSION_ID, reason: Some(DisconnectReason::Application) }.encode(&mut datagram);
        let crc = self.rng.below(5);
        datagram.extend(self.rng.bytes(crc));
        datagram
    }

    /// What has crashed or wedged implementations, without a right CRC.
    fn hostile_content(&mut self) -> Vec<u8> {
        let mut datagram = match self.rng.below(6) {
            // Multis in Multis.
            0 => [0, opcode::MULTI, 250].repeat(150),
            // A Group of 4 GiB.
            1 => vec![0, opcode::RELIABLE, 0, 0, 0, opcode::GROUP, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1],
            // A fragment series of 4 GiB.
            2 => vec![0, opcode::FRAGMENT, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3],
            // The first sequence is the last.
            3 => vec![0, opcode::RELIABLE, 0xFF, 0xFF, 7, 7, 7],
            // Everything is acknowledged.
            4 => vec![0, opcode::ACKNOWLEDGE_ALL, 0xFF, 0xFF],
            // Deflated nothing, for ever.
            _ => [&[0, opcode::RELIABLE, 1, 0x78, 0x9C][..], &[0xED; 300]].concat(),
        };
        let crc = self.rng.bytes(2);
        datagram.extend(crc);
        datagram
    }

    fn short(&mut self) -> Vec<u8> {
        match self.rng.below(4) {
            0 => Vec::new(),
            1 => vec![self.rng.byte()],
            2 => vec![0, opcode::HEARTBEAT],
            _ => vec![0, self.rng.byte()],
        }
    }

    /// A plausible packet and a guess.
    fn with_guessed_crc(&mut self) -> Vec<u8> {
        let mut datagram = self.packet();
        let length = *self.rng.pick(&[1, 2, 4]);
        datagram.extend(self.rng.bytes(length));
        datagram
    }
}

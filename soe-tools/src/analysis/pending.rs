//! Conversations without a handshake, until it is known what they are.

use std::net::SocketAddr;

use soe_core::wire::opcode;

use super::infer::{Given, Guess, Sample, infer};
use crate::capture::Datagram;

/// Datagrams at which an attempt is made; after the last the conversation is taken for another protocol's.
const ATTEMPTS: [usize; 4] = [8, 16, 32, 64];
/// How many of the first are looked at for anything that resembles a packet.
const FIRST_LOOK: usize = 6;
/// Bytes that one conversation may keep.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Pending {
    kept: Vec<Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    time: u64,
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
}

/// What to do with a conversation.
pub(super) enum Opinion {
    Wait,
    Foreign,
    Ours(Box<Guess>),
}

impl Pending {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, datagram: &Datagram<'_>, given: &Given) -> Opinion {
        if datagram.is_cut || datagram.payload.is_empty() {
            return Opinion::Wait;
        }
        self.bytes += datagram.payload.len();
        let (time, from, to) = (datagram.time, datagram.from, datagram.to);
        self.kept.push(Kept { time, from, to, payload: datagram.payload.to_vec() });
        let is_last = self.kept.len() >= ATTEMPTS[ATTEMPTS.len() - 1] || self.bytes > MAX_BYTES;
        if self.kept.len() == FIRST_LOOK && !self.resembles() {
            return Opinion::Foreign;
        }
        if !is_last && !ATTEMPTS.contains(&self.kept.len()) {
            return Opinion::Wait;
        }
        match self.guess(given) {
            Some(guess) => Opinion::Ours(guess),
            None if is_last => Opinion::Foreign,
            None => Opinion::Wait,
        }
    }

    /// The framing, if it is beyond doubt. With options given, a likely one will do.
    pub(super) fn guess(&self, given: &Given) -> Option<Box<Guess>> {
        let first = self.kept.first()?.from;
        let samples: Vec<_> =
            self.kept.iter().map(|kept| Sample::new(usize::from(kept.from != first), &kept.payload)).collect();
        let guess = infer(&samples, given)?;
        ((guess.is_sure || !given.is_empty()) && guess.percent >= 60).then(|| Box::new(guess))
    }

    /// Whether a third of the datagrams begin like a packet. Who sends nothing but raw data cannot be recognised.
    fn resembles(&self) -> bool {
        let like = |kept: &&Kept| {
            opcode::of(&kept.payload).is_some_and(|opcode| (1..=opcode::SERVER_STATUS).contains(&opcode))
        };
        self.kept.iter().filter(like).count() * 3 >= self.kept.len()
    }

    /// The client and the server: the side with the lower port is the server.
    pub(super) fn sides(&self) -> Option<(SocketAddr, SocketAddr)> {
        let Kept { from, to, .. } = self.kept.first()?;
        Some(if from.port() < to.port() { (*to, *from) } else { (*from, *to) })
    }

    /// What was kept, to be looked at again.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.kept.iter().map(|kept| Datagram::new(kept.time, kept.from, kept.to, &kept.payload))
    }
}

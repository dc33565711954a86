//! Handshakes without an endpoint around them, for hosts that keep their own routes.

use std::{fmt, net::SocketAddr, time::Instant};

use bytes::BytesMut;

use super::{
    capacity::Room,
    handshakes::{Handshakes, Outcome, Standing},
    question::Says,
    types::{AdmissionStats, Admit},
};
use crate::{AdmissionConfig, Transmit};

/// Everything from addresses that have no session, and what live sessions say is not theirs.
pub struct Admission {
    handshakes: Handshakes,
    room: usize,
}

impl Admission {
    /// An admission under this configuration. The key comes from a secure random generator: all seeds hang on it.
    pub fn new(now: Instant, config: AdmissionConfig, key: [u8; 16]) -> Self {
        Self { room: config.max_sessions, handshakes: Handshakes::new(now, config, key) }
    }

    /// Takes a datagram from an address without a session.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut) -> Admit {
        self.handle(now, from, datagram, false)
    }

    /// Takes a datagram that the session at its address gave back.
    pub fn handle_returned(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut) -> Admit {
        self.handle(now, from, datagram, true)
    }

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut, live: bool) -> Admit {
        while self.handshakes.poll_reply().is_some() {}
        let room = if self.room == 0 { Room::Full } else { Room::Free };
        let standing = Standing { live, room };
        let mut outcome = self.handshakes.handle(now, from.into(), datagram, standing);
        if let Outcome::Ask(question) = outcome {
            outcome = match question.answer().says {
                Says::Request { request, is_welcome } => {
                    self.handshakes.handle_request(now, from, &request, is_welcome, standing)
                }
                Says::Status { reply, length } => {
                    self.handshakes.answer_status(reply.as_ref(), length);
                    Outcome::Done
                }
            };
        }
        match outcome {
            Outcome::Open(newcomer) => {
                self.room -= 1;
                Admit::Opened(newcomer)
            }
            Outcome::Remap(remap) => Admit::Remap(remap),
            _ if self.handshakes.has_reply() => Admit::Answered,
            _ => Admit::Dropped,
        }
    }

    /// Appends the next answer to `buf`; it goes to the sender of the datagram handled last.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let reply = self.handshakes.poll_reply()?;
        buf.extend_from_slice(&reply);
        Some(Transmit::single(reply.len()))
    }

    /// When the key of the seeds changes next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(self.handshakes.poll_timeout())
    }

    /// Changes the key of the seeds if it is time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handshakes.handle_timeout(now);
    }

    /// How many more sessions may open.
    pub fn set_room(&mut self, sessions: usize) {
        self.room = sessions;
    }

    /// Counts up to now.
    pub fn stats(&self) -> AdmissionStats {
        self.handshakes.stats
    }

    /// The configuration it was made with, with the limits that hold now.
    pub fn config(&self) -> &AdmissionConfig {
        &self.handshakes.config
    }

    /// Takes over the limits of this configuration while running.
    pub fn set_limits(&mut self, now: Instant, limits: &AdmissionConfig) {
        self.handshakes.set_limits(now, limits);
    }

    /// The most memory that strangers can make this take, in bytes.
    pub fn memory_ceiling(&self) -> usize {
        self.handshakes.memory_ceiling()
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("room", &self.room).finish_non_exhaustive()
    }
}

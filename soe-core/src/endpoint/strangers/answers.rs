//! Answers to addresses without a session, within the rate limits: UnknownSender, status replies, and whether a request
//! is answered.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    handshakes::Handshakes,
    limiter::{Limited, Rate},
    pending::prefix,
    question::{About, Question},
    request::{Outcome, Standing},
};
use crate::{
    endpoint::{address::Path, capacity::Room},
    wire::{Packet, opcode},
};

impl Handshakes {
    /// Sends UnknownSender, within the rate limits.
    pub(in crate::endpoint) fn unknown_sender(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.stats.unknown_senders += 1;
        // A Disconnect is never answered: two servers would answer each other forever.
        let is_disconnect = opcode::of(datagram) == Some(opcode::DISCONNECT);
        if is_disconnect || !self.config.unknown_sender_replies || !self.may_reflect(now, from) {
            return;
        }
        self.stats.unknown_sender_replies += 1;
        self.reply(|out| Packet::UnknownSender.encode(out));
    }

    pub(super) fn ask_for_status(&mut self, now: Instant, path: Path, length: usize) -> Outcome {
        let Some(reply) = self.config.server_status.clone() else { return self.ignored() };
        if !self.may_reflect(now, path.remote) {
            return Outcome::Done;
        }
        Outcome::Ask(Question { path, about: About::Status { reply, length } })
    }

    /// Sends the application's answer to a status query of `length` bytes.
    pub(in crate::endpoint) fn answer_status(&mut self, reply: Option<&Bytes>, length: usize) {
        let Some(reply) = reply.filter(|reply| reply.len() + 2 <= MAX_AMPLIFICATION * length) else {
            self.stats.ignored += 1;
            return;
        };
        self.reply(|out| Packet::ServerStatus(reply).encode(out));
    }

    /// Whether the rate limits allow an answer that is not part of a handshake.
    fn may_reflect(&mut self, now: Instant, from: SocketAddr) -> bool {
        let rate = |rate| Rate { per_second: rate, burst: rate };
        let (all, one) = (rate(self.config.unknown_sender_rate), rate(self.config.unknown_sender_rate_per_prefix));
        let place = self.cookies.place(prefix(from.ip()), 0);
        let allowed = self.unknown_senders.allow(now, place, all, one);
        allowed.map_err(|limited| self.count_limited(limited)).is_ok()
    }

    pub(super) fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut reply = Vec::with_capacity(32);
        write(&mut reply);
        self.replies.push_back(reply);
    }

    pub(super) fn reply_sealed(&mut self, datagram: Vec<u8>) {
        self.replies.push_back(datagram);
    }

    pub(super) fn may_answer(&mut self, now: Instant, from: SocketAddr) -> bool {
        let settings = &*self.config;
        let all = Rate { per_second: settings.response_rate, burst: settings.response_rate };
        let one = Rate { per_second: settings.response_rate_per_prefix, burst: settings.response_burst_per_prefix };
        let place = self.cookies.place(prefix(from.ip()), 0);
        self.answers.allow(now, place, all, one).map_err(|limited| self.count_limited(limited)).is_ok()
    }

    /// Whether a session may open before its client has proved its address. The rate is limited: forged requests must
    /// not crowd out real clients.
    pub(super) fn may_open(&mut self, now: Instant, from: SocketAddr, standing: Standing) -> bool {
        let all = Rate { per_second: self.config.unproven_rate, burst: self.config.unproven_rate.saturating_mul(10) };
        let place = self.cookies.place(prefix(from.ip()), 0);
        let is_free = !standing.resident.is_somebody() && standing.room == Room::Free;
        let may = is_free && self.openings.allow(now, place, all, all).is_ok();
        self.stats.opening_deferred += u64::from(!may);
        may
    }

    fn count_limited(&mut self, limited: Limited) {
        self.stats.rate_limited += 1;
        match limited {
            Limited::Prefix => self.stats.rate_limited_prefix += 1,
            Limited::All => self.stats.rate_limited_all += 1,
        }
    }
}

/// Bytes that may be sent to an unproven address for each byte received from there.
const MAX_AMPLIFICATION: usize = 3;

//! Strangers: who may open a session, and what everybody else is told (sections 6 and 9 of `docs/protocol.md`).

use std::{collections::VecDeque, fmt, net::SocketAddr, time::Instant};

use bytes::BytesMut;

use super::{
    cookie::Cookies,
    limiter::{Limited, Limiter, Rate},
    pending::{Name, Stranger, Strangers, prefix},
    refusal::{MISMATCHED, OVER_CAPACITY, refusal},
    types::{AdmissionStats, Admit, Newcomer},
};
use crate::{
    AdmissionConfig, Framing, RequestInfo, Session, Transmit,
    config::UDP_LENGTH,
    dialect::OpensOn,
    session::{PROOF, response},
    wire::{Packet, SessionRequest, opcode},
};

/// Whether a live session has the address that a datagram claims to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Vacant,
    Live,
}

/// A session that a stranger has been offered and has yet to open.
struct Offer {
    stranger: Stranger,
    seed: u32,
    framing: Framing,
}

/// The server's door: everything from addresses that have no session, and what live sessions say is not theirs.
///
/// Holds a table of bounded size, whoever comes. Drive it like a session: [`handle_datagram`](Self::handle_datagram) or
/// [`handle_returned`](Self::handle_returned), then [`poll_transmit`](Self::poll_transmit) until `None`, with
/// [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
pub struct Admission {
    pub(super) config: AdmissionConfig,
    pub(super) epoch: Instant,
    pub(super) cookies: Cookies,
    pub(super) strangers: Strangers,
    pub(super) answers: Limiter,
    pub(super) openings: Limiter,
    pub(super) unknown_senders: Limiter,
    pub(super) replies: VecDeque<Vec<u8>>,
    pub(super) room: usize,
    pub(super) stats: AdmissionStats,
}

impl Admission {
    /// An admission under this configuration. The key comes from a secure random generator: all seeds hang on it.
    pub fn new(now: Instant, config: AdmissionConfig, key: [u8; 16]) -> Self {
        Self {
            epoch: now,
            cookies: Cookies::new(now, key),
            strangers: Strangers::new(now, config.max_strangers),
            answers: Limiter::new(now),
            openings: Limiter::new(now),
            unknown_senders: Limiter::new(now),
            replies: VecDeque::new(),
            room: config.max_sessions,
            stats: AdmissionStats::default(),
            config,
        }
    }

    /// Takes a datagram from an address without a session.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut) -> Admit {
        self.handle(now, from, datagram, At::Vacant)
    }

    /// Takes a datagram that the session at its address gave back, as [`Verdict::Rejected`](crate::Verdict::Rejected) or
    /// [`Verdict::Stranger`](crate::Verdict::Stranger): there may be a newcomer behind the same address.
    ///
    /// Whoever it is is not told that it is unknown, for it may only claim the address. [`Admit::Opened`] means that the old
    /// session's client is gone: valid datagrams in a row, with 4 bytes of CRC in all, have come from the new one.
    pub fn handle_returned(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut) -> Admit {
        self.handle(now, from, datagram, At::Live)
    }

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut, at: At) -> Admit {
        self.cookies.rotate(now);
        self.replies.clear();
        match opcode::of(&datagram) {
            Some(opcode::SESSION_REQUEST) => match Packet::decode(&datagram) {
                Ok(Packet::SessionRequest(request)) => self.handle_request(now, from, &request, datagram.len(), at),
                _ => self.ignored(),
            },
            Some(opcode::REMAP_CONNECTION) => match Packet::decode(&datagram) {
                Ok(Packet::RemapConnection(remap)) => {
                    self.stats.remaps += 1;
                    Admit::Remap(remap)
                }
                _ => self.ignored(),
            },
            Some(opcode::SERVER_STATUS) => self.status(now, from),
            Some(opcode) if opcode::is_exempt(opcode) => self.ignored(),
            // Too short for any packet, and for an answer that does not outweigh it.
            _ if datagram.len() < 2 => self.ignored(),
            _ => self.handle_first(now, from, datagram, at),
        }
    }

    /// Appends the next answer to `buf`; it goes to the sender of the datagram handled last. Call until `None` after each:
    /// what is not taken is dropped when the next datagram comes.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let reply = self.replies.pop_front()?;
        buf.extend_from_slice(&reply);
        Some(Transmit::single(reply.len()))
    }

    /// When the key of the seeds changes next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(self.cookies.next_rotation())
    }

    /// Changes the key of the seeds if it is time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.cookies.rotate(now);
    }

    /// How many more sessions may open. Without room, requests are refused and first datagrams dropped; clients repeat them.
    pub fn set_room(&mut self, sessions: usize) {
        self.room = sessions;
    }

    /// Counts up to now.
    pub fn stats(&self) -> AdmissionStats {
        self.stats
    }

    /// The configuration it was made with, with the limits that hold now.
    pub fn config(&self) -> &AdmissionConfig {
        &self.config
    }

    /// Takes over the limits of this configuration while running: the size of the table, all rates, what is refused and what
    /// is answered. How sessions are set up and who is welcome stay as they are. Strangers in the table keep their places as
    /// far as there are as many.
    pub fn set_limits(&mut self, now: Instant, limits: &AdmissionConfig) {
        let places = limits.max_strangers;
        if places != self.config.max_strangers {
            let old = std::mem::replace(&mut self.strangers, Strangers::new(self.epoch, places));
            for stranger in old.iter(now) {
                self.remember(now, &stranger);
            }
        }
        self.config = self.config.with_limits_of(limits);
    }

    /// The most memory that strangers can make this take, in bytes: the table, and the buckets that limit the answers.
    pub fn memory_ceiling(&self) -> usize {
        size_of::<Self>() + self.strangers.memory() + 3 * super::limiter::MEMORY + MAX_REPLIES
    }

    pub(super) fn remember(&mut self, now: Instant, stranger: &Stranger) {
        let place_of = |from: SocketAddr| self.cookies.place(from.ip(), from.port());
        self.stats.evicted += u64::from(self.strangers.put(now, stranger, place_of));
    }

    pub(super) fn ignored(&mut self) -> Admit {
        self.stats.ignored += 1;
        Admit::Dropped
    }

    fn handle_request(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &SessionRequest<'_>,
        length: usize,
        at: At,
    ) -> Admit {
        self.stats.requests += 1;
        if !self.may_answer(now, from) {
            return Admit::Dropped;
        }
        let info = RequestInfo {
            version: request.version,
            session_id: request.session_id,
            udp_length: request.udp_length,
            protocol_name: String::from_utf8_lossy(request.protocol_name.unwrap_or_default()).into_owned(),
        };
        let Some(index) = self
            .select(&info)
            .filter(|&index| info.udp_length >= self.session_config(index as u8).smallest_udp_length())
        else {
            self.stats.mismatched += 1;
            return self.refuse(now, from, request, MISMATCHED, length);
        };
        if self.room == 0 {
            self.stats.over_capacity += 1;
            if !self.config.refuse_over_capacity {
                return Admit::Dropped;
            }
            return self.refuse(now, from, request, OVER_CAPACITY, length);
        }
        self.admit(now, from, request, info, index as u8, at)
    }

    fn admit(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &SessionRequest<'_>,
        info: RequestInfo,
        index: u8,
        at: At,
    ) -> Admit {
        let place = self.cookies.place(from.ip(), from.port());
        let known = self.strangers.get(now, place, from, info.session_id);
        let stranger = Stranger {
            from,
            session_id: info.session_id,
            udp_length: info.udp_length.min(*UDP_LENGTH.end()) as u16,
            version: info.version,
            // The same request gets the same seed, even when the key has changed in between.
            period_tag: known.as_ref().map_or_else(|| self.cookies.period_tag(), |known| known.period_tag),
            proofs: known.map_or(0, |known| known.proofs),
            config: index,
            name: Name::new(request.protocol_name.unwrap_or_default()),
        };
        let Some(seed) = self.cookies.seed(from, info.session_id, stranger.period_tag) else { return self.ignored() };
        let config = self.session_config(index).clone();
        self.stats.responses += 1;
        if config.dialect.policies.opens_on == OpensOn::Response && self.may_open(now, from, at) {
            return match Session::accept(now, self.epoch, config, &info, seed) {
                Ok(mut session) => {
                    session.answer_request();
                    self.opened(info, session)
                }
                Err(_) => self.ignored(),
            };
        }
        self.remember(now, &stranger);
        self.reply(|out| response(&config, info.session_id, seed).encode(out));
        Admit::Answered
    }

    /// A packet of a session that this address does not have: perhaps the first of one that it has been offered.
    fn handle_first(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut, at: At) -> Admit {
        let place = self.cookies.place(from.ip(), from.port());
        if self.strangers.all(now, place, from).next().is_none() {
            return match at {
                At::Vacant => self.unknown_sender(now, from, opcode::of(&datagram) == Some(opcode::DISCONNECT)),
                At::Live => self.ignored(),
            };
        }
        let mut offers = self.strangers.all(now, place, from).filter_map(|stranger| self.offer(stranger));
        let offer = offers.find(|offer| offer.framing.verify(&datagram));
        drop(offers);
        let Some(Offer { mut stranger, seed, framing }) = offer else {
            self.stats.crc_rejects += 1;
            self.strangers.fail(now, place, from);
            return Admit::Dropped;
        };
        let config = self.session_config(stranger.config).clone();
        if let MISMATCHED | OVER_CAPACITY = stranger.config {
            let farewell = refusal(&config, &framing, stranger.session_id, stranger.config);
            self.replies.push_back(farewell);
            return Admit::Answered;
        }
        if self.room == 0 {
            self.stats.over_capacity += 1;
            return Admit::Dropped;
        }
        stranger.proofs += 1;
        if at == At::Live && usize::from(stranger.proofs) * framing.crc_length() < PROOF {
            // Anybody can ask in the name of this address, and hit a short CRC once; the client there repeats itself.
            self.stats.more_proof_wanted += 1;
            self.strangers.prove(now, place, from, stranger.session_id);
            return Admit::Dropped;
        }
        let info = RequestInfo {
            version: stranger.version,
            session_id: stranger.session_id,
            udp_length: u32::from(stranger.udp_length),
            protocol_name: String::from_utf8_lossy(stranger.name.as_bytes()).into_owned(),
        };
        let Ok(mut session) = Session::accept(now, self.epoch, config, &info, seed) else { return self.ignored() };
        self.strangers.remove(now, place, from);
        let _ = session.handle_datagram(now, datagram);
        self.opened(info, session)
    }

    /// What a stranger has been offered.
    fn offer(&self, stranger: Stranger) -> Option<Offer> {
        let config = self.session_config(stranger.config);
        let seed = self.cookies.seed(stranger.from, stranger.session_id, stranger.period_tag)?;
        let passes = config.passes.map(u8::from);
        let framing = Framing::new(seed, config.crc_length, passes, &config.dialect.codecs).ok()?;
        Some(Offer { stranger, seed, framing })
    }

    fn opened(&mut self, request: RequestInfo, session: Session) -> Admit {
        self.stats.opened += 1;
        self.room -= 1;
        tracing::debug!(session_id = request.session_id, protocol = %request.protocol_name, "session opened");
        Admit::Opened(Box::new(Newcomer { request, session }))
    }

    fn unknown_sender(&mut self, now: Instant, from: SocketAddr, disconnect: bool) -> Admit {
        self.stats.unknown_senders += 1;
        // A Disconnect is never answered: two servers would answer each other for ever.
        if disconnect || !self.config.unknown_sender_replies {
            return Admit::Dropped;
        }
        if !self.may_reflect(now, from) {
            return Admit::Dropped;
        }
        self.stats.unknown_sender_replies += 1;
        self.reply(|out| Packet::UnknownSender.encode(out));
        Admit::Answered
    }

    fn status(&mut self, now: Instant, from: SocketAddr) -> Admit {
        let Some(status) = self.config.server_status.clone() else { return self.ignored() };
        if !self.may_reflect(now, from) {
            return Admit::Dropped;
        }
        let Some(reply) = status.reply(from) else { return self.ignored() };
        self.reply(|out| Packet::ServerStatus(&reply).encode(out));
        Admit::Answered
    }

    /// Whether somebody who has proved nothing may be sent something that is not a handshake.
    fn may_reflect(&mut self, now: Instant, from: SocketAddr) -> bool {
        let rate = Rate { per_second: self.config.unknown_sender_rate, burst: self.config.unknown_sender_rate };
        let place = self.cookies.place(prefix(from.ip()), 0);
        match self.unknown_senders.allow(now, place, rate, UNKNOWN_SENDER_PREFIX) {
            Ok(()) => true,
            Err(limited) => {
                self.count_limited(limited);
                false
            }
        }
    }

    pub(super) fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut reply = Vec::with_capacity(32);
        write(&mut reply);
        self.replies.push_back(reply);
    }

    fn may_answer(&mut self, now: Instant, from: SocketAddr) -> bool {
        let settings = &*self.config;
        let all = Rate { per_second: settings.response_rate, burst: settings.response_rate };
        let one = Rate { per_second: settings.response_rate_per_prefix, burst: settings.response_burst_per_prefix };
        let place = self.cookies.place(prefix(from.ip()), 0);
        self.answers.allow(now, place, all, one).map_err(|limited| self.count_limited(limited)).is_ok()
    }

    /// Whether a session may open before its client has proved anything: a few at a time, for what strangers can have for the
    /// asking must not crowd out those who prove themselves.
    fn may_open(&mut self, now: Instant, from: SocketAddr, at: At) -> bool {
        let all = Rate { per_second: self.config.unproven_rate, burst: self.config.unproven_rate.saturating_mul(10) };
        let place = self.cookies.place(prefix(from.ip()), 0);
        let may = at == At::Vacant && self.openings.allow(now, place, all, all).is_ok();
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

/// UnknownSender replies to one prefix: a client whose session is gone needs a few, a reflector's victim none.
const UNKNOWN_SENDER_PREFIX: Rate = Rate { per_second: 20, burst: 100 };
/// What the answers to one datagram take at most, in bytes: a response, a Disconnect, and the queue they stand in.
const MAX_REPLIES: usize = 512;

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("room", &self.room).field("stats", &self.stats).finish_non_exhaustive()
    }
}

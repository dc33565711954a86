//! Session requests, first datagrams, remaps and queries: datagrams from addresses without a session, and those that a live
//! session returned (sections 6 and 9 of `docs/protocol.md`).

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{
    cookie::Cookies,
    limiter::{self, Limiter},
    pending::{MAX_FAILURES, PendingHandshake, PendingHandshakes},
    refusal::{MISMATCHED, OVER_CAPACITY},
    request::{Asked, Outcome, Resident, Standing},
};
use crate::{
    config::{AdmissionConfig, RequestInfo, UDP_LENGTH},
    dialect::OpensOn,
    endpoint::{
        address::Path,
        capacity::Room,
        types::{AdmissionStats, NewSession},
    },
    evidence::Evidence,
    framing::Framing,
    recording::RecordOptions,
    session::{Session, response},
    wire::{Packet, opcode},
};

/// A pending handshake with the seed and framing of its response.
struct Offer {
    pending: PendingHandshake,
    seed: u32,
    framing: Framing,
}

/// Pending handshakes and the limits on answers. The size is bounded.
#[derive(Debug)]
pub(in crate::endpoint) struct Handshakes {
    pub(in crate::endpoint) config: AdmissionConfig,
    epoch: Instant,
    pub(in crate::endpoint) cookies: Cookies,
    pending: PendingHandshakes,
    pub(super) answers: Limiter,
    pub(super) openings: Limiter,
    pub(super) unknown_senders: Limiter,
    pub(super) replies: VecDeque<Vec<u8>>,
    /// A client has a response and not yet the Disconnect that refuses it: its next datagram gets that.
    pub(in crate::endpoint) owes_refusal: bool,
    /// How sessions are recorded that open from now on.
    pub(in crate::endpoint) record: Option<RecordOptions>,
    pub(in crate::endpoint) stats: AdmissionStats,
}

impl Handshakes {
    pub(in crate::endpoint) fn new(now: Instant, config: AdmissionConfig, key: [u8; 16]) -> Self {
        Self {
            epoch: now,
            cookies: Cookies::new(now, key),
            pending: PendingHandshakes::new(now, config.max_pending_handshakes),
            answers: Limiter::new(now),
            openings: Limiter::new(now),
            unknown_senders: Limiter::new(now),
            replies: VecDeque::new(),
            owes_refusal: false,
            record: None,
            stats: AdmissionStats::default(),
            config,
        }
    }

    pub(in crate::endpoint) fn handle(
        &mut self,
        now: Instant,
        path: Path,
        datagram: BytesMut,
        standing: Standing,
    ) -> Outcome {
        self.handle_timeout(now);
        let from = path.remote;
        match opcode::of(&datagram) {
            Some(opcode::SESSION_REQUEST) => match Packet::decode(&datagram) {
                Ok(Packet::SessionRequest(request)) => {
                    self.stats.requests += 1;
                    if !self.may_answer(now, from) {
                        return Outcome::Done;
                    }
                    let request = Asked::new(&request, datagram.len());
                    match self.question(path, &request) {
                        Some(question) => Outcome::Ask(question),
                        None => self.handle_request(now, from, &request, true, standing),
                    }
                }
                _ => self.ignored(),
            },
            Some(opcode::REMAP_CONNECTION) => match Packet::decode(&datagram) {
                Ok(Packet::RemapConnection(remap)) => {
                    self.stats.remaps += 1;
                    Outcome::Remap(remap)
                }
                _ => self.ignored(),
            },
            Some(opcode::SERVER_STATUS) => self.ask_for_status(now, path, datagram.len()),
            Some(opcode) if opcode::is_exempt(opcode) => self.ignored(),
            // Too short for a packet, and any answer would amplify it.
            _ if datagram.len() < 2 => self.ignored(),
            _ => self.handle_first(now, from, datagram, standing),
        }
    }

    /// The session id of a request.
    pub(in crate::endpoint) fn requested_id(datagram: &[u8]) -> Option<u32> {
        match Packet::decode(datagram) {
            Ok(Packet::SessionRequest(request)) => Some(request.session_id),
            _ => None,
        }
    }

    /// The next answer to the sender of the last datagram.
    pub(in crate::endpoint) fn poll_reply(&mut self) -> Option<Vec<u8>> {
        self.replies.pop_front()
    }

    pub(in crate::endpoint) fn poll_timeout(&self) -> Instant {
        self.cookies.next_rotation()
    }

    /// Rotates the key of the seeds and removes old handshakes.
    pub(in crate::endpoint) fn handle_timeout(&mut self, now: Instant) {
        if self.cookies.next_rotation() <= now {
            self.cookies.rotate(now);
            // Must happen before the short time stamps of the entries wrap.
            self.pending.sweep(now);
        }
    }

    pub(in crate::endpoint) fn set_limits(&mut self, now: Instant, limits: &AdmissionConfig) {
        let places = limits.max_pending_handshakes;
        if places != self.config.max_pending_handshakes {
            // First, as in `handle`: time stamps that have wrapped must not be taken for recent ones.
            self.handle_timeout(now);
            let place_of = |from: SocketAddr| self.cookies.place(from.ip(), from.port());
            self.stats.evicted += self.pending.resize(now, places, place_of);
        }
        self.config = self.config.with_limits_of(limits);
    }

    pub(in crate::endpoint) fn memory_ceiling(&self) -> usize {
        size_of::<Self>() + self.pending.memory() + 3 * limiter::MEMORY + MAX_REPLIES
    }

    /// Whether this address has a pending handshake.
    pub(in crate::endpoint) fn is_pending(&self, now: Instant, from: SocketAddr) -> bool {
        self.pending.all(now, self.cookies.place(from.ip(), from.port()), from).next().is_some()
    }

    /// The time since the last response to a client whose handshake is pending.
    pub(in crate::endpoint) fn newest_age(&self, now: Instant) -> Option<Duration> {
        self.pending.newest_age(now)
    }

    pub(super) fn remember(&mut self, now: Instant, pending: &PendingHandshake) {
        let place_of = |from: SocketAddr| self.cookies.place(from.ip(), from.port());
        self.stats.evicted += u64::from(self.pending.put(now, pending, place_of));
    }

    pub(in crate::endpoint) fn ignored(&mut self) -> Outcome {
        self.stats.ignored += 1;
        Outcome::Done
    }

    /// Handles a request after the application's filter has decided.
    pub(in crate::endpoint) fn handle_request(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &Asked,
        is_welcome: bool,
        standing: Standing,
    ) -> Outcome {
        let index = self.select(&request.info(from), is_welcome);
        let fits = |index: &usize| request.udp_length >= self.session_config(*index as u8).smallest_udp_length();
        let Some(index) = index.filter(fits) else {
            self.stats.mismatched += 1;
            return self.refuse(now, from, request, MISMATCHED);
        };
        match standing.room {
            // A refusal may take two answers, and there is no time for the second.
            Room::Over => {
                self.stats.over_capacity += 1;
                Outcome::Done
            }
            Room::Full if !self.config.refuse_over_capacity => {
                self.stats.over_capacity += 1;
                Outcome::Done
            }
            Room::Full | Room::Closed => {
                self.stats.over_capacity += 1;
                self.refuse(now, from, request, OVER_CAPACITY)
            }
            Room::Free | Room::Backlogged => self.offer_session(now, from, request, index as u8, standing),
        }
    }

    fn offer_session(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &Asked,
        index: u8,
        standing: Standing,
    ) -> Outcome {
        let place = self.cookies.place(from.ip(), from.port());
        let known = self.pending.get(now, place, from, request.session_id);
        let Some((period_tag, seed)) = self.choose_seed(from, request.session_id, known.as_ref(), standing) else {
            return self.ignored();
        };
        // Valid datagrams that were already counted remain: a client repeats its request until it gets the response.
        let pending = PendingHandshake {
            from,
            session_id: request.session_id,
            udp_length: request.udp_length.min(*UDP_LENGTH.end()) as u16,
            version: request.version.try_into().unwrap_or(u16::MAX),
            period_tag,
            evidence: known.map_or_else(Evidence::default, |known| known.evidence),
            failures: 0,
            config: index,
            name: request.name,
        };
        let config = self.session_config(index).clone();
        self.stats.responses += 1;
        if config.dialect.policies.opens_on == OpensOn::Response && self.may_open(now, from, standing) {
            let info = request.info(from);
            return match Session::accept(now.into(), self.epoch.into(), config, &info, seed) {
                Ok(mut session) => {
                    session.answer_request(request.length);
                    self.start_recording(&mut session);
                    self.opened(info, session)
                }
                Err(_) => self.ignored(),
            };
        }
        self.remember(now, &pending);
        self.reply(|out| response(&config, request.session_id, seed).encode(out));
        Outcome::Done
    }

    /// The seed for a request, with the tag of its period.
    ///
    /// A repeated request gets the same seed while its key is known: the client may already have the first response.
    /// The seed of the session that has the address is never used: if a client restarts with the same session id, only
    /// the CRC distinguishes its datagrams from those of its former session.
    fn choose_seed(
        &self,
        from: SocketAddr,
        session_id: u32,
        known: Option<&PendingHandshake>,
        standing: Standing,
    ) -> Option<(u8, u32)> {
        let tags =
            [known.map(|known| known.period_tag), Some(self.cookies.period_tag()), Some(self.cookies.next_tag())];
        tags.into_iter().flatten().find_map(|tag| {
            let seed = self.cookies.seed(from, session_id, tag)?;
            (standing.seed != Some(seed)).then_some((tag, seed))
        })
    }

    /// Handles a packet from an address without a session: possibly the first one of a pending handshake.
    fn handle_first(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut, standing: Standing) -> Outcome {
        let place = self.cookies.place(from.ip(), from.port());
        if self.pending.all(now, place, from).next().is_none() {
            if standing.resident.is_somebody() {
                self.stats.ignored += 1;
                return Outcome::Unclaimed;
            }
            self.unknown_sender(now, from, &datagram);
            return Outcome::Done;
        }
        let mut offers = self.pending.all(now, place, from).filter_map(|pending| self.offer(pending));
        // At most `MAX_PER_ADDRESS` CRCs per datagram.
        let offer = offers.find(|offer| offer.framing.verify(&datagram));
        drop(offers);
        let Some(Offer { pending, seed, framing }) = offer else {
            self.stats.crc_rejects += 1;
            let failures = self.pending.fail(now, place, from, standing.resident.is_somebody());
            if standing.resident.is_somebody() {
                // Anybody can send a request with the address of a live session. Such a handshake must not suppress the
                // check of that session.
                return Outcome::Unclaimed;
            }
            if failures > FEW_FAILURES {
                // A client that moved here must learn that it has to claim its session.
                self.unknown_sender(now, from, &datagram);
            }
            return Outcome::Done;
        };
        let config = self.session_config(pending.config).clone();
        let refused = match (pending.config, standing.room) {
            (MISMATCHED, _) => Some(MISMATCHED),
            (OVER_CAPACITY, _) | (_, Room::Closed | Room::Over) => Some(OVER_CAPACITY),
            (_, Room::Full) if self.config.refuse_over_capacity => Some(OVER_CAPACITY),
            _ => None,
        };
        if let Some(refused) = refused {
            self.stats.over_capacity += u64::from(pending.config < OVER_CAPACITY);
            let disconnect = super::refusal::refusal(&config, &framing, pending.session_id, refused);
            self.replies.push_back(disconnect);
            return Outcome::Done;
        }
        if standing.room == Room::Full {
            self.stats.over_capacity += 1;
            return Outcome::Done;
        }
        let evidence = pending.evidence.with(datagram.len());
        let is_proved = match standing.resident {
            // A forged request and one lucky guess of a short CRC are possible. A real client sends more valid
            // datagrams.
            Resident::Live => evidence.is_proof(framing.crc_length()),
            Resident::Gone => pending.failures < MAX_FAILURES || evidence.is_proof(framing.crc_length()),
            // While the seed is being guessed, a second valid datagram is required, of any length: some clients repeat
            // one. Wrong ones do not reset the count: they would keep the client out.
            Resident::Nobody => pending.failures < MAX_FAILURES || pending.evidence.is_some(),
        };
        if !is_proved {
            self.stats.more_proof_wanted += 1;
            self.pending.set_evidence(now, place, from, pending.session_id, evidence);
            return if standing.resident.is_somebody() { Outcome::Unproven } else { Outcome::Done };
        }
        if standing.room == Room::Backlogged {
            return Outcome::Park(datagram);
        }
        let info = RequestInfo {
            address: from,
            version: pending.version.into(),
            session_id: pending.session_id,
            udp_length: u32::from(pending.udp_length),
            protocol_name: String::from_utf8_lossy(pending.name.as_bytes()).into_owned(),
        };
        let Ok(mut session) = Session::accept(now.into(), self.epoch.into(), config, &info, seed) else {
            return self.ignored();
        };
        self.pending.remove(now, place, from);
        self.start_recording(&mut session);
        let _ = session.handle_datagram(now, datagram);
        self.opened(info, session)
    }

    /// Restores seed and framing of a pending handshake.
    fn offer(&self, pending: PendingHandshake) -> Option<Offer> {
        let config = self.session_config(pending.config);
        let seed = self.cookies.seed(pending.from, pending.session_id, pending.period_tag)?;
        let passes = config.passes.map(u8::from);
        let framing = Framing::new(seed, config.crc_length, passes, &config.dialect.codecs).ok()?;
        Some(Offer { pending, seed, framing })
    }

    /// Must be called before the session's first call: a recording must be complete from the start.
    fn start_recording(&self, session: &mut Session) {
        if let Some(options) = &self.record {
            session.record(options);
        }
    }

    fn opened(&mut self, request: RequestInfo, session: Session) -> Outcome {
        self.stats.opened += 1;
        Outcome::Open(Box::new(NewSession { request, session }))
    }
}

/// Datagrams with a wrong CRC from the address of a pending handshake before UnknownSender is sent.
const FEW_FAILURES: u8 = 3;
/// The most memory of the answers to one datagram, in bytes: a response, a Disconnect, and their queue.
const MAX_REPLIES: usize = 1_024;

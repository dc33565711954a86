//! Strangers: who may open a session, and what everybody else is told (sections 6 and 9 of `docs/protocol.md`).

mod cookie;
mod limiter;
mod strangers;

use std::{
    collections::VecDeque,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::BytesMut;

use self::{
    cookie::Cookies,
    limiter::{Limiter, Rate},
    strangers::{Name, Stranger, Strangers, prefix},
};
use crate::{
    AdmissionConfig, DisconnectReason, Framing, RemapPolicy, RequestFilter, RequestInfo, Session, SessionConfig,
    Transmit,
    config::UDP_LENGTH,
    dialect::OpensOn,
    session::response,
    wire::{Disconnect, Packet, RemapConnection, SessionRequest, opcode},
};

/// In place of a configuration: strangers that are to be refused once they have proved their address.
const OVER_CAPACITY: u8 = 14;
const MISMATCHED: u8 = 15;

/// What became of a stranger's datagram.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub enum Admit {
    /// It was answered; the answer waits in [`Admission::poll_transmit`].
    Answered,
    /// It was dropped, and counted.
    Dropped,
    /// It opened a session.
    Opened(Box<Newcomer>),
    /// Somebody claims that the session with this id and seed goes on from its address. Whoever holds the sessions looks it
    /// up, asks [`RemapPolicy::allows`], and lets the session's datagrams come from the new address from then on; it sends
    /// there after the first that is [`Authentic`](crate::Verdict::Authentic).
    Remap(RemapConnection),
}

/// A session that a stranger has opened.
#[derive(Debug)]
#[non_exhaustive]
pub struct Newcomer {
    /// What it asked for.
    pub request: RequestInfo,
    /// The session. It has already been given the datagram that opened it.
    pub session: Session,
}

/// Counts of what strangers have done. All start with the admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// Session requests received.
    pub requests: u64,
    /// Responses sent.
    pub responses: u64,
    /// Sessions opened.
    pub opened: u64,
    /// Requests refused for their version or protocol name, or with a udp length below 64 bytes.
    pub mismatched: u64,
    /// Requests refused, or first datagrams dropped, for want of room.
    pub over_capacity: u64,
    /// Answers not sent because the limits of the prefix or of all together were reached.
    pub rate_limited: u64,
    /// Strangers forgotten because others needed the place.
    pub evicted: u64,
    /// First datagrams with a wrong CRC.
    pub crc_rejects: u64,
    /// Packets from addresses without a session.
    pub unknown_senders: u64,
    /// UnknownSender replies sent.
    pub unknown_sender_replies: u64,
    /// Requests for a remap.
    pub remaps: u64,
    /// Everything else that was dropped.
    pub ignored: u64,
}

/// The server's door: everything from addresses that have no session, and what live sessions say is not theirs.
///
/// Holds a table of fixed size, whoever comes. Drive it like a session: [`handle_datagram`](Self::handle_datagram), then
/// [`poll_transmit`](Self::poll_transmit) until `None`, with [`handle_timeout`](Self::handle_timeout) at
/// [`poll_timeout`](Self::poll_timeout).
pub struct Admission {
    config: AdmissionConfig,
    epoch: Instant,
    cookies: Cookies,
    strangers: Strangers,
    answers: Limiter,
    unknown_senders: Limiter,
    replies: VecDeque<Vec<u8>>,
    room: usize,
    stats: AdmissionStats,
}

impl Admission {
    /// An admission under this configuration. The key comes from a secure random generator: all seeds hang on it.
    pub fn new(now: Instant, config: AdmissionConfig, key: [u8; 16]) -> Self {
        Self {
            epoch: now,
            cookies: Cookies::new(now, key),
            strangers: Strangers::new(now, config.max_strangers),
            answers: Limiter::new(now),
            unknown_senders: Limiter::new(now),
            replies: VecDeque::new(),
            room: config.max_sessions,
            stats: AdmissionStats::default(),
            config,
        }
    }

    /// Takes a datagram from an address without a session, or one that the session there gave back.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut) -> Admit {
        self.cookies.rotate(now);
        match opcode::of(&datagram) {
            Some(opcode::SESSION_REQUEST) => match Packet::decode(&datagram) {
                Ok(Packet::SessionRequest(request)) => self.handle_request(now, from, &request, datagram.len()),
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
            _ if datagram.is_empty() => self.ignored(),
            opcode => self.handle_first(now, from, datagram, opcode == Some(opcode::DISCONNECT)),
        }
    }

    /// Appends the next answer to `buf`; it goes to the sender of the datagram handled last. Call until `None` after each.
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

    /// The configuration it was made with.
    pub fn config(&self) -> &AdmissionConfig {
        &self.config
    }

    /// The most memory that strangers can make this take, in bytes.
    pub fn memory_ceiling(&self) -> usize {
        self.strangers.memory()
    }

    fn ignored(&mut self) -> Admit {
        self.stats.ignored += 1;
        Admit::Dropped
    }

    fn handle_request(&mut self, now: Instant, from: SocketAddr, request: &SessionRequest<'_>, length: usize) -> Admit {
        self.stats.requests += 1;
        let info = RequestInfo {
            version: request.version,
            session_id: request.session_id,
            udp_length: request.udp_length,
            protocol_name: String::from_utf8_lossy(request.protocol_name.unwrap_or_default()).into_owned(),
        };
        if !self.may_answer(now, from) {
            self.stats.rate_limited += 1;
            return Admit::Dropped;
        }
        let Some(index) = self.select(&info).filter(|_| info.udp_length >= *UDP_LENGTH.start()) else {
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
        self.admit(now, from, request, info, index as u8)
    }

    fn admit(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &SessionRequest<'_>,
        info: RequestInfo,
        index: u8,
    ) -> Admit {
        let place = self.cookies.place(from.ip(), from.port());
        let known = self.strangers.get(now, place, from).filter(|known| known.session_id == info.session_id);
        let stranger = Stranger {
            from,
            session_id: info.session_id,
            udp_length: info.udp_length.min(*UDP_LENGTH.end()) as u16,
            version: info.version,
            // The same request gets the same seed, even when the key has changed in between.
            period_tag: known.map_or_else(|| self.cookies.period_tag(), |known| known.period_tag),
            config: index,
            name: Name::new(request.protocol_name.unwrap_or_default()),
        };
        let Some(seed) = self.cookies.seed(from, info.session_id, stranger.period_tag) else { return self.ignored() };
        let config = self.session_config(index).clone();
        self.stats.responses += 1;
        if config.dialect.policies.opens_on == OpensOn::Response {
            return match Session::accept(now, self.epoch, config, &info, seed) {
                Ok(mut session) => {
                    session.answer_request();
                    self.opened(info, session)
                }
                Err(_) => self.ignored(),
            };
        }
        if self.strangers.put(now, place, &stranger) {
            self.stats.evicted += 1;
        }
        self.reply(|out| response(&config, info.session_id, seed).encode(out));
        Admit::Answered
    }

    /// A packet of a session that this address does not have: perhaps the first of one that it has been offered.
    fn handle_first(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut, disconnect: bool) -> Admit {
        let place = self.cookies.place(from.ip(), from.port());
        let Some(stranger) = self.strangers.get(now, place, from) else {
            return self.unknown_sender(now, from, disconnect);
        };
        let config = self.session_config(stranger.config).clone();
        let Some(seed) = self.cookies.seed(from, stranger.session_id, stranger.period_tag) else {
            return self.ignored();
        };
        let passes = config.passes.map(u8::from);
        let Ok(framing) = Framing::new(seed, config.crc_length, passes, &config.dialect.codecs) else {
            return self.ignored();
        };
        if !framing.verify(&datagram) {
            self.stats.crc_rejects += 1;
            self.strangers.fail(now, place, from);
            return Admit::Dropped;
        }
        if let MISMATCHED | OVER_CAPACITY = stranger.config {
            let farewell = refusal(&config, &framing, stranger.session_id, stranger.config);
            self.replies.push_back(farewell);
            return Admit::Answered;
        }
        if self.room == 0 {
            self.stats.over_capacity += 1;
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
        let allowed = self.unknown_senders.allow(now, place, rate, UNKNOWN_SENDER_PREFIX);
        self.stats.rate_limited += u64::from(!allowed);
        allowed
    }

    /// Tells a client in a form that it can read that it gets no session: a response, and a Disconnect under it. Both at once
    /// if that is no more than one and a half times what it sent; otherwise the Disconnect waits until the client has proved
    /// its address, or the server would amplify what others send in its name.
    fn refuse(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &SessionRequest<'_>,
        refused: u8,
        length: usize,
    ) -> Admit {
        let config = self.session_config(0).clone();
        let session_id = request.session_id;
        let period_tag = self.cookies.period_tag();
        let Some(seed) = self.cookies.seed(from, session_id, period_tag) else { return self.ignored() };
        let passes = config.passes.map(u8::from);
        let Ok(framing) = Framing::new(seed, config.crc_length, passes, &config.dialect.codecs) else {
            return self.ignored();
        };
        let answer = response(&config, session_id, seed);
        let farewell = refusal(&config, &framing, session_id, refused);
        let both = (answer.encoded_len() + farewell.len()) * 2 <= length * 3;
        self.reply(|out| answer.encode(out));
        if both {
            self.replies.push_back(farewell);
        } else {
            let (version, config, name) = (request.version, refused, Name::default());
            let stranger = Stranger { from, session_id, udp_length: 0, version, period_tag, config, name };
            let place = self.cookies.place(from.ip(), from.port());
            self.stats.evicted += u64::from(self.strangers.put(now, place, &stranger));
        }
        Admit::Answered
    }

    fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut reply = Vec::with_capacity(32);
        write(&mut reply);
        self.replies.push_back(reply);
    }

    fn may_answer(&mut self, now: Instant, from: SocketAddr) -> bool {
        let settings = &*self.config;
        let all = Rate { per_second: settings.response_rate, burst: settings.response_rate };
        let one = Rate { per_second: settings.response_rate_per_prefix, burst: settings.response_burst_per_prefix };
        self.answers.allow(now, self.cookies.place(prefix(from.ip()), 0), all, one)
    }

    fn session_config(&self, index: u8) -> &SessionConfig {
        let other = index.checked_sub(1).and_then(|index| self.config.others.get(usize::from(index)));
        other.unwrap_or(&self.config.session)
    }

    /// The configuration that a request asks for, by version and protocol name.
    fn select(&self, info: &RequestInfo) -> Option<usize> {
        let all = std::iter::once(&self.config.session).chain(&self.config.others);
        all.enumerate().find(|(_, config)| self.suits(config, info)).map(|(index, _)| index)
    }

    fn suits(&self, config: &SessionConfig, info: &RequestInfo) -> bool {
        let handshake = &config.dialect.handshake;
        if !handshake.accepts.accept(info.version) {
            return false;
        }
        match &self.config.filter {
            _ if !handshake.named => true,
            RequestFilter::Exact => info.protocol_name == config.protocol_name,
            RequestFilter::AnyOf(names) => names.contains(&info.protocol_name),
            RequestFilter::Predicate(predicate) => predicate(info),
        }
    }
}

/// The Disconnect that refuses a session, sealed.
fn refusal(config: &SessionConfig, framing: &Framing, session_id: u32, refused: u8) -> Vec<u8> {
    let reason = match refused {
        MISMATCHED => DisconnectReason::ProtocolMismatch,
        _ => DisconnectReason::ConnectionRefused,
    };
    let reason = config.dialect.policies.disconnect_reason.then_some(reason);
    let mut out = Vec::new();
    Disconnect { session_id, reason }.encode(&mut out);
    framing.seal(&mut out, 0);
    out
}

/// UnknownSender replies to one prefix: a client whose session is gone needs a few, a reflector's victim none.
const UNKNOWN_SENDER_PREFIX: Rate = Rate { per_second: 20, burst: 100 };

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("room", &self.room).field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl RemapPolicy {
    /// Whether a session may move from one address to another.
    pub fn allows(self, from: SocketAddr, to: SocketAddr) -> bool {
        let canonical = |address: SocketAddr| -> IpAddr { address.ip().to_canonical() };
        match self {
            Self::Refuse => false,
            Self::SamePeerAddress => canonical(from) == canonical(to),
            Self::AnyAddress => true,
        }
    }
}

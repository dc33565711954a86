use std::{collections::BTreeSet, fmt, net::SocketAddr, ops::Deref, sync::Arc};

use bytes::Bytes;

use super::{SessionConfig, check, fields::admission_fields, setters};
use crate::error::ConfigError;

/// The fields of a session request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestInfo {
    /// Where it came from; behind a proxy, the player's own address. Anybody can write it on a datagram.
    pub address: SocketAddr,
    /// The transport version of the client's dialect. What is known of a session that has opened shows 65,535 for any higher one;
    /// no known version exceeds 3.
    pub version: u32,
    /// The session id that the client chose.
    pub session_id: u32,
    /// The largest datagram that the client accepts, in bytes.
    pub udp_length: u32,
    /// The application protocol name; empty if the request has none. Bytes that are not UTF-8 are replaced.
    pub protocol_name: String,
}

/// Which session requests are accepted.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum RequestFilter {
    /// Requests with the protocol name of the session configuration.
    #[default]
    Exact,
    /// Requests with one of these names.
    AnyOf(BTreeSet<String>),
    /// Requests for which this function returns true, for example those from addresses that are not banned. It is called for
    /// each request that comes, between datagrams: it should return within milliseconds, since all sessions of the socket wait.
    Predicate(Arc<dyn Fn(&RequestInfo) -> bool + Send + Sync>),
}

impl fmt::Debug for RequestFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("Exact"),
            Self::AnyOf(names) => f.debug_tuple("AnyOf").field(names).finish(),
            Self::Predicate(_) => f.write_str("Predicate(..)"),
        }
    }
}

/// Answers ServerStatus queries, which may come from any address.
#[derive(Clone)]
pub struct StatusReply(Arc<dyn Fn(SocketAddr) -> Option<Bytes> + Send + Sync>);

impl StatusReply {
    /// Calls `reply` with the address of the query. `None` sends nothing. At most 512 bytes are sent.
    pub fn new(reply: impl Fn(SocketAddr) -> Option<Bytes> + Send + Sync + 'static) -> Self {
        Self(Arc::new(reply))
    }

    pub(crate) fn reply(&self, from: SocketAddr) -> Option<Bytes> {
        (self.0)(from).map(|reply| reply.slice(..reply.len().min(MAX_STATUS)))
    }
}

/// The largest status reply in bytes. A query has two bytes and its source address may be forged.
const MAX_STATUS: usize = 512;

impl fmt::Debug for StatusReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusReply(..)")
    }
}

/// From which addresses a session may move to a new one (section 9 of `docs/protocol.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemapPolicy {
    /// Never.
    Refuse,
    /// From another port of the same IP address, as after a change of the NAT mapping.
    #[default]
    SamePeerAddress,
    /// From any address. A client can then have the traffic of its session sent to an address that is not its own, without an
    /// answer from there, until it times out.
    AnyAddress,
}

/// The configuration of a server: which sessions it accepts and how many. Cloning it is cheap. [`AdmissionSettings`]
/// documents each setting.
#[derive(Clone)]
pub struct AdmissionConfig(Arc<AdmissionSettings>);

impl AdmissionConfig {
    /// Returns a builder for a server whose sessions use this configuration.
    pub fn builder(session: SessionConfig) -> AdmissionConfigBuilder {
        AdmissionConfigBuilder { settings: AdmissionSettings::new(session) }
    }

    /// Returns a builder that starts from this configuration.
    pub fn to_builder(&self) -> AdmissionConfigBuilder {
        AdmissionConfigBuilder { settings: AdmissionSettings::clone(&self.0) }
    }

    /// Returns this configuration with the limits of another one.
    pub(crate) fn with_limits_of(&self, limits: &Self) -> Self {
        Self(Arc::new(AdmissionSettings {
            session: self.session.clone(),
            others: self.others.clone(),
            filter: self.filter.clone(),
            ..AdmissionSettings::clone(limits)
        }))
    }
}

impl From<SessionConfig> for AdmissionConfig {
    fn from(session: SessionConfig) -> Self {
        Self(Arc::new(AdmissionSettings::new(session)))
    }
}

impl Deref for AdmissionConfig {
    type Target = AdmissionSettings;

    fn deref(&self) -> &AdmissionSettings {
        &self.0
    }
}

impl fmt::Debug for AdmissionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The settings of a server. The default is in brackets at the end of each description.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdmissionSettings {
    /// The configuration of new sessions.
    pub session: SessionConfig,
    /// More session configurations, for several dialects or protocols on one port, at most 13. A request gets the first
    /// configuration whose version and name match, beginning with [`session`](Self::session). \[none\]
    pub others: Vec<SessionConfig>,
    /// Which protocol names are accepted. Not applied to dialects whose requests carry no name. \[the name of the
    /// session configuration\]
    pub filter: RequestFilter,
    /// The most sessions at a time, 1 to 16,777,216: open ones and those that wait to be accepted. Ended sessions that
    /// still answer late datagrams do not count; their number has the same limit. \[65,536\]
    pub max_sessions: usize,
    /// The most sessions that may wait to be accepted, 1 or more. Beyond it, up to 256 first datagrams wait as well, in
    /// up to 128 KiB, and open their sessions when there is room. \[1,024: after a restart all players connect within
    /// seconds\]
    pub accept_backlog: usize,
    /// The most handshakes that may be pending: clients that have sent a request and no valid datagram yet. 1 to
    /// 16,777,216, at 64 bytes each. The table begins with 1/16 of its places and never exceeds this number. \[65,536\]
    pub max_pending_handshakes: usize,
    /// Whether a request beyond `max_sessions` is answered with a refusal, or not at all. \[answered\]
    pub refuse_over_capacity: bool,
    /// The most responses to session requests per second, over all addresses, 1 or more. Also the size of a burst.
    /// \[100,000\]
    pub response_rate: u32,
    /// The most responses to session requests per second to one IPv4 address or IPv6 /64, 1 or more. A response is at
    /// most 1.5 times as long as its request, so a high rate gives little to a reflection attack. Servers behind a
    /// proxy, which see all players under one address, set it to `response_rate`. \[2,000\]
    pub response_rate_per_prefix: u32,
    /// The size of a burst of responses to one IPv4 address or IPv6 /64, 1 or more. \[10,000: 5,000 logins at once from
    /// one address (an internet cafe, carrier-grade NAT, a proxy) all succeed, including repeated requests\]
    pub response_burst_per_prefix: u32,
    /// The most sessions per second that open with the response, before the client has sent a valid datagram, in
    /// dialects whose servers send first. A burst is ten times as large. Other sessions open with the first valid
    /// datagram. A forged request can open such a session, which then counts until it times out. \[100\]
    pub unproven_rate: u32,
    /// Whether a packet from an address without a session is answered with UnknownSender. \[yes\]
    pub unknown_sender_replies: bool,
    /// The most UnknownSender replies per second, over all addresses. Also the size of a burst. A reply has 2 bytes,
    /// and the datagram it answers at least as many, so replies do not amplify. \[10,000\]
    pub unknown_sender_rate: u32,
    /// The most UnknownSender replies per second to one IPv4 address or IPv6 /64. Also the size of a burst. After a
    /// restart of the server, its players learn from these replies that their sessions are gone. \[1,000: 500 players
    /// behind one address learn it within two seconds\]
    pub unknown_sender_rate_per_prefix: u32,
    /// The answer to ServerStatus queries, limited like UnknownSender replies. A reply is at most three times as long
    /// as its query, because the source address may be forged: send longer queries to get longer replies. \[none\]
    pub server_status: Option<StatusReply>,
    /// From which addresses a session may move to a new one. \[the same IP address\]
    pub remap: RemapPolicy,
}

impl AdmissionSettings {
    fn new(session: SessionConfig) -> Self {
        Self {
            session,
            others: Vec::new(),
            filter: RequestFilter::default(),
            max_sessions: 65_536,
            accept_backlog: 1_024,
            max_pending_handshakes: 65_536,
            refuse_over_capacity: true,
            response_rate: 100_000,
            response_rate_per_prefix: 2_000,
            response_burst_per_prefix: 10_000,
            unproven_rate: 100,
            unknown_sender_replies: true,
            unknown_sender_rate: 10_000,
            unknown_sender_rate_per_prefix: 1_000,
            server_status: None,
            remap: RemapPolicy::default(),
        }
    }
}

/// Builds an [`AdmissionConfig`].
#[derive(Clone, Debug)]
#[must_use]
pub struct AdmissionConfigBuilder {
    settings: AdmissionSettings,
}

impl AdmissionConfigBuilder {
    /// Validates the settings.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that is out of range.
    pub fn build(self) -> Result<AdmissionConfig, ConfigError> {
        let settings = &self.settings;
        let sessions = settings.max_sessions;
        // 2^24 sessions take 16 GB at 1 KB each; a larger number is a mistake.
        check((1..=1 << 24).contains(&sessions), "max_sessions", sessions, "not within 1..=16777216")?;
        check(
            settings.accept_backlog > 0,
            "accept_backlog",
            settings.accept_backlog,
            "below 1: no session could be accepted",
        )?;
        let pending = settings.max_pending_handshakes;
        check((1..=1 << 24).contains(&pending), "max_pending_handshakes", pending, "not within 1..=16777216")?;
        check(settings.others.len() <= 13, "others", settings.others.len(), "more than 13 configurations")?;
        let rates = [
            ("response_rate", settings.response_rate),
            ("response_rate_per_prefix", settings.response_rate_per_prefix),
            ("response_burst_per_prefix", settings.response_burst_per_prefix),
        ];
        for (field, rate) in rates {
            check(rate > 0, field, rate, "below 1: no request could be answered")?;
        }
        Ok(AdmissionConfig(Arc::new(self.settings)))
    }
}

admission_fields!(setters! { AdmissionConfigBuilder, AdmissionSettings, });
// A configuration file has no functions: it has `names` for the filter, and no status reply.
setters!(AdmissionConfigBuilder, AdmissionSettings, filter: RequestFilter as (), server_status: Option<StatusReply> as ());

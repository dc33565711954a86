use std::{collections::BTreeSet, fmt, net::SocketAddr, ops::Deref, sync::Arc};

use bytes::Bytes;

use super::{SessionConfig, check, setters};
use crate::error::ConfigError;

/// What a stranger asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestInfo {
    /// The transport version of its dialect.
    pub version: u32,
    /// The session id that it has chosen.
    pub session_id: u32,
    /// The largest datagram that it takes, in bytes.
    pub udp_length: u32,
    /// The application protocol, empty if it named none. Bytes that are not UTF-8 are replaced.
    pub protocol_name: String,
}

/// Which requests are answered with a session.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum RequestFilter {
    /// Those with the protocol name of the session configuration.
    #[default]
    Exact,
    /// Those with one of these names.
    AnyOf(BTreeSet<String>),
    /// Those that this function approves of.
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

/// What a server says of itself to anybody who asks with a ServerStatus packet; `None` is silence.
#[derive(Clone)]
pub struct StatusReply(Arc<dyn Fn(SocketAddr) -> Option<Bytes> + Send + Sync>);

impl StatusReply {
    /// A reply made by this function from the address that asks. At most 512 bytes are sent.
    pub fn new(reply: impl Fn(SocketAddr) -> Option<Bytes> + Send + Sync + 'static) -> Self {
        Self(Arc::new(reply))
    }

    pub(crate) fn reply(&self, from: SocketAddr) -> Option<Bytes> {
        (self.0)(from).map(|reply| reply.slice(..reply.len().min(MAX_STATUS)))
    }
}

/// The most that a status reply says, in bytes: the query has two, and whoever it is sent to may not have asked.
const MAX_STATUS: usize = 512;

impl fmt::Debug for StatusReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusReply(..)")
    }
}

/// From where a session may be moved to another address (section 9 of `docs/protocol.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemapPolicy {
    /// Never.
    Refuse,
    /// From the same IP address: its network gave it another port.
    #[default]
    SamePeerAddress,
    /// From any address.
    AnyAddress,
}

/// The configuration of a server towards strangers; a cheap clone. [`AdmissionSettings`] has the knobs.
#[derive(Clone)]
pub struct AdmissionConfig(Arc<AdmissionSettings>);

impl AdmissionConfig {
    /// A builder around the configuration of the sessions that come about.
    pub fn builder(session: SessionConfig) -> AdmissionConfigBuilder {
        AdmissionConfigBuilder { settings: AdmissionSettings::new(session) }
    }

    /// A builder that starts from this configuration.
    pub fn to_builder(&self) -> AdmissionConfigBuilder {
        AdmissionConfigBuilder { settings: AdmissionSettings::clone(&self.0) }
    }

    /// This configuration with the limits of another.
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

/// The knobs of a server towards strangers. In brackets in each description: the default.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdmissionSettings {
    /// How the sessions are set up.
    pub session: SessionConfig,
    /// Other ways to set sessions up, for several dialects or protocols on one port: the first whose version and name suit a
    /// request serves it, after [`session`](Self::session). At most 13. \[none\]
    pub others: Vec<SessionConfig>,
    /// Which protocol names are welcome. Dialects whose requests carry no name are not asked for one. \[exactly the
    /// session's\]
    pub filter: RequestFilter,
    /// Sessions at a time, 1 to 16,777,216: those that are open, and those that wait to be accepted. Ended ones that linger to tell
    /// stragglers do not count; there may be as many of them again. \[65,536\]
    pub max_sessions: usize,
    /// Sessions that may wait to be accepted, 1 or more. First datagrams beyond it wait as well, up to 256 of them in up to
    /// 128 KiB, and open their sessions as soon as there is a place. \[1,024: a server that restarts meets all its players
    /// within seconds\]
    pub accept_backlog: usize,
    /// Strangers that are remembered between their request and their first valid datagram, 1 to 16,777,216. Each takes 64
    /// bytes at most; the table begins with a sixteenth of this and never grows beyond it. \[65,536\]
    pub max_strangers: usize,
    /// Whether requests over capacity are told so, or met with silence. \[told\]
    pub refuse_over_capacity: bool,
    /// Answers to session requests a second, over all addresses, 1 or more; as many may come at once. \[100,000\]
    pub response_rate: u32,
    /// Answers to session requests a second to one IPv4 address or IPv6 /64, 1 or more. An answer is at most one and a half
    /// times its request, so a high rate makes nobody a target. Servers behind a proxy, which sees all players under one
    /// address, set it as high as `response_rate`. \[2,000\]
    pub response_rate_per_prefix: u32,
    /// Answers to session requests to one IPv4 address or IPv6 /64 that may come at once, 1 or more. \[10,000: an internet
    /// cafe, a carrier's shared address, or a proxy, when a server comes up: 5,000 logins at once from one address all
    /// succeed, with the repetitions of those whose answer was late\]
    pub response_burst_per_prefix: u32,
    /// Sessions a second that may open with the response, before their clients have proved anything, in dialects whose
    /// servers speak first; ten times as many at once. The others wait for a first valid datagram. Strangers can have them
    /// for the asking, and each counts as a session until it times out. \[100\]
    pub unproven_rate: u32,
    /// Whether packets from strangers are answered with UnknownSender. \[yes\]
    pub unknown_sender_replies: bool,
    /// UnknownSender replies a second, over all addresses; as many may come at once. A reply has 2 bytes, and what it answers
    /// at least as many: it reflects, and amplifies nothing. \[10,000\]
    pub unknown_sender_rate: u32,
    /// UnknownSender replies a second to one IPv4 address or IPv6 /64; as many may come at once. After a restart of the
    /// server its players learn by them that their sessions are gone. \[1,000: 500 players behind one address learn it within
    /// two seconds\]
    pub unknown_sender_rate_per_prefix: u32,
    /// What is answered to ServerStatus queries, at the rate of UnknownSender replies. A reply is at most three times its
    /// query, for who asks has proved nothing: who wants long answers sends long queries. \[nothing\]
    pub server_status: Option<StatusReply>,
    /// From where sessions may move to another address. \[the same IP address\]
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
            max_strangers: 65_536,
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
    /// The finished configuration.
    ///
    /// # Errors
    /// If a knob is out of its range.
    pub fn build(self) -> Result<AdmissionConfig, ConfigError> {
        let settings = &self.settings;
        let sessions = settings.max_sessions;
        check((1..=1 << 24).contains(&sessions), "max_sessions", sessions, "not within 1..=16777216")?;
        check(settings.accept_backlog > 0, "accept_backlog", settings.accept_backlog, "but then nobody is accepted")?;
        let strangers = settings.max_strangers;
        check((1..=1 << 24).contains(&strangers), "max_strangers", strangers, "not within 1..=16777216")?;
        check(settings.others.len() <= 13, "others", settings.others.len(), "more than 13 configurations")?;
        let rates = [
            ("response_rate", settings.response_rate),
            ("response_rate_per_prefix", settings.response_rate_per_prefix),
            ("response_burst_per_prefix", settings.response_burst_per_prefix),
        ];
        for (field, rate) in rates {
            check(rate > 0, field, rate, "but then nobody is answered")?;
        }
        Ok(AdmissionConfig(Arc::new(self.settings)))
    }
}

setters!(AdmissionConfigBuilder, AdmissionSettings {
    others: Vec<SessionConfig>,
    filter: RequestFilter,
    max_sessions: usize,
    accept_backlog: usize,
    max_strangers: usize,
    refuse_over_capacity: bool,
    response_rate: u32,
    response_rate_per_prefix: u32,
    response_burst_per_prefix: u32,
    unproven_rate: u32,
    unknown_sender_replies: bool,
    unknown_sender_rate: u32,
    unknown_sender_rate_per_prefix: u32,
    server_status: Option<StatusReply>,
    remap: RemapPolicy,
});

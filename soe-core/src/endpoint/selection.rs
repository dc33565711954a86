//! Which of a server's configurations a request asks for, and from where a session may move.

use std::net::{IpAddr, SocketAddr};

use super::Admission;
use crate::{RemapPolicy, RequestFilter, RequestInfo, SessionConfig};

impl Admission {
    pub(super) fn session_config(&self, index: u8) -> &SessionConfig {
        let other = index.checked_sub(1).and_then(|index| self.config.others.get(usize::from(index)));
        other.unwrap_or(&self.config.session)
    }

    /// The configuration that a request asks for, by version and protocol name.
    pub(super) fn select(&self, info: &RequestInfo) -> Option<usize> {
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

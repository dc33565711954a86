//! The choice of a session configuration for a request, and the check of remap requests.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    handshakes::Handshakes,
    question::{About, Question},
    request::Asked,
};
use crate::{
    config::{RemapPolicy, RequestFilter, RequestInfo, SessionConfig},
    endpoint::address::Path,
};

impl Handshakes {
    pub(super) fn session_config(&self, index: u8) -> &SessionConfig {
        let other = index.checked_sub(1).and_then(|index| self.config.others.get(usize::from(index)));
        other.unwrap_or(&self.config.session)
    }

    /// The question that the application must answer before this request can be handled, if any.
    pub(super) fn question(&self, path: Path, request: &Asked) -> Option<Question> {
        let RequestFilter::Predicate(predicate) = &self.config.filter else { return None };
        let mut handshakes = self.session_configs().map(|config| &config.dialect.handshake);
        let matters = handshakes.any(|handshake| handshake.named && handshake.accepts.accept(request.version));
        let about = || About::Request { predicate: Arc::clone(predicate), request: request.clone() };
        matters.then(|| Question { path, about: about() })
    }

    /// The configuration for a request, by version and protocol name. `is_welcome` is the result of the application's
    /// filter.
    pub(super) fn select(&self, info: &RequestInfo, is_welcome: bool) -> Option<usize> {
        self.session_configs().position(|config| self.suits(config, info, is_welcome))
    }

    fn session_configs(&self) -> impl Iterator<Item = &SessionConfig> {
        std::iter::once(&self.config.session).chain(&self.config.others)
    }

    fn suits(&self, config: &SessionConfig, info: &RequestInfo, is_welcome: bool) -> bool {
        let handshake = &config.dialect.handshake;
        if !handshake.accepts.accept(info.version) {
            return false;
        }
        match &self.config.filter {
            _ if !handshake.named => true,
            RequestFilter::Exact => info.protocol_name == config.protocol_name,
            RequestFilter::AnyOf(names) => names.contains(&info.protocol_name),
            RequestFilter::Predicate(_) => is_welcome,
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

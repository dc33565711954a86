//! The configuration of listeners behind proxies.

use std::time::Duration;

use ipnet::IpNet;

/// How the proxies in front of a listener say whose datagrams they pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyHeader {
    /// A header of the PROXY protocol, version 2, in front of every datagram. Answers carry none.
    ProxyV2,
    /// A header of the PROXY protocol, version 2, in front of the first datagram of each flow, or as a datagram of its own
    /// before it. A flow is what comes from one address and port of the proxy. Answers carry none.
    ///
    /// The weakest of the three, for proxies that offer nothing else: what the header has said is remembered for each flow,
    /// and it can be lost. See [`ProxyConfig::flow_timeout`] and [`ProxyConfig::serve_unnamed`].
    ProxyV2First,
    /// Cloudflare's Simple Proxy Protocol: 38 bytes in front of every datagram, answers included.
    Simple,
}

/// Proxies in front of a listener, see [`ListenerConfig::behind_proxy`](crate::ListenerConfig::behind_proxy).
///
/// A session's peer is then the player: its address is what `peer_addr` says, what the limits for addresses count by, and
/// what is logged. What the listener sends goes back through the proxy.
///
/// ```
/// # use soe_tokio::{ListenerConfig, ProxyConfig, ProxyHeader, SessionConfig};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let proxies = ProxyConfig::new(ProxyHeader::Simple, ["10.7.0.0/24".parse()?]);
/// let config = ListenerConfig::new(SessionConfig::new("Echo")?).behind_proxy(proxies);
/// # Ok(()) }
/// ```
///
/// The address on a UDP datagram can be forged. Name only networks whose addresses nobody outside can send from: a private
/// network, or one that a firewall guards. Whoever can send from there can claim to be any player.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProxyConfig {
    /// Which header the proxies write.
    pub header: ProxyHeader,
    /// The networks that the proxies send from. Headers from elsewhere are not read.
    pub trusted: Vec<IpNet>,
    /// Whether to serve players who come from other networks without a proxy. Default false: their datagrams are dropped and
    /// counted, and a server whose address becomes known cannot be reached past its proxy.
    pub allow_direct: bool,
    /// For [`ProxyHeader::ProxyV2First`]: how long a silent flow keeps its player. Default 30 s, as frp and Cloudflare
    /// Spectrum keep theirs.
    ///
    /// Set it to the time-out of the proxy. If it is shorter, a player can be silent for so long and then name another player
    /// in a header of its own making. If it is longer, a port that the proxy uses again soon is taken for the former player's,
    /// and is not served until it has been silent for this long.
    pub flow_timeout: Duration,
    /// For [`ProxyHeader::ProxyV2First`]: how many flows are remembered. Default 65,536, all the ports of one proxy; about
    /// 200 bytes each. Above it, the longest silent of a few goes.
    pub max_flows: usize,
    /// For [`ProxyHeader::ProxyV2First`]: whether to serve flows whose header was lost under the address of the proxy. Default
    /// true.
    ///
    /// Nothing makes a proxy repeat a header that was lost. For 2 seconds the flow's datagrams are dropped, in case the header
    /// comes late. Then its player has the proxy's address, and is counted in [`ProxyStats::unnamed`](crate::ProxyStats).
    /// With false the player stays out until the proxy has forgotten the flow, or comes by another port.
    pub serve_unnamed: bool,
}

impl ProxyConfig {
    /// Proxies that write this header, in these networks.
    pub fn new(header: ProxyHeader, trusted: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            header,
            trusted: trusted.into_iter().collect(),
            allow_direct: false,
            flow_timeout: Duration::from_secs(30),
            max_flows: 1 << 16,
            serve_unnamed: true,
        }
    }

    /// Sets whether to serve players from other networks, without a proxy.
    #[must_use]
    pub fn allow_direct(mut self, allow: bool) -> Self {
        self.allow_direct = allow;
        self
    }

    /// Sets how long a silent flow keeps its player.
    #[must_use]
    pub fn flow_timeout(mut self, timeout: Duration) -> Self {
        self.flow_timeout = timeout;
        self
    }

    /// Sets how many flows are remembered; 0 counts as 1.
    #[must_use]
    pub fn max_flows(mut self, flows: usize) -> Self {
        self.max_flows = flows.max(1);
        self
    }

    /// Sets whether flows whose header was lost are served under the address of the proxy.
    #[must_use]
    pub fn serve_unnamed(mut self, serve: bool) -> Self {
        self.serve_unnamed = serve;
        self
    }
}

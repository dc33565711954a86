//! A proxy as tests need it: one front, and a flow with a port of its own for each player.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proxy_header::{ProxiedAddress, ProxyHeader};
use soe_testing::{Network, RawPeer};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::support::SERVER;

/// Which header it writes, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// PROXY protocol version 2 on each datagram, as Caddy's layer 4 module and dnsdist do.
    Each,
    /// On the first of each flow, as frp does.
    First,
    /// In a datagram of its own before the first, as Cloudflare Spectrum was seen to do.
    HeaderAlone,
    /// The Simple Proxy Protocol, as Cloudflare Spectrum does.
    Simple,
}

impl Kind {
    pub(super) fn is_once(self) -> bool {
        matches!(self, Self::First | Self::HeaderAlone)
    }

    pub(super) fn header(self) -> soe_tokio::ProxyHeader {
        match self {
            Self::Each => soe_tokio::ProxyHeader::ProxyV2,
            Self::First | Self::HeaderAlone => soe_tokio::ProxyHeader::ProxyV2First,
            Self::Simple => soe_tokio::ProxyHeader::Simple,
        }
    }
}

pub(super) fn v2_header(player: SocketAddr, front: SocketAddr) -> Vec<u8> {
    let mut header = Vec::new();
    let addresses = ProxiedAddress::datagram(player, front);
    ProxyHeader::with_address(addresses).encode_v2(&mut header).expect("both are of one family");
    header
}

pub(super) fn simple_header(player: SocketAddr, front: SocketAddr) -> Vec<u8> {
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let ports = [player.port().to_be_bytes(), front.port().to_be_bytes()].concat();
    [&[0x56, 0xEC][..], &octets(player), &octets(front), &ports].concat()
}

#[derive(Debug)]
pub(super) struct Proxy {
    front: SocketAddr,
    input: UnboundedSender<Input>,
    received: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Input {
    /// A datagram under a player's address that did not come over the network.
    Forged(SocketAddr, Vec<u8>),
    Forget,
}

impl Proxy {
    pub(super) fn start(network: &Network, kind: Kind, front: SocketAddr) -> Self {
        let (input, inputs) = unbounded_channel();
        let received = Arc::default();
        let flow = Flow { network: network.clone(), kind, front, received: Arc::clone(&received) };
        tokio::spawn(serve(network.raw(front), flow, inputs));
        Self { front, input, received }
    }

    /// The address that it sends the datagrams of its n-th flow from.
    pub(super) fn inside(&self, flow: u16) -> SocketAddr {
        SocketAddr::new(self.front.ip(), FIRST_PORT + flow)
    }

    /// Takes other ports from now on, as after a restart.
    pub(super) fn forget_flows(&self) {
        self.input.send(Input::Forget).expect("the proxy runs");
    }

    /// Passes on what somebody sends under the address of a player.
    pub(super) fn pass_on(&self, player: SocketAddr, datagram: &[u8]) {
        self.input.send(Input::Forged(player, datagram.into())).expect("the proxy runs");
    }

    /// How many datagrams have come back from the server.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Debug)]
struct Flow {
    network: Network,
    kind: Kind,
    front: SocketAddr,
    received: Arc<AtomicU64>,
}

async fn serve(mut front: RawPeer, flow: Flow, mut inputs: UnboundedReceiver<Input>) {
    let (answer, mut answers) = unbounded_channel::<(SocketAddr, Vec<u8>)>();
    let mut flows: HashMap<SocketAddr, UnboundedSender<Vec<u8>>> = HashMap::new();
    let mut port = FIRST_PORT;
    loop {
        let (player, datagram) = tokio::select! {
            // What the test says comes before what players send next.
            biased;
            input = inputs.recv() => match input {
                Some(Input::Forged(player, datagram)) => (player, datagram),
                Some(Input::Forget) => {
                    flows.clear();
                    continue;
                }
                None => return,
            },
            datagram = front.recv() => datagram,
            Some((player, datagram)) = answers.recv() => {
                front.send(player, &datagram);
                continue;
            }
        };
        let is_open = flows.get(&player).is_some_and(|flow| flow.send(datagram.clone()).is_ok());
        if !is_open {
            port += 1;
            let inside = flow.network.raw(SocketAddr::new(flow.front.ip(), port));
            let (sender, datagrams) = unbounded_channel();
            sender.send(datagram).expect("it is there");
            flows.insert(player, sender);
            tokio::spawn(flow.clone().run(inside, player, datagrams, answer.clone()));
        }
    }
}

impl Flow {
    /// Ends when the proxy forgets it, or after 30 silent seconds.
    async fn run(
        self,
        mut inside: RawPeer,
        player: SocketAddr,
        mut datagrams: UnboundedReceiver<Vec<u8>>,
        answer: UnboundedSender<(SocketAddr, Vec<u8>)>,
    ) {
        let (v2, simple) = (v2_header(player, self.front), simple_header(player, self.front));
        let mut is_first = true;
        loop {
            tokio::select! {
                datagram = datagrams.recv() => {
                    let Some(datagram) = datagram else { return };
                    let is_first = std::mem::take(&mut is_first);
                    let headed = match self.kind {
                        Kind::Each => [&v2[..], &datagram].concat(),
                        Kind::First if is_first => [&v2[..], &datagram].concat(),
                        Kind::Simple => [&simple[..], &datagram].concat(),
                        _ => datagram,
                    };
                    if is_first && self.kind == Kind::HeaderAlone {
                        inside.send(SERVER, &v2);
                    }
                    inside.send(SERVER, &headed);
                }
                (from, datagram) = inside.recv() => {
                    assert_eq!(from, SERVER);
                    self.received.fetch_add(1, Ordering::Relaxed);
                    let own = match self.kind {
                        // An answer with any other header is not passed on.
                        Kind::Simple => datagram.strip_prefix(&simple[..]).expect("the header comes back").to_vec(),
                        _ => datagram,
                    };
                    if answer.send((player, own)).is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(IDLE) => return,
            }
        }
    }
}

const FIRST_PORT: u16 = 30_000;
/// As long as frp and Spectrum keep a silent flow.
pub(super) const IDLE: Duration = Duration::from_secs(30);

//! What a session takes, measured by the allocator: no more than its configuration says, and what it says of itself.

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use peak_alloc::PeakAlloc;
use soe_core::{
    Action, Channel, DatagramOutcome, Endpoint, Framing, Message, Path, ReliableChannel, Session, SessionConfig,
    SessionConfigBuilder,
    wire::{NamedWindow, NetStatusRequest},
};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MS: Duration = Duration::from_millis(1);
/// What the measurement itself may take: buffers of this test, the scratch space of the codec.
const SLACK: usize = 8 * 1_024;

fn config() -> SessionConfigBuilder {
    SessionConfig::builder("Test").max_message_size(300_000).recv_buffer(200_000).send_buffer(200_000)
}

/// A server's session, and what it takes to be its peer.
struct Peer {
    now: Instant,
    server: Session,
    framing: Framing,
    /// What was allocated before the session was.
    before: usize,
    sent: Vec<u8>,
    /// Kept: its table was there before.
    _endpoint: Endpoint,
}

impl Peer {
    fn new(config: &SessionConfig) -> Self {
        let now = Instant::now();
        let mut client = Session::connect(now, config.clone(), 7);
        let mut endpoint = Endpoint::new(now, config.clone().into(), [3; 16]);
        let from = Path::new(([192, 0, 2, 1], 7).into(), None);
        let (mut request, mut sent) = (Vec::new(), Vec::with_capacity(65_536));
        let _ = client.poll_transmit(now, &mut request).unwrap();
        endpoint.handle_datagram(now, from, request[..].into());
        let Some(Action::Send { datagram: answer, .. }) = endpoint.poll_action() else { panic!("no answer") };
        let _ = client.handle_datagram(now, answer[..].into());
        let passes = config.passes.map(u8::from);
        let framing = Framing::new(client.crc_seed(), config.crc_length, passes, &config.dialect.codecs).unwrap();
        let _ = client.poll_transmit(now, &mut sent).unwrap();
        let first = BytesMut::from(&sent[..]);
        drop((client, request, answer));
        let before = MEMORY.current_usage();
        endpoint.handle_datagram(now, from, first);
        let Some(Action::Open(opened)) = endpoint.poll_action() else { panic!("no session") };
        Self { now, server: opened.session, framing, before, sent, _endpoint: endpoint }
    }

    /// Gives the server a packet, as its peer would send it.
    fn put(&mut self, packet: &[u8]) {
        let mut datagram = packet.to_vec();
        self.framing.seal(&mut datagram, 0);
        let datagram = BytesMut::from(&datagram[..]);
        assert_eq!(self.server.handle_datagram(self.now, datagram), DatagramOutcome::Authentic);
        self.flush();
    }

    /// Lets the server send, to nobody.
    fn flush(&mut self) {
        self.sent.clear();
        while self.server.poll_transmit(self.now, &mut self.sent).is_some() {
            self.sent.clear();
        }
    }

    /// Acknowledges everything on a channel, and what leaves in its place.
    fn acknowledge(&mut self, channel: u8) {
        for sequence in 0..=u16::MAX {
            let before = self.server.stats(self.now).bogus_acks;
            self.put(&packet(0x15, channel, sequence, &[]));
            if self.server.stats(self.now).bogus_acks > before {
                return;
            }
        }
    }

    fn taken(&self) -> usize {
        MEMORY.current_usage().saturating_sub(self.before)
    }

    /// Compares what the session says with what the allocator says, and with the ceiling. The session itself is on the
    /// stack of the test, and what it shares with its configuration was there before.
    fn check(&self, what: &str) {
        let (taken, says, ceiling) =
            (self.taken(), self.server.memory() - size_of::<Session>(), self.server.config().memory_ceiling());
        println!("{what}: {taken} taken, {says} said, ceiling {ceiling}");
        assert!(taken <= ceiling + SLACK, "{what}: {taken} bytes taken, the ceiling is {ceiling}");
        assert!(taken <= says * 6 / 5 + SLACK, "{what}: {taken} bytes taken, it says {says}");
        assert!(says <= taken * 6 / 5 + SLACK, "{what}: {taken} bytes taken, it says {says}");
    }
}

fn packet(op: u8, channel: u8, sequence: u16, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0, op + channel];
    packet.put_u16(sequence);
    packet.put_slice(body);
    packet
}

const DATA: u8 = 0x09;
const FRAGMENT: u8 = 0x0D;

/// One test, for the allocator counts for all threads.
#[test]
fn a_session_takes_what_it_says_and_no_more_than_its_configuration_allows() {
    tiny_packets_ahead_of_a_gap();
    full_packets_ahead_of_a_gap();
    packets_that_inflate_ahead_of_a_gap();
    packets_that_claim_each_others_places();
    half_finished_trains_on_four_channels();
    announced_trains_that_never_come();
    an_application_that_reads_nothing_of_tiny_messages();
    a_message_that_is_a_group_of_tiny_ones_takes_its_own_size();
    a_peer_that_never_acknowledges();
    a_peer_that_claims_a_huge_window_and_leaves_a_gap();
    unreliable_messages_that_cannot_leave();
    a_connected_session_that_says_nothing_is_small();
}

fn tiny_packets_ahead_of_a_gap() {
    let mut peer = Peer::new(&config().build().unwrap());
    for channel in 0..4 {
        for sequence in 1..8_000 {
            peer.put(&packet(DATA, channel, sequence, b"x"));
        }
    }
    assert!(peer.server.stats(peer.now).beyond_window > 4 * 1_800);
    peer.check("tiny packets ahead of a gap");
}

fn full_packets_ahead_of_a_gap() {
    let mut peer = Peer::new(&config().build().unwrap());
    for channel in 0..4 {
        for sequence in 1..8_000 {
            peer.put(&packet(DATA, channel, sequence, &[7; 506]));
        }
    }
    assert!(peer.taken() > 4 * 6_000 * 506);
    peer.check("full packets ahead of a gap");
}

/// As long as somebody may be guessing, a second packet is kept for each place.
fn packets_that_claim_each_others_places() {
    for (size, window) in [(1, 6_144), (200, 6_144), (500, 64)] {
        let mut peer = Peer::new(&config().recv_window(window).build().unwrap());
        let wrong = BytesMut::from(&[0, 6, 1, 1, 1, 1][..]);
        assert!(matches!(peer.server.handle_datagram(peer.now, wrong), DatagramOutcome::Rejected(_)));
        for channel in 0..4 {
            for byte in 0..4 {
                for sequence in 1..8_000 {
                    peer.put(&packet(DATA, channel, sequence, &vec![byte + 1; size]));
                }
            }
        }
        assert!(
            peer.taken() > 4 * (window - 10) * (80 + 2 * size),
            "{} bytes: not all places are contested",
            peer.taken()
        );
        peer.check("packets that claim each other's places");
    }
}

fn packets_that_inflate_ahead_of_a_gap() {
    let mut peer = Peer::new(&config().compression(true).build().unwrap());
    for channel in 0..4 {
        for sequence in 1..400 {
            peer.put(&packet(DATA, channel, sequence, &[7; 8_000]));
        }
    }
    assert!(peer.taken() > 4 * 255 * 8_000 && peer.taken() < 4 * (3 << 20) + 1_000_000);
    peer.check("packets that inflate ahead of a gap");
}

/// Sends a fragment series without its last fragment.
fn send_train(peer: &mut Peer, channel: u8, total: u32) {
    let mut sequence = 0;
    let mut left = total as usize - 1;
    let mut first = total.to_be_bytes().to_vec();
    while left > 0 {
        let data = left.min(506 - first.len());
        first.resize(first.len() + data, 7);
        peer.put(&packet(FRAGMENT, channel, sequence, &first));
        first.clear();
        sequence += 1;
        left -= data;
    }
}

fn half_finished_trains_on_four_channels() {
    let mut peer = Peer::new(&config().build().unwrap());
    for channel in 0..4 {
        send_train(&mut peer, channel, 300_000);
    }
    assert!(peer.taken() > 4 * 299_000);
    peer.check("incomplete fragment series");
}

fn announced_trains_that_never_come() {
    let mut peer = Peer::new(&config().build().unwrap());
    for channel in 0..4 {
        peer.put(&packet(FRAGMENT, channel, 0, &[&300_000u32.to_be_bytes()[..], b"x"].concat()));
    }
    assert!(peer.taken() < 80_000, "{} bytes for four words", peer.taken());
    peer.check("announced fragment series");
}

fn an_application_that_reads_nothing_of_tiny_messages() {
    let mut peer = Peer::new(&config().build().unwrap());
    for sequence in 0..10_000 {
        peer.put(&packet(DATA, 0, sequence, b"x"));
        peer.put(b"u");
    }
    let stats = peer.server.stats(peer.now);
    assert!(stats.beyond_window > 1_000 && stats.unread_dropped > 1_000, "{stats:?}");
    peer.check("tiny messages that nobody reads");
}

fn a_message_that_is_a_group_of_tiny_ones_takes_its_own_size() {
    let mut peer = Peer::new(&config().build().unwrap());
    let group = [&[0, 0x19][..], &[1, b'x'].repeat(149_000)].concat();
    let total = (group.len() as u32).to_be_bytes();
    let whole = [&total[..], &group].concat();
    for (sequence, chunk) in whole.chunks(506).enumerate() {
        peer.put(&packet(FRAGMENT, 0, sequence as u16, chunk));
    }
    assert!(peer.server.is_readable());
    let length = group.len();
    drop((group, whole));
    assert!(peer.taken() < length + SLACK, "{} bytes for a Group of {length}", peer.taken());
    peer.check("a Group of tiny messages");
    let messages = std::iter::from_fn(|| peer.server.recv()).filter(|message| message.payload[..] == *b"x").count();
    assert_eq!(messages, 149_000);
    assert!(peer.taken() < 20_000);
}

fn a_peer_that_never_acknowledges() {
    for (what, length) in [("tiny", 1), ("small", 100), ("large", 5_000), ("huge", 250_000)] {
        let mut peer = Peer::new(&config().build().unwrap());
        for channel in ReliableChannel::ALL {
            while peer.server.send(Message::new(channel, vec![7; length])).is_ok() {}
        }
        for _ in 0..100 {
            peer.flush();
            peer.now += 50 * MS;
            peer.server.handle_timeout(peer.now);
            for channel in ReliableChannel::ALL {
                while peer.server.send(Message::new(channel, vec![7; length])).is_ok() {}
            }
        }
        peer.check(&format!("{what} messages that nobody acknowledges"));
        while !peer.server.is_idle() {
            (0..4).for_each(|channel| peer.acknowledge(channel));
            peer.now += MS;
        }
        peer.check(&format!("{what} messages, acknowledged"));
    }
}

/// A peer claims the largest window that there is, and acknowledges everything but the first packet of each channel.
fn a_peer_that_claims_a_huge_window_and_leaves_a_gap() {
    let config = config().build().unwrap();
    let mut peer = Peer::new(&config);
    let claim = NamedWindow { by_client: true, packets: u16::MAX };
    let mut request = Vec::new();
    NetStatusRequest::default().with_window(claim).encode(&mut request);
    peer.put(&request);
    assert_eq!(peer.server.stats(peer.now).peer_window, Some(30_000));
    for length in [300, 500_000 / 2] {
        for sequence in 1..8_000 {
            for channel in ReliableChannel::ALL {
                while peer.server.send(Message::new(channel, vec![7; length])).is_ok() {}
            }
            peer.flush();
            (0..4).for_each(|channel| peer.put(&packet(0x11, channel, sequence, &[])));
            let stats = peer.server.stats(peer.now);
            assert!(stats.in_flight_bytes <= 4 * (config.send_window_bytes + 512), "{stats:?}");
            peer.now += MS / 4;
        }
    }
    let stats = peer.server.stats(peer.now);
    assert!(stats.reliable_sent <= 4 * 6_144 && stats.reliable_sent > 4 * 6_000, "{stats:?}");
    peer.check("a gap in a huge window");
}

fn unreliable_messages_that_cannot_leave() {
    let mut peer = Peer::new(&config().build().unwrap());
    while peer.server.send(Message::new(Channel::Unreliable, vec![7; 3])).is_ok() {}
    peer.check("unreliable messages");
    peer.flush();
    assert_eq!(peer.server.stats(peer.now).pending_bytes, 0);
}

fn a_connected_session_that_says_nothing_is_small() {
    let peer = Peer::new(&config().build().unwrap());
    peer.check("a session that says nothing");
    assert!(peer.server.memory() < 3_000, "{} bytes", peer.server.memory());
}

//! A stranger who knows a player's address and nothing else, and sends every CRC of two bytes that there is: what the one
//! that hits may reach (section 10 of `docs/protocol.md`).

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use soe_core::{Framing, wire::SessionRequest};
use soe_testing::{LinkProfile, Network};
use soe_tokio::{Channel, Message, ReliableChannel, SoeListener, SoeSession};
use tokio::time::{Instant, sleep, timeout};

use crate::support::config;

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// How often the player says something.
pub(crate) const TICK: Duration = Duration::from_millis(20);
const JUMP: u16 = 30_000;

/// A CRC is affine: the CRC of one content gives those of all contents of its length, whatever the seed is.
fn crcs_of(contents: &[Vec<u8>], first: u16) -> Vec<u16> {
    let framing = Framing::new(0x1234_5678, 2, [0, 0], &soe_core::Dialect::version3().codecs).expect("two bytes");
    let known = contents.iter().map(|content| {
        let mut sealed = content.clone();
        framing.seal(&mut sealed, 0);
        u16::from_be_bytes([sealed[sealed.len() - 2], sealed[sealed.len() - 1]])
    });
    let known: Vec<u16> = known.collect();
    known.iter().map(|crc| crc ^ known[0] ^ first).collect()
}

/// Sends these contents, all of one length, behind every CRC, 10,000 guesses a second. If one of them hits, all do.
pub(crate) async fn guess_all(network: &Network, from: SocketAddr, to: SocketAddr, contents: &[Vec<u8>]) {
    assert!(contents.iter().all(|content| content.len() == contents[0].len()));
    let deltas = crcs_of(contents, 0);
    for guess in 0..=u16::MAX {
        for (content, delta) in contents.iter().zip(&deltas) {
            network.forge(from, to, [content, &(guess ^ delta).to_be_bytes()[..]].concat());
        }
        if guess % 64 == 63 {
            sleep(Duration::from_micros(6_400)).await;
        }
    }
}

pub(crate) fn multi(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let pieces = pieces.into_iter().flat_map(|piece| [vec![piece.len() as u8], piece].concat());
    [0, 3].into_iter().chain(pieces).collect()
}

/// A request for statistics that names a window: to a server, or to a client.
fn window(by: [u8; 2], packets: u16) -> Vec<u8> {
    [&[0, 7, 0, 0][..], &by, &packets.to_be_bytes(), &[0; 32]].concat()
}

pub(crate) fn reliable(channel: u8, sequence: u16, text: &[u8]) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    [&[0, 9 + channel, high, low][..], text].concat()
}

pub(crate) fn fragment(channel: u8, sequence: u16, body: &[u8]) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    [&[0, 0x0D + channel, high, low][..], body].concat()
}

fn stamp(op_code: u8, stamp: u16) -> Vec<u8> {
    [&[0, op_code][..], &stamp.to_be_bytes()].concat()
}

/// Two ends that play: the client's messages count up and come back.
pub(crate) struct Play {
    pub(crate) network: Network,
    listener: SoeListener,
    pub(crate) ends: [SoeSession; 2],
    pub(crate) ticks: u32,
    /// What each side heard besides, by channel.
    strange: [BTreeMap<String, usize>; 2],
}

impl Play {
    pub(crate) async fn open(seed: u64) -> Self {
        let network = Network::new(seed);
        network.link(LinkProfile::lossless().delay(20 * MS));
        let listener = network.listener(config()).expect("the address is free");
        let (client, incoming) = tokio::join!(network.client(config()), listener.accept());
        let ends = [client.expect("the server answers"), incoming.expect("a client has come").accept()];
        let mut play = Self { network, listener, ends, ticks: 0, strange: Default::default() };
        play.go_on(SECOND).await;
        play
    }

    /// Plays for so long: what is said on the first channel comes, in order.
    pub(crate) async fn go_on(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for side in [0, 1] {
                let message = self.ticks.to_be_bytes();
                self.say(side, Channel::default(), &message).await;
                self.hear(1 - side, Channel::default(), &message).await;
            }
            self.ticks += 1;
            sleep(TICK).await;
        }
    }

    pub(crate) async fn say(&mut self, side: usize, channel: impl Into<Channel>, message: &[u8]) {
        let message = Message::new(channel, message.to_vec());
        self.ends[side].send(message).await.unwrap_or_else(|error| panic!("side {side} cannot send: {error}"));
    }

    /// Waits for this message. What comes before on other channels is counted.
    pub(crate) async fn hear(&mut self, side: usize, channel: impl Into<Channel>, expected: &[u8]) {
        let channel = channel.into();
        loop {
            match timeout(20 * SECOND, self.ends[side].recv()).await {
                Ok(Some(Ok(message))) if (message.channel, &message.payload[..]) == (channel, expected) => return,
                Ok(Some(Ok(message))) => {
                    assert_ne!(message.channel, Channel::default(), "side {side} hears {message:?}");
                    *self.strange[side].entry(format!("{:?}", message.channel)).or_default() += 1;
                }
                other => panic!("side {side} hears {other:?} after {} ticks", self.ticks),
            }
        }
    }

    /// Lets a stranger send these contents to one side behind every CRC, while both play.
    pub(crate) async fn attack(&mut self, to: usize, contents: &[Vec<u8>]) {
        let addresses = [self.ends[1].peer_addr(), self.ends[0].peer_addr()];
        let (network, contents) = (self.network.clone(), contents.to_vec());
        let before = self.ends[to].stats().crc_rejects;
        let guesses = u64::from(u16::MAX) * contents.len() as u64;
        let attack =
            tokio::spawn(async move { guess_all(&network, addresses[1 - to], addresses[to], &contents).await });
        while !attack.is_finished() {
            self.go_on(SECOND).await;
        }
        let missed = self.ends[to].stats().crc_rejects - before;
        assert_eq!(missed, guesses, "of all CRCs one hits");
    }

    /// How many messages one side has heard on a channel while it waited for others.
    pub(crate) fn heard_besides(&self, side: usize, channel: Channel) -> usize {
        self.strange[side].get(&format!("{channel:?}")).copied().unwrap_or(0)
    }

    fn windows(&self) -> [Option<u32>; 2] {
        [0, 1].map(|side| self.ends[side].stats().peer_window)
    }
}

/// Each guess comes twice: what may end a session or change it for good must not be said by one guess.
fn twice(content: Vec<u8>) -> Vec<Vec<u8>> {
    vec![content.clone(), content]
}

#[tokio::test(start_paused = true)]
async fn one_guess_of_a_short_crc_ends_no_session_and_closes_no_stream() {
    let garbage = vec![0, 3, 200, 1];
    let contents = [
        ("what no peer sends, twice", twice(garbage.clone())),
        ("two malformed Groups in one datagram", twice(multi([vec![0, 0x19, 9, 1], vec![0, 0x19, 9, 1]]))),
        ("two contents of one length that no peer sends", vec![garbage, vec![0, 3, 201, 9]]),
        (
            "a fragment ahead of a gap on an unused channel, and what fills it",
            twice(multi([fragment(1, 1, &[7]), reliable(1, 0, b"7")])),
        ),
        ("a fragment that begins a long message", twice(fragment(1, 0, &[0, 1, 0, 0, 7]))),
        ("a message on an unused channel", twice(reliable(1, 0, b"all the gold"))),
        ("messages on all channels", twice(multi((0..4).map(|channel| reliable(channel, 0, b"all the gold"))))),
        ("jumps of both ordered streams", twice(multi([stamp(0x1A, JUMP), stamp(0x1B, JUMP)]))),
        (
            "jumps, and what follows them",
            vec![
                multi([stamp(0x1A, JUMP), stamp(0x1B, JUMP)]),
                multi([stamp(0x1A, JUMP + 1), stamp(0x1B, JUMP + 1)]),
                multi([stamp(0x1A, JUMP + 2), stamp(0x1B, JUMP + 2)]),
            ],
        ),
        ("a small window", twice(multi([window(*b"WC", 1), window(*b"WS", 1)]))),
        ("a large window", twice(multi([window(*b"WC", 30_000), window(*b"WS", 30_000)]))),
        (
            "a fragment in each window",
            twice(multi((0..65_536).step_by(800).map(|sequence| fragment(0, sequence as u16, &[7])))),
        ),
    ];
    for (seed, (what, contents)) in (1..).zip(contents) {
        for to in [0, 1] {
            let mut play = Play::open(seed).await;
            for channel in [Channel::Ordered, Channel::Ordered2] {
                play.say(1 - to, channel, b"before").await;
                play.hear(to, channel, b"before").await;
            }
            // The first questions are over, and with them the time when anybody may name a window.
            play.go_on(5 * SECOND).await;
            let windows = play.windows();
            play.attack(to, &contents).await;
            assert_eq!(play.windows(), windows, "{what}");
            // For a second, messages that go on from before a jump may be lost, as any that are not acknowledged.
            for channel in [Channel::Ordered, Channel::Ordered2] {
                for _ in 0..3 {
                    play.say(1 - to, channel, b"lost?").await;
                    play.go_on(SECOND).await;
                }
                for message in [b"first", b"again"] {
                    play.say(1 - to, channel, message).await;
                    play.hear(to, channel, message).await;
                }
            }
            // On a channel whose next sequence anybody knows, the guess may have taken the place of the first packets.
            for n in 0..8 {
                play.say(1 - to, ReliableChannel::ONE, &[n]).await;
                play.go_on(SECOND).await;
            }
            play.say(1 - to, ReliableChannel::ONE, b"and on").await;
            play.hear(to, ReliableChannel::ONE, b"and on").await;
            play.go_on(SECOND).await;
            let stats = play.ends[to].stats();
            println!("{what}, to side {to}: heard besides {:?}, malformed {}", play.strange[to], stats.malformed);
        }
    }
}

/// A stranger that knows how much a busy player has said, and puts a fragment where none belongs.
#[tokio::test(start_paused = true)]
async fn a_guess_that_is_held_ahead_of_a_gap_gives_its_place_to_the_players_own_packet() {
    let mut play = Play::open(1).await;
    for to in [0, 1] {
        let ahead = play.ticks as u16 + 200;
        play.attack(to, &[fragment(0, ahead, &[7])]).await;
        assert!(play.ticks < u32::from(ahead), "its turn is still to come");
        assert_eq!((play.ends[to].stats().out_of_order, play.ends[to].stats().malformed), (1, 0));
        while play.ticks <= u32::from(ahead) {
            play.go_on(SECOND).await;
        }
        assert_eq!(play.ends[to].stats().malformed, 1, "nobody was there to vouch for it");
    }
}

/// The CRC under the seed that a newcomer would get is as short as that of the session that it would replace.
#[tokio::test(start_paused = true)]
async fn one_guess_replaces_no_live_session() {
    let mut play = Play::open(1).await;
    let (client, server) = (play.ends[1].peer_addr(), play.ends[0].peer_addr());
    let mut request = Vec::new();
    SessionRequest {
        version: 3,
        session_id: 77,
        udp_length: 512,
        protocol_name: Some(config().protocol_name.as_bytes()),
    }
    .encode(&mut request);
    play.network.forge(client, server, request);
    let contents = [reliable(0, 0, b"me"), reliable(0, 0, b"it"), reliable(0, 1, b"us")];
    play.attack(1, &contents).await;
    play.go_on(SECOND).await;
    let stats = play.listener.stats().endpoint;
    assert_eq!((stats.admission.more_proof_wanted, stats.replaced), (contents.len() as u64, 0), "each was valid once");
}

/// Whatever comes from strangers, what a player begins is there one way later.
#[tokio::test(start_paused = true)]
async fn a_player_waits_for_nothing_while_somebody_guesses() {
    for rate in [100, 1_000, 5_000] {
        let mut play = Play::open(rate).await;
        let addresses = [play.ends[1].peer_addr(), play.ends[0].peer_addr()];
        let network = play.network.clone();
        let attack = tokio::spawn(async move {
            loop {
                for n in 0..rate.div_ceil(1_000) {
                    let guess = vec![0, 6, n as u8, 1];
                    network.forge(addresses[0], addresses[1], guess.clone());
                    network.forge(addresses[1], addresses[0], guess);
                }
                sleep(MS * (1_000 / rate as u32).max(1)).await;
            }
        });
        play.go_on(SECOND).await;
        for (side, channel) in [
            (0, ReliableChannel::ONE.into()),
            (1, ReliableChannel::TWO.into()),
            (0, Channel::Ordered),
            (1, Channel::Ordered2),
        ] {
            let start = Instant::now();
            play.say(side, channel, b"first").await;
            play.hear(1 - side, channel, b"first").await;
            assert!(start.elapsed() <= 21 * MS, "{rate} guesses a second: {:?} on {channel:?}", start.elapsed());
        }
        for (side, channel) in [(0, ReliableChannel::ONE), (1, ReliableChannel::TWO)] {
            for message in [&[1; 3_000][..], b"third"] {
                play.say(side, channel, message).await;
                play.hear(1 - side, channel, message).await;
            }
        }
        play.go_on(SECOND).await;
        assert!(play.strange.iter().all(BTreeMap::is_empty));
        attack.abort();
    }
}

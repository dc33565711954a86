//! A stranger who knows a player's address and nothing else, and sends every CRC of two bytes that there is: what the one
//! that hits may reach (section 10 of `docs/protocol.md`).

use std::{net::SocketAddr, time::Duration};

use soe_testing::{LinkProfile, Network};
use soe_tokio::{Channel, Message, ReliableChannel, SoeSession};
use tokio::time::{Instant, sleep, timeout};

use crate::support::config;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// How often the player says something.
const TICK: Duration = Duration::from_millis(20);
const JUMP: u16 = 30_000;

/// Sends this content behind every CRC, 10,000 datagrams a second.
async fn guess_all(network: &Network, from: SocketAddr, to: SocketAddr, content: &[u8]) {
    for guess in 0..=u16::MAX {
        network.forge(from, to, [content, &guess.to_be_bytes()].concat());
        if guess % 64 == 63 {
            sleep(Duration::from_micros(6_400)).await;
        }
    }
}

fn multi(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let pieces = pieces.into_iter().flat_map(|piece| [vec![piece.len() as u8], piece].concat());
    [0, 3].into_iter().chain(pieces).collect()
}

/// A request for statistics that names a window: to a server, or to a client.
fn window(by: [u8; 2], packets: u16) -> Vec<u8> {
    [&[0, 7, 0, 0][..], &by, &packets.to_be_bytes(), &[0; 32]].concat()
}

/// Two ends that play: the client's messages count up and come back.
struct Play {
    network: Network,
    ends: [SoeSession; 2],
    ticks: u32,
}

impl Play {
    async fn open(seed: u64) -> Self {
        let network = Network::new(seed);
        network.link(LinkProfile::lossless().delay(20 * MS));
        let (client, server) = network.pair(config()).await.expect("the server answers");
        let mut play = Self { network, ends: [client, server], ticks: 0 };
        play.go_on(SECOND).await;
        play
    }

    /// Plays for so long: what is said on the first channel comes, in order, and nothing else comes at all.
    async fn go_on(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for side in [0, 1] {
                let message = self.ticks.to_be_bytes();
                self.say(side, Channel::default(), &message).await;
                assert_eq!(self.hear(1 - side).await.1, message);
            }
            self.ticks += 1;
            sleep(TICK).await;
        }
    }

    async fn say(&mut self, side: usize, channel: impl Into<Channel>, message: &[u8]) {
        let message = Message::new(channel, message.to_vec());
        self.ends[side].send(message).await.unwrap_or_else(|error| panic!("side {side} cannot send: {error}"));
    }

    async fn hear(&mut self, side: usize) -> (Channel, Vec<u8>) {
        match timeout(20 * SECOND, self.ends[side].recv()).await {
            Ok(Some(Ok(message))) => (message.channel, message.payload.to_vec()),
            other => panic!("side {side} hears {other:?} after {} ticks", self.ticks),
        }
    }

    /// Lets a stranger send this content to one side behind every CRC, while both play.
    async fn attack(&mut self, to: usize, content: &[u8]) {
        let addresses = [self.ends[1].peer_addr(), self.ends[0].peer_addr()];
        let (network, content) = (self.network.clone(), content.to_vec());
        let attack = tokio::spawn(async move { guess_all(&network, addresses[1 - to], addresses[to], &content).await });
        while !attack.is_finished() {
            self.go_on(SECOND).await;
        }
        assert!(self.ends[to].stats().crc_rejects >= u64::from(u16::MAX), "all but one guess missed");
    }

    fn windows(&self) -> [Option<u32>; 2] {
        [0, 1].map(|side| self.ends[side].stats().peer_window)
    }
}

#[tokio::test(start_paused = true)]
async fn one_hit_of_a_short_crc_changes_nothing_for_good() {
    let reliable = |channel: u8, sequence: u16, text: &[u8]| {
        let [high, low] = sequence.to_be_bytes();
        [&[0, 9 + channel, high, low][..], text].concat()
    };
    let fragment = |channel: u8, sequence: u16| {
        let [high, low] = sequence.to_be_bytes();
        vec![0, 0x0D + channel, high, low, 7]
    };
    let stamp = |op_code: u8| [&[0, op_code][..], &JUMP.to_be_bytes()].concat();
    let contents = [
        (
            "a fragment ahead of a gap on an unused channel, and what fills it",
            multi([fragment(1, 1), reliable(1, 0, b"7")]),
        ),
        ("a message on an unused channel", reliable(1, 0, b"all the gold")),
        ("messages on all channels", multi((0..4).map(|channel| reliable(channel, 0, b"all the gold")))),
        ("jumps of both ordered streams", multi([stamp(0x1A), stamp(0x1B)])),
        ("a small window", multi([window(*b"WC", 1), window(*b"WS", 1)])),
        ("a large window", multi([window(*b"WC", 30_000), window(*b"WS", 30_000)])),
        ("a fragment in each window", multi((0..65_536).step_by(800).map(|sequence| fragment(0, sequence as u16)))),
    ];
    for (seed, (what, content)) in (1..).zip(contents) {
        println!("{what}: {} bytes", content.len() + 2);
        for to in [0, 1] {
            let mut play = Play::open(seed).await;
            let windows = play.windows();
            play.attack(to, &content).await;
            assert_eq!(play.windows(), windows);
            for channel in [Channel::Ordered, Channel::Ordered2, ReliableChannel::ONE.into()] {
                for message in [b"first", b"again"] {
                    play.say(1 - to, channel, message).await;
                    assert_eq!(play.hear(to).await, (channel, message.to_vec()));
                }
            }
            play.go_on(SECOND).await;
        }
    }
}

/// A stranger that knows how much a busy player has said, and puts a fragment where none belongs.
#[tokio::test(start_paused = true)]
async fn a_guess_that_is_held_ahead_of_a_gap_gives_its_place_to_the_players_own_packet() {
    let mut play = Play::open(1).await;
    for to in [0, 1] {
        let ahead = play.ticks as u16 + 200;
        let [high, low] = ahead.to_be_bytes();
        play.attack(to, &[0, 0x0D, high, low, 7]).await;
        assert!(play.ticks < u32::from(ahead), "its turn is still to come");
        assert_eq!((play.ends[to].stats().out_of_order, play.ends[to].stats().malformed), (1, 0));
        while play.ticks <= u32::from(ahead) {
            play.go_on(SECOND).await;
        }
        assert_eq!(play.ends[to].stats().malformed, 1, "nobody was there to vouch for it");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_player_begins_while_somebody_guesses_arrives_all_the_same() {
    for (rate, most) in [(100, SECOND), (1_000, 3 * SECOND), (5_000, 6 * SECOND)] {
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
        for (side, channel) in [(0, ReliableChannel::ONE), (1, ReliableChannel::TWO)] {
            let start = Instant::now();
            play.say(side, channel, b"first").await;
            assert_eq!(play.hear(1 - side).await, (channel.into(), b"first".to_vec()));
            println!("{rate} guesses a second: side {side} opens a channel within {:?}", start.elapsed());
            assert!(start.elapsed() < most, "{:?}", start.elapsed());
            for message in [&[1; 3_000][..], b"third"] {
                play.say(side, channel, message).await;
            }
            for message in [&[1; 3_000][..], b"third"] {
                assert_eq!(play.hear(1 - side).await, (channel.into(), message.to_vec()));
            }
            assert!(play.ends[1 - side].stats().doubted > 0, "the first packet comes between two guesses");
        }
        play.go_on(SECOND).await;
        attack.abort();
    }
}

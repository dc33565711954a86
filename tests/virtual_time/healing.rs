//! What a hit in a reliable stream leaves behind: lost messages at most, and neither a channel that stands still nor a session
//! that ends, though the link is bad and wrong CRCs go on (section 10 of `docs/protocol.md`).

use soe_testing::{LinkProfile, Loss};
use soe_tokio::ReliableChannel;
use tokio::time::{sleep, timeout};

use crate::guesses::{MS, Play, SECOND, TICK, fragment, guess_all, multi, reliable};

const CHANNEL: ReliableChannel = ReliableChannel::ONE;

/// Whoever knows the next sequence of a channel that has carried nothing.
#[tokio::test(start_paused = true)]
async fn a_hit_on_an_unused_channel_costs_its_first_messages_and_no_more() {
    let contents = [
        ("a message", reliable(1, 0, b"all the gold")),
        ("forty messages", multi((0..40).map(|sequence| reliable(1, sequence, b"gold")))),
        ("the first fragment of a long message", fragment(1, 0, &[0, 1, 0, 0, 7])),
        ("the same, at full length", fragment(1, 0, &[&[0, 1, 0, 0][..], &[7; 400]].concat())),
        ("thirty fragments ahead of a gap", multi((1..31).map(|sequence| fragment(1, sequence, &[7])))),
        (
            "fragments ahead of a gap, and what fills it",
            multi((1..31).map(|n| fragment(1, n, &[7])).chain([reliable(1, 0, b"7")])),
        ),
    ];
    type Bodies = [(&'static str, fn(usize) -> u8); 3];
    let bodies: Bodies =
        [("text", |n| b"The quick brown fox "[n % 20]), ("zeros", |_| 0), ("numbers", |n| (n % 4 / 3) as u8)];
    for (seed, (what, content)) in (1..).zip(contents) {
        for (text, byte) in bodies {
            let mut play = Play::open(seed).await;
            let to = usize::from(seed % 2 == 0);
            play.attack(to, std::slice::from_ref(&content)).await;
            play.network.link(LinkProfile::lossless().delay(20 * MS).loss(Loss::Uniform(0.02)));
            let (from, target) = (play.ends[to].peer_addr(), play.ends[1 - to].peer_addr());
            for length in [5, 600, 3_000, 5, 1_200, 5].repeat(10) {
                // Wrong CRCs go on.
                play.network.forge(from, target, vec![0, 6, 1, 1]);
                let message: Vec<u8> = (0..length).map(|n| byte(n) | u8::from(n == 0)).collect();
                play.say(1 - to, CHANNEL, &message).await;
                play.go_on(SECOND).await;
            }
            for message in [b"one", b"two"] {
                play.say(1 - to, CHANNEL, message).await;
                play.hear(to, CHANNEL, message).await;
            }
            let heard = play.heard_besides(to, CHANNEL.into());
            assert!(heard >= 40, "{what}, then {text}: only {heard} of 60 messages are heard");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_message_behind_a_hit_costs_itself_alone() {
    for (seed, length) in [(1, 3_000), (2, 50_000), (3, 400_000)] {
        let to = usize::from(seed % 2 == 0);
        let mut play = Play::open(seed).await;
        play.attack(to, &[reliable(1, 0, b"all the gold")]).await;
        play.network.link(LinkProfile::lossless().delay(20 * MS).loss(Loss::Uniform(0.02)));
        play.say(1 - to, CHANNEL, &vec![7; length]).await;
        play.say(1 - to, CHANNEL, b"behind").await;
        let heard = timeout(8 * SECOND, play.hear(to, CHANNEL, b"behind")).await;
        assert!(heard.is_ok(), "{length} bytes hold up what is behind them");
        assert_eq!(play.heard_besides(to, CHANNEL.into()), 1, "the fake, and not the message whose beginning is lost");
    }
}

/// The last one of them comes once more: it stands for what the peer has never sent.
#[tokio::test(start_paused = true)]
async fn fakes_that_come_again_and_again_end_no_session() {
    for to in [0, 1] {
        let mut play = Play::open(7).await;
        play.attack(to, &[multi((0..40).chain([39]).map(|sequence| reliable(1, sequence, b"gold")))]).await;
        // The fakes have taken the places of the next forty packets, and no more.
        for n in 0..40 {
            play.say(1 - to, CHANNEL, &[b'n', n]).await;
            play.go_on(5 * SECOND).await;
        }
        play.say(1 - to, CHANNEL, b"the first one").await;
        play.hear(to, CHANNEL, b"the first one").await;
    }
}

/// Whoever knows about where a busy channel is, and puts fragments into all of its next places. The one that is next when the
/// guess hits takes the place of a message.
#[tokio::test(start_paused = true)]
async fn fragments_that_were_guessed_into_a_busy_channel_cost_one_message_whatever_the_link_does() {
    for (seed, loss, reordering) in [(1, 0.0, 0.0), (2, 0.01, 0.0), (3, 0.03, 0.0), (4, 0.0, 0.02), (5, 0.02, 0.02)] {
        let play = Play::open(seed).await;
        let link = LinkProfile::lossless().delay(20 * MS).loss(Loss::Uniform(loss)).reordering(reordering, 40 * MS);
        play.network.link(link);
        let (first, [mut client, mut server]) = (play.ticks as u16, play.ends);
        let (from, to) = (server.peer_addr(), client.peer_addr());
        let content = |n: u16| multi((0..55).map(|k| fragment(0, first + 55 * n + k, &[7])));
        let contents: Vec<_> = (0..7).map(content).collect();
        let attack = tokio::spawn(async move { guess_all(&play.network, from, to, &contents).await });
        let talk = tokio::spawn(async move {
            // Two minutes behind the hit.
            for n in 0..6_000_u32 {
                client.send(n.to_be_bytes().to_vec()).await.expect("the session lives");
                sleep(TICK).await;
            }
            client
        });
        let mut heard = Vec::new();
        while heard.last() != Some(&5_999) {
            let message = timeout(20 * SECOND, server.recv()).await.expect("the channel goes on");
            let payload = message.expect("the session lives").expect("it is well").payload;
            heard.push(u32::from_be_bytes(payload[..].try_into().expect("four bytes")));
        }
        assert!(heard.is_sorted_by(|one, next| one < next), "the order is lost");
        assert!(heard.len() >= 5_999, "{} of 6,000 messages are heard", heard.len());
        attack.await.expect("no panic");
        talk.await.expect("no panic");
        let stats = server.stats();
        assert!(stats.malformed > 100, "little was held: {stats}");
    }
}

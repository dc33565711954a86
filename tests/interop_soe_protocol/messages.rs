//! Messages of every kind and size, over a clean path.

use bytes::Bytes;
use futures_util::SinkExt;
use soe_core::{Channel, EscapeRule, Message, ReliableChannel, SessionConfig};
use soe_protocol::Channel as PeerChannel;

use crate::common::{Heard, KEY, PROTOCOL, Pair, ROLES, Role, SIZES, Scene, hear_ours, payload, payloads, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_arrive_both_ways() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::plain()).await;
            pair.exchange(Channel::default(), &payloads(&SIZES)).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_arrive_compressed() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::compressed()).await;
            pair.exchange(Channel::default(), &payloads(&SIZES)).await;
            let stats = pair.ours.stats();
            let payload_bytes: usize = SIZES.iter().sum();
            assert!(stats.bytes_sent < payload_bytes as u64, "nothing was compressed: {} bytes", stats.bytes_sent);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_arrive_encrypted_on_any_one_channel() {
    for role in ROLES {
        for channel in ReliableChannel::ALL {
            let scene = Scene { key: Some(KEY), greeting: channel.into(), ..Scene::plain() };
            within((role, channel), async {
                let mut pair = Pair::meet(role, &scene).await;
                // Enough messages that the cipher text of several begins with zero and is escaped.
                let sizes: Vec<usize> = SIZES.into_iter().chain((1..=600).map(|size| 1 + size % 50)).collect();
                pair.exchange(channel.into(), &payloads(&sizes)).await;
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption_and_compression_go_together() {
    for role in ROLES {
        let scene = Scene { key: Some(KEY), ..Scene::compressed() };
        within(role, async {
            let mut pair = Pair::meet(role, &scene).await;
            pair.exchange(Channel::default(), &payloads(&SIZES)).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_peer_obeys_every_crc_length_that_our_server_names() {
    for crc_length in 0..=4 {
        let ours = SessionConfig::builder(PROTOCOL).crc_length(crc_length).allow_unchecked(true).build().unwrap();
        within(crc_length, async {
            let mut pair = Pair::meet(Role::OurServer, &Scene { ours, ..Scene::plain() }).await;
            pair.exchange(Channel::default(), &payloads(&SIZES)).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_messages_share_datagrams() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::plain()).await;
            let before = pair.ours.stats().datagrams_sent;
            for salt in 0..1000 {
                pair.ours.feed(Message::reliable(payload(20, salt))).await.unwrap();
            }
            pair.ours.flush().await.unwrap();
            for salt in 0..1000 {
                let heard = pair.peer.hear().await;
                assert_eq!(heard, Heard::Data(PeerChannel::Reliable(0), payload(20, salt)));
            }
            let sent = pair.ours.stats().datagrams_sent - before;
            assert!(sent < 500, "{sent} datagrams for 1000 small messages");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_channels_carry_traffic_side_by_side() {
    for (role, key) in ROLES.into_iter().flat_map(|role| [(role, None), (role, Some(KEY))]) {
        within((role, key), async {
            let mut pair = Pair::meet(role, &Scene { key, ..Scene::plain() }).await;
            let messages = payloads(&[3000, 1, 700, 20]);
            for message in &messages {
                for channel in ReliableChannel::ALL {
                    pair.ours.feed(Message::new(channel, message.clone())).await.unwrap();
                }
            }
            pair.ours.flush().await.unwrap();
            let mut heard = [const { Vec::new() }; ReliableChannel::COUNT];
            while heard.iter().map(Vec::len).sum::<usize>() < 4 * messages.len() {
                match pair.peer.hear().await {
                    Heard::Data(PeerChannel::Reliable(channel), data) => {
                        pair.peer.say(ReliableChannel::ALL[channel].into(), &data);
                        heard[channel].push(data);
                    }
                    other => panic!("the peer heard {other:?}"),
                }
            }
            assert!(heard.iter().all(|of_channel| *of_channel == messages));
            let mut echoed = [const { Vec::new() }; ReliableChannel::COUNT];
            while echoed.iter().map(Vec::len).sum::<usize>() < 4 * messages.len() {
                let message = hear_ours(&mut pair.ours).await;
                let Channel::Reliable(channel) = message.channel else { panic!("heard {message:?}") };
                echoed[channel.index()].push(message.payload);
            }
            assert!(echoed.iter().all(|of_channel| *of_channel == messages));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreliable_messages_arrive_and_a_leading_zero_survives() {
    for role in ROLES {
        let scene = Scene { greeting: Channel::Unreliable, ..Scene::plain() };
        within(role, async {
            let mut pair = Pair::meet(role, &scene).await;
            let mut messages = payloads(&[1, 2, 100, 505, 509]);
            messages.extend([&[0][..], &[0, 0], &[0, 9, 0, 0, 1], &[0, 3, 2, 0, 6]].map(Bytes::from_static));
            for message in &messages {
                pair.exchange(Channel::Unreliable, std::slice::from_ref(message)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_messages_that_begin_with_zero_arrive_under_the_rule_of_the_peer() {
    for role in ROLES {
        let ours = SessionConfig::builder(PROTOCOL).escape(EscapeRule::WhenEncrypted).build().unwrap();
        within(role, async {
            let mut pair = Pair::meet(role, &Scene { ours, ..Scene::plain() }).await;
            let zeros = [&[0][..], &[0, 7, 1], &[0, 9, 0, 0, 1]].map(Bytes::from_static);
            for message in zeros {
                pair.exchange(Channel::default(), std::slice::from_ref(&message)).await;
            }
        })
        .await;
    }
}

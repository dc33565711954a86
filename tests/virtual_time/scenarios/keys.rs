//! Keys that differ.

use soe_testing::Network;
use tokio::time::{sleep, timeout};

use super::{MILLISECOND, SECOND};
use crate::{
    checker::expect_prompt,
    support::{config, serve_echo},
};

#[tokio::test(start_paused = true)]
async fn keys_that_differ_give_the_two_applications_other_bytes_and_disturb_nobody_else() {
    let network = Network::new(1);
    let listener = network.listener(config()).expect("bound");
    let (client, incoming) = tokio::join!(network.client(config()), listener.accept());
    let (mut client, mut server) = (client.expect("the server answers"), incoming.expect("it lives").accept());
    serve_echo(listener);
    let other = network.client(config()).await.expect("the server answers");
    let prompt = tokio::spawn(expect_prompt(other, 100, 20 * MILLISECOND));
    client.set_send_key(Some(b"one key")).expect("valid");
    server.set_recv_key(Some(b"another")).expect("valid");
    for number in 1..50_u8 {
        client.send(vec![number; 100]).await.expect("open");
        // A stream cipher cannot tell: the application gets bytes, and they are not those that were sent. Where the zero
        // escape shows it, the session ends with an error.
        match timeout(5 * SECOND, server.recv()).await.expect("something comes") {
            Some(Ok(message)) => assert_ne!(message.payload, vec![number; 100]),
            Some(Err(_)) | None => break,
        }
    }
    prompt.await.expect("nobody waits");
}

#[tokio::test(start_paused = true)]
async fn one_key_serves_all_channels_and_both_directions_over_a_link_that_loses_and_reorders() {
    use soe_testing::{LinkProfile, Loss};
    use soe_tokio::{Message, ReliableChannel};
    for seed in 0..4 {
        let network = Network::new(seed);
        let link = LinkProfile::lossless().loss(Loss::Uniform(0.1)).reordering(0.3, 30 * MILLISECOND);
        let (mut client, mut server) = network.pair(config()).await.expect("the server answers");
        network.link(link);
        for session in [&mut client, &mut server] {
            session.set_send_key(Some(b"the same key")).expect("valid");
            session.set_recv_key(Some(b"the same key")).expect("valid");
        }
        for number in 0..200_u32 {
            let channel = ReliableChannel::ALL[number as usize % 4];
            client.send(Message::new(channel, number.to_be_bytes().to_vec())).await.expect("open");
            server.send(Message::new(channel, number.to_be_bytes().to_vec())).await.expect("open");
        }
        for session in [&mut client, &mut server] {
            let mut seen = Vec::new();
            for _ in 0..200 {
                let message =
                    timeout(30 * SECOND, session.recv()).await.expect("all come").expect("open").expect("well");
                seen.push(u32::from_be_bytes(message.payload[..].try_into().expect("a number")));
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..200).collect::<Vec<_>>());
        }
        sleep(SECOND).await;
    }
}

//! Every value that a builder or a method takes is valid for ever, or refused by name.

use std::{num::NonZeroU32, time::Duration};

use soe_core::{AdmissionConfigBuilder, ChannelOptions, StatusReply};
use soe_testing::Network;
use soe_tokio::{AdmissionConfig, ListenerConfig, Message, ReliableChannel, SendError, SessionConfig, SessionError};

use crate::support::{CLIENT, SERVER, client, config, connector, receive};

/// A session on a listener of this configuration carries messages, a question is answered, and all ends within a bound.
async fn expect_service(config: ListenerConfig, session: SessionConfig, deadline: Duration) {
    let network = Network::new(1);
    let listener = network.listener(config).expect("bound");
    let (connector, asks) = (connector(&network, CLIENT), connector(&network, client(1)));
    let (session, incoming) = tokio::join!(connector.connect(SERVER, session), listener.accept());
    let (mut session, mut server) = (session.expect("the server answers"), incoming.expect("it lives").accept());
    for channel in ReliableChannel::ALL {
        session.send(Message::new(channel, &b"hello"[..])).await.expect("open");
        assert_eq!(receive(&mut server).await, b"hello");
        server.send(Message::new(channel, &b"hello"[..])).await.expect("open");
        assert_eq!(receive(&mut session).await, b"hello");
    }
    assert_eq!(asks.query_status(SERVER, Duration::MAX).await.expect("an answer"), "here");
    // The last acknowledgements arrive.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = listener.shutdown(deadline).await;
    assert_eq!((report.sessions.len(), report.messages_lost), (1, 0));
    assert!(session.recv().await.is_none_or(|end| end.is_err()));
}

fn admission(session: SessionConfig) -> AdmissionConfigBuilder {
    let reply = StatusReply::new(|_| Some("here".into()));
    AdmissionConfig::builder(session).server_status(Some(reply))
}

#[tokio::test(start_paused = true)]
async fn a_listener_of_the_largest_values_serves() {
    let admission = admission(config())
        .max_sessions(1 << 24)
        .accept_backlog(usize::MAX)
        .max_pending_handshakes(1 << 20)
        .response_rate(u32::MAX)
        .response_rate_per_prefix(u32::MAX)
        .response_burst_per_prefix(u32::MAX)
        .unproven_rate(u32::MAX)
        .unknown_sender_rate(u32::MAX)
        .unknown_sender_rate_per_prefix(u32::MAX);
    let listener = ListenerConfig::new(admission.build().expect("valid")).memory_limit(usize::MAX);
    expect_service(listener, config(), Duration::MAX).await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_of_the_smallest_values_serves() {
    let admission = admission(config())
        .max_sessions(1)
        .accept_backlog(1)
        .max_pending_handshakes(1)
        .response_rate(1)
        .response_rate_per_prefix(1)
        .response_burst_per_prefix(1)
        .unproven_rate(0)
        // Status replies are sent at these rates.
        .unknown_sender_rate(1)
        .unknown_sender_rate_per_prefix(1);
    let listener = ListenerConfig::new(admission.build().expect("valid")).memory_limit(0);
    expect_service(listener, config(), Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn channels_of_extreme_options_carry_messages() {
    let option = |rate| ChannelOptions::default().with_trickle_rate(NonZeroU32::new(rate).expect("not zero"));
    let all = option(u32::MAX).with_priority(u8::MAX).with_unordered(true).with_redundancy(true);
    let options = [option(1), option(u32::MAX), all, all.with_priority(0)];
    let builder = ReliableChannel::ALL.into_iter().zip(options);
    let builder = builder.fold(config().to_builder(), |builder, (channel, options)| builder.channel(channel, options));
    let session = builder.build().expect("valid");
    let admission = admission(session.clone()).build().expect("valid");
    expect_service(admission.into(), session, Duration::from_secs(60)).await;
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let refused = |builder: AdmissionConfigBuilder| builder.build().expect_err("it cannot be served").field;
    let builder = || AdmissionConfig::builder(config());
    assert_eq!(refused(builder().accept_backlog(0)), "accept_backlog");
    for sessions in [0, usize::MAX] {
        assert_eq!(refused(builder().max_sessions(sessions)), "max_sessions");
        assert_eq!(refused(builder().max_pending_handshakes(sessions)), "max_pending_handshakes");
    }
    assert_eq!(refused(builder().others(vec![config(); 14])), "others");
    assert_eq!(refused(builder().response_rate(0)), "response_rate");
    assert_eq!(refused(builder().response_rate_per_prefix(0)), "response_rate_per_prefix");
    assert_eq!(refused(builder().response_burst_per_prefix(0)), "response_burst_per_prefix");
}

#[tokio::test(start_paused = true)]
async fn a_receipt_for_an_unreliable_message_is_an_error_at_once() {
    let network = Network::new(1);
    let (mut session, mut server) = network.pair(config()).await.expect("the server answers");
    match session.send_with_receipt(Message::unreliable(&b"a position"[..])).await {
        Err(SessionError::Refused(error)) => match *error {
            SendError::NoReceipt(message) => assert_eq!(message.payload, "a position"),
            other => panic!("{other}"),
        },
        other => panic!("it was taken: {other:?}"),
    }
    // The session goes on.
    session.send(&b"hello"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, b"hello");
}

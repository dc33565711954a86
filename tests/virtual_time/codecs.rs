//! Sessions that speak the items of a codec.

use futures_util::{SinkExt, StreamExt};
use soe_testing::Network;
use soe_tokio::FramedError;
use tokio_util::codec::{LengthDelimitedCodec, LinesCodec};

use crate::support::{CLIENT, config, connector, listen, pair, receive};

/// A message that says how long it is.
fn framed(text: &str) -> Vec<u8> {
    let mut message = (text.len() as u32).to_be_bytes().to_vec();
    message.extend(text.as_bytes());
    message
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_decoder_comes_once_and_ends_the_stream_but_not_the_session() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, server) = pair(&listener, &connector).await;
    let mut stream = server.framed(LengthDelimitedCodec::new());
    // The second one names more bytes than it has.
    for message in [framed("one"), vec![0, 0, 0, 20, b'x'], framed("three"), framed("four")] {
        client.send(message).await.expect("open");
    }
    assert_eq!(stream.next().await.expect("open").expect("well formed"), "one"[..]);
    assert!(matches!(stream.next().await, Some(Err(FramedError::Codec(_)))));
    for _ in 0..3 {
        assert!(stream.next().await.is_none());
    }
    stream.send(bytes::Bytes::from("still here")).await.expect("the sink goes on");
    assert_eq!(receive(&mut client).await, framed("still here"));
    let (session, _) = stream.into_parts();
    let mut stream = session.framed(LengthDelimitedCodec::new());
    assert_eq!(stream.next().await.expect("open").expect("well formed"), "three"[..]);
    assert_eq!(stream.next().await.expect("open").expect("well formed"), "four"[..]);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_many_items_lets_other_tasks_run() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, server) = pair(&listener, &connector).await;
    client.send("x\n".repeat(10_000).into_bytes()).await.expect("open");
    let mut lines = server.framed(LinesCodec::new());
    assert_eq!(lines.next().await.expect("open").expect("well formed"), "x");
    let mut taken = 1;
    tokio::select! {
        biased;
        () = async { while lines.next().await.is_some() { taken += 1 } } => unreachable!("nobody closes the session"),
        () = tokio::task::yield_now() => {}
    }
    assert!(taken < 5_000, "{taken} items without a break");
}

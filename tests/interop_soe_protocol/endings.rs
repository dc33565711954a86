//! How sessions end.

use futures_util::SinkExt;
use soe_core::{Channel, DisconnectReason, Message, Origin, SessionConfig};
use soe_protocol::{Channel as PeerChannel, DisconnectReason as PeerReason, TokioSoeClient};
use soe_tokio::SoeListener;

use crate::common::{Heard, Pair, Peer, ROLES, Scene, TICK, hear_ours, payload, payloads, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnect_from_the_peer_is_told_with_its_reason() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::plain()).await;
            let last = payload(100, 1);
            pair.peer.say(Channel::default(), &last);
            pair.peer.close(PeerReason::Application);
            assert_eq!(hear_ours(&mut pair.ours).await.payload, last);
            let closed = pair.ours.closed().await.expect("the runtime goes on");
            assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, Origin::Peer));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_delivers_what_is_queued_and_tells_the_peer_why() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::plain()).await;
            let messages = payloads(&[60_000, 10, 2000]);
            for message in &messages {
                pair.ours.feed(Message::reliable(message.clone())).await.unwrap();
            }
            let closed = pair.ours.close(DisconnectReason::ManagerDeleted).await.expect("the runtime goes on");
            assert_eq!((closed.reason, closed.origin), (DisconnectReason::ManagerDeleted, Origin::Local));
            for message in messages {
                assert_eq!(pair.peer.hear().await, Heard::Data(PeerChannel::Reliable(0), message));
            }
            assert_eq!(pair.peer.hear().await, Heard::Closed(PeerReason::ManagerDeleted));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_another_protocol_is_told_so() {
    within("refusal", async {
        let listener = SoeListener::bind("127.0.0.1:0", SessionConfig::new("AnotherGame").unwrap()).await.unwrap();
        let config = Scene::plain().peer_config();
        let client = TokioSoeClient::connect_to(listener.local_addr(), config, TICK).await.unwrap();
        let mut peer = Peer::Client(client);
        // The refusal is a response, so that its CRC can be checked, and then a Disconnect with the reason.
        assert_eq!(peer.hear().await, Heard::Opened);
        assert_eq!(peer.hear().await, Heard::Closed(PeerReason::ProtocolMismatch));
    })
    .await;
}

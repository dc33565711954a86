//! Nobody waits on one peer for the sake of another.

use std::time::Duration;

use soe_testing::{Fault, Network, SocketLimits};
use soe_tokio::{Message, SoeSession};
use tokio::time::Instant;

use crate::support::{SERVER, client, config, connector, echo, listen, receive};

const CHATTERS: u16 = 100;

/// One session that does as `first` says on the server, and a hundred that echo; gives the client's ends.
async fn crowd<F: Future<Output = ()> + Send + 'static>(
    network: &Network,
    first: impl Fn(SoeSession) -> F,
) -> (SoeSession, Vec<SoeSession>) {
    let listener = listen(network, config());
    let mut clients = Vec::new();
    for number in 0..=CHATTERS {
        let connector = connector(network, client(number));
        let (session, incoming) = tokio::join!(connector.connect(SERVER, config()), listener.accept());
        let server = incoming.expect("the listener lives").accept();
        if number == 0 {
            tokio::spawn(first(server));
        } else {
            tokio::spawn(echo(server));
        }
        clients.push(session.expect("the server answers"));
    }
    (clients.remove(0), clients)
}

/// The longest of many round trips that all chatters make at once.
async fn longest_round_trip(chatters: Vec<SoeSession>) -> Duration {
    let chats = chatters.into_iter().map(|mut chatter| async move {
        let mut longest = Duration::ZERO;
        for number in 0..20_u32 {
            let start = Instant::now();
            chatter.send(number.to_be_bytes().to_vec()).await.expect("open");
            assert_eq!(receive(&mut chatter).await, number.to_be_bytes());
            longest = longest.max(start.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        longest
    });
    futures_util::future::join_all(chats).await.into_iter().max().expect("there are chatters")
}

#[tokio::test(start_paused = true)]
async fn a_bulk_transfer_holds_up_no_chat() {
    let network = Network::new(1);
    let (mut bulk, chatters) =
        crowd(&network, |mut server| async move { while server.send(vec![1; 50_000]).await.is_ok() {} }).await;
    // The socket of the server takes less than the transfer could fill.
    network.set_socket_limits_of(SERVER, SocketLimits::default().sends_per_millisecond(60));
    let transfer = tokio::spawn(async move {
        let mut received = 0_usize;
        while let Some(Ok(message)) = bulk.recv().await {
            received += message.payload.len();
        }
        received
    });
    let longest = longest_round_trip(chatters).await;
    network.stats().assert_happened_at_least(Fault::SendBlocked, 20);
    assert!(longest < Duration::from_millis(40), "a chat waited {longest:?}");
    transfer.abort();
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_read_holds_up_its_own_peer_alone() {
    let network = Network::new(1);
    let (mut slow, chatters) = crowd(&network, |server| async move {
        // Holds the session and never reads.
        std::future::pending::<()>().await;
        drop(server);
    })
    .await;
    let fill = async {
        let mut taken = 0_usize;
        while tokio::time::timeout(Duration::from_secs(20), slow.send(vec![2; 10_000])).await.is_ok() {
            taken += 1;
            assert!(taken < 10_000, "back-pressure never comes");
        }
        taken
    };
    let (taken, longest) = tokio::join!(fill, longest_round_trip(chatters));
    let limit = (config().recv_buffer + config().recv_window_bytes + 2 * config().send_buffer) / 10_000;
    assert!((10..limit).contains(&taken), "{taken} messages of 10,000 bytes went into a session that nobody reads");
    assert!(longest < Duration::from_millis(40), "a chat waited {longest:?}");
}

#[tokio::test(start_paused = true)]
async fn back_pressure_ends_when_the_application_reads_again() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, client(0)));
    let (mut sender, mut reader) = crate::support::pair(&listener, &connector).await;
    let mut sent = 0_u32;
    loop {
        let message = Message::reliable([&sent.to_be_bytes()[..], &[3; 5_000]].concat());
        if tokio::time::timeout(Duration::from_secs(20), sender.send(message)).await.is_err() {
            break;
        }
        sent += 1;
    }
    for number in 0..sent {
        assert_eq!(receive(&mut reader).await[..4], number.to_be_bytes());
    }
    tokio::time::timeout(Duration::from_secs(1), sender.send(&b"room again"[..])).await.expect("room").expect("open");
    assert_eq!(receive(&mut reader).await, b"room again");
}

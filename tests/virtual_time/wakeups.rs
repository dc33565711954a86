//! Nobody waits for something that has happened already.

use std::{sync::Arc, time::Duration};

use futures_util::SinkExt;
use soe_tokio::{Channel, Message, ReliableChannel, SoeConnector, SoeSession};
use tokio::time::{Instant, timeout};

use crate::network::{
    CLIENT, Faults, Lots, Network, SERVER, client, config, echo, for_seeds, pair, receive, serve_echo,
};

const CLIENTS: u16 = 3;
const MESSAGES: u64 = 12;

fn faults(lots: &mut Lots) -> Faults {
    match lots.below(3) {
        // Without loss nothing but a wake-up that is missing could make anybody wait.
        0 => Faults { full: 200, delay: 10, ..Faults::default() },
        1 => Faults { full: 100, delay: 10, duplication: 100, ..Faults::default() },
        _ => Faults { loss: 100, duplication: 50, full: 50, delay: 30 },
    }
}

/// Sends numbered messages in every way there is and expects them back, in order on their channel.
async fn converse(connector: &SoeConnector, mut lots: Lots) {
    let mut session = connector.connect(SERVER, config()).await.expect("the server answers");
    for number in 0..MESSAGES {
        let channel = Channel::from(ReliableChannel::ALL[lots.below(4) as usize]);
        let length = 1 + if lots.chance(200) { lots.below(4_000) } else { lots.below(80) } as usize;
        let payload = vec![number as u8 + 1; length];
        let message = Message::new(channel, payload.clone());
        match lots.below(6) {
            0 => session.send(message).await.expect("open"),
            1 => {
                session.ready().await.expect("open");
                session.try_send(message).expect("ready");
            }
            2 => {
                session.feed(message).await.expect("open");
                session.flush().await.expect("open");
            }
            3 => {
                session.send(message).await.expect("open");
                session.flushed().await.expect("open");
            }
            4 => session.send_with_receipt(message).await.expect("open").await.expect("it arrives"),
            _ => {
                let (mut send, recv) = session.split();
                send.send(message).await.expect("open");
                session = send.reunite(recv).expect("they belong together");
            }
        }
        let back = session.recv().await.expect("open").expect("well");
        assert_eq!((back.channel, &back.payload[..]), (channel, &payload[..]));
    }
    session.close(soe_tokio::DisconnectReason::Application).await.expect("closed");
}

/// One run; gives the digest of its datagrams.
async fn run(seed: u64) -> u64 {
    let mut lots = Lots::new(seed);
    let faults = faults(&mut lots);
    let network = Arc::new(Network::new(seed, faults));
    serve_echo(network.listen(config()));
    let connectors: Vec<_> = (0..CLIENTS).map(|number| network.connector(client(number))).collect();
    let start = Instant::now();
    let conversations = connectors.iter().map(|connector| converse(connector, Lots::new(lots.below(u64::MAX))));
    let all = timeout(Duration::from_secs(120), futures_util::future::join_all(conversations)).await;
    assert!(all.is_ok(), "somebody still waits");
    if faults.loss == 0 {
        // Each message takes two ways of 10 ms at most, and an acknowledgement that may be delayed where one is waited for.
        assert!(start.elapsed() < Duration::from_secs(3), "somebody was woken late: {:?}", start.elapsed());
    }
    network.trace()
}

#[test]
fn no_wake_up_is_lost_whatever_the_network_does() {
    for_seeds(1_500, |seed| async move {
        run(seed).await;
    });
}

#[test]
fn a_seed_makes_the_same_run_again() {
    let traces = std::cell::RefCell::new(Vec::new());
    for _ in 0..2 {
        for_seeds(20, |seed| {
            let traces = &traces;
            async move {
                let trace = run(seed).await;
                traces.borrow_mut().push(trace);
            }
        });
    }
    let traces = traces.into_inner();
    let (first, second) = traces.split_at(traces.len() / 2);
    assert_eq!(first, second);
    assert!(first.iter().collect::<std::collections::HashSet<_>>().len() > first.len() / 2, "seeds differ");
}

#[test]
fn faults_really_happen() {
    for_seeds(1, |_| async {
        let network = Arc::new(Network::new(7, Faults { loss: 100, duplication: 100, full: 100, delay: 20 }));
        let (listener, connector) = (network.listen(config()), network.connector(CLIENT));
        let (mut client, server) = pair(&listener, &connector).await;
        tokio::spawn(echo(server));
        for number in 0..300_u32 {
            client.send(number.to_be_bytes().to_vec()).await.expect("open");
            assert_eq!(receive(&mut client).await, number.to_be_bytes());
        }
        let wires = network.wires();
        let (lost, duplicated, blocked) = (wires.lost, wires.duplicated, wires.blocked);
        assert!(lost > 20 && duplicated > 20 && blocked > 20, "{lost} lost, {duplicated} twice, {blocked} blocked");
    });
}

/// What a simulation on one thread cannot show: a wake-up lost between two threads. Time is real here; a peer whose
/// wake-up is lost waits until its heartbeat, which is longer than any machine may take.
#[test]
fn no_wake_up_is_lost_between_threads() {
    const ROUNDS: u32 = 1_000;
    let patience = Duration::from_secs(10);
    assert!(config().heartbeat_after > patience, "or this shows nothing");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build();
    runtime.expect("a runtime can be built").block_on(async {
        let network = Arc::new(Network::default());
        serve_echo(network.listen(config()));
        let rounds = (0..4).map(|number| {
            let connector = network.connector(client(number));
            tokio::spawn(async move {
                let mut session = connector.connect(SERVER, config()).await.expect("the server answers");
                for round in 0..ROUNDS {
                    let trip = exchange(&mut session, round);
                    timeout(patience, trip).await.unwrap_or_else(|_| panic!("round {round} of client {number} hangs"));
                }
            })
        });
        for client in rounds.collect::<Vec<_>>() {
            client.await.expect("no round hangs");
        }
    });
}

async fn exchange(session: &mut SoeSession, round: u32) {
    session.send(round.to_be_bytes().to_vec()).await.expect("open");
    if round.is_multiple_of(3) {
        session.flushed().await.expect("open");
    }
    assert_eq!(receive(session).await, round.to_be_bytes());
}

//! Nobody waits for something that has happened already.

use std::time::Duration;

use futures_util::SinkExt;
use soe_testing::{Fault, Network, SimRng, for_seeds};
use soe_tokio::{Channel, Message, ReliableChannel, SoeConnector, SoeSession};
use tokio::time::{Instant, timeout};

use crate::support::{CLIENT, Faults, SERVER, client, config, connector, echo, listen, pair, receive, serve_echo};

const CLIENTS: u16 = 3;
const MESSAGES: u64 = 12;

fn faults(rng: &mut SimRng) -> Faults {
    match rng.below(3) {
        // Without loss nothing but a wake-up that is missing could make anybody wait.
        0 => Faults { full: 0.2, delay: 10, ..Faults::default() },
        1 => Faults { full: 0.1, delay: 10, duplication: 0.1, ..Faults::default() },
        _ => Faults { loss: 0.1, duplication: 0.05, full: 0.05, delay: 30 },
    }
}

/// Sends numbered messages in every way there is and expects them back, in order on their channel.
async fn converse(connector: &SoeConnector, mut rng: SimRng) {
    let mut session = connector.connect(SERVER, config()).await.expect("the server answers");
    for number in 0..MESSAGES {
        let channel = Channel::from(ReliableChannel::ALL[rng.below(4) as usize]);
        let length = 1 + if rng.chance(0.2) { rng.below(4_000) } else { rng.below(80) } as usize;
        let payload = vec![number as u8 + 1; length];
        let message = Message::new(channel, payload.clone());
        match rng.below(6) {
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
    let mut rng = SimRng::new(seed);
    let faults = faults(&mut rng);
    let network = faults.network(seed);
    serve_echo(listen(&network, config()));
    let connectors: Vec<_> = (0..CLIENTS).map(|number| connector(&network, client(number))).collect();
    let start = Instant::now();
    let conversations = connectors.iter().map(|connector| converse(connector, SimRng::new(rng.below(u64::MAX))));
    let all = timeout(Duration::from_secs(120), futures_util::future::join_all(conversations)).await;
    assert!(all.is_ok(), "somebody still waits");
    if faults.loss == 0.0 {
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
        let network = Faults { loss: 0.1, duplication: 0.1, full: 0.1, delay: 20 }.network(7);
        let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
        let (mut client, server) = pair(&listener, &connector).await;
        tokio::spawn(echo(server));
        for number in 0..300_u32 {
            client.send(number.to_be_bytes().to_vec()).await.expect("open");
            assert_eq!(receive(&mut client).await, number.to_be_bytes());
        }
        for fault in [Fault::Lost, Fault::Duplicated, Fault::SendBlocked, Fault::Reordered] {
            network.stats().assert_happened_at_least(fault, 20);
        }
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
        let network = Network::new(1);
        serve_echo(listen(&network, config()));
        let rounds = (0..4).map(|number| {
            let connector = connector(&network, client(number));
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

//! Each fault happens as asked, seen by peers that send plain bytes.

use std::{net::SocketAddr, time::Duration};

use soe_testing::{Fault, LinkProfile, Loss, Machines, Network, RawPeer, SocketLimits, for_seeds};
use soe_tokio::{DisconnectReason, SessionConfig};
use tokio::time::{Instant, sleep};

const A: SocketAddr = Network::client_address(0);
const B: SocketAddr = Network::client_address(1);
const C: SocketAddr = Network::client_address(2);

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn numbers(peer: &mut RawPeer) -> Vec<u8> {
    std::iter::from_fn(|| peer.try_recv()).map(|(_, datagram)| datagram[0]).collect()
}

fn config() -> SessionConfig {
    SessionConfig::new("Network").expect("valid")
}

#[tokio::test(start_paused = true)]
async fn without_faults_datagrams_arrive_at_once_and_in_order() {
    let network = Network::new(1);
    let (a, mut b) = (network.raw(A), network.raw(B));
    (0..100).for_each(|number| a.send(B, &[number]));
    assert_eq!(numbers(&mut b), (0..100).collect::<Vec<u8>>());
    assert_eq!((network.stats().sent(), network.stats().delivered(), network.stats().loss()), (100, 100, 0.0));
}

#[tokio::test(start_paused = true)]
async fn the_most_particular_profile_of_a_link_counts() {
    let network = Network::new(1);
    let [slow, slower, slowest] = [10, 20, 30].map(|delay| LinkProfile::lossless().delay(millis(delay)));
    network.link(slow).link_to(B, slower).link_between(A, B, slowest);
    let (a, c, mut b, start) = (network.raw(A), network.raw(C), network.raw(B), Instant::now());
    a.send(B, &[1]);
    c.send(B, &[2]);
    let mut arrivals = Vec::new();
    for _ in 0..2 {
        arrivals.push((b.recv().await.1[0], start.elapsed().as_millis()));
    }
    assert_eq!(arrivals, [(2, 20), (1, 30)]);
    b.send(A, &[3]);
    drop(a);
    let mut a = network.raw(A);
    b.send(A, &[4]);
    assert_eq!((a.recv().await.1[0], start.elapsed().as_millis()), (4, 40), "a new socket hears nothing of the old");
}

#[tokio::test(start_paused = true)]
async fn jitter_keeps_the_order_and_reordering_does_not() {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().jitter(millis(40)));
    let (a, mut b) = (network.raw(A), network.raw(B));
    (0..100).for_each(|number| a.send(B, &[number]));
    sleep(millis(50)).await;
    assert_eq!(numbers(&mut b), (0..100).collect::<Vec<u8>>());
    assert_eq!(network.stats().count(Fault::Reordered), 0);
    network.link(LinkProfile::lossless().reordering(0.1, millis(20)).duplication(0.2).corruption(0.2));
    for number in 0..100 {
        a.send(B, &[number; 9]);
        sleep(millis(1)).await;
    }
    sleep(millis(50)).await;
    let received: Vec<_> = std::iter::from_fn(|| b.try_recv()).map(|(_, datagram)| datagram).collect();
    assert!(!received.is_sorted());
    let stats = network.stats();
    assert_eq!(received.len() as u64, 100 + stats.count(Fault::Duplicated));
    assert!(received.iter().any(|datagram| datagram.windows(2).any(|pair| pair[0] != pair[1])), "none is corrupt");
    for fault in [Fault::Reordered, Fault::Duplicated, Fault::Corrupted] {
        stats.assert_happened_at_least(fault, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bottleneck_takes_its_time_and_loses_what_its_queue_cannot_hold() {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().rate(10_000, 5_000));
    let (a, mut b, start) = (network.raw(A), network.raw(B), Instant::now());
    (0..20).for_each(|number| a.send(B, &[number; 500]));
    for number in 0..10 {
        assert_eq!(b.recv().await.1[0], number);
        assert_eq!(start.elapsed().as_millis(), 50 * (u128::from(number) + 1));
    }
    sleep(millis(1000)).await;
    assert!(b.try_recv().is_none());
    assert_eq!(network.stats().count(Fault::QueueFull), 10);
}

#[tokio::test(start_paused = true)]
async fn blackouts_begin_and_end() {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().blackouts(millis(100), millis(30)));
    let (a, c, mut b) = (network.raw(A), network.raw(C), network.raw(B));
    for _ in 0..1000 {
        a.send(B, &[1]);
        sleep(millis(1)).await;
    }
    assert_eq!(network.stats().count(Fault::BlackedOut), 300);
    network.link(LinkProfile::lossless());
    numbers(&mut b);
    network.blackout_of(A, millis(50));
    a.send(B, &[1]);
    c.send(B, &[2]);
    sleep(millis(50)).await;
    a.send(B, &[3]);
    network.blackout(millis(50));
    c.send(B, &[4]);
    sleep(millis(50)).await;
    c.send(B, &[5]);
    assert_eq!(numbers(&mut b), [2, 3, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_hangs_keeps_what_fits_into_its_buffer() {
    let network = Network::new(1);
    network.set_socket_limits(SocketLimits::default().recv_buffer(5_000));
    let (a, mut b) = (network.raw(A), network.raw(B));
    network.pause(B, millis(1000));
    let start = Instant::now();
    (0..20).for_each(|number| a.send(B, &[number; 100]));
    assert_eq!(b.recv().await.1[0], 0);
    assert_eq!(start.elapsed(), millis(1000));
    assert_eq!(numbers(&mut b), (1..8).collect::<Vec<u8>>());
    assert_eq!(network.stats().count(Fault::BufferFull), 12);
    network.stats().assert_happened(Fault::Paused);
}

#[tokio::test(start_paused = true)]
async fn clients_move_take_over_ports_and_swap_them() {
    let network = Network::new(1);
    let moved = SocketAddr::new(A.ip(), 555);
    let (mut a, mut b, mut c) = (network.raw(A), network.raw(B), network.raw(C));
    network.rebind(A, moved);
    a.send(C, &[1]);
    assert_eq!(c.recv().await, (moved, vec![1]));
    c.send(A, &[2]);
    c.send(moved, &[3]);
    assert_eq!(numbers(&mut a), [3]);
    network.stats().assert_happened(Fault::NobodyThere);
    network.swap(A, B);
    c.send(moved, &[4]);
    c.send(B, &[5]);
    assert_eq!((numbers(&mut a), numbers(&mut b)), (vec![5], vec![4]));
    network.rebind(A, moved);
    a.send(C, &[6]);
    b.send(C, &[7]);
    assert_eq!(c.recv().await, (moved, vec![6]));
    let (elsewhere, _) = c.recv().await;
    assert!(elsewhere != moved && elsewhere == network.seen_address(B), "{elsewhere}");
    network.forge(moved, C, [8]);
    assert_eq!(c.recv().await, (moved, vec![8]));
}

#[tokio::test(start_paused = true)]
async fn icmp_reports_and_resets_reach_the_socket_that_they_are_about() {
    let network = Network::new(1);
    network.report_unreachable(true);
    let listener = network.listener(config()).expect("bound");
    let (client, incoming) = tokio::join!(network.client(config()), listener.accept());
    let (mut client, mut server) = (client.expect("the server answers"), incoming.expect("it lives").accept());
    network.forge_unreachable(Network::SERVER, B);
    network.reset(Network::SERVER, 3);
    client.send(&b"still here"[..]).await.expect("open");
    assert_eq!(server.recv().await.expect("open").expect("well").payload, &b"still here"[..]);
    sleep(millis(50)).await;
    assert_eq!((network.stats().count(Fault::Unreachable), network.stats().count(Fault::Reset)), (1, 3));
    assert_eq!(listener.stats().socket.unreachable_reports, 1);

    network.unplug(A);
    server.send(&b"who is there"[..]).await.expect("open");
    let closed = server.closed().await.expect("served");
    assert_ne!(closed.reason, DisconnectReason::Timeout, "the report says it earlier");
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_off_the_network_is_not_heard() {
    let network = Network::new(1);
    let listener = network.listener(config()).expect("bound");
    let (client, server) = tokio::join!(network.client(config()), listener.accept());
    let (client, server) = (client.expect("answered"), server.expect("served").accept());
    network.unplug(Network::SERVER);
    // Its end sends its Disconnect, to nobody.
    drop(server);
    let heard = tokio::time::timeout(Duration::from_secs(10), client.closed()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let traces = std::cell::RefCell::new(Vec::new());
    for _ in 0..2 {
        for_seeds(4, |seed| {
            let traces = &traces;
            async move {
                let network = Network::new(seed);
                network.link(LinkProfile::wifi_bad().loss(Loss::bursty(0.2, 3.0)));
                let (mut client, mut server) = network.pair(config()).await.expect("the server answers");
                for number in 0..50 {
                    client.send(vec![number; 300]).await.expect("open");
                    assert_eq!(server.recv().await.expect("open").expect("well").payload[0], number);
                }
                traces.borrow_mut().push(network.trace());
            }
        });
    }
    let traces = traces.into_inner();
    let (first, second) = traces.split_at(traces.len() / 2);
    assert_eq!(first, second);
}

#[test]
fn a_machine_that_was_stopped_finds_its_clock_ahead_and_its_datagrams_waiting() {
    let mut machines = Machines::new(1);
    let (stopped, sender) = (machines.add().expect("started"), machines.add().expect("started"));
    let network = machines.network().clone();
    let mut inbox = machines.enter(stopped, || network.raw(A));
    let outbox = machines.enter(sender, || network.raw(B));
    let watch = machines.spawn(stopped, async move {
        let mut wakes = Vec::new();
        let start = Instant::now();
        for _ in 0..8 {
            sleep(millis(1000)).await;
            wakes.push((start.elapsed().as_secs(), numbers(&mut inbox).len()));
        }
        wakes
    });
    machines.spawn(sender, async move {
        for number in 0..100 {
            outbox.send(A, &[number]);
            sleep(millis(100)).await;
        }
    });
    machines.run_for(millis(2_550));
    machines.pause(stopped, millis(5_000));
    let wakes = machines.run_until_done(watch, Duration::from_secs(60));
    assert_eq!(wakes[..2], [(1, 10), (2, 10)]);
    assert!(wakes[2].0 == 7 && (54..57).contains(&wakes[2].1), "{wakes:?}");
    assert_eq!(wakes[7].0, 12, "{wakes:?}");
}

#[test]
fn a_clock_that_drifts_runs_away_from_the_others() {
    let mut machines = Machines::new(1);
    let (right, fast) = (machines.add().expect("started"), machines.add_with_drift(1000.0).expect("started"));
    let starts = [right, fast].map(|machine| machines.enter(machine, Instant::now));
    machines.run_for(Duration::from_secs(100));
    let [right, fast] = [(right, starts[0]), (fast, starts[1])]
        .map(|(machine, start)| machines.enter(machine, || start.elapsed().as_millis()));
    assert!((100_000..=100_001).contains(&right), "{right}");
    assert!((100_100..=100_101).contains(&fast), "{fast}");
}

#[test]
fn a_machine_that_is_killed_says_nothing() {
    let mut machines = Machines::new(1);
    let (server, other) = (machines.add().expect("started"), machines.add().expect("started"));
    let network = machines.network().clone();
    let listener = machines.enter(server, || network.listener(config())).expect("bound");
    machines.spawn(server, async move {
        let session = listener.accept().await.expect("somebody comes").accept();
        session.closed().await;
    });
    let joined = machines.spawn(other, async move { network.client(config()).await.expect("the server answers") });
    let session = machines.run_until_done(joined, Duration::from_secs(1));
    machines.run_for(millis(100));
    let before = machines.network().stats().sent();
    machines.kill(server);
    machines.run_for(millis(1000));
    assert_eq!(machines.network().stats().sent(), before);
    let end = machines.spawn(other, async move { session.closed().await.expect("served").reason });
    assert_eq!(machines.run_until_done(end, Duration::from_secs(120)), DisconnectReason::Timeout);
}

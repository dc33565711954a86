//! What the network reports about some peers is no matter of the others.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use soe_testing::Network;
use soe_tokio::{AsyncUdp, Message, RecvBatch, SendBatch, SoeListener};
use tokio::time::Instant;

use crate::support::{CLIENT, SERVER, client, config, connector, echo, pair, receive};

/// A socket of the network that fails as it is told to.
#[derive(Debug)]
struct Failing {
    inner: Box<dyn AsyncUdp>,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    /// Errors that receive calls meet before anything else.
    receive: VecDeque<io::Error>,
    /// How often a send fails with `error` before it works.
    failures_per_send: usize,
    /// Failures of the next send so far.
    failed: usize,
    /// Whom the failures are about.
    gone: Vec<SocketAddr>,
    reports: VecDeque<SocketAddr>,
    /// Sends to this peer fail by themselves.
    refused: Option<SocketAddr>,
}

impl Failing {
    fn listen(network: &Network) -> (SoeListener, Arc<Mutex<Script>>) {
        let script = Arc::<Mutex<Script>>::default();
        let socket = Self { inner: network.socket(SERVER), script: Arc::clone(&script) };
        (SoeListener::from_socket(Box::new(socket), config()).expect("it knows its address"), script)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("nobody panics")
    }
}

impl AsyncUdp for Failing {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        let error = self.script().receive.pop_front();
        error.map_or_else(|| self.inner.poll_recv(cx, batch), |error| Poll::Ready(Err(error)))
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_writable(cx)
    }

    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize> {
        {
            let mut script = self.script();
            if batch.pending().next().is_some_and(|first| Some(first.to) == script.refused) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            if script.failed < script.failures_per_send {
                let about = script.gone[script.failed % script.gone.len()];
                script.failed += 1;
                script.reports.push_back(about);
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            script.failed = 0;
        }
        self.inner.try_send(batch)
    }

    fn next_unreachable(&mut self) -> Option<SocketAddr> {
        let report = self.script().reports.pop_front();
        report.or_else(|| self.inner.next_unreachable())
    }

    fn max_segments(&self) -> usize {
        self.inner.max_segments()
    }

    fn secrets_seed(&self) -> Option<u64> {
        self.inner.secrets_seed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_resets_in_a_row_neither_end_nor_hold_up_a_session() {
    for os_error in [None, Some(10052)] {
        let network = Network::new(1);
        let (listener, script) = Failing::listen(&network);
        let (mut client, server) = pair(&listener, &connector(&network, CLIENT)).await;
        tokio::spawn(echo(server));
        for _ in 0..10_000 {
            let error = os_error.map_or_else(|| io::ErrorKind::ConnectionReset.into(), io::Error::from_raw_os_error);
            script.lock().expect("nobody panics").receive.push_back(error);
        }
        let start = Instant::now();
        client.send(&b"in between"[..]).await.expect("open");
        assert_eq!(receive(&mut client).await, b"in between");
        assert!(start.elapsed() < Duration::from_millis(1), "{:?}", start.elapsed());
        assert_eq!(listener.stats().socket.receive_errors, 10_000);
        // They name nobody, so the one session there is need not be meant, however quiet it is.
        tokio::time::sleep(Duration::from_secs(60)).await;
        client.send(&b"still there"[..]).await.expect("open");
        assert_eq!(receive(&mut client).await, b"still there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_only_fails_is_asked_less_often() {
    let network = Network::new(1);
    let (listener, script) = Failing::listen(&network);
    let (mut client, server) = pair(&listener, &connector(&network, CLIENT)).await;
    tokio::spawn(echo(server));
    let errors = std::iter::repeat_with(|| io::ErrorKind::Other.into()).take(164);
    script.lock().expect("nobody panics").receive.extend(errors);
    let start = Instant::now();
    client.send(&b"late"[..]).await.expect("open");
    assert_eq!(receive(&mut client).await, b"late");
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn errors_about_a_hundred_vanished_peers_lose_no_datagram_of_another() {
    const MESSAGES: u32 = 79;
    let network = Network::new(1);
    let (listener, script) = Failing::listen(&network);
    let (mut innocent, mut server) = pair(&listener, &connector(&network, CLIENT)).await;
    {
        let mut script = script.lock().expect("nobody panics");
        script.gone = (1..=100).map(client).collect();
        script.failures_per_send = 100;
    }
    for number in 0..MESSAGES {
        // Nothing sends these again.
        server.send(Message::unreliable(number.to_be_bytes().to_vec())).await.expect("open");
        server.flushed().await.expect("open");
    }
    for number in 0..MESSAGES {
        assert_eq!(receive(&mut innocent).await, number.to_be_bytes());
    }
    let stats = listener.stats().socket;
    assert_eq!(stats.send_errors, 0, "{stats:?}");
    assert!(stats.unreachable_reports >= 100 * u64::from(MESSAGES), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_be_sent_to_costs_the_others_nothing() {
    let network = Network::new(1);
    let (listener, script) = Failing::listen(&network);
    let (_refused, mut refused_server) = pair(&listener, &connector(&network, client(1))).await;
    let (mut innocent, mut server) = pair(&listener, &connector(&network, CLIENT)).await;
    script.lock().expect("nobody panics").refused = Some(client(1));
    for number in 0..50_u32 {
        let _ = refused_server.try_send(vec![1; 4_000]);
        server.send(Message::unreliable(number.to_be_bytes().to_vec())).await.expect("open");
    }
    for number in 0..50_u32 {
        assert_eq!(receive(&mut innocent).await, number.to_be_bytes());
    }
    assert!(listener.stats().socket.send_errors > 0, "the fault did happen");
}

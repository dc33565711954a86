//! Endpoints of the peer, around its state machine, on a network in memory with Tokio's clock.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use soe_core::{Message, SessionConfig};
use soe_protocol::{Channel as PeerChannel, DisconnectReason as PeerReason, SocketEvent, SoeMultiplexer};
use soe_testing::{Network, RawPeer};
use soe_tokio::{ConnectError, SoeConnector, SoeListener, SoeSession};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::common::{Heard, Scene, hear_ours, payload};

pub(crate) const SERVER: SocketAddr = Network::SERVER;
/// How often the peer looks at its timers.
const TICK: Duration = Duration::from_millis(10);

/// One of many clients in one household.
pub(crate) fn client(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], 40_000 + number))
}

/// A network without faults.
pub(crate) fn network() -> Network {
    Network::new(1)
}

type Core = SoeMultiplexer<SocketAddr>;

/// An endpoint of the peer, at work. Dropped, it vanishes without a word.
#[derive(Debug)]
pub(crate) struct Foreign {
    network: Network,
    address: SocketAddr,
    core: Arc<Mutex<Core>>,
    wake: Arc<Notify>,
    events: mpsc::UnboundedReceiver<SocketEvent<SocketAddr>>,
    task: JoinHandle<()>,
    /// Whom the last event was about.
    remote: SocketAddr,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn run(
    mut socket: RawPeer,
    core: Arc<Mutex<Core>>,
    wake: Arc<Notify>,
    events: mpsc::UnboundedSender<SocketEvent<SocketAddr>>,
) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            (from, datagram) = socket.recv() => {
                core.lock().unwrap().process_incoming(from, Bytes::from(datagram), now());
            }
            _ = tick.tick() => core.lock().unwrap().run_tick(now()),
            () = wake.notified() => core.lock().unwrap().run_tick(now()),
        }
        let (outgoing, news) = {
            let mut core = core.lock().unwrap();
            (core.take_outgoing(), core.take_events())
        };
        outgoing.iter().for_each(|(to, datagram)| socket.send(*to, datagram));
        for event in news {
            if events.send(event).is_err() {
                return;
            }
        }
    }
}

impl Foreign {
    /// An endpoint under the rules of a scene, in place of what was at this address before.
    pub(crate) fn new(network: &Network, address: SocketAddr, scene: &Scene) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let core = Arc::new(Mutex::new(SoeMultiplexer::new(scene.peer_config())));
        let wake = Arc::new(Notify::new());
        let task = tokio::spawn(run(network.raw(address), Arc::clone(&core), Arc::clone(&wake), tell));
        Self { network: network.clone(), address, core, wake, events, task, remote: SERVER }
    }

    fn act<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        let done = act(&mut self.core.lock().unwrap());
        self.wake.notify_one();
        done
    }

    /// Sends its one request to the server.
    pub(crate) fn connect(&self) {
        self.act(|core| core.connect(SERVER, now()));
    }

    /// To whom the last event was about; the server, if there was none.
    pub(crate) fn say(&self, data: &Bytes) {
        assert!(self.is_said(data), "no session with {}", self.remote);
    }

    /// False if the session has ended, which [`Foreign::hear`] has yet to tell.
    fn is_said(&self, data: &Bytes) -> bool {
        self.act(|core| core.enqueue_data(&self.remote, data))
    }

    pub(crate) fn close(&self, reason: PeerReason) {
        self.act(|core| core.terminate(&self.remote, reason, now()));
    }

    /// Tells everybody, and leaves: what its drivers do when they are dropped.
    pub(crate) fn leave(self) {
        let disconnects = self.core.lock().unwrap().terminate_all(PeerReason::Application, now());
        disconnects.into_iter().for_each(|(to, datagram)| self.network.forge(self.address, to, datagram));
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        let (remote, heard) = match self.events.recv().await.expect("the peer runs") {
            SocketEvent::SessionOpened { remote } => (remote, Heard::Opened),
            SocketEvent::DataReceived { remote, data, channel } => (remote, Heard::Data(channel, data)),
            SocketEvent::SessionClosed { remote, reason } => (remote, Heard::Closed(reason)),
        };
        self.remote = remote;
        heard
    }

    /// For a server: sends every message back, for ever.
    pub(crate) async fn echo(&mut self) {
        loop {
            if let Heard::Data(_, data) = self.hear().await {
                self.say(&data);
            }
        }
    }

    /// For a client: connects until a session is open. Returns after how many attempts.
    pub(crate) async fn get_in(&mut self) -> usize {
        for attempt in 1.. {
            self.connect();
            match self.hear().await {
                Heard::Opened => return attempt,
                Heard::Closed(_) => {}
                heard => panic!("before the session was open: {heard:?}"),
            }
        }
        unreachable!("the attempts have no end")
    }

    /// For a client: says something and waits for the echo; false if the session ends instead.
    pub(crate) async fn is_echoed(&mut self, data: &Bytes) -> bool {
        let is_said = self.is_said(data);
        match self.hear().await {
            Heard::Closed(_) => false,
            heard => {
                assert_eq!(heard, Heard::Data(PeerChannel::Reliable(0), data.clone()));
                assert!(is_said, "an echo of nothing");
                true
            }
        }
    }

    /// Whether the session ends within this time, in which it hears nothing.
    pub(crate) async fn ends_within(&mut self, time: Duration) -> bool {
        match timeout(time, self.hear()).await {
            Err(_) => false,
            Ok(heard) => {
                assert!(matches!(heard, Heard::Closed(_)), "{heard:?}");
                true
            }
        }
    }
}

/// A client of theirs gets into our server at its first attempt.
pub(crate) async fn theirs_joins_ours(theirs: &mut Foreign, listener: &SoeListener) -> SoeSession {
    theirs.connect();
    assert_eq!(theirs.hear().await, Heard::Opened);
    let greeting = payload(40, 7);
    theirs.say(&greeting);
    let mut ours = listener.accept().await.expect("the listener runs").accept();
    assert_eq!(hear_ours(&mut ours).await.payload, greeting);
    ours
}

/// A client of ours gets into their server.
pub(crate) async fn ours_joins_theirs(
    connector: &SoeConnector,
    theirs: &mut Foreign,
    config: &SessionConfig,
) -> Result<SoeSession, ConnectError> {
    let mut ours = connector.connect(SERVER, config.clone()).await?;
    let greeting = payload(40, 7);
    ours.send(greeting.clone()).await.unwrap();
    loop {
        match theirs.hear().await {
            // What is left of the session before.
            Heard::Opened | Heard::Closed(_) => {}
            heard => {
                assert_eq!(heard, Heard::Data(PeerChannel::Reliable(0), greeting));
                return Ok(ours);
            }
        }
    }
}

/// Messages of one packet and of several, both ways.
pub(crate) async fn talk(ours: &mut SoeSession, theirs: &mut Foreign) {
    for (salt, size) in [1, 200, 5000].into_iter().enumerate() {
        let message = payload(size, salt);
        ours.send(message.clone()).await.unwrap();
        assert_eq!(theirs.hear().await, Heard::Data(PeerChannel::Reliable(0), message.clone()));
        theirs.say(&message);
        assert_eq!(hear_ours(ours).await, Message::reliable(message));
    }
}

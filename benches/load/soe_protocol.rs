//! The crate `soe-protocol`: its Tokio server and its Tokio client.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use soe_protocol::{ClientEvent, SessionParameters, SocketConfig, SocketEvent, TokioSoeClient, TokioSoeServer};
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::client::{Client, Failure};
use crate::harness::duty::{Duty, GAME_TICK, GAME_UPDATE};
use crate::harness::spec::{Kind, Spec};

const PROTOCOL: &str = "Load";
/// The shortest of the tick periods that its documentation recommends: replies wait for the tick.
const TICK: Duration = Duration::from_millis(1);
/// Ticks of many clients in one process cost more than they give.
const TICK_OF_MANY: Duration = Duration::from_millis(10);
const MANY: usize = 100;
/// For sessions that do nothing.
const TICK_OF_IDLE: Duration = Duration::from_millis(100);

fn config(spec: &Spec) -> SocketConfig {
    let default_session_params = SessionParameters {
        application_protocol: PROTOCOL.to_owned(),
        udp_length: spec.udp as u32,
        remote_udp_length: spec.udp as u32,
        ..SessionParameters::default()
    };
    SocketConfig { default_session_params, ..SocketConfig::default() }
}

/// Serves for ever.
pub(crate) async fn serve(spec: &Spec, ready: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let local = (Ipv4Addr::LOCALHOST, 0).into();
    let mut server = TokioSoeServer::bind(local, config(spec), TICK).await?;
    ready(server.local_addr());
    let handle = server.handle();
    let mut sessions: HashMap<SocketAddr, Duty> = HashMap::new();
    let update = Bytes::from_static(&[7; GAME_UPDATE]);
    let mut clockwork = interval(GAME_TICK);
    clockwork.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = server.recv_event() => match event {
                Some(SocketEvent::SessionOpened { remote }) => {
                    sessions.insert(remote, Duty::new(spec));
                }
                Some(SocketEvent::DataReceived { remote, data, .. }) => {
                    if let Some(reply) = sessions.get_mut(&remote).and_then(|duty| duty.hear(data)) {
                        handle.enqueue_data(remote, reply);
                    }
                }
                Some(SocketEvent::SessionClosed { remote, .. }) => {
                    sessions.remove(&remote);
                }
                None => return Err("the server stopped".into()),
            },
            _ = clockwork.tick(), if spec.kind == Kind::Game => {
                for remote in sessions.keys() {
                    handle.enqueue_data(*remote, update.clone());
                }
            }
        }
    }
}

/// One session with its own socket and task.
#[derive(Debug)]
pub(crate) struct SoeProtocolClient(TokioSoeClient);

impl Client for SoeProtocolClient {
    async fn connect(server: SocketAddr, spec: &Spec) -> Result<Self, Failure> {
        let tick = match (spec.kind, spec.sessions) {
            (Kind::Idle, _) => TICK_OF_IDLE,
            (_, sessions) if sessions > MANY => TICK_OF_MANY,
            _ => TICK,
        };
        let mut client = TokioSoeClient::connect_to(server, config(spec), tick).await?;
        match client.recv_event().await {
            Some(ClientEvent::Connected) => Ok(Self(client)),
            other => Err(format!("no session: {other:?}").into()),
        }
    }

    async fn send(&mut self, message: Bytes) -> Result<(), Failure> {
        if self.0.handle().enqueue_data(message) { Ok(()) } else { Err("the client stopped".into()) }
    }

    async fn recv(&mut self) -> Result<Bytes, Failure> {
        match self.0.recv_event().await {
            Some(ClientEvent::DataReceived { data, .. }) => Ok(data),
            other => Err(format!("the session ended: {other:?}").into()),
        }
    }
}

//! Whole situations over the driver that runs in production. What holds in each is in [`crate::checker`].

mod accepting;
mod applications;
mod drift;
mod handshake;
mod holder;
mod icmp;
mod keys;
mod links;
mod model;
mod moves;
mod pauses;
mod peers;
mod restarts;
mod silence;
mod strangers;
mod windows;

use std::{sync::Arc, time::Duration};

use soe_testing::{MachineId, Machines, Network};
use soe_tokio::{ListenerConfig, SessionConfig, SoeListener};
use tokio::time::{Instant, sleep};

use crate::checker::{Checker, Habit, Side, accept_all, expect_empty};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);

/// A server whose applications all have the same habit.
pub(crate) struct Server {
    pub(crate) network: Network,
    pub(crate) listener: Arc<SoeListener>,
    pub(crate) checker: Checker,
}

impl Server {
    /// Starts one in the current runtime.
    pub(crate) fn start(network: &Network, config: impl Into<ListenerConfig>, habit: Habit) -> Self {
        let listener = Arc::new(network.listener(config).expect("a simulated socket can be bound"));
        let checker = Checker::default();
        tokio::spawn(accept_all(Arc::clone(&listener), checker.clone(), habit));
        Self { network: network.clone(), listener, checker }
    }

    /// Opens a session whose application has this habit.
    pub(crate) async fn join(&self, config: SessionConfig, habit: Habit) {
        let session = self.network.client(config).await.expect("the server answers");
        tokio::spawn(self.checker.clone().live(session, Side::Client, habit));
    }

    /// Waits until all sessions have ended and nothing is left of them.
    pub(crate) async fn expect_end(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        while !self.checker.is_over() {
            assert!(Instant::now() < deadline, "a session never ends");
            sleep(100 * MILLISECOND).await;
        }
        expect_empty(&self.listener).await;
    }
}

/// A server and its clients on machines of their own.
pub(crate) struct Worlds {
    pub(crate) machines: Machines,
    pub(crate) server: MachineId,
    pub(crate) clients: MachineId,
    pub(crate) listener: Arc<SoeListener>,
    pub(crate) checker: Checker,
}

impl Worlds {
    pub(crate) fn start(seed: u64, config: impl Into<ListenerConfig>, habit: Habit) -> Self {
        let mut machines = Machines::new(seed);
        let (server, clients) = (machines.add().expect("a runtime"), machines.add().expect("a runtime"));
        let network = machines.network().clone();
        let started = machines.enter(server, || Server::start(&network, config, habit));
        Self { machines, server, clients, listener: started.listener, checker: started.checker }
    }

    /// Opens a session on the clients' machine whose application has this habit.
    pub(crate) fn join(&mut self, config: &SessionConfig, habit: Habit) {
        let (network, config, checker) = (self.machines.network().clone(), config.clone(), self.checker.clone());
        let connect = async move {
            let session = network.client(config).await.expect("the server answers");
            tokio::spawn(checker.live(session, Side::Client, habit));
        };
        let joined = self.machines.spawn(self.clients, connect);
        self.machines.run_until_done(joined, 20 * SECOND);
    }

    /// Lets the machines run until all sessions have ended and nothing is left of them.
    pub(crate) fn expect_end(&mut self, at_most: Duration) {
        let end = self.machines.elapsed() + at_most;
        while !self.checker.is_over() {
            assert!(self.machines.elapsed() < end, "a session never ends");
            self.machines.run_for(100 * MILLISECOND);
        }
        let listener = Arc::clone(&self.listener);
        let empty = self.machines.spawn(self.server, async move { expect_empty(&listener).await });
        self.machines.run_until_done(empty, 100 * SECOND);
    }
}

pub(crate) fn patient(inactivity: Duration) -> SessionConfig {
    SessionConfig::builder("Simulated").inactivity_timeout(inactivity).build().expect("valid")
}

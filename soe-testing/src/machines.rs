//! Processes with clocks of their own.

use std::{future::Future, io, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
    time::{Instant, advance, sleep_until},
};

use crate::{network::Network, stats::Fault, wires::Wires};

/// Several processes on one network, each a Tokio runtime with a paused clock of its own. They take turns of one
/// millisecond on the calling thread.
///
/// This is for what one runtime cannot show: a process that is stopped (a laptop that sleeps, a debugger, a virtual machine
/// that is moved) while its peers go on. When it continues, its clock has jumped, all its timers are late at once, and its
/// sockets' receive buffers hold what has come and fitted. Clocks can also run fast or slow, and a process can be killed.
///
/// Not for use within a runtime: a test that has machines is an ordinary `#[test]`.
///
/// ```
/// use std::time::Duration;
/// use soe_testing::{Fault, Machines, Network};
/// use soe_tokio::SessionConfig;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut machines = Machines::new(1);
/// let (server, client) = (machines.add()?, machines.add()?);
/// let (network, config) = (machines.network().clone(), SessionConfig::new("Example")?);
/// let listener = machines.enter(server, || network.listener(config.clone()))?;
/// let echo = machines.spawn(server, async move {
///     let mut session = listener.accept().await.expect("somebody comes").accept();
///     while let Some(Ok(message)) = session.recv().await {
///         session.send(message).await.expect("open");
///     }
/// });
/// let exchange = machines.spawn(client, async move {
///     let mut session = network.client(config).await.expect("the server answers");
///     for _ in 0..20 {
///         session.send(&b"hello"[..]).await.expect("open");
///         session.recv().await.expect("open").expect("an answer");
///         tokio::time::sleep(Duration::from_millis(100)).await;
///     }
/// });
/// machines.run_for(Duration::from_secs(1));
/// machines.pause(server, Duration::from_secs(2));
/// machines.run_until_done(exchange, Duration::from_secs(10));
/// machines.run_until_done(echo, Duration::from_secs(10));
/// machines.network().stats().assert_happened(Fault::Paused);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Machines {
    network: Network,
    machines: Vec<Machine>,
    now: Duration,
}

/// One of the [`Machines`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineId(usize);

#[derive(Debug)]
struct Machine {
    /// `None` once it has been killed.
    runtime: Option<Runtime>,
    /// What its clock showed when the network's was at zero.
    start: Instant,
    /// How much faster its clock runs, in parts per million.
    drift: f64,
    paused_until: Duration,
}

impl Machines {
    /// No machines yet, on a new network.
    pub fn new(seed: u64) -> Self {
        Self { network: Network::with(seed, Wires::new(seed, false)), machines: Vec::new(), now: Duration::ZERO }
    }

    /// The network that they share. Its clock moves while the machines run.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// How long the machines have run, by the network's clock.
    pub fn elapsed(&self) -> Duration {
        self.now
    }

    /// Starts a machine.
    ///
    /// # Errors
    ///
    /// If the system has no resources for a runtime.
    pub fn add(&mut self) -> io::Result<MachineId> {
        self.add_with_drift(0.0)
    }

    /// Starts a machine whose clock runs faster by so many parts per million, or slower if negative.
    ///
    /// # Errors
    ///
    /// If the system has no resources for a runtime.
    pub fn add_with_drift(&mut self, parts_per_million: f64) -> io::Result<MachineId> {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let drift = 1.0 + parts_per_million / 1e6;
        let started = runtime.block_on(async { Instant::now() });
        // As if it had been running from the beginning.
        runtime.block_on(advance(self.now.mul_f64(drift)));
        self.machines.push(Machine { runtime: Some(runtime), start: started, drift, paused_until: Duration::ZERO });
        Ok(MachineId(self.machines.len() - 1))
    }

    /// Calls `f` within the runtime of a machine, to bind sockets there.
    ///
    /// # Panics
    ///
    /// If the machine has been killed.
    pub fn enter<R>(&self, machine: MachineId, f: impl FnOnce() -> R) -> R {
        let _guard = self.runtime(machine).enter();
        f()
    }

    /// Starts a task on a machine. It runs while the machines do.
    ///
    /// # Panics
    ///
    /// If the machine has been killed.
    pub fn spawn<F>(&self, machine: MachineId, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime(machine).spawn(future)
    }

    /// Lets all machines run for a time, in turns of one millisecond.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now.saturating_add(duration);
        while self.now < end {
            self.turn();
        }
    }

    /// Lets all machines run until a task is done, and gives its result.
    ///
    /// # Panics
    ///
    /// If the task panics, is on a machine that is killed, or takes longer than `at_most`.
    #[track_caller]
    pub fn run_until_done<T>(&mut self, task: JoinHandle<T>, at_most: Duration) -> T {
        let end = self.now.saturating_add(at_most);
        while !task.is_finished() {
            assert!(self.now < end, "a task takes longer than {at_most:?}, seed {}", self.network.seed());
            self.turn();
        }
        let joined = self.machines.iter().find_map(|machine| machine.runtime.as_ref());
        match joined.map(|runtime| runtime.block_on(task)) {
            Some(Ok(done)) => done,
            Some(Err(error)) => panic!("{error}, seed {}", self.network.seed()),
            None => panic!("no machine is left, seed {}", self.network.seed()),
        }
    }

    /// Stops a machine for a time from now on. Its tasks and timers stand still, and its clock jumps when it continues.
    pub fn pause(&mut self, machine: MachineId, duration: Duration) {
        self.machines[machine.0].paused_until = self.now.saturating_add(duration);
        self.network.count(Fault::Paused);
    }

    /// Ends a machine at once: its sockets are gone, and nobody is told.
    pub fn kill(&mut self, machine: MachineId) {
        // A runtime that ends lets its sessions send their Disconnect; a process that is killed does not.
        self.network.set_silent(true);
        self.machines[machine.0].runtime = None;
        self.network.set_silent(false);
    }

    fn turn(&mut self) {
        self.now += TURN;
        self.network.advance_to(self.now);
        for machine in &self.machines {
            machine.run_until(self.now);
        }
    }

    #[track_caller]
    fn runtime(&self, machine: MachineId) -> &Runtime {
        match &self.machines[machine.0].runtime {
            Some(runtime) => runtime,
            None => panic!("this machine has been killed"),
        }
    }
}

impl Machine {
    fn run_until(&self, now: Duration) {
        let Some(runtime) = self.runtime.as_ref().filter(|_| self.paused_until <= now) else { return };
        let target = self.start + now.mul_f64(self.drift);
        runtime.block_on(async {
            let behind = target.saturating_duration_since(Instant::now());
            // After a pause the clock jumps; otherwise its timers expire one after the other, each in its time.
            if behind > 3 * TURN {
                advance(behind).await;
            }
            sleep_until(target).await;
        });
    }
}

const TURN: Duration = Duration::from_millis(1);

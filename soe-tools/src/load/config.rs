//! What a load is: how many clients, what they send, and how long.

use std::{net::SocketAddr, time::Duration};

use soe_core::{Channel, SessionConfig};

use super::payload;

/// A load on one server. In brackets in each description: the default.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadConfig {
    /// The server. It must echo every message on the channel that it came on.
    pub target: SocketAddr,
    /// Allows a target that is not on this machine. \[no\]
    pub target_is_mine: bool,
    /// How the clients set their sessions up.
    pub session: SessionConfig,
    /// How many clients. \[100\]
    pub clients: usize,
    /// Messages that each client sends in a second, 0.001 to 10,000; 0: it only holds its session. \[10\]
    pub rate: f64,
    /// Bytes of the messages, taken in turn, 16 or more each. \[64\]
    pub sizes: Vec<usize>,
    /// Channels of the messages, taken in turn. \[reliable channel 0\]
    pub channels: Vec<Channel>,
    /// The time over which the clients connect, evenly. \[a second for each 500 clients\]
    pub ramp_up: Duration,
    /// How long they go on sending after that. \[10 s\]
    pub duration: Duration,
    /// How long late answers are waited for at the end. \[5 s\]
    pub drain: Duration,
    /// Messages per second over all clients that may be asked for, and that are never exceeded. \[20,000\]
    pub rate_cap: f64,
    /// Threads that drive the clients. \[1\]
    pub threads: usize,
}

impl LoadConfig {
    /// The defaults, towards this server.
    pub fn new(target: SocketAddr, session: SessionConfig) -> Self {
        Self {
            target,
            target_is_mine: false,
            session,
            clients: 100,
            rate: 10.0,
            sizes: vec![64],
            channels: vec![Channel::default()],
            ramp_up: ramp_up(100),
            duration: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            rate_cap: 20_000.0,
            threads: 1,
        }
    }

    /// Whether it makes sense and is within the caps; [`run`](super::run) asks as well.
    ///
    /// # Errors
    /// If not, or if the target is not on this machine and nobody has said that it may be loaded.
    pub fn validate(&self) -> Result<(), LoadError> {
        let refuse = |reason: String| Err(LoadError::Config(reason));
        if !self.target.ip().is_loopback() && !self.target_is_mine {
            return Err(LoadError::NotMine(self.target));
        }
        if self.clients == 0 || self.clients > MAX_CLIENTS {
            return refuse(format!("{} clients, not 1 to {MAX_CLIENTS}", self.clients));
        }
        if self.threads == 0 || self.threads > MAX_THREADS {
            return refuse(format!("{} threads, not 1 to {MAX_THREADS}", self.threads));
        }
        if self.rate != 0.0 && !(MIN_RATE..=MAX_RATE).contains(&self.rate) {
            return refuse(format!("{} messages per second and client, not 0 or {MIN_RATE} to {MAX_RATE}", self.rate));
        }
        if let Some(time) = [self.ramp_up, self.duration, self.drain].into_iter().find(|time| *time > MAX_TIME) {
            return refuse(format!("a time of {time:?} is over a week"));
        }
        let wanted = self.rate * self.clients as f64;
        if !self.rate_cap.is_finite() || wanted > self.rate_cap {
            return refuse(format!("{wanted} messages per second in all are over the cap of {}", self.rate_cap));
        }
        if self.clients as f64 > MAX_CONNECTS * self.ramp_up.as_secs_f64().max(1.0) {
            return refuse(format!(
                "{} clients in {:?} are over {MAX_CONNECTS} handshakes per second: give them a longer ramp-up",
                self.clients, self.ramp_up
            ));
        }
        let sizes = payload::HEADER..=self.session.max_message_size;
        if let Some(size) = self.sizes.iter().find(|size| !sizes.contains(*size)) {
            return refuse(format!("messages of {size} bytes, not {} to {}", sizes.start(), sizes.end()));
        }
        if self.sizes.is_empty() || self.channels.is_empty() {
            return refuse("no sizes or no channels".to_owned());
        }
        Ok(())
    }
}

/// The default of [`LoadConfig::ramp_up`] for so many clients.
pub fn ramp_up(clients: usize) -> Duration {
    Duration::from_millis(2 * clients as u64)
}

/// Why there is no load, or no more of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The target is not on this machine, and nobody said that it may be loaded.
    #[error("{0} is not on this machine: if the server is yours to load, say so with --target-is-mine")]
    NotMine(SocketAddr),
    /// A value that makes no sense, or is over a limit.
    #[error("{0}")]
    Config(String),
    /// A socket could not be made, or failed.
    #[error("client {client}: {error}{}", hint(error))]
    Socket {
        /// The client, counted from 0.
        client: usize,
        /// What happened.
        error: std::io::Error,
    },
    /// The system's way to wait for sockets failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A thread has panicked, which is a bug.
    #[error("a thread has panicked")]
    Panicked,
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        // EMFILE on Unix systems.
        Some(24) => ": each client needs a socket, see `ulimit -n`",
        _ => "",
    }
}

/// A local address has fewer ports.
const MAX_CLIENTS: usize = 60_000;
const MAX_THREADS: usize = 64;
const MAX_TIME: Duration = Duration::from_secs(7 * 86_400);
/// Per client and second.
const MIN_RATE: f64 = 0.001;
const MAX_RATE: f64 = 10_000.0;
/// Handshakes per second, on average over the ramp-up.
const MAX_CONNECTS: f64 = 2_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut LoadConfig)) -> String {
        let session = SessionConfig::new("Echo").unwrap();
        let mut config = LoadConfig::new(([127, 0, 0, 1], 9).into(), session);
        assert!(config.validate().is_ok());
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn only_this_machine_is_loaded_unless_the_target_is_mine() {
        let target = ([192, 0, 2, 1], 9).into();
        assert!(refused(|config| config.target = target).starts_with("192.0.2.1:9 is not on this machine"));
        let mut config = LoadConfig::new(target, SessionConfig::new("Echo").unwrap());
        config.target_is_mine = true;
        assert!(config.validate().is_ok());
    }

    #[test]
    fn rates_and_handshakes_over_the_caps_are_refused() {
        assert!(refused(|config| config.rate = 201.0).contains("20100 messages per second in all are over the cap"));
        assert!(refused(|config| config.rate = f64::NAN).starts_with("NaN messages"));
        assert!(refused(|config| config.rate = 1e-300).contains("not 0 or 0.001 to"));
        assert!(refused(|config| config.rate_cap = f64::INFINITY).contains("over the cap of inf"));
        assert!(refused(|config| (config.clients, config.rate) = (4_000, 1.0)).contains("handshakes per second"));
    }

    #[test]
    fn senseless_loads_are_refused() {
        assert!(refused(|config| config.clients = 0).starts_with("0 clients"));
        assert!(refused(|config| config.threads = 0).starts_with("0 threads"));
        assert!(refused(|config| config.drain = Duration::MAX).ends_with("is over a week"));
        assert!(refused(|config| config.sizes = vec![64, 15]).starts_with("messages of 15 bytes, not 16 to"));
        assert!(refused(|config| config.channels.clear()).starts_with("no sizes or no channels"));
    }
}

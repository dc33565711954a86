//! A client that reconnects after a restart of its server, a change of network or a time-out.

use std::{fmt, sync::Arc, time::Duration};

use soe_core::{DisconnectReason, SessionConfig};
use thiserror::Error;
use tokio::{
    net::ToSocketAddrs,
    time::{Instant, sleep},
};

use super::SoeConnector;
use crate::{
    engine::random::Secrets,
    error::{BindError, ConnectError, SessionError},
    session::SoeSession,
};

type RetryIf = Box<dyn Fn(&ConnectError) -> bool + Send + Sync>;

/// Opens a session, and reopens it on request, with exponential backoff and a login in each new session. The first
/// attempt is made at once. Every later attempt, including the first one after a session has ended, waits first:
/// [`first_delay`](Self::first_delay), doubled after each failure, up to [`longest_delay`](Self::longest_delay). Each
/// delay is shortened by a random part ([`jitter`](Self::jitter)), so that the clients of a restarted server do not all
/// reconnect at once. A session that lasted at least [`stable_after`](Self::stable_after) resets the delay. What the
/// old session had not delivered is lost with it ([`SoeSession::undelivered`] counts it): the application decides what
/// to send again.
///
/// ```no_run
/// use soe_tokio::{LoginFailure, SessionConfig, SessionError, SoeReconnector, SoeSession};
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("the server has no such player")] struct Unknown;
///
/// async fn login(mut session: SoeSession) -> Result<SoeSession, LoginFailure<Unknown>> {
///     session.send("I am Ann").await?;
///     match session.recv().await {
///         Some(Ok(answer)) if answer.payload == "welcome" => Ok(session),
///         Some(Ok(_)) => Err(LoginFailure::Stop(Unknown)),
///         _ => Err(LoginFailure::Retry),
///     }
/// }
///
/// # async fn play(session: &mut SoeSession) -> Result<(), SessionError> { Ok(()) }
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = SoeReconnector::new("login.example.org:20042", SessionConfig::new("LoginUdp_9")?).max_attempts(20);
/// loop {
///     let mut session = server.connect(login).await?;
///     match play(&mut session).await {
///         Ok(()) => break,
///         Err(error) if error.is_timeout() => continue,
///         Err(error) => return Err(error.into()),
///     }
/// }
/// # Ok(()) }
/// ```
pub struct SoeReconnector<A> {
    remote: A,
    config: SessionConfig,
    connector: Option<Arc<SoeConnector>>,
    first_delay: Duration,
    longest_delay: Duration,
    jitter: f64,
    stable_after: Duration,
    max_attempts: Option<u32>,
    retry_if: RetryIf,
    /// Attempts since the start, or since the last session that lasted, including the attempt that opened it.
    failures: u32,
    /// When the last session was opened and logged in.
    connected: Option<Instant>,
}

/// Why a login failed, as returned by the login function of [`SoeReconnector::connect`]. A [`SessionError`] converts to
/// [`LoginFailure::Retry`], so that `?` can be used.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "either there is another attempt or not")]
pub enum LoginFailure<E> {
    /// The session failed: another attempt follows.
    Retry,
    /// Another attempt would fail the same way: [`SoeReconnector::connect`] returns this error.
    Stop(E),
}

impl<E> From<SessionError> for LoginFailure<E> {
    fn from(_: SessionError) -> Self {
        Self::Retry
    }
}

/// Why no session was opened and no further attempt is made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReconnectError<E> {
    /// The number of failed attempts in a row reached [`SoeReconnector::max_attempts`].
    #[error("no session after {attempts} attempts")]
    GaveUp {
        /// How many.
        attempts: u32,
        /// The error of the last one; `None` if its login failed.
        #[source]
        last: Option<ConnectError>,
    },
    /// An attempt failed with an error that [`SoeReconnector::retry_if`] does not retry.
    #[error(transparent)]
    Connect(ConnectError),
    /// The login failed with [`LoginFailure::Stop`].
    #[error("the login failed")]
    Login(#[source] E),
}

impl<A: ToSocketAddrs> SoeReconnector<A> {
    /// Opens sessions to `remote`, each on a socket of its own. A name is resolved again for each attempt.
    pub fn new(remote: A, config: impl Into<SessionConfig>) -> Self {
        Self {
            remote,
            config: config.into(),
            connector: None,
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(30),
            jitter: 0.5,
            stable_after: Duration::from_secs(60),
            max_attempts: None,
            retry_if: Box::new(may_pass),
            failures: 0,
            connected: None,
        }
    }

    /// Opens the sessions on this connector's socket. An attempt waits for the end of a session to the same address that
    /// is closing there, such as one whose login failed, which takes its `close_timeout` at most. A session that the
    /// application keeps open there is an error: [`ConnectError::Occupied`]. So several reconnectors to one server need a
    /// connector each: a socket has one session to each address.
    #[must_use]
    pub fn via(mut self, connector: Arc<SoeConnector>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// The delay before the second attempt, and before the first one after a session that lasted. Default 1 s.
    #[must_use]
    pub fn first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = delay;
        self
    }

    /// The longest delay between two attempts. Default 30 s.
    #[must_use]
    pub fn longest_delay(mut self, delay: Duration) -> Self {
        self.longest_delay = delay;
        self
    }

    /// The largest random share by which a delay is shortened, 0 to 1. Default 0.5: delays of half to full length.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self
    }

    /// How long a session must last for the next delay to be [`first_delay`](Self::first_delay) again. Default 60 s:
    /// with a server that accepts clients and drops them at once, the delay keeps growing.
    #[must_use]
    pub fn stable_after(mut self, lifetime: Duration) -> Self {
        self.stable_after = lifetime;
        self
    }

    /// The number of failed attempts in a row after which to give up, at least 1. Default: no limit.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts.max(1));
        self
    }

    /// Which errors are retried. Default: a server that does not answer, is unreachable or full, and a name that cannot
    /// be resolved; not a server with another protocol or version, and no local error.
    #[must_use]
    pub fn retry_if(mut self, may_pass: impl Fn(&ConnectError) -> bool + Send + Sync + 'static) -> Self {
        self.retry_if = Box::new(may_pass);
        self
    }

    /// Opens a session and runs `login` on it, and repeats both until both succeed. Returns what `login` returns: the
    /// session itself, or the application's own type around it.
    ///
    /// # Errors
    ///
    /// [`ReconnectError`] when no further attempt is made.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the attempt. The next call continues with the next delay.
    pub async fn connect<T, E, F>(&mut self, mut login: impl FnMut(SoeSession) -> F) -> Result<T, ReconnectError<E>>
    where
        F: Future<Output = Result<T, LoginFailure<E>>>,
    {
        if self.connected.take().is_some_and(|since| since.elapsed() >= self.stable_after) {
            self.failures = 1;
        }
        let mut attempts = 0;
        loop {
            if self.failures > 0 {
                sleep(self.pause()).await;
            }
            self.failures = self.failures.saturating_add(1);
            attempts += 1;
            let last = match self.attempt().await {
                Ok(session) => match login(session).await {
                    Ok(done) => {
                        self.connected = Some(Instant::now());
                        return Ok(done);
                    }
                    Err(LoginFailure::Stop(error)) => return Err(ReconnectError::Login(error)),
                    Err(LoginFailure::Retry) => None,
                },
                Err(error) if !(self.retry_if)(&error) => return Err(ReconnectError::Connect(error)),
                Err(error) => Some(error),
            };
            if self.max_attempts.is_some_and(|most| attempts >= most) {
                return Err(ReconnectError::GaveUp { attempts, last });
            }
        }
    }

    async fn attempt(&self) -> Result<SoeSession, ConnectError> {
        match &self.connector {
            // The session of a failed login may still be closing at the address.
            Some(connector) => connector.connect_again(&self.remote, &self.config).await,
            None => SoeSession::connect(&self.remote, self.config.clone()).await,
        }
    }

    /// How long to wait before the next attempt.
    fn pause(&self) -> Duration {
        let doublings = (self.failures - 1).min(MAX_DOUBLINGS);
        let whole = self.first_delay.saturating_mul(1 << doublings).min(self.longest_delay);
        // Without a random number the delay is not shortened, which only costs this client time.
        let word = match &self.connector {
            Some(connector) => connector.random_word(),
            None => Secrets::new(None).session_id().ok(),
        };
        let share = word.map_or(0.0, |word| f64::from(word) / (f64::from(u32::MAX) + 1.0));
        whole.mul_f64(1.0 - self.jitter * share)
    }
}

/// The default of [`SoeReconnector::retry_if`]: errors that may not occur again later.
fn may_pass(error: &ConnectError) -> bool {
    match error {
        ConnectError::Closed(closed) => {
            closed.negotiation.is_none() && closed.reason != DisconnectReason::ProtocolMismatch
        }
        ConnectError::Resolve(_) | ConnectError::NoAddress => true,
        // The system may be out of ports or descriptors for a while.
        ConnectError::Bind(BindError::Socket { .. }) => true,
        _ => false,
    }
}

impl<A: fmt::Debug> fmt::Debug for SoeReconnector<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoeReconnector")
            .field("remote", &self.remote)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

/// Bounds the shift in the computation of the delay; 2^20 times any usual first delay exceeds the longest one.
const MAX_DOUBLINGS: u32 = 20;

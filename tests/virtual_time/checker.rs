//! What holds in every run, whatever the network and the applications do.
//!
//! Both applications of a session tell the checker what they gave to it, what they got from it, what became of each receipt
//! and how it ended; afterwards the accounts of the two sides must agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use soe_tokio::{Closed, DisconnectReason, Message, SoeListener, SoeSession, Undelivered};
use tokio::time::{Instant, sleep};

/// The end of a session that an application holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    fn other(self) -> Self {
        if self == Self::Client { Self::Server } else { Self::Client }
    }
}

/// What an application does with its session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habit {
    /// How many messages it sends.
    pub(crate) messages: u32,
    /// The time between two of them.
    pub(crate) every: Duration,
    /// Their length in bytes, at least 4.
    pub(crate) size: usize,
    /// Whether it reads; from when on.
    pub(crate) reads_after: Option<Duration>,
    /// How long it stays after its last message before it closes; `None`: it leaves that to the other side.
    pub(crate) closes_after: Option<Duration>,
}

impl Habit {
    /// Sends nothing and reads until the session ends.
    pub(crate) fn listener() -> Self {
        Self { messages: 0, every: Duration::ZERO, size: 64, reads_after: Some(Duration::ZERO), closes_after: None }
    }

    /// Sends this many messages and reads until the session ends.
    pub(crate) fn talker(messages: u32, every: Duration) -> Self {
        Self { messages, every, ..Self::listener() }
    }

    pub(crate) fn closes_after(self, stay: Duration) -> Self {
        Self { closes_after: Some(stay), ..self }
    }
}

/// The account of one side.
#[derive(Debug, Default)]
struct Account {
    /// Played by the test itself, which ends it without a word.
    by_hand: bool,
    /// The program was killed: nobody reads what its session had acknowledged.
    is_killed: bool,
    reads: bool,
    /// What became of each receipt, by the number of its message; `None` while it is not known.
    receipts: BTreeMap<u32, Option<bool>>,
    received: Vec<u32>,
    resent: u64,
    end: Option<(Closed, Undelivered, Instant)>,
}

type Accounts = BTreeMap<(u32, Side), Account>;

/// Collects the accounts of all sessions of a run. No run ends without [`Checker::verify`].
#[derive(Debug)]
pub(crate) struct Checker {
    accounts: Arc<Mutex<Accounts>>,
    is_verified: Arc<AtomicBool>,
    /// Not a clone, which only writes to accounts.
    is_of_test: bool,
}

impl Default for Checker {
    fn default() -> Self {
        Self { accounts: Arc::default(), is_verified: Arc::default(), is_of_test: true }
    }
}

impl Clone for Checker {
    fn clone(&self) -> Self {
        Self { accounts: Arc::clone(&self.accounts), is_verified: Arc::clone(&self.is_verified), is_of_test: false }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        let is_verified = !self.is_of_test || self.is_verified.load(Ordering::Relaxed);
        assert!(is_verified || std::thread::panicking(), "a run has ended and nobody has looked at its accounts");
    }
}

/// The longest that a side may take to notice that the other has ended or is gone: the default time-out and a third, and what
/// an application takes to look.
fn noticed_within() -> Duration {
    crate::support::config().inactivity_timeout * 4 / 3 + Duration::from_secs(2)
}

impl Checker {
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().expect("no test panics while it holds the accounts")
    }

    /// The program on one side of a session was killed.
    pub(crate) fn killed(&self, session: u32, side: Side) {
        self.note((session, side), |account| account.is_killed = account.end.is_none());
    }

    /// All programs on one side were killed.
    pub(crate) fn all_killed(&self, side: Side) {
        let mut accounts = self.accounts();
        let killed = accounts.iter_mut().filter(|((_, of), account)| *of == side && account.end.is_none());
        killed.for_each(|(_, account)| account.is_killed = true);
    }

    fn note(&self, key: (u32, Side), note: impl FnOnce(&mut Account)) {
        note(self.accounts().entry(key).or_default());
    }

    /// Notes what a peer that the test plays by hand has received.
    pub(crate) fn received_by_hand(&self, session: u32, side: Side, number: Option<u32>) {
        self.note((session, side), |account| {
            (account.by_hand, account.reads) = (true, true);
            account.received.extend(number);
        });
    }

    /// Lives with a session as the habit says, until it ends.
    pub(crate) async fn live(self, session: SoeSession, side: Side, habit: Habit) {
        let key = (session.session_id(), side);
        self.note(key, |account| account.reads = habit.reads_after.is_some());
        let (mut send, mut recv) = session.split();
        let sending = async {
            for number in 0..habit.messages {
                let mut payload = vec![number as u8; habit.size.max(4)];
                payload[..4].copy_from_slice(&number.to_be_bytes());
                let Ok(delivery) = send.send_with_receipt(Message::reliable(payload)).await else { return };
                self.note(key, |account| _ = account.receipts.insert(number, None));
                let checker = self.clone();
                tokio::spawn(async move {
                    let is_told = delivery.await.is_ok();
                    checker.note(key, |account| _ = account.receipts.insert(number, Some(is_told)));
                });
                sleep(habit.every).await;
            }
            if let Some(stay) = habit.closes_after {
                sleep(stay).await;
                send.close(DisconnectReason::Application).await;
            }
        };
        let reading = async {
            match habit.reads_after {
                Some(wait) => sleep(wait).await,
                None => _ = recv.closed().await,
            }
            if habit.reads_after.is_none() {
                return;
            }
            while let Some(Ok(message)) = recv.recv().await {
                let number = message.payload.first_chunk().map(|number| u32::from_be_bytes(*number));
                self.note(key, |account| account.received.extend(number));
            }
        };
        tokio::join!(sending, reading);
        let session = send.reunite(recv).expect("they belong together");
        let closed = session.closed().await.expect("the session is served");
        let (stats, end) = (session.stats(), (closed, session.undelivered(), Instant::now()));
        self.note(key, |account| {
            account.resent = stats.resent_lost + stats.resent_timeout;
            account.end = Some(end);
        });
    }

    /// Whether every session that was told of has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.accounts().values().all(|account| account.by_hand || account.is_killed || account.end.is_some())
    }

    /// How many sessions were told of by this side.
    pub(crate) fn count(&self, side: Side) -> usize {
        self.accounts().keys().filter(|(_, of)| *of == side).count()
    }

    /// How the sessions of one side ended, and when.
    pub(crate) fn ends(&self, side: Side) -> Vec<(Closed, Instant)> {
        let accounts = self.accounts();
        let ends = accounts.iter().filter(|((_, of), _)| *of == side).filter_map(|(_, account)| account.end);
        ends.map(|(closed, _, at)| (closed, at)).collect()
    }

    /// How many packets all sides have sent again.
    pub(crate) fn resent(&self) -> u64 {
        self.accounts().values().map(|account| account.resent).sum()
    }

    /// How many messages one side has received, in all sessions.
    pub(crate) fn received(&self, side: Side) -> usize {
        self.accounts().iter().filter(|((_, of), _)| *of == side).map(|(_, account)| account.received.len()).sum()
    }

    /// Expects that the accounts of all sessions agree. To be called after they have ended.
    pub(crate) fn verify(&self) {
        self.is_verified.store(true, Ordering::Relaxed);
        let accounts = self.accounts();
        assert!(!accounts.is_empty(), "nothing was tested");
        for ((id, side), account) in accounts.iter().filter(|(_, account)| !account.by_hand && !account.is_killed) {
            let who = format!("{side:?} of {id:08x}");
            let (closed, undelivered, at) = account.end.unwrap_or_else(|| panic!("{who} never ended"));
            let told = account.receipts.iter().filter(|(_, told)| **told == Some(true)).map(|(number, _)| *number);
            let told: BTreeSet<u32> = told.collect();
            let open = account.receipts.values().filter(|told| told.is_none()).count();
            assert_eq!(open, 0, "{who}: {open} receipts never resolve, {closed}");
            let other = accounts.get(&(*id, side.other()));
            if let Some((_, _, ended)) = other.and_then(|other| other.end) {
                let late = at.saturating_duration_since(ended);
                assert!(late <= noticed_within(), "{who}: noticed {late:?} later that the other had ended, {closed}");
            }
            let received = other.map(|other| &other.received[..]).unwrap_or_default();
            assert!(received.is_sorted_by(|one, next| one < next), "{who}: not once and in order: {received:?}");
            if other.is_some_and(|other| !other.reads || other.is_killed) {
                continue;
            }
            let received: BTreeSet<u32> = received.iter().copied().collect();
            let vanished: Vec<_> = told.difference(&received).collect();
            assert!(vanished.is_empty(), "{who}: {vanished:?} were acknowledged and reached no application, {closed}");
            let (taken, arrived) = (account.receipts.len(), received.len());
            let lost = undelivered.messages;
            assert!(arrived + lost >= taken, "{who}: took {taken}, {arrived} arrived, {lost} are said to be lost");
        }
    }

    /// Expects that nobody was ended but by an application, and that each receipt says so.
    pub(crate) fn verify_all_lived(&self) {
        self.verify();
        for ((id, side), account) in self.accounts().iter().filter(|(_, account)| !account.by_hand) {
            assert!(!account.is_killed, "{side:?} of {id:08x} was killed");
            let (closed, undelivered, _) = account.end.expect("verified");
            assert!(closed.is_clean(), "{side:?} of {id:08x} was alive, and ended: {closed}");
            let failed = account.receipts.values().filter(|told| **told == Some(false)).count();
            assert_eq!((failed, undelivered.messages), (0, 0), "{side:?} of {id:08x}: not delivered, {closed}");
        }
    }
}

/// Accepts everybody, who then lives by this habit.
pub(crate) async fn accept_all(listener: Arc<SoeListener>, checker: Checker, habit: Habit) {
    while let Some(incoming) = listener.accept().await {
        tokio::spawn(checker.clone().live(incoming.accept(), Side::Server, habit));
    }
}

/// Expects that a listener without sessions holds nothing, as soon as the ended ones are forgotten.
pub(crate) async fn expect_empty(listener: &SoeListener) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = listener.stats();
        let endpoint = stats.endpoint;
        let left = [stats.socket.sessions, endpoint.sessions, endpoint.waiting, endpoint.lingering, stats.memory_held];
        if left == [0; 5] {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "sessions served, open, waiting and lingering, and bytes, are left: {left:?}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// Sends short messages to an echo and expects each back within 10 ms: nobody waits for another session's work.
pub(crate) async fn expect_prompt(mut session: SoeSession, rounds: u32, every: Duration) {
    for round in 0..rounds {
        let start = Instant::now();
        session.send(round.to_be_bytes().to_vec()).await.expect("open");
        let echo = session.recv().await.expect("open").expect("well");
        assert_eq!(echo.payload[..], round.to_be_bytes());
        let waited = start.elapsed();
        assert!(waited <= Duration::from_millis(10), "round {round} waited {waited:?} for others");
        sleep(every).await;
    }
}

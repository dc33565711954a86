//! What really happened on a network.

/// Something that a network does to datagrams or sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// A datagram was lost by the loss model of its link.
    Lost,
    /// A datagram was lost in a blackout.
    BlackedOut,
    /// A datagram was lost because the queue of its link was full.
    QueueFull,
    /// A datagram was lost because the receive buffer of its socket was full.
    BufferFull,
    /// A datagram was sent to an address where no socket was.
    NobodyThere,
    /// A datagram arrived with bits flipped.
    Corrupted,
    /// A datagram arrived twice.
    Duplicated,
    /// A datagram arrived before one that was sent earlier on the same path.
    Reordered,
    /// A send found the socket full and had to wait.
    SendBlocked,
    /// A socket was told that an address is unreachable (ICMP), truly or not.
    Unreachable,
    /// A socket failed without saying which address it was about.
    Reset,
    /// A datagram was put in by the test under an address of its choice.
    Forged,
    /// A socket began to appear under another address.
    Moved,
    /// A socket was stopped for a time, or a machine.
    Paused,
}

impl Fault {
    const COUNT: usize = Self::Paused as usize + 1;
}

/// Counts of a network so far. From [`crate::Network::stats`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub(crate) seed: u64,
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    counts: [u64; Fault::COUNT],
}

impl Stats {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Datagrams that sockets sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Datagrams that sockets received, copies and forged ones included.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// How often this has happened.
    pub fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    /// The share of the datagrams sent that the network lost, for whatever reason, between 0 and 1.
    pub fn loss(&self) -> f64 {
        let reasons = [Fault::Lost, Fault::BlackedOut, Fault::QueueFull, Fault::BufferFull];
        let lost: u64 = reasons.iter().map(|fault| self.count(*fault)).sum();
        if self.sent == 0 { 0.0 } else { lost as f64 / self.sent as f64 }
    }

    /// Proves that a test met the fault that it is about.
    ///
    /// # Panics
    ///
    /// If this has never happened.
    #[track_caller]
    pub fn assert_happened(&self, fault: Fault) {
        self.assert_happened_at_least(fault, 1);
    }

    /// Proves that a test met the fault that it is about, this often.
    ///
    /// # Panics
    ///
    /// If this has happened less than `times`.
    #[track_caller]
    pub fn assert_happened_at_least(&self, fault: Fault, times: u64) {
        let count = self.count(fault);
        assert!(count >= times, "{fault:?} happened {count} times and not {times}, seed {}: {self:?}", self.seed);
    }

    pub(crate) fn add(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }
}

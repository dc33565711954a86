use std::num::NonZeroU32;

/// How one reliable channel behaves on this side. In brackets in each description: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelOptions {
    /// Channels with a lower number go first whenever something leaves; channels with the same take turns. One of which a
    /// packet has gone unacknowledged for five seconds, or that has waited as long for a turn, goes before all others. \[0\]
    pub priority: u8,
    /// At most this many bytes a second leave for the first time, so that bulk leaves the link to others; `None` is no
    /// limit. \[no limit\]
    pub trickle_rate: Option<NonZeroU32>,
    /// Messages of one packet are delivered as they arrive, not held for the ones before them. Messages of several fragments
    /// still wait for their turn. A choice of the receiving side. \[off\]
    pub unordered: bool,
    /// A small packet that is not yet acknowledged rides along in the next datagrams that leave anyway, so that one loss
    /// costs a send interval instead of a round trip. Costs up to twice the bytes of small packets; no more datagrams. \[off\]
    pub redundant: bool,
}

impl ChannelOptions {
    /// Sets [`priority`](Self::priority).
    #[must_use]
    pub const fn with_priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Sets [`trickle_rate`](Self::trickle_rate).
    #[must_use]
    pub const fn with_trickle_rate(mut self, bytes_per_second: NonZeroU32) -> Self {
        self.trickle_rate = Some(bytes_per_second);
        self
    }

    /// Sets [`unordered`](Self::unordered).
    #[must_use]
    pub const fn with_unordered(mut self, unordered: bool) -> Self {
        self.unordered = unordered;
        self
    }

    /// Sets [`redundant`](Self::redundant).
    #[must_use]
    pub const fn with_redundancy(mut self, redundant: bool) -> Self {
        self.redundant = redundant;
        self
    }
}

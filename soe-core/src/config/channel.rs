use std::num::NonZeroU32;

/// Options of one reliable channel on this side. The default is in brackets at the end of each description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelOptions {
    /// Channels with a lower number are sent first; channels with the same number alternate. A channel goes before all
    /// others if one of its packets has been unacknowledged for five seconds, or if it has waited five seconds to send.
    /// \[0\]
    pub priority: u8,
    /// The most new bytes per second, so that bulk data leaves room for other channels. Resends do not count. `None` is
    /// no limit. \[no limit\]
    pub trickle_rate: Option<NonZeroU32>,
    /// Delivers a message of one packet when it arrives, without waiting for earlier ones. Messages of several
    /// fragments are still delivered in order. The receiving side decides this. A key stream needs the order: with a key
    /// set, messages that come early are decrypted into garbage. \[off\]
    pub unordered: bool,
    /// Repeats small unacknowledged packets in later datagrams that leave anyway. A loss then costs one send interval
    /// instead of a round trip. This costs up to twice the bytes of small packets and no additional datagrams. \[off\]
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

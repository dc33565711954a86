//! Totals over ended sessions.

use soe_core::{Closed, DisconnectReason, Origin, SessionStats};

/// Totals over the ended sessions of a listener, as of the end of each. The Disconnects sent after it are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedSessions {
    /// Sessions that have ended.
    pub sessions: u64,
    /// Their number by reason and origin. Only combinations that have occurred are listed.
    pub by_reason: Vec<EndedFor>,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes sent in datagrams.
    pub bytes_sent: u64,
    /// Bytes received in datagrams.
    pub bytes_received: u64,
    /// Messages taken from the application.
    pub messages_sent: u64,
    /// Messages given to the application.
    pub messages_received: u64,
    /// Reliable packets sent, resends not counted.
    pub reliable_sent: u64,
    /// Reliable packets sent again, for any cause. Divided by [`reliable_sent`](Self::reliable_sent), an estimate of
    /// the loss.
    pub resent: u64,
    /// Reliable packets that arrived more than once.
    pub duplicates: u64,
    /// Datagrams dropped for a wrong CRC.
    pub crc_rejects: u64,
}

/// Sessions that ended for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedFor {
    /// The reason. All numbers without a known meaning count as [`DisconnectReason::Other`] 0: peers choose them, and the list
    /// stays short.
    pub reason: DisconnectReason,
    /// Who ended them.
    pub origin: Origin,
    /// How many.
    pub sessions: u64,
}

impl EndedSessions {
    /// The number of sessions that ended for this reason, whichever side ended them.
    pub fn by(&self, reason: DisconnectReason) -> u64 {
        self.by_reason.iter().filter(|ended| ended.reason == reason).map(|ended| ended.sessions).sum()
    }

    pub(crate) fn add(&mut self, closed: Closed, stats: &SessionStats) {
        self.sessions += 1;
        self.datagrams_sent += stats.datagrams_sent;
        self.datagrams_received += stats.datagrams_received;
        self.bytes_sent += stats.bytes_sent;
        self.bytes_received += stats.bytes_received;
        self.messages_sent += stats.messages_sent;
        self.messages_received += stats.messages_received;
        self.reliable_sent += stats.reliable_sent;
        self.resent += stats.resent_lost + stats.resent_timeout;
        self.duplicates += stats.duplicates;
        self.crc_rejects += stats.crc_rejects;
        let reason = match closed.reason {
            DisconnectReason::Other(_) => DisconnectReason::Other(0),
            known => known,
        };
        let known = self.by_reason.iter_mut().find(|ended| (ended.reason, ended.origin) == (reason, closed.origin));
        match known {
            Some(ended) => ended.sessions += 1,
            None => self.by_reason.push(EndedFor { reason, origin: closed.origin, sessions: 1 }),
        }
    }
}

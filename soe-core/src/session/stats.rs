//! Counters and measurements of a session.

use std::{fmt, time::Duration};

/// The figures of a session that tell best how it does, see [`Session::vitals`](crate::Session::vitals). Each is the figure of
/// the same name in [`SessionStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Vitals {
    /// The smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// The share of sent datagrams that were lost, 0 to 1.
    pub loss_sent: Option<f32>,
    /// Bytes that wait to be sent.
    pub pending_bytes: usize,
}

impl From<&SessionStats> for Vitals {
    fn from(stats: &SessionStats) -> Self {
        Self { rtt: stats.rtt, loss_sent: stats.loss_sent, pending_bytes: stats.pending_bytes }
    }
}

/// A snapshot of a session's counters and measurements. All counters start at zero with the session.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams that came from the peer's address.
    pub datagrams_received: u64,
    /// Datagrams received with a valid CRC. This number is sent to the peer in the exchange of statistics.
    pub datagrams_authentic: u64,
    /// Bytes of the datagrams sent, without UDP and IP headers.
    pub bytes_sent: u64,
    /// Bytes of the datagrams received, without UDP and IP headers.
    pub bytes_received: u64,
    /// Messages that the application has sent.
    pub messages_sent: u64,
    /// Messages that the application has received.
    pub messages_received: u64,
    /// Bytes of the messages that the application has sent.
    pub message_bytes_sent: u64,
    /// Bytes of the messages that the application has received.
    pub message_bytes_received: u64,
    /// Datagrams dropped because their CRC was wrong or missing.
    pub crc_rejects: u64,
    /// Datagrams and reliable packets with a valid CRC and invalid content that were dropped without ending the session, because a
    /// CRC so short can be guessed. Also packets with an unknown op code.
    pub malformed: u64,
    /// Packets ignored: unexpected handshake packets, a Disconnect with another session id, and similar.
    pub ignored: u64,
    /// Reliable packets that had arrived before.
    pub duplicates: u64,
    /// Reliable packets that arrived before an earlier one.
    pub out_of_order: u64,
    /// Reliable packets dropped because they were beyond the receive window.
    pub beyond_window: u64,
    /// Ordered messages dropped because a newer one had arrived.
    pub overtaken: u64,
    /// Unreliable messages dropped because the receive buffer was full, and all messages that were waiting when a limit over
    /// the memory of all sessions ended this one.
    pub unread_dropped: u64,
    /// Unreliable messages dropped for their size. Outgoing: the negotiated datagram was too small. Incoming: longer
    /// than `max_message_size`.
    pub oversized_dropped: u64,
    /// Acknowledgements of packets that were never sent.
    pub bogus_acks: u64,
    /// Reliable packets sent, without resends.
    pub reliable_sent: u64,
    /// Packets resent because later ones were acknowledged.
    pub resent_lost: u64,
    /// Packets resent because the resend timer fired.
    pub resent_timeout: u64,
    /// Copies of packets sent on redundant channels.
    pub redundant_copies: u64,
    /// How often the resend timer fired.
    pub resend_timeouts: u64,
    /// UnknownSender datagrams received.
    pub unknown_sender: u64,
    /// The smoothed round-trip time of reliable packets. It includes the peer's acknowledgement delay.
    pub rtt: Option<Duration>,
    /// The lowest recent round-trip time.
    pub rtt_min: Option<Duration>,
    /// The last measured round-trip time.
    pub rtt_last: Option<Duration>,
    /// The network's round-trip time at the last exchange of statistics, in whole milliseconds. Unlike `rtt` it
    /// contains no acknowledgement delay.
    ///
    /// Measured by the client in every known game, at [`net_status_interval`](crate::Settings::net_status_interval).
    /// The other side shows the value that the client reports with its next request; it is not verified.
    pub ping: Option<Duration>,
    /// The lowest `ping`; only on the side that measures.
    pub ping_min: Option<Duration>,
    /// The share of datagrams to the peer that were lost between the last two exchanges of statistics, 0 to 1.
    pub loss_sent: Option<f32>,
    /// The share of datagrams from the peer that were lost between the last two exchanges of statistics, 0 to 1.
    pub loss_received: Option<f32>,
    /// The server's clock minus this side's, in milliseconds, modulo 2^32. Only on the side that sends
    /// NetStatusRequests.
    pub clock_offset: Option<u32>,
    /// Bytes that wait for their first transmission.
    pub pending_bytes: usize,
    /// Reliable bytes sent and not yet acknowledged.
    pub in_flight_bytes: usize,
    /// The congestion window in bytes.
    pub congestion_window: usize,
    /// The receive window that the peer has named, in packets for each reliable channel. `None`: it has not, and
    /// [`assumed_window`](crate::Settings::assumed_window) holds.
    pub peer_window: Option<u32>,
    /// Bytes that wait for the application.
    pub unread_bytes: usize,
    /// The age of the oldest unacknowledged reliable packet.
    pub oldest_unacknowledged: Option<Duration>,
    /// The time since the last valid datagram.
    pub since_received: Option<Duration>,
}

/// Defines from one list of all fields: the counter structs, their conversion into a snapshot, and the text of a
/// snapshot. A field that is missing in the list does not compile. A session does not store a whole `SessionStats`: its
/// gauges would take memory in every session.
macro_rules! fields {
    (counted: $($name:ident),*; rarely_counted: $($cold:ident),*; measured: $($gauge:ident),* $(,)?) => {
        /// The counters of a session; [`SessionStats`] documents each.
        #[derive(Clone, Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: u64,)*
            /// Allocated when one of them is first counted.
            cold: Option<Box<ColdCounters>>,
        }

        /// Counters that stay zero in many sessions.
        #[derive(Clone, Debug, Default)]
        pub(super) struct ColdCounters {
            $(pub(super) $cold: u64,)*
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> SessionStats {
                let mut stats = SessionStats { $($name: self.$name,)* ..SessionStats::default() };
                if let Some(cold) = &self.cold {
                    $(stats.$cold = cold.$cold;)*
                }
                stats
            }
        }

        impl SessionStats {
            fn fmt_all(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $($name,)* $($cold,)* $($gauge,)* } = self;
                $(writeln!(f, "{}: {}", stringify!($name), $name.show())?;)*
                $(writeln!(f, "{}: {}", stringify!($cold), $cold.show())?;)*
                $(writeln!(f, "{}: {}", stringify!($gauge), $gauge.show())?;)*
                Ok(())
            }
        }
    };
}

impl Counters {
    /// Bytes that may be allocated in addition.
    pub(super) const BOXED: usize = size_of::<ColdCounters>();

    pub(super) fn crc_rejects(&self) -> u64 {
        self.cold.as_ref().map_or(0, |cold| cold.crc_rejects)
    }

    pub(super) fn cold(&mut self) -> &mut ColdCounters {
        self.cold.get_or_insert_default()
    }
}

fields!(
    counted:
        datagrams_sent,
        datagrams_received,
        datagrams_authentic,
        bytes_sent,
        bytes_received,
        messages_sent,
        messages_received,
        message_bytes_sent,
        message_bytes_received,
        reliable_sent;
    rarely_counted:
        crc_rejects,
        malformed,
        ignored,
        duplicates,
        out_of_order,
        beyond_window,
        overtaken,
        unread_dropped,
        oversized_dropped,
        bogus_acks,
        resent_lost,
        resent_timeout,
        redundant_copies,
        resend_timeouts,
        unknown_sender;
    measured:
        rtt,
        rtt_min,
        rtt_last,
        ping,
        ping_min,
        loss_sent,
        loss_received,
        clock_offset,
        pending_bytes,
        in_flight_bytes,
        congestion_window,
        peer_window,
        unread_bytes,
        oldest_unacknowledged,
        since_received,
);

impl fmt::Display for SessionStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return self.fmt_all(f);
        }
        let Self { datagrams_sent, datagrams_received, bytes_sent, bytes_received, .. } = self;
        write!(f, "sent {datagrams_sent} datagrams ({bytes_sent} bytes), ")?;
        write!(f, "received {datagrams_received} ({bytes_received} bytes), ")?;
        write!(f, "ping {}, rtt {}, ", self.ping.show(), self.rtt.show())?;
        write!(f, "lost {} there and {} back, ", self.loss_sent.show(), self.loss_received.show())?;
        write!(f, "resent {} of {}, ", self.resent_lost + self.resent_timeout, self.reliable_sent)?;
        write!(f, "{} bytes waiting, {} under way, ", self.pending_bytes, self.in_flight_bytes)?;
        write!(f, "{} unread", self.unread_bytes)
    }
}

/// How a figure reads.
trait Figure {
    fn show(&self) -> String;
}

impl Figure for u64 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Figure for usize {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Figure for u32 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Figure for Duration {
    fn show(&self) -> String {
        format!("{:.1} ms", self.as_secs_f64() * 1e3)
    }
}

/// A share, 0 to 1.
impl Figure for f32 {
    fn show(&self) -> String {
        format!("{:.1} %", self * 100.0)
    }
}

impl<T: Figure> Figure for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "unknown".into(), Figure::show)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_in_one_line_or_in_one_line_each() {
        let stats = SessionStats { ping: Some(Duration::from_millis(20)), loss_sent: Some(0.25), ..Default::default() };
        let line = stats.to_string();
        assert!(
            !line.contains('\n') && line.contains("ping 20.0 ms, rtt unknown") && line.contains("25.0 %"),
            "{line}"
        );
        let full = format!("{stats:#}");
        assert!(full.contains("ping: 20.0 ms\n") && full.contains("since_received: unknown\n"), "{full}");
    }
}

//! What a session has counted and measured.

use std::{fmt, time::Duration};

/// A snapshot of a session's counters and measurements. All counts start with the session.
///
/// `{}` shows the figures that are looked at first, in one line; `{:#}` shows all, a line each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams that came from the peer's address.
    pub datagrams_received: u64,
    /// Datagrams received whose CRC was right: what the exchange of statistics tells the peer.
    pub datagrams_authentic: u64,
    /// Bytes sent in datagrams, UDP and IP headers not counted.
    pub bytes_sent: u64,
    /// Bytes received in datagrams, UDP and IP headers not counted.
    pub bytes_received: u64,
    /// Messages taken from the application.
    pub messages_sent: u64,
    /// Messages given to the application.
    pub messages_received: u64,
    /// Bytes of messages taken from the application.
    pub message_bytes_sent: u64,
    /// Bytes of messages given to the application.
    pub message_bytes_received: u64,
    /// Datagrams dropped for a wrong CRC, or too short to have one.
    pub crc_rejects: u64,
    /// Datagrams with a right CRC and no sensible content, dropped because so short a CRC could have been guessed; or packets
    /// with an unknown op code.
    pub malformed: u64,
    /// Packets ignored: handshakes out of place, disconnects with another id, and the like.
    pub ignored: u64,
    /// Reliable packets that arrived again.
    pub duplicates: u64,
    /// Reliable packets that arrived ahead of a gap.
    pub out_of_order: u64,
    /// Reliable packets beyond the receive window, dropped.
    pub beyond_window: u64,
    /// Ordered messages dropped because a newer one came first.
    pub overtaken: u64,
    /// Unreliable messages dropped because the application was behind.
    pub unread_dropped: u64,
    /// Unreliable messages dropped: to send, because the datagrams agreed on turned out too small for them; received, because
    /// they were longer than `max_message_size`.
    pub oversized_dropped: u64,
    /// Acknowledgements of something never sent.
    pub bogus_acks: u64,
    /// Reliable packets sent, resends not counted.
    pub reliable_sent: u64,
    /// Packets sent again because later ones were acknowledged.
    pub resent_lost: u64,
    /// Packets sent again because no acknowledgement came in time.
    pub resent_timeout: u64,
    /// Copies of packets that rode along on redundant channels.
    pub redundant_copies: u64,
    /// Times the resend timer fired.
    pub resend_timeouts: u64,
    /// UnknownSender datagrams received.
    pub unknown_sender: u64,
    /// The smoothed round trip of reliable packets, with the time that the peer holds its acknowledgements back. For the network's
    /// round trip see [`ping`](Self::ping).
    pub rtt: Option<Duration>,
    /// The lowest round trip.
    pub rtt_min: Option<Duration>,
    /// The last round trip measured.
    pub rtt_last: Option<Duration>,
    /// The network's round trip at the last exchange of statistics, in whole milliseconds: answers are not held back.
    /// [`net_status_interval`](crate::Settings::net_status_interval) sets how often it is measured, by the client in every known
    /// game. The other side shows what the client reports with its next request, and nothing proves that report.
    pub ping: Option<Duration>,
    /// The lowest round trip of those exchanges; on the side that measures.
    pub ping_min: Option<Duration>,
    /// The share of datagrams to the peer that were lost between the last two exchanges of statistics, 0 to 1.
    pub loss_sent: Option<f32>,
    /// The share of datagrams from the peer that were lost between the last two exchanges of statistics, 0 to 1.
    pub loss_received: Option<f32>,
    /// How far the server's clock is ahead of this side's, in milliseconds, modulo 2^32; on clients that ask for it.
    pub clock_offset: Option<u32>,
    /// Bytes that wait to be sent for the first time.
    pub pending_bytes: usize,
    /// Reliable bytes sent and not yet acknowledged.
    pub in_flight_bytes: usize,
    /// The congestion window in bytes.
    pub congestion_window: usize,
    /// Bytes that wait for the application.
    pub unread_bytes: usize,
    /// How long the oldest unacknowledged reliable packet has been under way.
    pub oldest_unacknowledged: Option<Duration>,
    /// How long ago the last valid datagram came.
    pub since_received: Option<Duration>,
}

/// Makes the structs of what is counted, and their way into a snapshot: a snapshot's gauges would weigh on every session.
macro_rules! counters {
    (common: $($name:ident),*; cold: $($cold:ident),* $(,)?) => {
        /// What a session counts as it goes; [`SessionStats`] says what each means.
        #[derive(Clone, Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: u64,)*
            /// Made when one of them is first counted.
            cold: Option<Box<ColdCounters>>,
        }

        /// What many sessions never count.
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
    };
}

impl Counters {
    /// What may be allocated beside it.
    pub(super) const BOXED: usize = size_of::<ColdCounters>();

    pub(super) fn cold(&mut self) -> &mut ColdCounters {
        self.cold.get_or_insert_default()
    }
}

counters!(
    common:
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
    cold:
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
        unknown_sender,
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

/// Shows every field of a snapshot. One that is missing in the list does not compile.
macro_rules! all_fields {
    ($($field:ident),* $(,)?) => {
        impl SessionStats {
            fn fmt_all(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $($field),* } = self;
                $(writeln!(f, "{}: {}", stringify!($field), $field.show())?;)*
                Ok(())
            }
        }
    };
}

all_fields!(
    datagrams_sent,
    datagrams_received,
    datagrams_authentic,
    bytes_sent,
    bytes_received,
    messages_sent,
    messages_received,
    message_bytes_sent,
    message_bytes_received,
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
    reliable_sent,
    resent_lost,
    resent_timeout,
    redundant_copies,
    resend_timeouts,
    unknown_sender,
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
    unread_bytes,
    oldest_unacknowledged,
    since_received,
);

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

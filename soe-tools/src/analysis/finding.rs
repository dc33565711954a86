//! What can be wrong, or worth knowing.

use std::fmt;

use serde::Serialize;

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "three degrees are all that a reader tells apart")]
pub enum Severity {
    /// Ordinary on a bad network.
    Note,
    /// Somebody waits, or something is lost.
    Warning,
    /// A peer or the capture is at fault.
    Error,
}

/// What is wrong. Times are in nanoseconds, lengths in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Finding {
    /// The checksum does not hold.
    BadCrc {
        /// Of the datagram.
        length: usize,
    },
    /// Behind a valid CRC stands something impossible.
    Corrupt {
        /// What.
        reason: String,
    },
    /// The capture kept only the front of the datagram.
    CutByCapture {
        /// Bytes that were kept.
        length: usize,
    },
    /// A reliable packet is seen again, or late.
    Resend {
        /// Of the packet.
        channel: usize,
        /// Of the packet.
        sequence: u64,
        /// Why, as far as the capture tells.
        cause: super::Transmission,
        /// Since it was sent last.
        after: u64,
        /// Times that it has been seen.
        copies: u32,
    },
    /// The peer acknowledged packets that are not in the capture.
    MissingFromCapture {
        /// Of the packets.
        channel: usize,
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
        /// How many of these; the others are there.
        count: u64,
    },
    /// Too much waits behind a gap to be kept: reassembly goes on behind it.
    GapGivenUp {
        /// Of the gap.
        channel: usize,
        /// The first sequence number that is missing.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Packets had not come by the end of the session or of the capture.
    OpenGap {
        /// Of the packets.
        channel: usize,
        /// The first sequence number that is missing.
        from: u64,
        /// The last.
        to: u64,
        /// Packets that wait behind them.
        waiting: usize,
    },
    /// A reliable packet is further ahead than any known receiver holds.
    OutOfWindow {
        /// Of the packet.
        channel: usize,
        /// Of the packet.
        sequence: u64,
        /// Packets ahead of what is acknowledged.
        ahead: u64,
    },
    /// Something was acknowledged that was never sent.
    AckOfUnsent {
        /// Of the acknowledgement.
        channel: usize,
        /// Of the acknowledgement.
        sequence: u64,
    },
    /// An acknowledgement took long although its packet was sent only once.
    LateAck {
        /// Of the packet.
        channel: usize,
        /// Of the packet.
        sequence: u64,
        /// Since the packet.
        after: u64,
    },
    /// Data was under way and nothing was acknowledged for long.
    Stall {
        /// Of the data.
        channel: usize,
        /// How long.
        lasted: u64,
        /// Bytes that waited.
        in_flight: usize,
        /// Whether it has not ended where the capture does.
        is_unfinished: bool,
    },
    /// Ordered messages were skipped.
    StampsSkipped {
        /// How many.
        count: u16,
    },
    /// An ordered message was overtaken: its receiver drops it.
    StampOvertaken {
        /// Of the message.
        stamp: u16,
    },
    /// A fragment series contradicts itself.
    BrokenTrain {
        /// Of the series.
        channel: usize,
        /// How.
        reason: String,
    },
    /// The key stream cannot be followed any more: what was lost from the capture used some of it.
    KeyStreamLost {
        /// Where.
        channel: usize,
    },
    /// A key does not fit what it was given for.
    BadKey {
        /// Why.
        reason: String,
    },
    /// The session moved to another address.
    Moved {
        /// The new one.
        to: String,
    },
    /// Somebody does not know the sender of a packet.
    UnknownSender,
    /// Neither side sent anything for long.
    Silence {
        /// How long.
        lasted: u64,
    },
    /// The codec was chosen anew because the flags of the datagrams are another family's.
    CodecChanged {
        /// The family.
        dialect: String,
    },
}

impl Finding {
    /// How much it matters.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Resend { .. }
            | Self::StampsSkipped { .. }
            | Self::StampOvertaken { .. }
            | Self::Moved { .. }
            | Self::CodecChanged { .. } => Severity::Note,
            Self::LateAck { .. }
            | Self::Stall { .. }
            | Self::Silence { .. }
            | Self::UnknownSender
            | Self::BadCrc { .. }
            | Self::CutByCapture { .. }
            | Self::MissingFromCapture { .. }
            | Self::OpenGap { .. }
            | Self::KeyStreamLost { .. } => Severity::Warning,
            Self::Corrupt { .. }
            | Self::GapGivenUp { .. }
            | Self::OutOfWindow { .. }
            | Self::AckOfUnsent { .. }
            | Self::BrokenTrain { .. }
            | Self::BadKey { .. } => Severity::Error,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCrc { length } => write!(f, "wrong CRC in a datagram of {length} bytes"),
            Self::Corrupt { reason } => write!(f, "corrupt behind a valid CRC: {reason}"),
            Self::CutByCapture { length } => write!(f, "the capture kept only {length} bytes of the datagram"),
            Self::Resend { channel, sequence, cause, after, copies } => {
                let (what, ago) = (resend(*cause), Millis(*after));
                write!(f, "channel {channel} #{sequence} {what}")?;
                match cause {
                    super::Transmission::Late => write!(f, ", {ago} after them"),
                    // When it was sent is forgotten with its acknowledgement.
                    _ if *after == 0 => Ok(()),
                    _ => write!(f, ", {ago} after the last, seen {copies} times"),
                }
            }
            Self::MissingFromCapture { channel, from, to, count } => {
                write!(f, "channel {channel}: {count} of #{from} to #{to} were acknowledged and are not in the capture")
            }
            Self::GapGivenUp { channel, from, to } => {
                write!(f, "channel {channel}: too much waits for #{from} to #{to}; going on behind them")
            }
            Self::OpenGap { channel, from, to, waiting } => {
                write!(
                    f,
                    "channel {channel}: #{from} to #{to} have not come by the end; {waiting} packets wait for them"
                )
            }
            Self::OutOfWindow { channel, sequence, ahead } => {
                write!(f, "channel {channel} #{sequence} is {ahead} packets ahead: beyond any known window")
            }
            Self::AckOfUnsent { channel, sequence } => {
                write!(f, "channel {channel} #{sequence} is acknowledged and was never sent")
            }
            Self::LateAck { channel, sequence, after } => {
                write!(f, "channel {channel} #{sequence} was acknowledged after {}", Millis(*after))
            }
            Self::Stall { channel, lasted, in_flight, is_unfinished } => {
                let end = if *is_unfinished { " up to the end" } else { "" };
                write!(f, "channel {channel} stalled for {}{end} with {in_flight} bytes under way", Millis(*lasted))
            }
            Self::StampsSkipped { count } => write!(f, "{count} ordered messages were skipped"),
            Self::StampOvertaken { stamp } => write!(f, "ordered message {stamp} was overtaken"),
            Self::BrokenTrain { channel, reason } => write!(f, "channel {channel}: {reason}"),
            Self::KeyStreamLost { channel } => {
                write!(f, "channel {channel}: packets are missing, the key stream cannot be followed any more")
            }
            Self::BadKey { reason } => write!(f, "the key does not fit: {reason}"),
            Self::Moved { to } => write!(f, "the session moved to {to}"),
            Self::UnknownSender => f.write_str("the sender of a packet is not known"),
            Self::Silence { lasted } => write!(f, "silence for {}", Millis(*lasted)),
            Self::CodecChanged { dialect } => write!(f, "the codec's flags are those of {dialect}"),
        }
    }
}

const fn resend(cause: super::Transmission) -> &'static str {
    match cause {
        super::Transmission::First => "sent",
        super::Transmission::Late => "first seen behind newer packets",
        super::Transmission::ResendAfterGap => "resent because newer packets were acknowledged",
        super::Transmission::ResendAfterTimeout => "resent by timer",
        super::Transmission::ResendEarly => "sent twice in advance",
        super::Transmission::ResendNeedless => "resent although it was acknowledged",
    }
}

/// Nanoseconds, shown in milliseconds.
pub(crate) struct Millis(pub(crate) u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} ms", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

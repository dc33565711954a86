//! The entries of a log, read one by one.

use std::{fmt, net::SocketAddr};

use super::{
    log::{self, Broken, Cursor, Way, channel_of},
    options::Mark,
};
use crate::message::{Channel, ReliableChannel};

/// One entry. Times are in nanoseconds since the recording's time zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    Datagram { time: u64, bytes: &'a [u8] },
    Outcome(u8),
    Timeout(u64),
    Unreachable(u64),
    Remap(u64),
    AskForLife,
    Send { channel: Channel, message: &'a [u8], receipt: bool },
    Hidden { channel: Channel, length: u64, shown: Option<&'a [u8]> },
    Refused(u8),
    Promoted,
    Reserve,
    DropOldest,
    Recv,
    Message { channel: Channel, length: u64, digest: u64 },
    SetKey { way: Way, key: Option<&'a [u8]> },
    SetHook { way: Way, channel: ReliableChannel, is_set: bool },
    Hook(Result<&'a [u8], &'a str>),
    Close { time: u64, reason: u32 },
    Abort { time: u64, reason: u32, tell_peer: bool },
    Abandon { time: u64, reason: u32, tell_peer: bool },
    Poll(u64),
    Transmit { time_to_live: Option<u8>, segment: usize, bytes: &'a [u8] },
    Event(&'a str),
    Problem(&'a str),
    Path { local: SocketAddr, remote: SocketAddr },
    Mark(Mark),
}

/// Reads a log behind its first entry.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    log: Cursor<'a>,
    /// The datagrams of the entries, where the log itself has only their lengths.
    apart: Option<Cursor<'a>>,
    /// The time of the last entry.
    pub(crate) last: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(log: &'a [u8], last: u64) -> Self {
        Self { log: Cursor::new(log), apart: None, last }
    }

    /// For a log in which datagrams are left out.
    pub(crate) fn with_datagrams(log: &'a [u8], datagrams: &'a [u8], last: u64) -> Self {
        Self { log: Cursor::new(log), apart: Some(Cursor::new(datagrams)), last }
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.log.rest()
    }

    /// Whether datagrams that are apart belong to no entry that was read.
    pub(crate) fn has_datagrams_left(&self) -> bool {
        self.apart.as_ref().is_some_and(|datagrams| !datagrams.is_empty())
    }

    /// The next entry; `None` at the end of the log.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'a>>, Broken> {
        if self.log.is_empty() {
            return Ok(None);
        }
        let tag = self.log.byte()?;
        Ok(Some(match tag {
            log::DATAGRAM => Entry::Datagram { time: self.time()?, bytes: self.datagrams()? },
            log::OUTCOME => Entry::Outcome(self.log.fit()?),
            log::TIMEOUT => Entry::Timeout(self.time()?),
            log::UNREACHABLE => Entry::Unreachable(self.time()?),
            log::REMAP => Entry::Remap(self.time()?),
            log::ASK_FOR_LIFE => Entry::AskForLife,
            log::SEND | log::SEND_WITH_RECEIPT => {
                let receipt = tag == log::SEND_WITH_RECEIPT;
                Entry::Send { channel: self.channel()?, message: self.log.bytes()?, receipt }
            }
            log::SEND_HIDDEN => {
                let (channel, length) = (self.channel()?, self.log.number()?);
                let (is_shown, bytes) = (self.log.flag()?, self.log.bytes()?);
                Entry::Hidden { channel, length, shown: is_shown.then_some(bytes) }
            }
            log::REFUSED => Entry::Refused(self.log.fit()?),
            log::PROMOTED => Entry::Promoted,
            log::RESERVE => Entry::Reserve,
            log::DROP_OLDEST => Entry::DropOldest,
            log::RECV => Entry::Recv,
            log::MESSAGE => Entry::Message {
                channel: self.channel()?,
                length: self.log.number()?,
                digest: self.log.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| Broken)?,
            },
            log::SET_KEY => {
                let (way, has_key, key) = (self.way()?, self.log.flag()?, self.log.bytes()?);
                Entry::SetKey { way, key: has_key.then_some(key) }
            }
            log::SET_HOOK => Entry::SetHook { way: self.way()?, channel: self.reliable()?, is_set: self.log.flag()? },
            log::HOOK => Entry::Hook(if self.log.flag()? { Ok(self.log.bytes()?) } else { Err(self.log.text()?) }),
            log::CLOSE => Entry::Close { time: self.time()?, reason: self.log.fit()? },
            log::ABORT => {
                let (time, reason, tell_peer) = self.ending()?;
                Entry::Abort { time, reason, tell_peer }
            }
            log::ABANDON => {
                let (time, reason, tell_peer) = self.ending()?;
                Entry::Abandon { time, reason, tell_peer }
            }
            log::POLL => Entry::Poll(self.time()?),
            log::TRANSMIT => {
                let time_to_live = match self.log.fit::<u16>()?.checked_sub(1) {
                    None => None,
                    Some(hops) => Some(u8::try_from(hops).map_err(|_| Broken)?),
                };
                let segment = self.log.fit()?;
                Entry::Transmit { time_to_live, segment, bytes: self.datagrams()? }
            }
            log::EVENT => Entry::Event(self.log.text()?),
            log::PROBLEM => Entry::Problem(self.log.text()?),
            log::PATH => Entry::Path { local: self.log.address()?, remote: self.log.address()? },
            log::MARK => {
                let number: usize = self.log.byte()?.into();
                Entry::Mark(Mark::ALL.get(number).copied().ok_or(Broken)?)
            }
            _ => return Err(Broken),
        }))
    }

    fn time(&mut self) -> Result<u64, Broken> {
        self.last = self.log.time(self.last)?;
        Ok(self.last)
    }

    fn datagrams(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.log.fit()?;
        self.apart.as_mut().unwrap_or(&mut self.log).take(length)
    }

    fn channel(&mut self) -> Result<Channel, Broken> {
        channel_of(self.log.byte()?).ok_or(Broken)
    }

    fn reliable(&mut self) -> Result<ReliableChannel, Broken> {
        ReliableChannel::new(self.log.byte()?).ok_or(Broken)
    }

    fn way(&mut self) -> Result<Way, Broken> {
        Ok(if self.log.flag()? { Way::In } else { Way::Out })
    }

    fn ending(&mut self) -> Result<(u64, u32, bool), Broken> {
        Ok((self.time()?, self.log.fit()?, self.log.flag()?))
    }
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Datagram { bytes, .. } => write!(f, "a datagram of {} bytes arrives: {}", bytes.len(), Hex(bytes)),
            Self::Outcome(number) => {
                f.write_str(name(number, &["authentic", "unproven", "rejected", "for the endpoint"]))
            }
            Self::Timeout(_) => f.write_str("the time of a timer"),
            Self::Unreachable(_) => f.write_str("an ICMP error"),
            Self::Remap(_) => f.write_str("the peer has moved"),
            Self::AskForLife => f.write_str("the peer is asked for a sign of life"),
            Self::Send { channel, message, .. } => {
                write!(f, "send {} bytes on {channel}: {}", message.len(), Hex(message))
            }
            Self::Hidden { channel, length, shown: Some(shown) } => {
                write!(f, "send {length} bytes on {channel}, of which is shown: {}", Hex(shown))
            }
            Self::Hidden { channel, length, shown: None } => write!(f, "send {length} bytes on {channel}, hidden"),
            Self::Refused(number) => {
                write!(f, "refused: {}", name(number, &["", "blocked", "empty", "too large", "no receipt", "closed"]))
            }
            Self::Promoted => f.write_str("promoted to reliable channel 0"),
            Self::Reserve => f.write_str("there is room for the next message"),
            Self::DropOldest => f.write_str("drop the oldest unreliable message"),
            Self::Recv => f.write_str("take a message"),
            Self::Message { channel, length, digest } => {
                write!(f, "a message of {length} bytes on {channel}, digest {digest:016x}")
            }
            Self::SetKey { way, key } => {
                let what = if key.is_some() { "a key" } else { "no key" };
                write!(f, "{what} for what {way}")
            }
            Self::SetHook { way, channel, is_set } => {
                let what = if is_set { "a hook" } else { "no hook" };
                write!(f, "{what} for what {way} on channel {channel}")
            }
            Self::Hook(Ok(bytes)) => write!(f, "a hook gives {} bytes: {}", bytes.len(), Hex(bytes)),
            Self::Hook(Err(error)) => write!(f, "a hook fails: {error}"),
            Self::Close { reason, .. } => write!(f, "close, reason {reason}"),
            Self::Abort { reason, tell_peer, .. } => write!(f, "abort, reason {reason}, tell the peer: {tell_peer}"),
            Self::Abandon { reason, tell_peer, .. } => {
                write!(f, "abandon, reason {reason}, tell the peer: {tell_peer}")
            }
            Self::Poll(_) => f.write_str("ask for datagrams to send"),
            Self::Transmit { segment, bytes, time_to_live } => {
                write!(f, "{} bytes in datagrams of {segment}", bytes.len())?;
                if let Some(hops) = time_to_live {
                    write!(f, " with a time to live of {hops}")?;
                }
                write!(f, ": {}", Hex(bytes))
            }
            Self::Event(text) => write!(f, "event: {text}"),
            Self::Problem(text) => write!(f, "problem: {text}"),
            Self::Path { local, remote } => write!(f, "from here on between {local} and {remote}"),
            Self::Mark(mark) => mark.fmt(f),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "is sent",
            Self::In => "is received",
        })
    }
}

fn name<'a>(number: u8, names: &[&'a str]) -> &'a str {
    names.get(usize::from(number)).copied().unwrap_or("unknown")
}

/// Bytes in hexadecimal, the first of many.
struct Hex<'a>(&'a [u8]);

/// Bytes that are shown of one entry: more than a datagram of the usual games.
const MAX_SHOWN: usize = 600;

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(MAX_SHOWN).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        if self.0.len() > MAX_SHOWN { f.write_str("...") } else { Ok(()) }
    }
}

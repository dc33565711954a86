//! A recording as a pcapng file: its datagrams are ordinary packets, the rest of its log stands in Decryption Secrets Blocks.
//!
//! ```text
//! section, interface
//! for each piece:  secrets SOEK   lines about the session and new keys, if there are any
//!                  secrets SOER   head | the piece's entries without the bytes of their datagrams
//!                  packets        those datagrams, in order
//! head             recording (8 bytes) | piece, from 0 (4) | packets that follow (4), little-endian
//! ```
//!
//! Everything but the datagrams is a secret: `editcap --discard-all-secrets` leaves an ordinary capture.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use thiserror::Error;

use super::{
    entry::{Entry, Reader},
    log::{self, Broken, Cursor, Way, channel_number, put_bytes, put_number},
    options::{Mark, Redact},
    pcapng::{self, Inbound, Packet},
    redact::Blank,
    start::Start,
};
use crate::message::{Channel, ReliableChannel};

/// The bytes before the entries in a secrets block of type [`pcapng::SECRETS_RECORDING`].
const HEAD: usize = 16;

/// Turns the pieces of one recording into a file.
#[derive(Debug, Default)]
pub struct RecordingWriter {
    recording: u64,
    pieces: u32,
    state: Option<State>,
    redact: Option<Arc<dyn Redact>>,
    apart: Vec<u8>,
}

#[derive(Debug)]
struct State {
    start: Start,
    last: u64,
    local: SocketAddr,
    remote: SocketAddr,
    /// Reliable messages sent and received, on each channel.
    counts: [[u64; ReliableChannel::COUNT]; 2],
    /// For the next packet.
    comments: Vec<String>,
    blank: Option<Blank>,
}

/// What a piece looks like in the file.
#[derive(Default)]
struct Parts {
    keys: String,
    packets: Vec<u8>,
    count: u32,
}

/// A piece that is none, or that does not follow the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Error)]
#[error("this is no piece of a recording, or not the next one")]
#[non_exhaustive]
pub struct NotAPiece;

impl From<Broken> for NotAPiece {
    fn from(_: Broken) -> Self {
        Self
    }
}

impl RecordingWriter {
    /// A writer of the recording with this number: [`Recorder::number`](super::Recorder::number).
    pub fn new(recording: u64) -> Self {
        Self { recording, ..Self::default() }
    }

    /// Hides messages: datagrams are written with `*` in place of everything that belongs to the application, keys are left
    /// out, and of messages that are sent the file holds what `redact` shows. Without this, a recording with
    /// [`RecordOptions::redacted`](super::RecordOptions::redacted) shows nothing of them.
    #[must_use]
    pub fn redact(mut self, redact: Arc<dyn Redact>) -> Self {
        self.redact = Some(redact);
        self
    }

    /// Pieces written so far.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Appends the next piece to `out`, with the head of the file before the first one.
    ///
    /// # Errors
    ///
    /// [`NotAPiece`] for bytes that no recorder has written.
    pub fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), NotAPiece> {
        let mut cursor = Cursor::new(piece);
        let (mut state, mut parts) = (self.state.take(), Parts::default());
        if state.is_none() {
            // Codecs of the application's own are not needed to write what they have made.
            let start = Start::take_any(&mut cursor).map_err(|_| NotAPiece)?;
            let head = format!("Flight recording of session {:08x}. {WARNING}", start.origin.session_id);
            let application = format!("soe-core {}", start.version);
            pcapng::head(out, &application, if start.is_redacted { HIDDEN } else { &head });
            state = Some(State::new(start, cursor.rest(), &mut parts));
        }
        let Some(mut state) = state else { return Err(NotAPiece) };
        let first = &piece[..piece.len() - cursor.rest().len()];
        self.apart.clear();
        self.apart.extend_from_slice(&self.recording.to_le_bytes());
        self.apart.extend_from_slice(&self.pieces.to_le_bytes());
        self.apart.extend_from_slice(&[0; 4]);
        self.apart.extend_from_slice(first);
        let mut reader = Reader::new(cursor.rest(), state.last);
        loop {
            let before = reader.rest();
            let Some(entry) = reader.next()? else { break };
            let whole = &before[..before.len() - reader.rest().len()];
            if state.start.is_redacted {
                hide(entry, whole, self.redact.as_deref(), &mut self.apart);
            } else {
                self.apart.extend_from_slice(&whole[..whole.len() - datagrams(&entry)]);
            }
            let is_refused = matches!(reader.clone().next(), Ok(Some(Entry::Refused(_))));
            state.put(entry, reader.last, is_refused, &mut parts);
        }
        state.last = reader.last;
        let count = if state.start.is_redacted { 0 } else { parts.count };
        self.apart[HEAD - 4..HEAD].copy_from_slice(&count.to_le_bytes());
        if !parts.keys.is_empty() {
            pcapng::secrets(out, pcapng::SECRETS_KEYS, parts.keys.as_bytes());
        }
        pcapng::secrets(out, pcapng::SECRETS_RECORDING, &self.apart);
        out.extend_from_slice(&parts.packets);
        self.pieces += 1;
        self.state = Some(state);
        Ok(())
    }
}

/// The bytes of the datagrams in an entry.
fn datagrams(entry: &Entry<'_>) -> usize {
    match entry {
        Entry::Datagram { bytes, .. } | Entry::Transmit { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

/// Appends an entry, which has the bytes `whole`, without what tells a message or a key.
fn hide(entry: Entry<'_>, whole: &[u8], redact: Option<&dyn Redact>, out: &mut Vec<u8>) {
    match entry {
        Entry::Send { channel, message, .. } => {
            let shown = redact.and_then(|redact| redact.show(channel, message));
            out.extend([log::SEND_HIDDEN, channel_number(channel)]);
            put_number(out, message.len() as u64);
            out.push(u8::from(shown.is_some()));
            put_bytes(out, shown.as_deref().unwrap_or_default());
        }
        Entry::SetKey { way, key } => {
            out.extend([log::SET_KEY, way as u8, u8::from(key.is_some())]);
            put_bytes(out, &[]);
        }
        Entry::Message { channel, length, .. } => {
            out.extend([log::MESSAGE, channel_number(channel)]);
            put_number(out, length);
            out.extend([0; 8]);
        }
        // An error may quote the message.
        Entry::Hook(_) | Entry::Problem(_) => {}
        // The packets have other lengths, and are nobody's.
        Entry::Datagram { bytes, .. } | Entry::Transmit { bytes, .. } => {
            let mut length = Vec::new();
            put_number(&mut length, bytes.len() as u64);
            out.extend_from_slice(&whole[..whole.len() - bytes.len() - length.len()]);
            put_number(out, 0);
        }
        _ => out.extend_from_slice(whole),
    }
}

impl State {
    /// The state behind the first entry, before `rest` of the first piece.
    fn new(start: Start, rest: &[u8], parts: &mut Parts) -> Self {
        let [own, other] = if start.origin.is_client { [CLIENT, SERVER] } else { [SERVER, CLIENT] };
        let [local, remote] = [own, other].map(SocketAddr::from);
        let (last, blank) = (start.created, start.is_redacted.then(|| Blank::new(&start.origin)));
        let mut state =
            Self { start, last, local, remote, counts: [[0; ReliableChannel::COUNT]; 2], comments: Vec::new(), blank };
        // A server's session has taken its first datagram before its owner could tell the addresses.
        let mut reader = Reader::new(rest, last);
        while let Ok(Some(entry)) = reader.next() {
            if let Entry::Path { local, remote } = entry {
                state.moved(local, remote);
                break;
            }
        }
        if !state.start.origin.is_client {
            let (origin, config) = (&state.start.origin, &state.start.origin.config);
            let [first, second] = config.passes.map(u8::from);
            // A word of its own on the line.
            let dialect = config.dialect.name.replace(char::is_whitespace, "-");
            let _ = writeln!(
                parts.keys,
                "SOE_SESSION {:08x} {:08x} {} {first} {second} {dialect} {}",
                origin.session_id, origin.crc_seed, config.crc_length, state.local,
            );
        }
        state
    }

    fn moved(&mut self, local: SocketAddr, remote: SocketAddr) {
        // A socket that is bound to the wildcard address of both families.
        let is_other = local.is_ipv4() != remote.is_ipv4();
        let ip = if is_other && local.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { local.ip() };
        (self.local, self.remote) = (SocketAddr::new(ip, local.port()), remote);
    }

    fn put(&mut self, entry: Entry<'_>, last: u64, is_refused: bool, parts: &mut Parts) {
        match entry {
            Entry::Datagram { bytes, .. } => self.packet(bytes, last, Inbound::Yes, None, parts),
            Entry::Transmit { bytes, segment, time_to_live } => {
                for datagram in bytes.chunks(segment.max(1)) {
                    self.packet(datagram, last, Inbound::No, time_to_live, parts);
                }
            }
            Entry::Path { local, remote } => self.moved(local, remote),
            Entry::Send { channel, .. } if !is_refused => self.count(Way::Out, channel),
            Entry::Promoted => self.count(Way::Out, Channel::Reliable(ReliableChannel::ZERO)),
            Entry::Message { channel, .. } => self.count(Way::In, channel),
            Entry::SetKey { way, key } => {
                self.key(way, key, &mut parts.keys);
                self.comments.push(entry.to_string());
            }
            Entry::Unreachable(_)
            | Entry::Remap(_)
            | Entry::AskForLife
            | Entry::SetHook { .. }
            | Entry::Close { .. }
            | Entry::Abort { .. }
            | Entry::Abandon { .. }
            | Entry::Event(_)
            | Entry::Mark(Mark::Panicked) => self.comments.push(entry.to_string()),
            Entry::Problem(_) if !self.start.is_redacted => self.comments.push(entry.to_string()),
            _ => {}
        }
        if self.comments.len() > MAX_COMMENTS {
            self.comments.remove(0);
        }
    }

    fn packet(&mut self, datagram: &[u8], last: u64, inbound: Inbound, time_to_live: Option<u8>, parts: &mut Parts) {
        let (from, to) = if inbound == Inbound::Yes { (self.remote, self.local) } else { (self.local, self.remote) };
        let time = self.start.unix.saturating_add(last).saturating_sub(self.start.created);
        let blanked = self.blank.as_mut().map(|blank| blank.datagram(datagram, inbound));
        let payload = blanked.as_deref().unwrap_or(datagram);
        let comments: Vec<_> = self.comments.iter().map(String::as_str).collect();
        pcapng::packet(
            &mut parts.packets,
            &Packet { time, from, to, payload, time_to_live, inbound: Some(inbound) },
            &comments,
        );
        parts.count += 1;
        self.comments.clear();
    }

    fn count(&mut self, way: Way, channel: Channel) {
        if let Channel::Reliable(channel) = channel {
            self.counts[way as usize][channel.index()] += 1;
        }
    }

    /// The line of a key, from the next message of each channel in its direction on.
    fn key(&self, way: Way, key: Option<&[u8]>, keys: &mut String) {
        if self.start.is_redacted {
            return;
        }
        let origin = &self.start.origin;
        let direction = if (way == Way::Out) == origin.is_client { "to-server" } else { "to-client" };
        let [zero, one, two, three] = self.counts[way as usize];
        let cipher = if key.is_some() { "rc4" } else { "off" };
        let _ = write!(keys, "SOE_KEY {:08x} {direction} {zero}/{one}/{two}/{three} {cipher} ", origin.session_id);
        key.unwrap_or_default().iter().for_each(|byte| {
            let _ = write!(keys, "{byte:02x}");
        });
        keys.push('\n');
    }
}

/// A piece of a recording in a file, without its datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilePiece<'a> {
    /// The recording that it belongs to; a file may hold several.
    pub recording: u64,
    /// Its number in that recording, from 0.
    pub number: u32,
    /// How many of the packets behind it are its datagrams.
    pub packets: u32,
    entries: &'a [u8],
}

impl<'a> FilePiece<'a> {
    /// Reads the contents of a secrets block of type [`pcapng::SECRETS_RECORDING`].
    ///
    /// # Errors
    ///
    /// [`NotAPiece`] if it is shorter than its head.
    pub fn read(secrets: &'a [u8]) -> Result<Self, NotAPiece> {
        let (head, entries) = secrets.split_first_chunk::<HEAD>().ok_or(NotAPiece)?;
        let word = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
        let low = u64::from(u32::from_le_bytes(word(0)));
        let recording = low | u64::from(u32::from_le_bytes(word(4))) << 32;
        let [number, packets] = [word(8), word(12)].map(u32::from_le_bytes);
        Ok(Self { recording, number, packets, entries })
    }

    /// Puts the piece together again. `datagrams` are those of its packets, one behind the other.
    ///
    /// # Errors
    ///
    /// [`NotAPiece`] if the entries are malformed, or the datagrams are not those.
    pub fn join(&self, datagrams: &[u8]) -> Result<Vec<u8>, NotAPiece> {
        let mut cursor = Cursor::new(self.entries);
        if self.number == 0 {
            Start::take_any(&mut cursor).map_err(|_| NotAPiece)?;
        }
        let mut piece = Vec::with_capacity(self.entries.len() + datagrams.len());
        piece.extend_from_slice(&self.entries[..self.entries.len() - cursor.rest().len()]);
        // Only distances between times are copied, so the time to begin with does not matter.
        let mut reader = Reader::with_datagrams(cursor.rest(), datagrams, log::LONGEST / 2);
        loop {
            let before = reader.rest();
            let Some(entry) = reader.next()? else { break };
            piece.extend_from_slice(&before[..before.len() - reader.rest().len()]);
            if let Entry::Datagram { bytes, .. } | Entry::Transmit { bytes, .. } = entry {
                piece.extend_from_slice(bytes);
            }
        }
        if reader.has_datagrams_left() { Err(NotAPiece) } else { Ok(piece) }
    }
}

const WARNING: &str = "It holds the session's keys and messages: whatever was said can be read from it, passwords too.";
const HIDDEN: &str = "Flight recording. Messages are hidden: what belongs to the application is filled with '*'.";
/// Addresses of sessions whose owner has told none: those that are kept for documentation.
const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 1], 50_000);
const SERVER: ([u8; 4], u16) = ([192, 0, 2, 2], 20_060);
/// Comments of one packet. What is older is only in the log.
const MAX_COMMENTS: usize = 64;

//! Keys and seeds that are not on the wire: from options, or from the secrets of a capture.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use soe_core::ReliableChannel;
use soe_core::cipher::{EverQuest2Hook, MessageHook, Rc4};
use soe_core::wire::unescape;
use thiserror::Error;

use super::Direction;

/// Lines that are kept; who needs more decodes in parts.
const MAX_LINES: usize = 100_000;
/// Sessions whose parameters are kept: datagrams without a handshake are tried under each.
const MAX_SESSIONS: usize = 1_000;
/// The most that a message may expand to, in bytes.
const MAX_MESSAGE: usize = 16 << 20;

/// The cipher of a [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CipherKind {
    /// RC4. Each reliable channel runs a key stream of its own from the same key, so that the order of channels does not matter.
    Rc4,
    /// EverQuest II: RC4 over a flag and a running deflate stream.
    EverQuest2,
    /// None from here on.
    Off,
}

/// The first reliable message of a direction that a key applies to, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyStart {
    /// Counted over all channels, as their messages become complete. Written as a number.
    Message(u64),
    /// Counted on each channel: channels overtake each other. Written as four numbers with a slash between them.
    Channels([u64; ReliableChannel::COUNT]),
}

impl KeyStart {
    /// Whether it applies to the next message of a channel, after so many of the direction and so many of the channel.
    fn applies(self, all: u64, channel: ReliableChannel, own: u64) -> bool {
        match self {
            Self::Message(first) => first <= all,
            Self::Channels(first) => first[channel.index()] <= own,
        }
    }

    /// What keys are ordered by.
    fn place(self) -> u64 {
        match self {
            Self::Message(first) => first,
            Self::Channels(first) => first.iter().fold(0, |sum, first| sum.saturating_add(*first)),
        }
    }
}

impl FromStr for KeyStart {
    type Err = KeyFormatError;

    fn from_str(text: &str) -> Result<Self, KeyFormatError> {
        let numbers: Result<Vec<u64>, _> = text.split('/').map(str::parse).collect();
        let numbers = numbers.map_err(|_| KeyFormatError)?;
        match numbers[..] {
            [first] => Ok(Self::Message(first)),
            _ => numbers.try_into().map(Self::Channels).map_err(|_| KeyFormatError),
        }
    }
}

/// A key, and from which message on it applies.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// The session; `None`: every one.
    pub session_id: Option<u32>,
    /// The direction; `None`: both.
    pub direction: Option<Direction>,
    /// From where on it applies.
    pub from: KeyStart,
    /// How it is used.
    pub cipher: CipherKind,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Key {
    /// Leaves the bytes out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("session_id", &self.session_id).field("from", &self.from).finish_non_exhaustive()
    }
}

impl FromStr for Key {
    type Err = KeyFormatError;

    /// Reads `[DIRECTION:][CIPHER:]HEX[@MESSAGE]`, such as `to-server:rc4:0a0b0c@3`, or `@3/0/0/1` with a message of each channel.
    fn from_str(text: &str) -> Result<Self, KeyFormatError> {
        let (rest, from) = match text.split_once('@') {
            Some((rest, from)) => (rest, from.parse()?),
            None => (text, KeyStart::Message(0)),
        };
        let mut key = Self { session_id: None, direction: None, from, cipher: CipherKind::Rc4, bytes: Vec::new() };
        let mut parts = rest.split(':').peekable();
        if let Some(direction) = parts.peek().and_then(|part| direction(part)) {
            (key.direction, _) = (Some(direction), parts.next());
        }
        if let Some(cipher) = parts.peek().and_then(|part| cipher(part)) {
            (key.cipher, _) = (cipher, parts.next());
        }
        // Bytes may be set apart by colons too.
        key.bytes = hex(&parts.collect::<String>()).ok_or(KeyFormatError)?;
        if key.bytes.is_empty() && key.cipher != CipherKind::Off {
            return Err(KeyFormatError);
        }
        Ok(key)
    }
}

/// A key that is not written as keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a key is written [to-server:|to-client:][rc4:|everquest2:|off:]HEX[@MESSAGE]")]
#[non_exhaustive]
pub struct KeyFormatError;

/// Everything that is known beside the datagrams.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// Those of every session stand under `None`.
    keys: HashMap<Option<u32>, Vec<Key>>,
    lines: usize,
    sessions: Vec<GivenSession>,
}

/// The parameters of a session whose handshake is not in the capture.
#[derive(Clone, Debug)]
pub(super) struct GivenSession {
    pub(super) session_id: u32,
    pub(super) seed: u32,
    pub(super) crc_length: u8,
    pub(super) passes: [u8; 2],
    pub(super) dialect: String,
    /// Who the server is, in a capture that has the session from its first packet on.
    pub(super) server: Option<SocketAddr>,
}

impl Secrets {
    pub(super) fn new(keys: Vec<Key>) -> Self {
        let mut secrets = Self::default();
        keys.into_iter().for_each(|key| secrets.add(key));
        secrets
    }

    /// Reads the lines of a Decryption Secrets Block. What is no line of ours is skipped.
    ///
    /// ```text
    /// SOE_SESSION <session id> <seed> <crc length> <pass 0> <pass 1> <dialect> [<server>]
    /// SOE_KEY <session id> <to-server|to-client> <first message, or of each channel: 3/0/0/1> <rc4|everquest2|off> <key>
    /// ```
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for line in String::from_utf8_lossy(bytes).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["SOE_KEY", id, way, from, kind, ref key @ ..] if self.lines < MAX_LINES => {
                    if let Some(key) = key_line(id, way, from, kind, key.first().copied().unwrap_or_default()) {
                        self.add(key);
                    }
                }
                ["SOE_SESSION", id, seed, crc, first, second, dialect, ref server @ ..]
                    if self.sessions.len() < MAX_SESSIONS =>
                {
                    let server = server.first().and_then(|address| address.parse().ok());
                    let session = session_line(id, seed, crc, [first, second], dialect);
                    self.sessions.extend(session.map(|session| GivenSession { server, ..session }));
                }
                _ => {}
            }
        }
    }

    fn add(&mut self, key: Key) {
        self.lines += 1;
        self.keys.entry(key.session_id).or_default().push(key);
    }

    /// The parameters under which this datagram is valid.
    pub(super) fn session_for(&self, is_valid: impl Fn(&GivenSession) -> bool) -> Option<&GivenSession> {
        self.sessions.iter().find(|session| is_valid(session))
    }

    /// The keys of one direction of a session, in the order in which they apply.
    pub(super) fn keys_of(&self, session_id: Option<u32>, direction: Direction) -> Vec<Key> {
        let of_all = self.keys.get(&None);
        let of_session = session_id.and_then(|id| self.keys.get(&Some(id)));
        let known = of_all.into_iter().chain(of_session).flatten();
        let is_meant = |key: &&Key| key.direction.is_none_or(|meant| meant == direction);
        let mut keys: Vec<Key> = known.filter(is_meant).cloned().collect();
        keys.sort_by_key(|key| key.from.place());
        keys
    }
}

fn key_line(id: &str, way: &str, from: &str, kind: &str, key: &str) -> Option<Key> {
    Some(Key {
        session_id: Some(u32::from_str_radix(id, 16).ok()?),
        direction: Some(direction(way)?),
        from: from.parse().ok()?,
        cipher: cipher(kind)?,
        bytes: hex(key).filter(|bytes| bytes.len() <= Rc4::MAX_KEY)?,
    })
}

fn session_line(id: &str, seed: &str, crc: &str, passes: [&str; 2], dialect: &str) -> Option<GivenSession> {
    let session_id = u32::from_str_radix(id, 16).ok()?;
    let seed = u32::from_str_radix(seed, 16).ok()?;
    let [first, second] = passes;
    let passes = [first.parse().ok()?, second.parse().ok()?];
    let crc_length = crc.parse().ok()?;
    Some(GivenSession { session_id, seed, crc_length, passes, dialect: dialect.into(), server: None })
}

fn direction(word: &str) -> Option<Direction> {
    [Direction::ToServer, Direction::ToClient].into_iter().find(|direction| direction.name() == word)
}

fn cipher(word: &str) -> Option<CipherKind> {
    match word {
        "rc4" => Some(CipherKind::Rc4),
        "everquest2" => Some(CipherKind::EverQuest2),
        "off" => Some(CipherKind::Off),
        _ => None,
    }
}

/// Bytes written in hexadecimal; white space, colons and `0x` are skipped.
pub(crate) fn hex(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let text = text.strip_prefix("0x").unwrap_or(text);
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|digit| !digit.is_whitespace() && *digit != ':')
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The cipher state of one direction of a session.
#[derive(Debug, Default)]
pub(super) struct Decryption {
    /// In the order in which they apply.
    keys: Vec<Key>,
    channels: [ChannelState; ReliableChannel::COUNT],
    direction: Option<Direction>,
    /// Reliable messages that went through.
    pub(super) count: u64,
}

/// One channel. It runs a key stream of its own.
#[derive(Debug, Default)]
struct ChannelState {
    /// Messages that went through.
    count: u64,
    /// Keys that have begun; the last of them applies.
    begun: usize,
    stream: Stream,
}

#[derive(Debug, Default)]
enum Stream {
    /// No message under the present key has come.
    #[default]
    Unused,
    Running(Box<dyn MessageHook>),
    /// Out of step, until another key.
    Lost,
}

impl ChannelState {
    fn key<'a>(&self, keys: &'a [Key]) -> Option<&'a Key> {
        keys[..self.begun].last().filter(|key| key.cipher != CipherKind::Off)
    }
}

impl Decryption {
    pub(super) fn new(keys: Vec<Key>, direction: Direction) -> Self {
        Self { keys, direction: Some(direction), ..Self::default() }
    }

    /// Takes the escape off the next reliable message and decrypts it where a key applies; says whether one did.
    pub(super) fn open(&mut self, channel: ReliableChannel, raw: Bytes) -> Result<(Bytes, bool), String> {
        let unescaped = raw.slice_ref(unescape(&raw));
        self.begin_keys(channel);
        self.count += 1;
        let state = &mut self.channels[channel.index()];
        state.count += 1;
        if let (Stream::Unused, Some(key)) = (&state.stream, state.key(&self.keys)) {
            match hook(key, self.direction) {
                Ok(hook) => state.stream = Stream::Running(hook),
                Err(reason) => {
                    state.stream = Stream::Lost;
                    return Err(reason);
                }
            }
        }
        let Stream::Running(hook) = &mut state.stream else { return Ok((unescaped, false)) };
        // A copy: the message shares its datagram's buffer with others.
        match hook.open(BytesMut::from(&unescaped[..]).freeze(), MAX_MESSAGE) {
            Ok(opened) => Ok((opened, true)),
            Err(error) => {
                state.stream = Stream::Lost;
                Err(error.to_string())
            }
        }
    }

    /// Something is missing on a channel: its key stream is out of step. True if there was one.
    pub(super) fn lose(&mut self, channel: ReliableChannel) -> bool {
        self.begin_keys(channel);
        let state = &mut self.channels[channel.index()];
        let is_keyed = state.key(&self.keys).is_some();
        let lost = if is_keyed { Stream::Lost } else { Stream::Unused };
        !matches!(std::mem::replace(&mut state.stream, lost), Stream::Lost) && is_keyed
    }

    /// Goes on to the key that applies to the next message of a channel.
    fn begin_keys(&mut self, channel: ReliableChannel) {
        let state = &mut self.channels[channel.index()];
        while self.keys.get(state.begun).is_some_and(|key| key.from.applies(self.count, channel, state.count)) {
            state.begun += 1;
            state.stream = Stream::Unused;
        }
    }
}

fn hook(key: &Key, direction: Option<Direction>) -> Result<Box<dyn MessageHook>, String> {
    match key.cipher {
        CipherKind::Rc4 | CipherKind::Off => {
            let cipher = Rc4::new(&key.bytes).map_err(|error| error.to_string())?;
            Ok(Box::new(cipher))
        }
        CipherKind::EverQuest2 => {
            let key = key.bytes[..].try_into().map_err(|_| "a key of EverQuest II has 8 bytes".to_owned())?;
            let (to_client, to_server) = EverQuest2Hook::server(key);
            let hook = if direction == Some(Direction::ToClient) { to_client } else { to_server };
            Ok(Box::new(hook))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_its_direction_its_cipher_and_where_it_begins() {
        let key: Key = "to-client:rc4:0a 0B:ff@12".parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            (key.direction, key.from, key.bytes),
            (Some(Direction::ToClient), KeyStart::Message(12), vec![10, 11, 255])
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "xyz", "0a0", "to-client:", "rc4:@3", "0a@x", "0a@1/2", "0a@1/2/3/4/5", "to-moon:0a"] {
            assert_eq!(text.parse::<Key>(), Err(KeyFormatError), "{text}");
        }
    }

    #[test]
    fn a_key_applies_from_its_message_on_and_a_later_one_replaces_it() {
        let mut secrets = Secrets::default();
        secrets.read(b"SOE_KEY 0000002a to-server 1 rc4 4b6579\nnonsense\nSOE_KEY 0000002a to-server 2 off\n");
        let mut decryption = Decryption::new(secrets.keys_of(Some(42), Direction::ToServer), Direction::ToServer);
        let mut sealed = *b"Plaintext";
        Rc4::new(b"Key").unwrap().apply(&mut sealed);
        let mut open = |bytes: &[u8]| decryption.open(ReliableChannel::ZERO, Bytes::copy_from_slice(bytes)).unwrap();
        assert_eq!(open(b"first"), (Bytes::from_static(b"first"), false));
        assert_eq!(open(&sealed), (Bytes::from_static(b"Plaintext"), true));
        assert_eq!(open(b"third"), (Bytes::from_static(b"third"), false));
    }

    #[test]
    fn a_key_may_begin_on_each_channel_by_itself() {
        let key = "6b6579@2/1/0/0".parse().unwrap_or_else(|error| panic!("{error}"));
        let mut decryption = Decryption::new(vec![key], Direction::ToServer);
        let mut is_keyed =
            |channel| decryption.open(channel, Bytes::from_static(b"text")).is_ok_and(|(_, is_keyed)| is_keyed);
        // Channel 1 is ahead of channel 0, which sent two messages before.
        let turns = [ReliableChannel::ONE, ReliableChannel::ONE, ReliableChannel::ZERO, ReliableChannel::ZERO];
        assert_eq!(turns.map(&mut is_keyed), [false, true, false, false]);
        assert!(is_keyed(ReliableChannel::ZERO) && is_keyed(ReliableChannel::THREE));
    }

    #[test]
    fn each_channel_runs_a_key_stream_of_its_own_and_one_that_is_lost_leaves_the_others() {
        let key = "6b6579".parse().unwrap_or_else(|error| panic!("{error}"));
        let mut decryption = Decryption::new(vec![key], Direction::ToServer);
        let mut seal = [Rc4::new(b"key").unwrap(), Rc4::new(b"key").unwrap()];
        let mut turn = |channel: ReliableChannel, loses: bool| {
            let mut text = *b"text";
            seal[channel.index()].apply(&mut text);
            if loses {
                assert!(decryption.lose(channel));
                assert!(!decryption.lose(channel), "said once");
            }
            decryption.open(channel, Bytes::copy_from_slice(&text)).unwrap() == (Bytes::from_static(b"text"), true)
        };
        for channel in [ReliableChannel::ZERO, ReliableChannel::ONE, ReliableChannel::ONE, ReliableChannel::ZERO] {
            assert!(turn(channel, false), "{channel:?}");
        }
        assert!(!turn(ReliableChannel::ZERO, true));
        assert!(turn(ReliableChannel::ONE, false));
    }
}

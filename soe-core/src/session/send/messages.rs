//! The messages that an application sends, and the transforms that they pass through.

use std::num::NonZeroU64;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    cipher::{KeyError, MessageHook},
    config::{EscapeRule, Overflow, Oversized},
    error::SendError,
    message::{Channel, Message, ReliableChannel},
    session::{Session, State, keys::seal, types::Receipt},
    wire::{self, DisconnectReason},
};

/// Op code and stamp of an ordered message.
pub(super) const ORDERED_HEADER: usize = 4;

impl Session {
    /// Takes a message to send. It is encrypted here, so a key set between two calls applies exactly from the second on.
    ///
    /// # Errors
    /// [`SendError`] gives the message back: the channel's send buffer is full, the message is empty or too large, or the
    /// session has ended or is closing.
    pub fn send(&mut self, message: Message) -> Result<(), SendError> {
        self.enqueue(message, None)
    }

    /// Like [`send`](Self::send), and [`Event::Delivered`](crate::Event::Delivered) reports when the peer has acknowledged
    /// the last byte. A receipt that is not reported before [`Event::Closed`](crate::Event::Closed) is not known to have been
    /// delivered.
    ///
    /// # Errors
    /// As for [`send`](Self::send), and [`SendError::NoReceipt`] for an unreliable message, which nobody acknowledges, unless it
    /// is promoted to a reliable channel.
    pub fn send_with_receipt(&mut self, message: Message) -> Result<Receipt, SendError> {
        let id = NonZeroU64::MIN.saturating_add(self.receipts);
        self.enqueue(message, Some(id))?;
        self.receipts += 1;
        Ok(Receipt(id))
    }

    fn enqueue(&mut self, message: Message, receipt: Option<NonZeroU64>) -> Result<(), SendError> {
        if !matches!(self.state, State::Connecting(_) | State::Open) {
            return Err(SendError::Closed(message));
        }
        if message.payload.is_empty() {
            return Err(SendError::Empty(message));
        }
        let limit = self.config.max_message_size;
        if message.payload.len() > limit {
            return Err(SendError::TooLarge { message, limit: limit as u32 });
        }
        let channel = match message.channel {
            Channel::Reliable(channel) => Some(channel),
            unreliable => {
                let limit = self.unreliable_limit(unreliable);
                let fits = message.payload.len() + usize::from(wire::needs_escape(&message.payload)) <= limit;
                match self.config.oversized_unreliable {
                    _ if fits => None,
                    Oversized::Promote => Some(ReliableChannel::ZERO),
                    Oversized::Refuse => return Err(SendError::TooLarge { message, limit: limit as u32 }),
                }
            }
        };
        if receipt.is_some() && channel.is_none() {
            return Err(SendError::NoReceipt(message));
        }
        if self.send_capacity_on(channel.map_or(Channel::Unreliable, Channel::Reliable)) == 0 {
            if self.config.overflow == Overflow::Close {
                self.fail(DisconnectReason::ReliableOverflow);
                return Err(SendError::Closed(message));
            }
            return Err(SendError::Blocked(message));
        }
        self.stats.messages_sent += 1;
        self.stats.message_bytes_sent += message.payload.len() as u64;
        match channel {
            Some(channel) => self.push_reliable(channel, message.payload, receipt),
            None => self.outbox.push_unreliable(message.channel, message.payload),
        }
        Ok(())
    }

    pub(in crate::session) fn push_reliable(
        &mut self,
        channel: ReliableChannel,
        message: Bytes,
        receipt: Option<NonZeroU64>,
    ) {
        let hook = self.send_hooks.as_deref_mut().and_then(|hooks| hooks.of(channel));
        let escapes = hook.is_some() || self.config.escape == EscapeRule::Always;
        let message = match hook {
            Some(hook) => seal(hook, message),
            None => message,
        };
        let wire = if escapes && wire::needs_escape(&message) { escaped(&message) } else { message };
        self.reliable(channel).sender.push(wire, receipt);
    }

    /// Bytes that every channel's send buffer still takes. A message is taken whenever this is above zero, whatever its
    /// size.
    pub fn send_capacity(&self) -> usize {
        let reliable = ReliableChannel::ALL.map(Channel::Reliable);
        let all = reliable.into_iter().chain([Channel::Unreliable]);
        all.map(|channel| self.send_capacity_on(channel)).min().unwrap_or(0)
    }

    /// Bytes that the send buffer of this channel still takes; the unreliable kinds share one.
    pub fn send_capacity_on(&self, channel: Channel) -> usize {
        let queued = match channel {
            Channel::Reliable(channel) => {
                self.channels[channel.index()].as_ref().map_or(0, |reliable| reliable.sender.queued_bytes())
            }
            _ => self.outbox.unreliable_bytes(),
        };
        self.config.send_buffer.saturating_sub(queued)
    }

    /// Encrypts reliable messages with RC4 from the next one sent on; `None` switches encryption off.
    ///
    /// Each channel runs a key stream of its own, from the beginning of the key, and loses the transform that it had. The switch
    /// is exact on each channel: where several are in use, the peer must know for each of them which message is the first
    /// under the key. Unreliable messages are not encrypted: see [`MessageHook`].
    ///
    /// # Errors
    /// If the key is empty or longer than 256 bytes.
    pub fn set_send_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        self.send_hooks.get_or_insert_default().set_key(key)
    }

    /// Transforms the messages of one reliable channel from the next one sent on; `None` sends them as they are. It takes the
    /// place of the transform or key that the channel had. Unreliable messages pass through no hook.
    pub fn set_send_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.send_hooks.get_or_insert_default().set(channel, hook);
    }

    /// The most bytes of an unreliable message, escape included.
    pub(in crate::session) fn unreliable_limit(&self, channel: Channel) -> usize {
        // Before the response the overhead is not known; the most there can be is 4 bytes of CRC and 2 of flags.
        let limit =
            if matches!(self.state, State::Connecting(_)) { self.udp_length() - 6 } else { self.packet_limit() };
        if channel == Channel::Unreliable { limit } else { limit - ORDERED_HEADER }
    }
}

/// The message with one 0 in front: a copy, for the few that need it.
fn escaped(message: &[u8]) -> Bytes {
    let mut wire = BytesMut::with_capacity(message.len() + 1);
    wire.put_u8(0);
    wire.put_slice(message);
    wire.freeze()
}

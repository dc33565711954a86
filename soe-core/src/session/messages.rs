//! What the application does with a session: messages in and out, and the transforms between.

use std::num::NonZeroU64;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Problem, Receipt, Session, State,
    keys::{open, seal},
};
use crate::{
    Channel, DisconnectReason, EscapeRule, HookError, KeyError, Message, MessageHook, Overflow, Oversized,
    ReliableChannel, SendError, channel::recv::Receiver, wire,
};

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

    pub(super) fn push_reliable(&mut self, channel: ReliableChannel, message: Bytes, receipt: Option<NonZeroU64>) {
        let hook = self.send_hooks.as_deref_mut().and_then(|hooks| hooks.of(channel));
        let escapes = hook.is_some() || self.config.escape == EscapeRule::Always;
        let message = match hook {
            Some(hook) => seal(hook, message),
            None => message,
        };
        let wire = if escapes && wire::needs_escape(&message) { escaped(&message) } else { message };
        self.reliable(channel).sender.push(wire, receipt);
    }

    /// Takes the next message, all channels in the order of arrival. It is decrypted here, so a key set between two calls
    /// applies exactly from the second on.
    ///
    /// After the end of the session it gives what had arrived until then. A message that cannot be decrypted, or is longer than
    /// [`max_message_size`](crate::Settings::max_message_size), ends the session: neither it nor anything behind it on its
    /// channel is given, what had arrived on other channels is.
    pub fn recv(&mut self) -> Option<Message> {
        loop {
            let arrival = self.inbox.pop()?;
            if self.stalled {
                self.drain();
            }
            let payload = match arrival.channel {
                Channel::Reliable(channel) => match self.open_reliable(channel, arrival.raw) {
                    Ok(payload) => payload,
                    Err(error) => {
                        self.note(Problem::Message { channel: channel.into(), error });
                        self.give_up(channel);
                        continue;
                    }
                },
                _ => arrival.raw,
            };
            self.stats.messages_received += 1;
            self.stats.message_bytes_received += payload.len() as u64;
            return Some(Message::new(arrival.channel, payload));
        }
    }

    fn open_reliable(&mut self, channel: ReliableChannel, mut raw: Bytes) -> Result<Bytes, HookError> {
        let hook = self.recv_hooks.as_deref_mut().and_then(|hooks| hooks.of(channel));
        if (hook.is_some() || self.config.escape == EscapeRule::Always) && raw.starts_with(&[0, 0]) {
            raw = raw.slice(1..);
        }
        let limit = self.config.max_message_size;
        match hook {
            Some(hook) => open(hook, raw, limit),
            None if raw.len() > limit => Err(HookError::TooLong { limit }),
            None => Ok(raw),
        }
    }

    /// A message of this channel is corrupt. The session ends, and nothing behind that message reaches the application: under
    /// a stream cipher it would be garbage.
    fn give_up(&mut self, channel: ReliableChannel) {
        self.inbox.discard(channel);
        if let Some(reliable) = &mut self.channels[channel.index()] {
            reliable.receiver = Receiver::starting_at(channel, 0);
        }
        self.fail(DisconnectReason::CorruptPacket);
    }

    /// Whether [`recv`](Self::recv) would give a message.
    pub fn is_readable(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Whether a reliable channel waits for the application to take messages: what it then delivers is acknowledged, so that
    /// [`recv`](Self::recv) leaves something to send.
    pub fn is_held_back(&self) -> bool {
        self.stalled
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

    /// Decrypts reliable messages with RC4 from the next one taken on, each channel with a key stream of its own; `None`
    /// switches decryption off. On the terms of [`set_send_key`](Self::set_send_key).
    ///
    /// # Errors
    /// If the key is empty or longer than 256 bytes.
    pub fn set_recv_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        self.recv_hooks.get_or_insert_default().set_key(key)
    }

    /// Transforms the messages of one reliable channel from the next one sent on; `None` sends them as they are. It takes the
    /// place of the transform or key that the channel had. Unreliable messages pass through no hook.
    pub fn set_send_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.send_hooks.get_or_insert_default().set(channel, hook);
    }

    /// Undoes the peer's transform of one reliable channel from the next message taken on; `None` takes them as they are.
    pub fn set_recv_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.recv_hooks.get_or_insert_default().set(channel, hook);
    }
}

/// The message with one 0 in front: a copy, for the few that need it.
fn escaped(message: &[u8]) -> Bytes {
    let mut wire = BytesMut::with_capacity(message.len() + 1);
    wire.put_u8(0);
    wire.put_slice(message);
    wire.freeze()
}

//! What the application does with a session: messages in and out, and the transforms between.

use std::num::NonZeroU64;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Receipt, Session, State};
use crate::{
    Channel, DisconnectReason, EscapeRule, KeyError, Message, MessageHook, Overflow, Oversized, Rc4, ReliableChannel,
    SendError, wire,
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
    /// the last byte. Unreliable messages are never acknowledged: their receipt is never reported, unless they are promoted.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
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
        let hooks = self.send_hooks.as_deref_mut().filter(|hooks| hooks.is_active(channel));
        let escapes = hooks.is_some() || self.config.escape == EscapeRule::Always;
        let message = match hooks {
            Some(hooks) => hooks.seal(channel, message),
            None => message,
        };
        let wire = if escapes && wire::needs_escape(&message) { escaped(&message) } else { message };
        self.reliable(channel).sender.push(wire, receipt);
    }

    /// Takes the next message, all channels in the order of arrival. It is decrypted here, so a key set between two calls
    /// applies exactly from the second on.
    ///
    /// After the end of the session it gives what had arrived until then.
    pub fn recv(&mut self) -> Option<Message> {
        let arrival = self.inbox.pop()?;
        if self.stalled {
            self.drain();
        }
        let payload = match arrival.channel {
            Channel::Reliable(channel) => self.open_reliable(channel, arrival.raw)?,
            _ => arrival.raw,
        };
        self.stats.messages_received += 1;
        self.stats.message_bytes_received += payload.len() as u64;
        Some(Message::new(arrival.channel, payload))
    }

    fn open_reliable(&mut self, channel: ReliableChannel, mut raw: Bytes) -> Option<Bytes> {
        let hooks = self.recv_hooks.as_deref_mut().filter(|hooks| hooks.is_active(channel));
        if (hooks.is_some() || self.config.escape == EscapeRule::Always) && raw.starts_with(&[0, 0]) {
            raw = raw.slice(1..);
        }
        let Some(hooks) = hooks else { return Some(raw) };
        match hooks.open(channel, raw, self.config.max_message_size) {
            Ok(message) => Some(message),
            Err(error) => {
                tracing::debug!(%channel, %error, "a message cannot be decrypted");
                self.fail(DisconnectReason::CorruptPacket);
                None
            }
        }
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

    /// Encrypts reliable messages with RC4 from the next one sent on; `None` switches encryption off. One key stream for all
    /// channels, as the known games have it: safe only while one channel carries encrypted messages, or while each channel
    /// has its own key ([`set_channel_send_hook`](Self::set_channel_send_hook)).
    ///
    /// # Errors
    /// If the key is empty or longer than 256 bytes.
    pub fn set_send_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        self.set_send_hook(rc4(key)?);
        Ok(())
    }

    /// Decrypts reliable messages with RC4 from the next one taken on; `None` switches decryption off.
    ///
    /// # Errors
    /// If the key is empty or longer than 256 bytes.
    pub fn set_recv_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        self.set_recv_hook(rc4(key)?);
        Ok(())
    }

    /// Transforms reliable messages from the next one sent on; `None` sends them as they are.
    pub fn set_send_hook(&mut self, hook: Option<Box<dyn MessageHook>>) {
        self.send_hooks.get_or_insert_default().set(hook);
    }

    /// Undoes the peer's transform from the next reliable message taken on; `None` takes them as they are.
    pub fn set_recv_hook(&mut self, hook: Option<Box<dyn MessageHook>>) {
        self.recv_hooks.get_or_insert_default().set(hook);
    }

    /// Gives one channel a transform of its own, or with `None` none, whatever the session's is, from the next message sent
    /// on.
    pub fn set_channel_send_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.send_hooks.get_or_insert_default().set_channel(channel, hook);
    }

    /// Like [`set_channel_send_hook`](Self::set_channel_send_hook), for messages received.
    pub fn set_channel_recv_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.recv_hooks.get_or_insert_default().set_channel(channel, hook);
    }

    /// Lets a channel do again as the session does, in both directions.
    pub fn inherit_channel_hooks(&mut self, channel: ReliableChannel) {
        for hooks in [&mut self.send_hooks, &mut self.recv_hooks].into_iter().flatten() {
            hooks.inherit(channel);
        }
    }
}

fn rc4(key: Option<&[u8]>) -> Result<Option<Box<dyn MessageHook>>, KeyError> {
    key.map(|key| Rc4::new(key).map(|rc4| Box::new(rc4) as Box<dyn MessageHook>)).transpose()
}

/// The message with one 0 in front: a copy, for the few that need it.
fn escaped(message: &[u8]) -> Bytes {
    let mut wire = BytesMut::with_capacity(message.len() + 1);
    wire.put_u8(0);
    wire.put_slice(message);
    wire.freeze()
}

//! Outgoing messages and their transforms.

use std::num::NonZeroU64;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    cipher::{KeyError, MessageHook},
    config::{EscapeRule, Overflow, Oversized},
    error::SendError,
    message::{Channel, Message, ReliableChannel},
    recording::{Way, log},
    session::{Session, State, keys::seal, types::Receipt},
    wire::{self, DisconnectReason},
};

/// The op code and stamp of an ordered message, in bytes.
pub(super) const ORDERED_HEADER: usize = 4;

impl Session {
    /// Queues a message. The message is encrypted in this call: a key set between two calls applies from the second one
    /// on.
    ///
    /// # Errors
    /// [`SendError`] returns the message if the channel's send buffer is full, if the message is empty or too large, or
    /// if the session is closing or has ended.
    pub fn send(&mut self, message: Message) -> Result<(), SendError> {
        if let Some(recorder) = self.recorder() {
            recorder.send(message.channel, &message.payload, false);
        }
        let sent = self.enqueue(message, None);
        if let Err(error) = &sent {
            self.record_refusal(error);
        }
        sent
    }

    /// Like [`send`](Self::send). [`Event::Delivered`](crate::Event::Delivered) reports when the peer has acknowledged
    /// the last byte. If [`Event::Closed`](crate::Event::Closed) comes first, the message may not have been delivered.
    ///
    /// # Errors
    /// As for [`send`](Self::send), and [`SendError::NoReceipt`] for an unreliable message, unless it is promoted to a
    /// reliable channel.
    pub fn send_with_receipt(&mut self, message: Message) -> Result<Receipt, SendError> {
        if let Some(recorder) = self.recorder() {
            recorder.send(message.channel, &message.payload, true);
        }
        let id = NonZeroU64::MIN.saturating_add(self.receipts);
        self.enqueue(message, Some(id)).inspect_err(|error| self.record_refusal(error))?;
        self.receipts += 1;
        Ok(Receipt(id))
    }

    /// Drops the unreliable message that has waited longest to be sent: newer ones matter more to most games. False: none
    /// waits.
    pub fn drop_oldest_unreliable(&mut self) -> bool {
        if let Some(recorder) = self.recorder() {
            recorder.call(log::DROP_OLDEST);
        }
        self.outbox.pop_unreliable().is_some()
    }

    /// Lets the next call of [`send`](Self::send) or [`send_with_receipt`](Self::send_with_receipt) exceed a full send
    /// buffer by its message, for a caller that was promised room while there was some
    /// ([`send_capacity`](Self::send_capacity)). One promise at a time exceeds the buffers by one message in all.
    pub fn reserve(&mut self) {
        if let Some(recorder) = self.recorder() {
            recorder.call(log::RESERVE);
        }
        self.reserved = true;
    }

    fn enqueue(&mut self, message: Message, receipt: Option<NonZeroU64>) -> Result<(), SendError> {
        let is_reserved = std::mem::take(&mut self.reserved);
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
        if !is_reserved && self.send_capacity_on(channel.map_or(Channel::Unreliable, Channel::Reliable)) == 0 {
            if self.config.overflow == Overflow::Close {
                self.fail(DisconnectReason::ReliableOverflow);
                return Err(SendError::Closed(message));
            }
            return Err(SendError::Blocked(message));
        }
        self.stats.messages_sent += 1;
        self.stats.message_bytes_sent += message.payload.len() as u64;
        match channel {
            Some(channel) => {
                self.push_reliable(channel, message.payload, receipt);
                if !message.channel.is_reliable()
                    && let Some(recorder) = self.recorder()
                {
                    recorder.call(log::PROMOTED);
                }
            }
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
        let (hook, is_own) = match self.send_hooks.as_deref_mut() {
            Some(hooks) => hooks.of(channel),
            None => (None, false),
        };
        let escapes = hook.is_some() || self.config.escape == EscapeRule::Always;
        let message = match hook {
            Some(hook) => {
                let sealed = seal(hook, message);
                if is_own && let Some(recorder) = self.recorder() {
                    recorder.hook(Ok(&sealed));
                }
                sealed
            }
            None => message,
        };
        let wire = if escapes && wire::needs_escape(&message) { escaped(&message) } else { message };
        self.reliable(channel).sender.push(wire, receipt);
    }

    /// The free space of the fullest send buffer, in bytes, over all channels. While it is above zero, every channel
    /// accepts one more message of any size.
    pub fn send_capacity(&self) -> usize {
        let reliable = ReliableChannel::ALL.map(Channel::Reliable);
        let all = reliable.into_iter().chain([Channel::Unreliable]);
        all.map(|channel| self.send_capacity_on(channel)).min().unwrap_or(0)
    }

    /// The messages of each reliable channel, and in the last place the unreliable ones, that have not left entirely: they
    /// wait for the first transmission of their last byte.
    pub fn queued_messages(&self) -> [usize; ReliableChannel::COUNT + 1] {
        let [zero, one, two, three] = self
            .channels
            .each_ref()
            .map(|reliable| reliable.as_ref().map_or(0, |reliable| reliable.sender.queued_messages()));
        [zero, one, two, three, self.outbox.unreliable_messages()]
    }

    /// The free space of this channel's send buffer, in bytes. The unreliable channels share one buffer.
    pub fn send_capacity_on(&self, channel: Channel) -> usize {
        let queued = match channel {
            Channel::Reliable(channel) => {
                self.channels[channel.index()].as_ref().map_or(0, |reliable| reliable.sender.queued_bytes())
            }
            _ => self.outbox.unreliable_bytes(),
        };
        self.config.send_buffer.saturating_sub(queued)
    }

    /// Encrypts reliable messages with RC4, beginning with the next one sent; `None` disables encryption.
    ///
    /// Each channel has its own key stream, which starts at the beginning of the key. The key replaces the channel's
    /// previous key or hook. If several channels are in use, the peer must know for each of them which message is the
    /// first under the new key. Unreliable messages are not encrypted: see [`MessageHook`]. A channel that the peer delivers
    /// [`unordered`](crate::ChannelOptions::unordered) must not be encrypted: a key stream needs the order.
    ///
    /// # Errors
    /// If the key is empty or longer than 256 bytes.
    pub fn set_send_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        if let Some(recorder) = self.recorder() {
            recorder.set_key(Way::Out, key);
        }
        self.send_hooks.get_or_insert_default().set_key(key)
    }

    /// Transforms the messages of one reliable channel, beginning with the next one sent; `None` sends them unchanged.
    /// The hook replaces the channel's previous key or hook. Unreliable messages pass through no hook.
    pub fn set_send_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        if let Some(recorder) = self.recorder() {
            recorder.set_hook(Way::Out, channel, hook.is_some());
        }
        self.send_hooks.get_or_insert_default().set(channel, hook);
    }

    /// The largest unreliable message, in bytes, including its escape byte.
    pub(in crate::session) fn unreliable_limit(&self, channel: Channel) -> usize {
        // The framing is not known before the response. It adds at most 4 bytes of CRC and 2 of flags.
        let limit =
            if matches!(self.state, State::Connecting(_)) { self.udp_length() - 6 } else { self.packet_limit() };
        if channel == Channel::Unreliable { limit } else { limit - ORDERED_HEADER }
    }
}

/// Returns a copy of the message with a 0 in front. Few messages need it.
fn escaped(message: &[u8]) -> Bytes {
    let mut wire = BytesMut::with_capacity(message.len() + 1);
    wire.put_u8(0);
    wire.put_slice(message);
    wire.freeze()
}

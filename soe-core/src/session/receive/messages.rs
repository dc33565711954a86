//! The messages that an application takes, and the transforms that they pass through.

use std::time::Instant;

use bytes::Bytes;

use crate::{
    channel::{
        acks::AckPolicy,
        recv::{Receiver, RecvLimits},
    },
    cipher::{HookError, KeyError, MessageHook},
    config::EscapeRule,
    message::{Channel, Message, ReliableChannel},
    session::{Session, TRANSFORM_OVERHEAD, keys::open, problem::Problem},
    wire::DisconnectReason,
};

impl Session {
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

    /// Decrypts reliable messages with RC4 from the next one taken on, each channel with a key stream of its own; `None`
    /// switches decryption off. On the terms of [`set_send_key`](Self::set_send_key).
    ///
    /// # Errors
    /// If the key is empty or longer than 256 bytes.
    pub fn set_recv_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        self.recv_hooks.get_or_insert_default().set_key(key)
    }

    /// Undoes the peer's transform of one reliable channel from the next message taken on; `None` takes them as they are.
    pub fn set_recv_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.recv_hooks.get_or_insert_default().set(channel, hook);
    }

    pub(in crate::session) fn recv_limits(&self, now: Instant, channel: ReliableChannel) -> RecvLimits {
        let settings = &*self.config;
        let ride = self.send_interval.wait(now, settings.ack_ride_limit);
        RecvLimits {
            window: settings.recv_window,
            message: settings.max_message_size + TRANSFORM_OVERHEAD,
            inbox: settings.recv_buffer,
            acks: AckPolicy {
                packets: if settings.ack_every_packet { 1 } else { settings.ack_packets },
                delay: ride.map_or(settings.max_ack_delay, |ride| ride.max(settings.max_ack_delay)),
            },
            unordered: settings.channels[channel.index()].unordered,
        }
    }

    /// Delivers what waited for room.
    fn drain(&mut self) {
        let limits = ReliableChannel::ALL.map(|channel| self.recv_limits(self.last_received.instant(), channel));
        let mut corrupt = None;
        self.stalled = false;
        for (limits, reliable) in limits.iter().zip(&mut self.channels) {
            let Some(reliable) = reliable else { continue };
            if let Err(error) = reliable.receiver.drain(limits, &mut self.inbox) {
                corrupt = Some(error);
            }
            self.stalled |= reliable.receiver.is_stalled();
        }
        if let Some(error) = corrupt {
            self.broken(error.0);
        }
    }
}

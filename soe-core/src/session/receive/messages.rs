//! Incoming messages and their transforms.

use bytes::Bytes;

use crate::{
    channel::{
        acks::AckPolicy,
        inbox::Inbox,
        recv::{Fault, Receiver, RecvLimits},
    },
    cipher::{HookError, KeyError, MessageHook},
    config::EscapeRule,
    message::{Channel, Message, ReliableChannel},
    recording::{Way, log},
    session::{Session, TRANSFORM_OVERHEAD, keys::open, life::Timer, problem::Problem},
    timestamp::Timestamp,
    wire::DisconnectReason,
};

impl Session {
    /// Returns the next message, in order of arrival over all channels. The message is decrypted in this call: a key
    /// set between two calls applies from the second one on.
    ///
    /// After the session has ended, it returns what had arrived before. A message that cannot be decrypted, or that is
    /// longer than [`max_message_size`](crate::Settings::max_message_size), ends the session. That message and all
    /// later ones on its channel are dropped; messages on other channels are still returned.
    pub fn recv(&mut self) -> Option<Message> {
        if self.inbox.is_empty() {
            return None;
        }
        if let Some(recorder) = self.recorder() {
            recorder.call(log::RECV);
        }
        let message = self.take_message();
        if let (Some(message), Some(recorder)) = (&message, self.recorder()) {
            recorder.message(message.channel, &message.payload);
        }
        message
    }

    fn take_message(&mut self) -> Option<Message> {
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
        let (hook, is_own) = match self.recv_hooks.as_deref_mut() {
            Some(hooks) => hooks.of(channel),
            None => (None, false),
        };
        if (hook.is_some() || self.config.escape == EscapeRule::Always) && raw.starts_with(&[0, 0]) {
            raw = raw.slice(1..);
        }
        let limit = self.config.max_message_size;
        match hook {
            Some(hook) => {
                let opened = open(hook, raw, limit);
                if is_own && let Some(recorder) = self.recorder() {
                    recorder.hook(opened.as_deref().map_err(|error| error as _));
                }
                opened
            }
            None if raw.len() > limit => Err(HookError::TooLong { limit }),
            None => Ok(raw),
        }
    }

    /// Ends the session after an undecodable message and drops everything behind it on its channel: under a stream
    /// cipher that would be garbage.
    fn give_up(&mut self, channel: ReliableChannel) {
        self.inbox.discard(channel);
        if let Some(reliable) = &mut self.channels[channel.index()] {
            reliable.receiver = Receiver::starting_at(channel, 0);
        }
        self.fail(DisconnectReason::CorruptPacket);
    }

    /// Whether [`recv`](Self::recv) returns a message.
    pub fn is_readable(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Whether a full receive buffer holds back a reliable channel. The next [`recv`](Self::recv) may then deliver
    /// packets and produce acknowledgements to send.
    pub fn is_held_back(&self) -> bool {
        self.stalled
    }

    /// Decrypts reliable messages with RC4, beginning with the next one received; `None` disables decryption. See
    /// [`set_send_key`](Self::set_send_key).
    ///
    /// # Errors
    /// If the key is empty or longer than 256 bytes.
    pub fn set_recv_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        if let Some(recorder) = self.recorder() {
            recorder.set_key(Way::In, key);
        }
        self.recv_hooks.get_or_insert_default().set_key(key)
    }

    /// Reverses the peer's transform of one reliable channel, beginning with the next message received; `None` removes
    /// the hook.
    pub fn set_recv_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        if let Some(recorder) = self.recorder() {
            recorder.set_hook(Way::In, channel, hook.is_some());
        }
        self.recv_hooks.get_or_insert_default().set(channel, hook);
    }

    pub(in crate::session) fn recv_limits(&self, now: Timestamp, channel: ReliableChannel) -> RecvLimits {
        let settings = &*self.config;
        let ride = self.send_interval.wait(now, settings.ack_ride_limit);
        RecvLimits {
            window: settings.recv_window,
            held: settings.held_bytes(self.udp_length()),
            message: settings.max_message_size + TRANSFORM_OVERHEAD,
            inbox: settings.recv_buffer,
            acks: AckPolicy {
                packets: if settings.ack_every_packet { 1 } else { settings.ack_packets },
                delay: ride.map_or(settings.max_ack_delay, |ride| ride.max(settings.max_ack_delay)),
            },
            unordered: settings.channels[channel.index()].unordered,
        }
    }

    /// Delivers packets that waited for room in the receive buffer.
    fn drain(&mut self) {
        self.go_on(self.last_received, Receiver::drain);
    }

    /// Gives up the places on reliable channels that nobody fills.
    pub(in crate::session) fn healing_timer(&mut self, now: Timestamp) {
        self.go_on(now, Receiver::give_up);
    }

    /// Goes on with the packets that are held on each reliable channel.
    fn go_on(
        &mut self,
        now: Timestamp,
        step: fn(&mut Receiver, Timestamp, &RecvLimits, &mut Inbox) -> Result<(), Fault>,
    ) {
        let limits = ReliableChannel::ALL.map(|channel| self.recv_limits(now, channel));
        let mut faults = [None; ReliableChannel::COUNT];
        self.stalled = false;
        for ((limits, reliable), fault) in limits.iter().zip(&mut self.channels).zip(&mut faults) {
            let Some(reliable) = reliable else { continue };
            *fault = step(&mut reliable.receiver, now, limits, &mut self.inbox).err();
            self.stalled |= reliable.receiver.is_stalled();
        }
        self.watch_healing();
        for fault in faults.into_iter().flatten() {
            match fault {
                // Without a datagram in hand: it proves as much as the shortest one.
                Fault::Stream(corrupt) | Fault::Packet(corrupt) => self.corrupt(0, corrupt),
                Fault::Doubtful(corrupt) => self.dropped(corrupt),
            }
        }
    }

    /// Sets the timer for the places on reliable channels that nobody fills.
    pub(in crate::session) fn watch_healing(&mut self) {
        let deadlines = self.channels.iter().flatten().filter_map(|reliable| reliable.receiver.given_up_at());
        self.timers.set(Timer::Healing, deadlines.min());
    }
}

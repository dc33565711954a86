//! The transforms of each direction and channel (section 4 of `docs/protocol.md`).

use bytes::{Bytes, BytesMut};

use crate::{HookError, MessageHook, ReliableChannel};

/// What a channel does with its messages.
#[derive(Debug, Default)]
enum ChannelHook {
    /// As the session does.
    #[default]
    Inherited,
    Plain,
    Own(Box<dyn MessageHook>),
}

/// The transforms of one direction: one for the session, and what single channels do otherwise.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    session: Option<Box<dyn MessageHook>>,
    channels: [ChannelHook; ReliableChannel::COUNT],
}

impl Hooks {
    pub(crate) fn set(&mut self, hook: Option<Box<dyn MessageHook>>) {
        self.session = hook;
    }

    pub(crate) fn set_channel(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.channels[channel.index()] = hook.map_or(ChannelHook::Plain, ChannelHook::Own);
    }

    pub(crate) fn inherit(&mut self, channel: ReliableChannel) {
        self.channels[channel.index()] = ChannelHook::Inherited;
    }

    pub(crate) fn is_active(&self, channel: ReliableChannel) -> bool {
        match &self.channels[channel.index()] {
            ChannelHook::Inherited => self.session.is_some(),
            ChannelHook::Plain => false,
            ChannelHook::Own(_) => true,
        }
    }

    fn get(&mut self, channel: ReliableChannel) -> Option<&mut dyn MessageHook> {
        match &mut self.channels[channel.index()] {
            ChannelHook::Inherited => self.session.as_deref_mut().map(|hook| hook as &mut dyn MessageHook),
            ChannelHook::Plain => None,
            ChannelHook::Own(hook) => Some(hook.as_mut()),
        }
    }

    /// Transforms a message to send; in place if nothing else holds its bytes.
    pub(crate) fn seal(&mut self, channel: ReliableChannel, message: Bytes) -> Bytes {
        let Some(hook) = self.get(channel) else { return message };
        let message = message.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        hook.seal(message).freeze()
    }

    /// Undoes the transform of a message received.
    pub(crate) fn open(&mut self, channel: ReliableChannel, message: Bytes, limit: usize) -> Result<Bytes, HookError> {
        match self.get(channel) {
            Some(hook) => hook.open(message, limit),
            None => Ok(message),
        }
    }
}

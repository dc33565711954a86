//! The message transforms of one direction, one for each reliable channel (section 4 of `docs/protocol.md`).

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::{
    cipher::{HookError, KeyError, MessageHook, Rc4},
    message::ReliableChannel,
};

/// The transform of one channel.
#[derive(Default)]
enum ChannelHook {
    /// None.
    #[default]
    Plain,
    /// RC4 with the key of the direction, not used yet. The key stream starts with the channel's first message.
    Keyed,
    /// RC4 with that key, in use.
    Running(Box<Rc4>),
    /// The application's own.
    Own(Box<dyn MessageHook>),
}

/// The transforms of one direction. Each channel has its own state: channels overtake each other, so a state shared by
/// two of them would differ between the two ends after the first loss.
#[derive(Default)]
pub(crate) struct Hooks {
    /// The key of the channels that are `Keyed`.
    key: Box<[u8]>,
    channels: [ChannelHook; ReliableChannel::COUNT],
}

impl Hooks {
    /// Sets RC4 with this key on all channels, each with its own key stream; `None` removes all transforms.
    pub(crate) fn set_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        if let Some(key) = key {
            Rc4::check(key)?;
        }
        self.key = key.unwrap_or_default().into();
        let keyed = key.is_some();
        self.channels =
            [(); ReliableChannel::COUNT].map(|()| if keyed { ChannelHook::Keyed } else { ChannelHook::Plain });
        Ok(())
    }

    pub(crate) fn set(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.channels[channel.index()] = hook.map_or(ChannelHook::Plain, ChannelHook::Own);
    }

    /// Returns the transform of a channel, and whether it is the application's own.
    pub(crate) fn of(&mut self, channel: ReliableChannel) -> (Option<&mut dyn MessageHook>, bool) {
        let hook = &mut self.channels[channel.index()];
        if let ChannelHook::Keyed = hook {
            *hook = ChannelHook::Running(Box::new(Rc4::schedule(&self.key)));
        }
        match hook {
            ChannelHook::Own(hook) => (Some(hook.as_mut()), true),
            ChannelHook::Running(rc4) => (Some(rc4.as_mut()), false),
            ChannelHook::Plain | ChannelHook::Keyed => (None, false),
        }
    }
}

impl fmt::Debug for Hooks {
    /// Omits the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// Transforms an outgoing message, in place if no other buffer shares its bytes.
pub(crate) fn seal(hook: &mut dyn MessageHook, message: Bytes) -> Bytes {
    let message = message.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    hook.seal(message).freeze()
}

/// Reverses the transform of an incoming message. The result has at most `limit` bytes.
pub(crate) fn open(hook: &mut dyn MessageHook, message: Bytes, limit: usize) -> Result<Bytes, HookError> {
    let message = hook.open(message, limit)?;
    if message.len() > limit { Err(HookError::TooLong { limit }) } else { Ok(message) }
}

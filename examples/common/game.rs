//! The messages of a toy game. Real games have their own; what matters to the transport is who says what first, and from
//! which message on it is encrypted.

use std::{error::Error, net::SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rand::{TryRng, rngs::SysRng};
use soe_core::Rc4;
use soe_tokio::{KeyError, ReliableChannel, SoeSession};

pub(crate) const LOGIN_PROTOCOL: &str = "ToyLogin_1";
pub(crate) const ZONE_PROTOCOL: &str = "ToyZone_1";
pub(crate) const LINK_PROTOCOL: &str = "ToyLink_1";

pub(crate) type Key = [u8; 16];
/// What everything encrypted travels on; see [`encrypt_chat`].
pub(crate) const CHAT: ReliableChannel = ReliableChannel::ZERO;
pub(crate) const BULK: ReliableChannel = ReliableChannel::ONE;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Client to login server.
    Login { name: String },
    /// Login server to client: where to go, what to show there, and the key to speak with from then on.
    Welcome { zone: SocketAddr, ticket: u64, key: Key },
    /// Login server to zone server, and back as soon as the zone knows: a player with this ticket will come.
    Expect { ticket: u64, key: Key, name: String },
    /// Client to zone server, as the last message in plain text.
    Join { ticket: u64 },
    /// Zone server to client, as the first message that is encrypted.
    Joined { player: u32 },
    /// To the zone server and from there to everybody in earshot. The server fills in the player.
    Chat { player: u32, number: u32, text: String },
    /// Like chat, but only the newest counts: nobody wants an old position to be repeated.
    Moved { player: u32, x: u32, y: u32 },
    /// Client to zone server: the next part of the map, please. It comes as plain bytes on the bulk channel.
    NextMap,
}

impl Packet {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Login { name } => {
                out.put_u8(1);
                out.put_slice(name.as_bytes());
            }
            Self::Welcome { zone, ticket, key } => {
                out.put_u8(2);
                out.put_u64(*ticket);
                out.put_slice(key);
                out.put_slice(zone.to_string().as_bytes());
            }
            Self::Expect { ticket, key, name } => {
                out.put_u8(3);
                out.put_u64(*ticket);
                out.put_slice(key);
                out.put_slice(name.as_bytes());
            }
            Self::Join { ticket } => {
                out.put_u8(4);
                out.put_u64(*ticket);
            }
            Self::Joined { player } => {
                out.put_u8(5);
                out.put_u32(*player);
            }
            Self::Chat { player, number, text } => {
                out.put_u8(6);
                out.put_u32(*player);
                out.put_u32(*number);
                out.put_slice(text.as_bytes());
            }
            Self::Moved { player, x, y } => {
                out.put_u8(7);
                out.put_u32(*player);
                out.put_u32(*x);
                out.put_u32(*y);
            }
            Self::NextMap => out.put_u8(8),
        }
        out.freeze()
    }

    /// `None`: not a packet of this game. What comes from a peer is never trusted to be well-formed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        Some(match rest.try_get_u8().ok()? {
            1 => Self::Login { name: text(rest)? },
            2 => {
                let (ticket, key) = (rest.try_get_u64().ok()?, key(&mut rest)?);
                Self::Welcome { zone: text(rest)?.parse().ok()?, ticket, key }
            }
            3 => {
                let (ticket, key) = (rest.try_get_u64().ok()?, key(&mut rest)?);
                Self::Expect { ticket, key, name: text(rest)? }
            }
            4 => Self::Join { ticket: rest.try_get_u64().ok()? },
            5 => Self::Joined { player: rest.try_get_u32().ok()? },
            6 => {
                let (player, number) = (rest.try_get_u32().ok()?, rest.try_get_u32().ok()?);
                Self::Chat { player, number, text: text(rest)? }
            }
            7 => {
                let mut next = || rest.try_get_u32().ok();
                Self::Moved { player: next()?, x: next()?, y: next()? }
            }
            8 => Self::NextMap,
            _ => return None,
        })
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn key(rest: &mut &[u8]) -> Option<Key> {
    let mut key = Key::default();
    rest.try_copy_to_slice(&mut key).ok()?;
    Some(key)
}

/// The next message, which has to be a packet.
pub(crate) async fn receive(session: &mut SoeSession) -> Result<Packet, Box<dyn Error + Send + Sync>> {
    let message = session.recv().await.ok_or("the session ended")??;
    Packet::decode(&message.payload).ok_or_else(|| "a message makes no sense".into())
}

/// Encrypts the chat channel, and no other, in both directions from the next message on.
///
/// `set_send_key` would encrypt all reliable channels, each with a key stream of its own. Here the switch stands in a message
/// of one channel, which says nothing about the messages under way on the others.
pub(crate) fn encrypt_chat(session: &mut SoeSession, key: &Key) -> Result<(), KeyError> {
    session.set_send_hook(CHAT, Some(Box::new(Rc4::new(key)?)));
    session.set_recv_hook(CHAT, Some(Box::new(Rc4::new(key)?)));
    Ok(())
}

/// Tickets and keys are secrets: they come from the system's generator.
pub(crate) fn secret<const N: usize>() -> Result<[u8; N], Box<dyn Error + Send + Sync>> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes)?;
    Ok(bytes)
}

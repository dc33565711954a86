//! Datagrams whose messages are hidden: everything that belongs to the application is filled, the rest stays as it is.

use std::ops::Range;

use bytes::BytesMut;

use super::{pcapng::Inbound, start::Origin};
use crate::{
    framing::{Codec, Framing},
    wire::{MAX_NESTING, Packet, opcode},
};

/// Every byte of a message is replaced by this one. Not 0, which begins a packet.
const FILLER: u8 = b'*';
/// The op code of a packet whose content cannot be told apart, in bytes.
const OPCODE: usize = 2;

/// Fills the messages in the datagrams of one session.
#[derive(Debug)]
pub(super) struct Blank {
    session_id: u32,
    codecs: [Option<Codec>; 2],
    /// `None` before the response has come.
    framing: Option<Framing>,
}

impl Blank {
    pub(super) fn new(origin: &Origin) -> Self {
        let (config, codecs) = (&origin.config, origin.config.dialect.codecs.clone());
        let passes = config.passes.map(u8::from);
        let framing = Framing::new(origin.crc_seed, config.crc_length, passes, &codecs).ok();
        Self { session_id: origin.session_id, framing: framing.filter(|_| !origin.is_client), codecs }
    }

    /// The datagram without its messages. What cannot be opened is filled but for its op code.
    pub(super) fn datagram(&mut self, datagram: &[u8], inbound: Inbound) -> Vec<u8> {
        if opcode::of(datagram).is_some_and(opcode::is_exempt) {
            let decoded = Packet::decode(datagram);
            if let (Ok(Packet::SessionResponse(response)), None, Inbound::Yes) = (&decoded, &self.framing, inbound)
                && response.session_id == self.session_id
            {
                let (seed, length, passes) = (response.crc_seed, response.crc_length, response.passes);
                self.framing = Framing::new(seed, length, passes, &self.codecs).ok();
            }
            // Status replies are the application's too; the rest of these packets is the transport's.
            return if let Ok(Packet::ServerStatus(_)) | Err(_) = decoded { filled(datagram) } else { datagram.into() };
        }
        let opened = self.framing.as_ref().and_then(|framing| framing.open(BytesMut::from(datagram)).ok());
        let (Some(opened), Some(framing)) = (opened, &self.framing) else { return filled(datagram) };
        let mut packet = opened.to_vec();
        fill(&mut packet, 0);
        framing.seal(&mut packet, 0);
        packet
    }
}

fn filled(datagram: &[u8]) -> Vec<u8> {
    let mut filled = datagram.to_vec();
    filled.iter_mut().skip(OPCODE).for_each(|byte| *byte = FILLER);
    filled
}

/// Fills the messages of a packet, and of those in it.
fn fill(packet: &mut [u8], depth: usize) {
    let whole = 0..packet.len();
    let content = match Packet::decode(packet) {
        Ok(Packet::Multi(multi)) if depth < MAX_NESTING => {
            let pieces: Option<Vec<_>> = multi.pieces().map(|piece| Some(within(packet, piece.ok()?))).collect();
            if let Some(pieces) = pieces {
                return pieces.into_iter().for_each(|piece| fill(&mut packet[piece], depth + 1));
            }
            whole
        }
        Ok(Packet::Reliable(data)) => within(packet, data.payload),
        Ok(Packet::Fragment(fragment)) => within(packet, fragment.body),
        Ok(Packet::Ordered(ordered)) => within(packet, ordered.payload),
        Ok(Packet::Data(_) | Packet::Group(_) | Packet::Multi(_)) | Err(_) => whole,
        Ok(_) => return,
    };
    packet[content].fill(FILLER);
}

/// Where `part`, a slice of `packet`, lies in it.
fn within(packet: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(packet.as_ptr().addr()).min(packet.len());
    start..(start + part.len()).min(packet.len())
}

//! Requests and responses: what is believed to be one, and which game family speaks.

use std::net::SocketAddr;

use soe_core::wire::{Packet, SessionRequest, SessionResponse};
use soe_core::{Dialect, Pass};

/// The highest transport version that is taken for one.
const MAX_VERSION: u32 = 255;
/// Sizes of datagrams that are believed, in bytes.
const UDP_LENGTH: std::ops::RangeInclusive<u32> = 64..=65_535;

/// What a client asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) number: u32,
    pub(super) client: SocketAddr,
    pub(super) version: u32,
    pub(super) session_id: u32,
    pub(super) udp_length: u32,
    pub(super) name: Option<String>,
}

/// The session request in a datagram, if nothing about it is odd: other protocols have datagrams that begin with 00 01.
pub(super) fn request(datagram: &[u8]) -> Option<SessionRequest<'_>> {
    let Ok(Packet::SessionRequest(request)) = Packet::decode(datagram) else { return None };
    let name = request.protocol_name.unwrap_or_default();
    let length = if request.protocol_name.is_some() { 14 + name.len() + 1 } else { 14 };
    let is_sound = request.version <= MAX_VERSION
        && UDP_LENGTH.contains(&request.udp_length)
        && name.iter().all(|byte| (0x20..0x7F).contains(byte))
        && datagram.len() == length;
    is_sound.then_some(request)
}

/// The session response in a datagram, if nothing about it is odd.
pub(super) fn response(datagram: &[u8]) -> Option<SessionResponse> {
    let Ok(Packet::SessionResponse(response)) = Packet::decode(datagram) else { return None };
    let is_sound = matches!(datagram.len(), 17 | 21)
        && response.crc_length <= 4
        && response.passes.into_iter().all(|pass| Pass::try_from(pass).is_ok())
        && UDP_LENGTH.contains(&response.udp_length)
        && response.version.is_none_or(|version| version <= MAX_VERSION);
    is_sound.then_some(response)
}

/// The family that this handshake is of, as far as it tells: the flags of the first datagrams may say otherwise.
pub(crate) fn dialect_of(version: Option<u32>, name: Option<&str>, response: &SessionResponse) -> Dialect {
    let is_named = name.is_some_and(|name| !name.is_empty() && name != "Everquest");
    let preset = match (response.passes, version) {
        _ if is_named || version.is_none() && response.version == Some(3) => "version3",
        ([1, 4], _) => "star-wars-galaxies",
        ([4, 0], _) => "everquest-chat",
        ([1, 0], _) => "everquest-zone",
        _ if response.version == Some(0) => "everquest2",
        (_, Some(3)) if name != Some("Everquest") => "version3",
        _ => "everquest-login",
    };
    Dialect::by_name(preset).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_query_with_a_small_id_is_no_request() {
        let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
        assert!(request(query).is_none());
        let answer = b"\0\x02\x81\x80\0\x01\0\x01\0\0\0\0\x07example";
        assert!(response(answer).is_none());
    }

    #[test]
    fn requests_of_both_versions_are_recognised() {
        assert!(request(&[0, 1, 0, 0, 0, 2, 1, 2, 3, 4, 0, 0, 2, 0]).is_some());
        assert!(request(b"\0\x01\0\0\0\x03abcd\0\0\x02\0Game_1\0").is_some());
        assert!(request(b"\0\x01\0\0\0\x03abcd\0\0\x02\0Game_1\0more").is_none());
    }
}

//! The packets that open a session or move it to another address. They have no CRC.

use bytes::BufMut;

use super::{DecodeError, HEADER_LEN, opcode, reader::Reader};

/// The longest protocol name in a [`SessionRequest`], in bytes and without its terminating NUL.
///
/// Source: section 1 of `docs/protocol.md`.
pub const MAX_PROTOCOL_NAME: usize = 32;

/// The first version whose [`SessionRequest`] has room for a protocol name.
const FIRST_NAMED_VERSION: u32 = 3;

/// A client asks for a session.
///
/// ```text
///  0     2           6            10           14
/// +-----+-----------+------------+------------+---------------+---+
/// |00 01|u32 version|u32 session |u32 udp     |protocol name, | 0 |
/// |     |           |    id      |    length  |0 to 32 bytes  |   |
/// +-----+-----------+------------+------------+---------------+---+
///                                             |<- optional, only ->
///                                                if version > 2
/// ```
///
/// Decoding judges the name's length and nothing else: version, udp length and the name's text are the session's to
/// accept or refuse. Source: sections 1 and 6 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionRequest<'a> {
    /// Of the protocol: 3, or 2 for EverQuest and Star Wars Galaxies.
    pub version: u32,
    /// Chosen by the client; every later packet about this session names it.
    pub session_id: u32,
    /// The largest datagram that the client handles, in bytes.
    pub udp_length: u32,
    /// The application protocol, without the terminating NUL; from a peer, arbitrary bytes.
    pub protocol_name: Option<&'a [u8]>,
}

impl<'a> SessionRequest<'a> {
    pub(super) fn decode(mut body: Reader<'a>) -> Result<Self, DecodeError> {
        let (version, session_id, udp_length) = (body.u32()?, body.u32()?, body.u32()?);
        let named = version >= FIRST_NAMED_VERSION && !body.rest().is_empty();
        let protocol_name = if named { Some(protocol_name(body.rest())?) } else { None };
        Ok(Self { version, session_id, udp_length, protocol_name })
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + 12 + self.written_name().map_or(0, |name| name.len() + 1)
    }

    /// Appends the packet to `out`.
    ///
    /// The name is left out below version 3, which has no such field, and cut after [`MAX_PROTOCOL_NAME`] bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, opcode::SESSION_REQUEST]);
        out.put_u32(self.version);
        out.put_u32(self.session_id);
        out.put_u32(self.udp_length);
        if let Some(name) = self.written_name() {
            out.extend_from_slice(name);
            out.push(0);
        }
    }

    fn written_name(&self) -> Option<&'a [u8]> {
        let name = self.protocol_name.filter(|_| self.version >= FIRST_NAMED_VERSION)?;
        Some(&name[..name.len().min(MAX_PROTOCOL_NAME)])
    }
}

/// The name at the front of `field`. A missing NUL is forgiven to a name that ends the packet within the limit.
fn protocol_name(field: &[u8]) -> Result<&[u8], DecodeError> {
    let looked_at = &field[..field.len().min(MAX_PROTOCOL_NAME + 1)];
    let end = looked_at.iter().position(|&byte| byte == 0).unwrap_or(looked_at.len());
    if end > MAX_PROTOCOL_NAME { Err(DecodeError::NameTooLong) } else { Ok(&field[..end]) }
}

/// The server's answer: the parameters of the session.
///
/// ```text
///  0     2           6           10      11     12     13           17          21
/// +-----+-----------+-----------+-------+------+------+------------+-----------+
/// |00 02|u32 session|u32 crc    |u8 crc |u8    |u8    |u32 udp     |u32 version|
/// |     |    id     |    seed   |length |pass 0|pass 1|    length  |(optional) |
/// +-----+-----------+-----------+-------+------+------+------------+-----------+
/// ```
/// Decoding does not validate the values: the session refuses a CRC length of 9 or an unknown pass with its own error.
/// Source: sections 1, 3 and 6 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionResponse {
    /// That of the request which is answered.
    pub session_id: u32,
    /// Enters the CRC of every datagram, and the XOR pass.
    pub crc_seed: u32,
    /// Bytes of CRC at the end of a datagram, 0 to 4.
    pub crc_length: u8,
    /// What is done to every datagram, in the order of sending.
    pub passes: [u8; 2],
    /// The largest datagram that the server handles, in bytes.
    pub udp_length: u32,
    /// The trailing word: 3 in version 3, absent in version 2, 0 in EverQuest II.
    pub version: Option<u32>,
}

impl SessionResponse {
    pub(super) fn decode(mut body: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            session_id: body.u32()?,
            crc_seed: body.u32()?,
            crc_length: body.u8()?,
            passes: body.array()?,
            udp_length: body.u32()?,
            version: body.u32().ok(),
        })
    }

    /// How many bytes [`encode`](Self::encode) appends: 17, or 21 with a version.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + 15 + self.version.map_or(0, |_| 4)
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, opcode::SESSION_RESPONSE]);
        out.put_u32(self.session_id);
        out.put_u32(self.crc_seed);
        out.put_u8(self.crc_length);
        out.extend_from_slice(&self.passes);
        out.put_u32(self.udp_length);
        if let Some(version) = self.version {
            out.put_u32(version);
        }
    }
}

/// A client whose address has changed names the session that is to follow it.
///
/// ```text
///  0     2           6           10
/// +-----+-----------+-----------+- - - - - - -+
/// |00 1E|u32 session|u32 crc    | some peers  |
/// |     |    id     |    seed   | append zeros|
/// +-----+-----------+-----------+- - - - - - -+
/// ```
///
/// Source: sections 1 and 9 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RemapConnection {
    /// Of the session that moves.
    pub session_id: u32,
    /// The seed of the session that moves, known only to its two ends.
    pub crc_seed: u32,
}

impl RemapConnection {
    pub(super) fn decode(mut body: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { session_id: body.u32()?, crc_seed: body.u32()? })
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + 8
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, opcode::REMAP_CONNECTION]);
        out.put_u32(self.session_id);
        out.put_u32(self.crc_seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Packet;

    const FIXED: [u8; 14] = [0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 0, 0, 2, 0];

    fn request_with(tail: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
        match Packet::decode(&[&FIXED[..], tail].concat())? {
            Packet::SessionRequest(request) => Ok(request.protocol_name.map(<[u8]>::to_vec)),
            other => panic!("not a request: {other:?}"),
        }
    }

    #[test]
    fn a_request_without_a_name_is_fourteen_bytes() {
        assert_eq!(request_with(b""), Ok(None));
    }

    #[test]
    fn a_name_ends_at_its_nul_and_what_follows_is_ignored() {
        assert_eq!(request_with(b"Login\0rest"), Ok(Some(b"Login".to_vec())));
        assert_eq!(request_with(b"\0"), Ok(Some(Vec::new())));
    }

    #[test]
    fn a_name_of_32_bytes_is_taken_with_or_without_its_nul() {
        let name = [b'n'; MAX_PROTOCOL_NAME];
        assert_eq!(request_with(&name), Ok(Some(name.to_vec())));
        assert_eq!(request_with(&[&name[..], &[0]].concat()), Ok(Some(name.to_vec())));
    }

    #[test]
    fn a_longer_name_is_refused_however_long_and_with_or_without_a_nul() {
        assert_eq!(request_with(&[b'n'; 33]), Err(DecodeError::NameTooLong));
        assert_eq!(request_with(&[&[b'n'; 33][..], &[0]].concat()), Err(DecodeError::NameTooLong));
        assert_eq!(request_with(&[b'n'; 60_000]), Err(DecodeError::NameTooLong));
    }

    #[test]
    fn a_name_need_not_be_text() {
        assert_eq!(request_with(&[0xFF, 0xFE, 0]), Ok(Some(vec![0xFF, 0xFE])));
    }

    #[test]
    fn version_2_has_no_name_even_if_bytes_remain() {
        let mut bytes = [&FIXED[..], &[b'n'; 100]].concat();
        bytes[5] = 2;
        let request = SessionRequest { version: 2, session_id: 0x0102_0304, udp_length: 512, protocol_name: None };
        assert_eq!(Packet::decode(&bytes), Ok(Packet::SessionRequest(request)));

        let mut out = Vec::new();
        SessionRequest { protocol_name: Some(b"ignored"), ..request }.encode(&mut out);
        assert_eq!(out, bytes[..14]);
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_on_sending() {
        let name = [b'n'; 40];
        let request = SessionRequest { version: 3, session_id: 1, udp_length: 512, protocol_name: Some(&name) };
        let mut out = Vec::new();
        request.encode(&mut out);
        assert_eq!(out.len(), 14 + MAX_PROTOCOL_NAME + 1);
        assert_eq!(out.len(), request.encoded_len());
    }

    #[test]
    fn a_response_of_17_to_20_bytes_has_no_version() {
        let bytes = [0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 2, 1, 4, 0, 0, 1, 0xF0, 0, 0, 0, 3];
        for length in 17..=20 {
            let Ok(Packet::SessionResponse(response)) = Packet::decode(&bytes[..length]) else { panic!("{length}") };
            assert_eq!((response.version, response.passes, response.udp_length), (None, [1, 4], 496));
        }
        let Ok(Packet::SessionResponse(response)) = Packet::decode(&bytes) else { panic!("21") };
        assert_eq!(response.version, Some(3));
        assert_eq!(Packet::decode(&bytes[..16]), Err(DecodeError::Truncated { opcode: 2, length: 16 }));
    }

    #[test]
    fn impossible_values_in_a_response_are_not_the_decoders_business() {
        let bytes = [0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 200, 7, 0xFF, 0xFF, 0xFF, 0xFF];
        let Ok(Packet::SessionResponse(response)) = Packet::decode(&bytes) else { panic!("refused") };
        assert_eq!((response.crc_length, response.passes, response.udp_length), (9, [200, 7], u32::MAX));
    }

    #[test]
    fn zeros_after_a_remap_are_ignored() {
        let remap = Packet::RemapConnection(RemapConnection { session_id: 16, crc_seed: 32 });
        let bytes = [0, 0x1E, 0, 0, 0, 16, 0, 0, 0, 32, 0, 0, 0, 0];
        assert_eq!(Packet::decode(&bytes), Ok(remap));
        assert_eq!(Packet::decode(&bytes[..10]), Ok(remap));
        assert!(Packet::decode(&bytes[..9]).is_err());
    }
}

//! A bounds-checked cursor over the body of one packet.

use super::DecodeError;

/// Reads big-endian fields from the front of a body. A missing field is an error that names the packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    opcode: u8,
    /// Of the whole packet, op code included; for the error.
    length: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of what follows the op code of `packet`.
    pub(super) fn new(opcode: u8, packet: &'a [u8]) -> Self {
        Self { opcode, length: packet.len(), rest: packet.get(super::HEADER_LEN..).unwrap_or_default() }
    }

    /// What has not been read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// What has not been read yet, which must be something.
    pub(super) fn some_rest(&self) -> Result<&'a [u8], DecodeError> {
        if self.rest.is_empty() { Err(self.truncated()) } else { Ok(self.rest) }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(*field)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn truncated(&self) -> DecodeError {
        DecodeError::Truncated { opcode: self.opcode, length: self.length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_network_byte_order_until_nothing_is_left() {
        let mut reader = Reader::new(7, &[0, 7, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.u32(), Ok(0x0405_0607));
        assert_eq!(reader.u8(), Err(DecodeError::Truncated { opcode: 7, length: 9 }));
    }

    #[test]
    fn a_field_that_does_not_fit_consumes_nothing() {
        let mut reader = Reader::new(7, &[0, 7, 1]);
        assert!(reader.u64().is_err());
        assert_eq!(reader.some_rest(), Ok(&[1][..]));
    }
}

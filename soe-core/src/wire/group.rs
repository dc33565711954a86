//! Groups: several messages in one reliable payload.

use bytes::BufMut;

use super::{DecodeError, HEADER_LEN, opcode};

/// Several messages in one reliable payload.
///
/// ```text
///  0     2
/// +-----+------+-------+------+-------+ - -
/// |00 19|length|element|length|element| ...
/// +-----+------+-------+------+-------+ - -
///
/// length below 255            LL
/// length 255 to 65534         FF HH LL
/// length 65535 and above      FF FF FF HH HH LL LL
/// ```
///
/// An element is what a reliable payload may be: a message, escaped when it begins with 0, or a further Group. See
/// [`Payload`](super::Payload). Source: sections 1 and 5 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group<'a> {
    body: &'a [u8],
}

impl<'a> Group<'a> {
    /// A Group of these lengths and elements: what follows the op code.
    pub const fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// The lengths and elements as on the wire.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The elements in order.
    pub const fn elements(&self) -> GroupElements<'a> {
        GroupElements { rest: self.body }
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub const fn encoded_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_header(out);
        out.extend_from_slice(self.body);
    }
}

impl<'a> IntoIterator for Group<'a> {
    type Item = Result<&'a [u8], DecodeError>;
    type IntoIter = GroupElements<'a>;

    fn into_iter(self) -> GroupElements<'a> {
        self.elements()
    }
}

/// The elements of a [`Group`]. Empty ones are skipped; after an error nothing follows.
#[derive(Clone, Debug)]
pub struct GroupElements<'a> {
    rest: &'a [u8],
}

impl<'a> GroupElements<'a> {
    /// What has not been walked through yet.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for GroupElements<'a> {
    type Item = Result<&'a [u8], DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            match split_element(self.rest) {
                Ok(([], rest)) => self.rest = rest,
                Ok((element, rest)) => {
                    self.rest = rest;
                    return Some(Ok(element));
                }
                Err(error) => {
                    self.rest = &[];
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl std::iter::FusedIterator for GroupElements<'_> {}

/// Appends the op code of a Group; elements follow it.
pub fn put_header(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, opcode::GROUP]);
}

/// Appends one element with its length before it. The element must already be escaped.
pub fn put_element(out: &mut Vec<u8>, element: &[u8]) {
    put_length(out, element.len());
    out.extend_from_slice(element);
}

/// How many bytes [`put_length`] appends: 1, 3 or 7.
pub const fn length_size(len: usize) -> usize {
    match len {
        0..=MAX_ONE_BYTE => 1,
        MIN_THREE_BYTE..=MAX_THREE_BYTE => 3,
        _ => 7,
    }
}

/// Appends the length of an element.
///
/// 254 is written as one byte. The original writes it as `FF 00 FE`; every known reader takes both, and the single byte
/// is the shorter and the one that no reader can take for anything else. 65535 needs the longest form: `FF FF FF` is its
/// mark. A length beyond `u32::MAX` cannot be written and is cut to it; the limit on a message's size is far below.
pub fn put_length(out: &mut Vec<u8>, len: usize) {
    match len {
        0..=MAX_ONE_BYTE => out.push(len as u8),
        MIN_THREE_BYTE..=MAX_THREE_BYTE => {
            out.push(EXTENDED);
            out.put_u16(len as u16);
        }
        _ => {
            out.extend_from_slice(&[EXTENDED; 3]);
            out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        }
    }
}

/// Splits the first element off `bytes`, which begin with its length.
fn split_element(bytes: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let (length, rest) = match *bytes {
        [EXTENDED, EXTENDED, EXTENDED, a, b, c, d, ref rest @ ..] => (u32::from_be_bytes([a, b, c, d]), rest),
        [EXTENDED, EXTENDED, EXTENDED, ..] => return Err(DecodeError::TruncatedLength),
        [EXTENDED, a, b, ref rest @ ..] => (u16::from_be_bytes([a, b]).into(), rest),
        [EXTENDED, ..] | [] => return Err(DecodeError::TruncatedLength),
        [length, ref rest @ ..] => (length.into(), rest),
    };
    usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or(DecodeError::LengthBeyondEnd { length, left: rest.len() })
}

/// Marks a length of more than one byte.
const EXTENDED: u8 = 0xFF;
const MAX_ONE_BYTE: usize = 0xFE;
const MIN_THREE_BYTE: usize = MAX_ONE_BYTE + 1;
/// One below what two bytes hold, because `FF FF FF` marks the longest form.
const MAX_THREE_BYTE: usize = 0xFFFE;

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(body: &[u8]) -> Result<Vec<&[u8]>, DecodeError> {
        Group::new(body).elements().collect()
    }

    #[test]
    fn lengths_grow_by_the_book() {
        let written = |len| {
            let mut out = Vec::new();
            put_length(&mut out, len);
            assert_eq!(out.len(), length_size(len), "length {len}");
            out
        };
        assert_eq!(written(0), [0]);
        assert_eq!(written(254), [0xFE]);
        assert_eq!(written(255), [0xFF, 0x00, 0xFF]);
        assert_eq!(written(65_534), [0xFF, 0xFF, 0xFE]);
        assert_eq!(written(65_535), [0xFF, 0xFF, 0xFF, 0x00, 0x00, 0xFF, 0xFF]);
        assert_eq!(written(65_536), [0xFF, 0xFF, 0xFF, 0x00, 0x01, 0x00, 0x00]);
    }

    #[test]
    fn both_forms_of_254_are_read() {
        let element = [7; 254];
        assert_eq!(elements(&[&[0xFE], &element[..]].concat()), Ok(vec![&element[..]]));
        assert_eq!(elements(&[&[0xFF, 0x00, 0xFE], &element[..]].concat()), Ok(vec![&element[..]]));
    }

    #[test]
    fn ff_followed_by_00_is_no_literal_255_here() {
        let element = [7; 16];
        assert_eq!(elements(&[&[0xFF, 0x00, 0x10], &element[..]].concat()), Ok(vec![&element[..]]));
    }

    #[test]
    fn empty_elements_are_skipped() {
        assert_eq!(elements(&[0, 1, 7, 0xFF, 0, 0, 0, 2, 8, 9, 0]), Ok(vec![&[7][..], &[8, 9]]));
        assert_eq!(elements(&[]), Ok(vec![]));
    }

    #[test]
    fn a_length_past_the_end_ends_the_iteration_after_the_good_elements() {
        let mut elements = Group::new(&[1, 7, 3, 8, 9]).elements();
        assert_eq!(elements.next(), Some(Ok(&[7][..])));
        assert_eq!(elements.next(), Some(Err(DecodeError::LengthBeyondEnd { length: 3, left: 2 })));
        assert_eq!(elements.next(), None);
    }

    #[test]
    fn a_length_of_4_gib_is_an_error_and_no_allocation() {
        let expected = DecodeError::LengthBeyondEnd { length: u32::MAX, left: 1 };
        assert_eq!(elements(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]), Err(expected));
    }

    #[test]
    fn a_length_that_is_cut_off_is_an_error() {
        for bytes in [&[0xFF][..], &[0xFF, 1], &[0xFF, 0xFF, 0xFF], &[0xFF, 0xFF, 0xFF, 0, 0, 0]] {
            assert_eq!(elements(bytes), Err(DecodeError::TruncatedLength), "{bytes:02X?}");
        }
    }
}

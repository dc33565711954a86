//! A buffered stream that gives whole blocks as slices.

use std::io::{self, ErrorKind, Read};

use super::{CaptureError, MAX_BLOCK};

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Source<R> {
    read: R,
    buf: Vec<u8>,
    /// `buf[start..end]` has been read and not been consumed.
    start: usize,
    end: usize,
    /// Bytes consumed in all.
    position: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(read: R) -> Self {
        Self { read, buf: vec![0; CHUNK], start: 0, end: 0, position: 0 }
    }

    /// The next `len` bytes without consuming them; `None` when the stream ends before.
    pub(super) fn peek(&mut self, len: usize) -> Result<Option<&[u8]>, CaptureError> {
        if self.end - self.start < len && !self.fill(len)? {
            return Ok(None);
        }
        Ok(Some(&self.buf[self.start..self.start + len]))
    }

    /// Consumes `len` bytes that were peeked at, and says where they lie for [`consumed`](Source::consumed).
    pub(super) fn consume(&mut self, len: usize) -> usize {
        let at = self.start;
        self.start += len;
        self.position += len as u64;
        at
    }

    /// Whether nothing at all is left.
    pub(super) fn is_at_end(&mut self) -> Result<bool, CaptureError> {
        Ok(self.start == self.end && !self.fill(1)?)
    }

    /// Reads until `len` bytes are there; false when the stream ends before.
    fn fill(&mut self, len: usize) -> Result<bool, CaptureError> {
        if len > MAX_BLOCK {
            return Err(self.malformed("a block of more than 16 MiB"));
        }
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buf.len() < len {
            self.buf.resize(len.next_multiple_of(CHUNK), 0);
        }
        while self.end < len {
            match self.read.read(&mut self.buf[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

impl<R> Source<R> {
    /// Bytes consumed last; valid until more is read.
    pub(super) fn consumed(&self, start: usize, len: usize) -> &[u8] {
        &self.buf[start..start + len]
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn malformed(&self, what: &'static str) -> CaptureError {
        CaptureError::Malformed { position: self.position, what }
    }

    pub(super) fn cut_off(&self) -> CaptureError {
        CaptureError::CutOff(self.position + (self.end - self.start) as u64)
    }
}

impl From<CaptureError> for io::Error {
    fn from(error: CaptureError) -> Self {
        match error {
            CaptureError::Io(error) => error,
            other => Self::new(ErrorKind::InvalidData, other),
        }
    }
}

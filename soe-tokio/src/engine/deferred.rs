//! Work that the driver defers while the application, in a cipher or hook, holds a session's lock.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use soe_core::{DisconnectReason, Path};

/// Deferred work, oldest first.
#[derive(Debug)]
pub(crate) struct Deferred<T> {
    work: VecDeque<(Arc<T>, Work)>,
}

/// One piece of work on a session.
#[derive(Debug)]
pub(crate) enum Work {
    /// Received datagrams, oldest first.
    Datagrams(Path, Kept),
    /// Its timer has expired.
    Timer,
    /// Its peer has moved.
    Move(SocketAddr, Path),
    /// Ask the peer for a sign of life.
    AskForLife,
    /// The network reported the peer's address as unreachable.
    Unreachable,
    /// The endpoint ends the session. The flag: whether to send a Disconnect.
    End(DisconnectReason, bool),
}

/// Datagrams that wait for a session, as many as [`MAX_KEPT`] bytes have room for. The rest are dropped, as on a full link.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    datagrams: Vec<BytesMut>,
    bytes: usize,
}

impl Kept {
    fn extend(&mut self, datagrams: impl Iterator<Item = BytesMut>) {
        for datagram in datagrams {
            let bytes = datagram.len() + OVERHEAD;
            if self.bytes + bytes <= MAX_KEPT {
                self.bytes += bytes;
                // A copy: the datagram is a part of a larger buffer.
                self.datagrams.push(BytesMut::from(&datagram[..]));
            }
        }
    }

    pub(crate) fn into_datagrams(self) -> impl Iterator<Item = BytesMut> {
        self.datagrams.into_iter()
    }
}

impl<T> Default for Deferred<T> {
    fn default() -> Self {
        Self { work: VecDeque::new() }
    }
}

impl<T> Deferred<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.work.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.work.len()
    }

    pub(crate) fn push(&mut self, session: Arc<T>, work: Work) {
        self.work.push_back((session, work));
    }

    pub(crate) fn pop(&mut self) -> Option<(Arc<T>, Work)> {
        self.work.pop_front()
    }

    /// Keeps datagrams for a session, behind those already kept of the same path.
    pub(crate) fn keep(&mut self, session: &Arc<T>, path: Path, datagrams: impl Iterator<Item = BytesMut>) {
        let known = self.work.iter_mut().find_map(|(other, work)| match work {
            Work::Datagrams(other_path, kept) if Arc::ptr_eq(other, session) && *other_path == path => Some(kept),
            _ => None,
        });
        match known {
            Some(kept) => kept.extend(datagrams),
            None => {
                let mut kept = Kept::default();
                kept.extend(datagrams);
                self.push(Arc::clone(session), Work::Datagrams(path, kept));
            }
        }
    }

    /// Whether datagrams of the session are deferred; later ones must be deferred too, to keep the order.
    pub(crate) fn holds_datagrams_of(&self, session: &Arc<T>) -> bool {
        let is_of = |(other, work): &(Arc<T>, Work)| Arc::ptr_eq(other, session) && matches!(work, Work::Datagrams(..));
        self.work.iter().any(is_of)
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Arc<T>> {
        self.work.drain(..).map(|(session, _)| session)
    }
}

/// Bytes of datagrams that are kept for one session and path, [`OVERHEAD`] included: 400 of the usual 512 bytes, more than a
/// player sends while a hook runs, and no more than the memory that no limit takes from a session.
const MAX_KEPT: usize = 256 << 10;
/// What keeping a datagram takes besides its bytes.
const OVERHEAD: usize = 64;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn datagrams_of_any_size_are_kept_within_the_same_bytes_and_in_order() {
        for length in [1, 512, 60_000] {
            let (session, path) = (Arc::new(()), Path::from(SocketAddr::from(([192, 0, 2, 1], 1))));
            let mut deferred = Deferred::default();
            for number in 0..10_000_u32 {
                let datagram = BytesMut::from(&number.to_be_bytes().repeat(1 + length / 4)[..length.max(4)]);
                deferred.keep(&session, path, std::iter::once(datagram));
            }
            let Some((_, Work::Datagrams(_, kept))) = deferred.pop() else { panic!("the datagrams are kept together") };
            let kept: Vec<_> = kept.into_datagrams().collect();
            let capacity: usize = kept.iter().map(BytesMut::capacity).sum();
            assert!(capacity <= MAX_KEPT && kept.len() * (length.max(4) + OVERHEAD) > MAX_KEPT - 60_064);
            assert!((0..).zip(&kept).all(|(number, datagram): (u32, _)| datagram[..4] == number.to_be_bytes()));
        }
    }
}

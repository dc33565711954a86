//! The hooks of an application in a replay: they give what they gave in the recording.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};

use crate::cipher::{HookError, MessageHook};

/// What the hooks will give in the next call, shared by all hooks of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct HookResults(Arc<Mutex<Results>>);

#[derive(Debug, Default)]
struct Results {
    next: VecDeque<Result<Bytes, String>>,
    /// Whether the call panicked behind these.
    panics: bool,
}

impl HookResults {
    pub(super) fn clear(&self) {
        *self.results() = Results::default();
    }

    pub(super) fn push(&self, result: Result<&[u8], &str>) {
        self.results().next.push_back(result.map(Bytes::copy_from_slice).map_err(str::to_owned));
    }

    pub(super) fn panics(&self) {
        self.results().panics = true;
    }

    pub(super) fn hook(&self) -> Box<dyn MessageHook> {
        Box::new(self.clone())
    }

    /// The next result. `None`: the recording has none, so that the session has already said something else.
    fn next(&self) -> Option<Result<Bytes, String>> {
        let mut results = self.results();
        let next = results.next.pop_front();
        let panics = next.is_none() && results.panics;
        drop(results);
        assert!(!panics, "the application's hook panicked here when it was recorded");
        next
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MessageHook for HookResults {
    fn seal(&mut self, message: BytesMut) -> BytesMut {
        match self.next() {
            Some(Ok(sealed)) => BytesMut::from(&sealed[..]),
            _ => message,
        }
    }

    fn open(&mut self, message: Bytes, _: usize) -> Result<Bytes, HookError> {
        match self.next() {
            Some(Ok(opened)) => Ok(opened),
            Some(Err(error)) => Err(HookError::Other(error.into())),
            None => Ok(message),
        }
    }
}

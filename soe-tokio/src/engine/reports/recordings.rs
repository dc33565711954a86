//! The recordings of the sessions of one endpoint.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use soe_core::recording::{PieceSink, RecordBudget, RecordOptions, Recorder, Redact};

use crate::{
    engine::{clock::now, sync::lock},
    recording::{RecordWhen, RecorderConfig, RecordingPart, RecordingSink},
};

/// How sessions are recorded that open now, and where their recordings go.
#[derive(Debug)]
pub(crate) struct Recordings {
    pub(crate) options: RecordOptions,
    sink: Arc<dyn RecordingSink>,
    when: RecordWhen,
    redact: Option<Arc<dyn Redact>>,
    ready: Arc<Ready>,
}

/// A recording that is over.
#[derive(Debug)]
pub(crate) struct EndedRecording {
    pub(crate) recorder: Box<Recorder>,
    pub(crate) is_abnormal: bool,
}

/// Parts that wait to be handed over. Sessions fill pieces under their locks, under which no code of the application may run:
/// the sink is called by the drivers, between two steps.
#[derive(Debug, Default)]
struct Ready {
    queue: Mutex<Queue>,
    is_filled: AtomicBool,
    /// Whether a driver is handing over: one at a time, so that the parts keep their order.
    is_busy: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    parts: VecDeque<RecordingPart>,
    bytes: usize,
    limit: usize,
    /// Pieces handed over of each recording that goes on.
    pieces: HashMap<u64, u32>,
}

impl PieceSink for Ready {
    fn take(&self, recording: u64, piece: Vec<u8>) -> Option<Vec<u8>> {
        let mut queue = lock(&self.queue);
        if queue.bytes.saturating_add(piece.len()) > queue.limit {
            return None;
        }
        let next = Vec::with_capacity(piece.capacity());
        queue.push(recording, vec![piece], false);
        drop(queue);
        self.is_filled.store(true, Ordering::Release);
        Some(next)
    }
}

impl Queue {
    fn push(&mut self, recording: u64, pieces: Vec<Vec<u8>>, is_last: bool) {
        let count = self.pieces.entry(recording).or_default();
        let first = *count;
        *count += pieces.len() as u32;
        if is_last {
            self.pieces.remove(&recording);
        }
        let part = RecordingPart::new(recording, first, pieces);
        self.bytes += part.bytes();
        self.parts.push_back(if is_last { part.last() } else { part });
    }

    fn pop(&mut self) -> Option<RecordingPart> {
        let part = self.parts.pop_front()?;
        self.bytes -= part.bytes();
        Some(part)
    }
}

impl Recordings {
    pub(crate) fn new(config: RecorderConfig) -> Self {
        let RecorderConfig { sink, when, session_bytes, total_bytes, redact } = config;
        // A clock before 1970 is set wrong; the recording is good for everything but the date.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let unix = u64::try_from(unix).unwrap_or(u64::MAX);
        let queue = Queue { limit: total_bytes, ..Queue::default() };
        let ready = Arc::new(Ready { queue: Mutex::new(queue), ..Ready::default() });
        let mut options = RecordOptions::new(now(), unix).limit(session_bytes).budget(RecordBudget::new(total_bytes));
        if when == RecordWhen::Continuously {
            options = options.sink(Arc::clone(&ready) as Arc<dyn PieceSink>);
        }
        if redact.is_some() {
            options = options.redacted();
        }
        Self { options, sink, when, redact, ready }
    }

    /// Hands over what the session has recorded, if that is wanted. No lock may be held: the sink is the application's.
    pub(crate) fn finish(&self, ended: EndedRecording) {
        let EndedRecording { mut recorder, is_abnormal } = ended;
        if !is_abnormal && self.when == RecordWhen::AbnormalEnd {
            return;
        }
        let mut queue = lock(&self.ready.queue);
        // The beginning of a recording may have gone to a sink that was replaced.
        if recorder.is_whole() || queue.pieces.contains_key(&recorder.number()) {
            queue.push(recorder.number(), recorder.take_pieces(), true);
            self.ready.is_filled.store(true, Ordering::Release);
        }
        drop(queue);
        self.hand_over();
    }

    /// Hands over what is ready, and takes no more pieces: others have replaced these. No lock may be held.
    pub(crate) fn retire(&self) {
        lock(&self.ready.queue).limit = 0;
        self.hand_over();
    }

    /// Hands over what is ready. No lock may be held.
    pub(crate) fn hand_over(&self) {
        while self.ready.is_filled.load(Ordering::Acquire) && !self.ready.is_busy.swap(true, Ordering::Acquire) {
            self.ready.is_filled.store(false, Ordering::Relaxed);
            loop {
                let part = lock(&self.ready.queue).pop();
                let Some(part) = part else { break };
                let part = part.with_redaction(self.redact.clone());
                // A sink that takes no more counts what it drops. One that panics takes down nobody.
                let _ = catch_unwind(AssertUnwindSafe(|| self.sink.take(part)));
            }
            self.ready.is_busy.store(false, Ordering::Release);
        }
    }
}

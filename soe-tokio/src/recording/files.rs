//! Recordings as files of a directory, written by a thread of their own.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use soe_core::recording::RecordingWriter;
use tracing::warn;

use super::{RecordingPart, RecordingSink};

/// Writes each recording into a file of a directory: `soe-<time of the start>-<process>-<number>.pcapng`. Clones write into
/// the same directory.
///
/// A thread writes; the tasks that serve sessions never wait for the disk. What waits to be written, the number of files and
/// their bytes are bounded: what is beyond is dropped, counted by [`dropped`](Self::dropped), and told once as a warning.
#[derive(Clone, Debug)]
pub struct RecordingFiles {
    shared: Arc<Shared>,
    work: mpsc::Sender<Work>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes that wait to be written.
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Work {
    Part(RecordingPart),
    /// Tells when everything before has been written.
    Flush(mpsc::SyncSender<()>),
}

/// What may wait to be written, in bytes.
const MAX_WAITING: usize = 64 << 20;
/// Files of one directory, unless it is said otherwise: enough for a day of crashes, and fewer than what fills a disk when
/// strangers make sessions end.
const MAX_FILES: usize = 1_000;
/// Bytes of all files, unless it is said otherwise.
const MAX_BYTES: u64 = 1 << 30;

impl RecordingFiles {
    /// Writes into this directory, which is created if need be: up to 1,000 files and 1 GiB.
    ///
    /// # Errors
    ///
    /// If the directory cannot be created, or no thread started.
    pub fn in_directory(directory: impl AsRef<Path>) -> io::Result<Self> {
        Self::with_limits(directory, MAX_FILES, MAX_BYTES)
    }

    /// Writes into this directory, up to so many files and bytes in all. A file that has been begun is written to its end
    /// unless the bytes are used up.
    ///
    /// # Errors
    ///
    /// As for [`in_directory`](Self::in_directory).
    pub fn with_limits(directory: impl AsRef<Path>, files: usize, bytes: u64) -> io::Result<Self> {
        let directory = directory.as_ref().to_owned();
        std::fs::create_dir_all(&directory)?;
        let (shared, (work, incoming)) = (Arc::new(Shared::default()), mpsc::channel());
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let (prefix, open) = (format!("soe-{started}-{}", std::process::id()), HashMap::new());
        let writer = Writer { directory, prefix, open, files, bytes, shared: Arc::clone(&shared), out: Vec::new() };
        thread::Builder::new().name("soe-recordings".into()).spawn(move || writer.run(&incoming))?;
        Ok(Self { shared, work })
    }

    /// Parts of recordings that were dropped: too much waited to be written, a limit was reached, or the disk is full.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything that was handed over before is written. It blocks the thread: before the end of a program, and
    /// in async code within `spawn_blocking`.
    pub fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.work.send(Work::Flush(done)).is_ok() {
            // An error is a writer that has ended, after all that it had.
            let _ = wait.recv();
        }
    }
}

impl RecordingSink for RecordingFiles {
    fn take(&self, part: RecordingPart) -> bool {
        let bytes = part.bytes();
        let add = |waiting: usize| waiting.checked_add(bytes).filter(|waiting| *waiting <= MAX_WAITING);
        let has_room = self.shared.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        let is_taken = has_room && self.work.send(Work::Part(part)).is_ok();
        if !is_taken {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        is_taken
    }
}

/// What the thread has.
struct Writer {
    directory: PathBuf,
    /// The front of all names: in milliseconds since 1970 and the process, so that names of two runs do not collide.
    prefix: String,
    /// Recordings that are not over; `None` for one that is not written any further.
    open: HashMap<u64, Option<(RecordingWriter, File)>>,
    /// Files and bytes that may still be written.
    files: usize,
    bytes: u64,
    shared: Arc<Shared>,
    out: Vec<u8>,
}

impl Writer {
    fn run(mut self, incoming: &mpsc::Receiver<Work>) {
        while let Ok(work) = incoming.recv() {
            match work {
                Work::Part(part) => self.part(&part),
                // The one who waits may have gone.
                Work::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn part(&mut self, part: &RecordingPart) {
        self.shared.waiting.fetch_sub(part.bytes(), Ordering::Relaxed);
        let is_new = !self.open.contains_key(&part.recording);
        let opened = if is_new { self.create(part) } else { self.open.remove(&part.recording).flatten() };
        let written = opened.and_then(|(mut writer, mut file)| {
            self.out.clear();
            let written = self.write(part, &mut writer, &mut file);
            written.then_some((writer, file))
        });
        if written.is_none() && self.shared.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(directory = %self.directory.display(), "recordings are dropped: a limit is reached, or the disk is full");
        }
        if !part.is_last {
            self.open.insert(part.recording, written);
        }
    }

    fn create(&mut self, part: &RecordingPart) -> Option<(RecordingWriter, File)> {
        self.files = self.files.checked_sub(1)?;
        let path = self.directory.join(format!("{}-{:06}.pcapng", self.prefix, part.recording));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, OWNER_ONLY);
        let file = options.open(path).ok()?;
        Some((part.writer(), file))
    }

    fn write(&mut self, part: &RecordingPart, writer: &mut RecordingWriter, file: &mut File) -> bool {
        if part.write(writer, &mut self.out).is_err() {
            return false;
        }
        let Some(left) = self.bytes.checked_sub(self.out.len() as u64) else { return false };
        self.bytes = left;
        file.write_all(&self.out).is_ok()
    }
}

/// Recordings hold passwords.
#[cfg(unix)]
const OWNER_ONLY: u32 = 0o600;

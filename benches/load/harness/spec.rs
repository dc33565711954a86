//! What is measured: the workloads, and how one of them is told to a child process.

use std::time::Duration;

/// The kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One session sends `bytes` as messages of `size` bytes and waits for the receipt.
    Bulk,
    /// Each session keeps eight messages of `size` bytes on their way to an echo server.
    Echo,
    /// Each session sends 20 messages of 128 bytes a second and is sent 20 of 256 bytes.
    Game,
    /// `sessions` sessions are set up, 64 at a time; each is ready when its first message has come back.
    Setup,
    /// `sessions` sessions are set up and then left alone.
    Idle,
    /// Each session sends 50 messages of 64 bytes a second, and the server measures how long each was on its way.
    Thin,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Bulk, "bulk"),
    (Kind::Echo, "echo"),
    (Kind::Game, "game"),
    (Kind::Setup, "setup"),
    (Kind::Idle, "idle"),
    (Kind::Thin, "thin"),
];

/// Messages on their way per session in [`Kind::Echo`].
pub(crate) const OUTSTANDING: usize = 8;

/// One row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) sessions: usize,
    /// The datagram size both sides agree on.
    pub(crate) udp: usize,
    /// Bytes per message.
    pub(crate) size: usize,
    /// Bytes to transfer, in [`Kind::Bulk`].
    pub(crate) bytes: u64,
    /// How long the measured traffic lasts, where the workload does not end by itself.
    pub(crate) seconds: f64,
    /// Delay each way, in milliseconds; 0: no link between the processes.
    pub(crate) delay: u64,
    /// Datagrams of a thousand lost each way.
    pub(crate) loss: u64,
}

impl Spec {
    const fn new(name: &'static str, kind: Kind, sessions: usize) -> Self {
        Self { name, kind, sessions, udp: 512, size: 64, bytes: 0, seconds: 0.0, delay: 0, loss: 0 }
    }

    const fn bulk(name: &'static str, udp: usize, mebibytes: u64) -> Self {
        Self { udp, size: 16_384, bytes: mebibytes << 20, ..Self::new(name, Kind::Bulk, 1) }
    }

    const fn link(name: &'static str, mebibytes: u64, loss: u64) -> Self {
        Self { size: 1024, bytes: mebibytes << 20, delay: 25, loss, ..Self::new(name, Kind::Bulk, 1) }
    }

    const fn lasting(self, seconds: f64) -> Self {
        Self { seconds, ..self }
    }

    /// How long sessions rest before they count as idle, in [`Kind::Idle`]: this library gives memory back after five
    /// seconds.
    pub(crate) fn rest(&self) -> Duration {
        Duration::from_secs(if self.sessions < 1000 { 1 } else { 7 })
    }

    /// When a run that has not ended by itself is called unfinished.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.seconds + if self.delay > 0 { 20.0 } else { 15.0 })
    }

    /// The arguments that tell a child process about this workload.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let kind = KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, name)| name);
        vec![
            kind.to_owned(),
            self.sessions.to_string(),
            self.udp.to_string(),
            self.size.to_string(),
            self.bytes.to_string(),
            self.seconds.to_string(),
        ]
    }

    /// The inverse of [`Spec::to_args`]; `None` if the arguments are something else.
    pub(crate) fn from_args(args: &[String]) -> Option<Self> {
        let [kind, sessions, udp, size, bytes, seconds] = args else { return None };
        let kind = KINDS.iter().find(|(_, name)| name == kind).map(|(kind, _)| *kind)?;
        Some(Self {
            udp: udp.parse().ok()?,
            size: size.parse().ok()?,
            bytes: bytes.parse().ok()?,
            seconds: seconds.parse().ok()?,
            ..Self::new("", kind, sessions.parse().ok()?)
        })
    }
}

/// The rows of the table. The quick set touches every kind of traffic in under a minute.
pub(crate) fn workloads(quick: bool) -> Vec<Spec> {
    if quick {
        return vec![
            Spec::bulk("bulk, 1 session, udp 512", 512, 8),
            Spec::new("echo, 1 session", Kind::Echo, 1).lasting(1.0),
            Spec::new("echo, 100 sessions", Kind::Echo, 100).lasting(1.0),
            Spec::new("game, 200 sessions", Kind::Game, 200).lasting(1.0),
            Spec::new("setup, 200 sessions", Kind::Setup, 200),
            Spec::new("idle, 200 sessions", Kind::Idle, 200).lasting(1.0),
            Spec { delay: 25, loss: 20, ..Spec::new("thin stream, 25 ms, 2 % loss", Kind::Thin, 20).lasting(2.0) },
        ];
    }
    vec![
        Spec::bulk("bulk, 1 session, udp 512", 512, 64),
        Spec::bulk("bulk, 1 session, udp 1400", 1400, 128),
        Spec::new("echo, 1 session", Kind::Echo, 1).lasting(3.0),
        Spec::new("echo, 100 sessions", Kind::Echo, 100).lasting(3.0),
        Spec::new("echo, 1,000 sessions", Kind::Echo, 1000).lasting(5.0),
        Spec::new("game, 1,000 sessions", Kind::Game, 1000).lasting(5.0),
        Spec::new("setup, 2,000 sessions", Kind::Setup, 2000),
        Spec::new("idle, 10,000 sessions", Kind::Idle, 10_000).lasting(5.0),
        Spec::link("8 MiB in 1 KiB messages, 25 ms", 8, 0),
        Spec::link("the same, 1 % loss", 8, 10),
        Spec::link("the same, 5 % loss", 8, 50),
        Spec { delay: 25, loss: 20, ..Spec::new("thin stream, 25 ms, 2 % loss", Kind::Thin, 40).lasting(10.0) },
    ]
}

//! An application on one end of a session: what it sends, how it reads, and whether what it reads is what was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use soe_core::{Channel, Message, MessageHook, Rc4, Receipt, ReliableChannel, SendError, Session};

use super::{
    account::SharedAccount,
    pattern::{self, Sizes},
    rng::Rng,
};

pub(crate) const CHANNELS: [Channel; 7] = [
    Channel::Reliable(ReliableChannel::ZERO),
    Channel::Reliable(ReliableChannel::ONE),
    Channel::Reliable(ReliableChannel::TWO),
    Channel::Reliable(ReliableChannel::THREE),
    Channel::Unreliable,
    Channel::Ordered,
    Channel::Ordered2,
];

/// Which messages are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    Never,
    /// One key for all channels from the first message on.
    Session,
    /// Each channel has its own, and switches it by itself.
    Channels,
}

/// How an application takes its messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading {
    AtOnce,
    /// So many at a time, and then not before.
    Slowly {
        count: usize,
        every: Duration,
    },
    Never,
}

/// What an application does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How many messages on each channel, in the order of [`CHANNELS`], and how long.
    pub(crate) messages: [(u64, Sizes); 7],
    /// So many messages at a time,
    pub(crate) burst: u64,
    /// at most this far apart.
    pub(crate) every: Duration,
    pub(crate) reading: Reading,
    pub(crate) keys: Keys,
    /// Some messages begin like packets.
    pub(crate) leads: bool,
    /// Reliable channels whose messages are read as they come.
    pub(crate) unordered: [bool; ReliableChannel::COUNT],
}

impl Plan {
    pub(crate) fn idle() -> Self {
        Self {
            messages: [(0, Sizes::Fixed(1)); 7],
            burst: u64::MAX,
            every: Duration::ZERO,
            reading: Reading::AtOnce,
            keys: Keys::Never,
            leads: true,
            unordered: [false; ReliableChannel::COUNT],
        }
    }

    /// So many messages on reliable channel 0, at once.
    pub(crate) fn send(count: u64, sizes: Sizes) -> Self {
        Self::idle().and(0, count, sizes)
    }

    pub(crate) fn and(mut self, channel: usize, count: u64, sizes: Sizes) -> Self {
        self.messages[channel] = (count, sizes);
        self
    }

    pub(crate) fn paced(self, burst: u64, every: Duration) -> Self {
        Self { burst, every, ..self }
    }

    fn total(&self) -> u64 {
        self.messages.iter().map(|(count, _)| count).sum()
    }
}

/// One end's application. `side` makes its messages, `peer_side` those that it expects.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) plan: Plan,
    peer: Plan,
    side: u64,
    peer_side: u64,
    rng: Rng,
    sent: [u64; 7],
    received: [u64; 7],
    /// Messages taken, repetitions of unreliable ones included.
    pub(crate) arrived: [u64; 7],
    /// The channels of messages whose receipts are open, and their numbers.
    receipts: BTreeMap<Receipt, (usize, u64)>,
    pub(crate) account: SharedAccount,
    /// What has come on unordered channels.
    seen: BTreeSet<(usize, u64)>,
    pub(crate) refused: u64,
    /// When it wants to act next by itself.
    pub(crate) tick: Option<Instant>,
    reads_at: Option<Instant>,
    pub(crate) key_switches: u64,
}

impl App {
    /// The two ends of one session: the client's and the server's.
    pub(crate) fn pair(seed: u64, client: Plan, server: Plan) -> [Self; 2] {
        let (up, down) = (Rng::of(seed, 1).next(), Rng::of(seed, 2).next());
        [Self::new(client.clone(), server.clone(), up, down), Self::new(server, client, down, up)]
    }

    /// One that sends nothing, and whose peer does not either.
    pub(crate) fn idle() -> Self {
        Self::new(Plan::idle(), Plan::idle(), 0, 0)
    }

    /// One that does the same from the start.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.plan.clone(), self.peer.clone(), self.side, self.peer_side)
    }

    fn new(plan: Plan, peer: Plan, side: u64, peer_side: u64) -> Self {
        Self {
            plan,
            peer,
            side,
            peer_side,
            rng: Rng::of(side, 3),
            sent: [0; 7],
            received: [0; 7],
            arrived: [0; 7],
            receipts: BTreeMap::new(),
            account: SharedAccount::default(),
            seen: BTreeSet::new(),
            refused: 0,
            tick: None,
            reads_at: None,
            key_switches: 0,
        }
    }

    /// Before the first message.
    pub(crate) fn start(&mut self, now: Instant, session: &mut Session) {
        if self.plan.keys == Keys::Session {
            session.set_send_key(Some(&self.side.to_be_bytes())).unwrap();
            self.key_switches += 1;
        }
        if self.peer.keys == Keys::Session {
            session.set_recv_key(Some(&self.peer_side.to_be_bytes())).unwrap();
        }
        self.tick = Some(now);
    }

    /// Reads what it wants to read, and sends what is due.
    pub(crate) fn act(&mut self, now: Instant, session: &mut Session) {
        self.read(now, session);
        if session.closed().is_some() {
            self.tick = None;
            return;
        }
        if self.tick.is_some_and(|tick| tick <= now) {
            self.tick = None;
            self.send(now, session);
        }
        let reads_at = self.reads_at.filter(|_| session.is_readable());
        self.tick = [self.tick, reads_at].into_iter().flatten().min();
    }

    fn send(&mut self, now: Instant, session: &mut Session) {
        let mut blocked = [false; 7];
        for _ in 0..self.plan.burst {
            let open = |n: &usize| self.sent[*n] < self.plan.messages[*n].0 && !blocked[*n];
            let choices = (0..7).filter(open).count();
            if choices == 0 {
                break;
            }
            let nth = self.rng.below(choices as u64) as usize;
            let Some(choice) = (0..7).filter(open).nth(nth) else { break };
            blocked[choice] = !self.send_one(choice, session);
        }
        if self.sends_more() {
            // Whoever is refused asks again a little later.
            let retry = Duration::from_millis(if blocked.contains(&true) { 20 } else { 0 });
            let every = Duration::from_nanos(self.rng.range(1, 1 + self.plan.every.as_nanos() as u64));
            self.tick = Some(now + every.max(retry));
        }
    }

    fn send_one(&mut self, choice: usize, session: &mut Session) -> bool {
        let (channel, n) = (CHANNELS[choice], self.sent[choice]);
        let message = Message::new(channel, self.message(choice, n));
        let sent = match channel {
            Channel::Reliable(_) => session.send_with_receipt(message).map(Some),
            _ => session.send(message).map(|()| None),
        };
        match sent {
            Ok(None) => {}
            Ok(Some(receipt)) => {
                self.receipts.insert(receipt, (choice, n));
                self.account.note(|account| account.sent[choice] += 1);
            }
            Err(SendError::Blocked(_)) => {
                self.refused += 1;
                return false;
            }
            Err(error) => panic!("message {n} on {channel}: {error}"),
        }
        self.sent[choice] += 1;
        if let (Channel::Reliable(channel), Some(key)) = (channel, key_behind(&self.plan, self.side, choice, n)) {
            session.set_send_hook(channel, hook(key));
            self.key_switches += 1;
        }
        true
    }

    /// A receipt says "delivered": each does once, in order on its channel.
    pub(crate) fn delivered(&mut self, receipt: Receipt) {
        let (choice, n) = self.receipts.remove(&receipt).expect("the receipt of a message, told once");
        self.account.note(|account| {
            assert_eq!(account.delivered[choice], n, "receipts on {} are told out of order", CHANNELS[choice]);
            account.delivered[choice] += 1;
        });
    }

    fn message(&self, choice: usize, n: u64) -> Bytes {
        let (_, sizes) = self.plan.messages[choice];
        pattern::message(self.side, CHANNELS[choice], n, sizes, self.plan.leads)
    }

    fn read(&mut self, now: Instant, session: &mut Session) {
        let count = match self.plan.reading {
            Reading::AtOnce => usize::MAX,
            Reading::Never => 0,
            Reading::Slowly { count, every } => {
                if self.reads_at.is_some_and(|at| now < at) {
                    0
                } else {
                    self.reads_at = Some(now + every);
                    count
                }
            }
        };
        for _ in 0..count {
            let Some(message) = session.recv() else { break };
            self.check(message, session);
        }
    }

    /// What is delivered is what was sent: the next one on reliable channels, some earlier one on the others.
    fn check(&mut self, message: Message, session: &mut Session) {
        let choice = pattern::index(message.channel);
        let next = self.received[choice];
        let (count, sizes) = self.peer.messages[choice];
        let ordered = message.channel.is_reliable() && !self.plan.unordered[choice];
        let n = if ordered { Some(next) } else { pattern::number(message.channel, &message.payload) };
        let n = n.unwrap_or_else(|| panic!("{} bytes on {}", message.payload.len(), message.channel));
        assert!(n < count, "message {n} on {} was never sent", message.channel);
        let expected = pattern::message(self.peer_side, message.channel, n, sizes, self.peer.leads);
        assert!(
            message.payload == expected,
            "message {n} on {}: {} bytes instead of {}",
            message.channel,
            message.payload.len(),
            expected.len()
        );
        match message.channel {
            Channel::Reliable(_) => {
                assert!(ordered || self.seen.insert((choice, n)), "message {n} on {} came twice", message.channel);
                self.received[choice] += 1;
                self.account.note(|account| account.received[choice] += 1);
            }
            Channel::Unreliable => {}
            Channel::Ordered | Channel::Ordered2 => {
                assert!(n >= next, "{}: {n} after {next}", message.channel);
                self.received[choice] = n + 1;
            }
        }
        self.arrived[choice] += 1;
        if let (Channel::Reliable(channel), Some(key)) =
            (message.channel, key_behind(&self.peer, self.peer_side, choice, n))
        {
            session.set_recv_hook(channel, hook(key));
        }
    }

    /// How many messages the session has accepted on a channel.
    pub(crate) fn sent_on(&self, channel: usize) -> u64 {
        self.sent[channel]
    }

    pub(crate) fn sends_more(&self) -> bool {
        self.sent.iter().sum::<u64>() < self.plan.total()
    }

    /// Whether it has everything reliable that its peer has sent or will send.
    pub(crate) fn has_all(&self) -> bool {
        (0..ReliableChannel::COUNT).all(|n| self.received[n] == self.peer.messages[n].0)
    }

    /// How many reliable messages it has taken.
    pub(crate) fn taken(&self) -> u64 {
        self.received[..ReliableChannel::COUNT].iter().sum()
    }

    /// How many messages on reliable channels the session has accepted.
    pub(crate) fn given(&self) -> u64 {
        self.sent[..ReliableChannel::COUNT].iter().sum()
    }

    /// No more to do.
    pub(crate) fn stop(&mut self) {
        for (sent, (count, _)) in self.sent.iter().zip(&mut self.plan.messages) {
            *count = *sent;
        }
    }

    /// More to do: as if the plan had been longer from the start. Both ends must be told.
    pub(crate) fn extend(&mut self, now: Instant, own: [u64; 7], peers: [u64; 7]) {
        for n in 0..7 {
            self.plan.messages[n].0 += own[n];
            self.peer.messages[n].0 += peers[n];
        }
        self.tick = Some(self.tick.map_or(now, |tick| tick.min(now)));
    }
}

fn key_behind(plan: &Plan, side: u64, choice: usize, n: u64) -> Option<Option<[u8; 16]>> {
    match plan.keys {
        Keys::Never | Keys::Session => None,
        Keys::Channels => pattern::key_behind(side, CHANNELS[choice], n),
    }
}

fn hook(key: Option<[u8; 16]>) -> Option<Box<dyn MessageHook>> {
    key.map(|key| Box::new(Rc4::new(&key).unwrap()) as Box<dyn MessageHook>)
}

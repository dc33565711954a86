//! A sender and a receiver over a bad link, against a plain queue: whatever the link does, what comes out is what went
//! in.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::{
    acks::{Ack, AckPolicy},
    inbox::Inbox,
    limits::{SendLimits, Slot},
    packet::LossDelay,
    recv::{Incoming, Kind, Receiver, RecvLimits},
    send::Sender,
};
use crate::timestamp::Timestamp;
use crate::{ReliableChannel, wire::Packet};

const MS: Duration = Duration::from_millis(1);
const LOSS_DELAY: LossDelay = LossDelay { by_count: Duration::ZERO, by_time: Duration::from_millis(5) };

/// One thing that the application, the link or a timer does.
#[derive(Clone, Copy, Debug)]
enum Op {
    Push {
        length: usize,
    },
    Write,
    /// Delivers one of the packets under way, and perhaps keeps it there: it comes again.
    Arrive {
        which: usize,
        again: bool,
    },
    Lose {
        which: usize,
    },
    Acknowledge,
    ArriveAck {
        which: usize,
        again: bool,
    },
    LoseAck {
        which: usize,
    },
    DetectLosses,
    Probe,
    Read {
        messages: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1usize..40).prop_map(|length| Op::Push { length }),
        1 => (1usize..3_000).prop_map(|length| Op::Push { length }),
        4 => Just(Op::Write),
        4 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Op::Arrive { which, again }),
        1 => any::<usize>().prop_map(|which| Op::Lose { which }),
        3 => Just(Op::Acknowledge),
        3 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Op::ArriveAck { which, again }),
        1 => any::<usize>().prop_map(|which| Op::LoseAck { which }),
        1 => Just(Op::DetectLosses),
        1 => Just(Op::Probe),
        2 => (1usize..20).prop_map(|messages| Op::Read { messages }),
    ]
}

struct Model {
    now: Timestamp,
    sender: Sender,
    receiver: Receiver,
    inbox: Inbox,
    send: SendLimits,
    recv: RecvLimits,
    datagrams: u64,
    packets: Vec<Vec<u8>>,
    acks: Vec<Ack>,
    /// What has been sent and not yet read: the model.
    queue: VecDeque<Vec<u8>>,
    pushed: usize,
    /// Whether every packet may be somebody's guess, for all that the receiver knows.
    is_doubtful: bool,
}

impl Model {
    fn new(start: u64, send_window: usize, recv_window: usize, packet: usize, inbox: usize) -> Self {
        let acks = AckPolicy { packets: 4, delay: 2 * MS };
        Self {
            now: Timestamp::now(),
            sender: Sender::starting_at(ReliableChannel::ZERO, start),
            receiver: Receiver::starting_at(ReliableChannel::ZERO, start),
            inbox: Inbox::default(),
            send: SendLimits {
                window_packets: send_window,
                is_named: start.is_multiple_of(2),
                window_bytes: 20_000,
                packet,
                group: packet,
            },
            recv: RecvLimits { window: recv_window, held: 10_000, message: 4_000, inbox, acks, unordered: false },
            datagrams: 0,
            packets: Vec::new(),
            acks: Vec::new(),
            queue: VecDeque::new(),
            pushed: 0,
            is_doubtful: false,
        }
    }

    fn run(&mut self, op: Op) {
        self.now += MS;
        match op {
            Op::Push { length } => self.push(length),
            Op::Write => {
                self.write();
            }
            Op::Arrive { which, again } if !self.packets.is_empty() => self.arrive(which % self.packets.len(), again),
            Op::Lose { which } if !self.packets.is_empty() => {
                self.packets.swap_remove(which % self.packets.len());
            }
            Op::Acknowledge => self.acknowledge(),
            Op::ArriveAck { which, again } if !self.acks.is_empty() => self.arrive_ack(which % self.acks.len(), again),
            Op::LoseAck { which } if !self.acks.is_empty() => {
                self.acks.swap_remove(which % self.acks.len());
            }
            Op::DetectLosses => {
                self.sender.flight().detect_losses(self.now, LOSS_DELAY, |_| {});
            }
            Op::Probe => {
                self.sender.flight().time_out(self.now, self.now, 2, |_, _| {});
            }
            Op::Read { messages } => (0..messages).for_each(|_| self.read()),
            _ => {}
        }
        self.check();
    }

    fn push(&mut self, length: usize) {
        self.pushed += 1;
        // Never 0 in front: the escape is the session's business.
        let message: Vec<u8> = (0..length).map(|n| (self.pushed + n) as u8 | 1).collect();
        self.sender.push(Bytes::from(message.clone()), None);
        self.queue.push_back(message);
    }

    fn write(&mut self) -> bool {
        let slot = Slot { now: self.now, datagram: self.datagrams, room: self.send.packet, budget: usize::MAX };
        let mut out = Vec::new();
        let written = self.sender.write(slot, &self.send, &mut out).is_some();
        if written {
            assert!(out.len() <= self.send.packet);
            self.datagrams += 1;
            self.packets.push(out);
        }
        written
    }

    fn arrive(&mut self, index: usize, again: bool) {
        let packet = if again { self.packets[index].clone() } else { self.packets.swap_remove(index) };
        let (sequence, kind, body) = match Packet::decode(&packet) {
            Ok(Packet::Reliable(data)) => (data.sequence, Kind::Data, data.payload),
            Ok(Packet::Fragment(fragment)) => (fragment.sequence, Kind::Fragment, fragment.body),
            other => panic!("the sender wrote {other:?}"),
        };
        let packet = Incoming { sequence, kind, body: Bytes::copy_from_slice(body), is_proven: !self.is_doubtful };
        let received = self.receiver.receive(self.now, packet, &self.recv, &mut self.inbox);
        assert!(received.is_ok(), "an honest sender's packet counts as corrupt: {received:?}");
    }

    fn acknowledge(&mut self) {
        let expected = self.receiver.expected();
        while let Some(ack) = self.receiver.acks().take(expected, 0) {
            self.acks.push(ack);
        }
    }

    fn arrive_ack(&mut self, index: usize, again: bool) {
        let ack = if again { self.acks[index] } else { self.acks.swap_remove(index) };
        let acked = match ack {
            Ack::All(sequence) => self.sender.acknowledge_all(self.now, sequence as u16, None),
            Ack::One(sequence) => self.sender.acknowledge(self.now, sequence as u16, None),
        };
        assert!(acked.is_some(), "the receiver acknowledged what was never sent: {ack:?}");
    }

    fn read(&mut self) {
        if let Some(arrival) = self.inbox.pop() {
            let expected = self.queue.pop_front().expect("more came out than went in");
            assert_eq!(arrival.raw[..], expected[..], "the order or the content is wrong");
            let drained = self.receiver.drain(self.now, &self.recv, &mut self.inbox);
            assert!(drained.is_ok());
        }
    }

    fn check(&mut self) {
        let limits = &self.send;
        assert!(self.sender.flight().span() <= limits.window_packets);
        assert!(self.sender.in_flight_bytes() <= limits.window_bytes.max(limits.packet));
        assert!(
            self.receiver.memory()
                <= Receiver::memory_ceiling(self.recv.window.max(4), self.recv.held, limits.packet, self.recv.message)
        );
        let largest = self.recv.message.max(limits.packet);
        assert!(self.inbox.memory() <= Inbox::memory_ceiling(self.recv.inbox, largest));
    }

    /// The link becomes good and everybody does his work.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            if self.queue.is_empty() && self.sender.is_idle() && self.receiver.is_idle() {
                return;
            }
            self.now += 10 * MS;
            while self.write() {}
            while !self.packets.is_empty() {
                self.arrive(0, false);
            }
            self.read();
            self.acknowledge();
            while !self.acks.is_empty() {
                self.arrive_ack(0, false);
            }
            self.sender.flight().detect_losses(self.now, LOSS_DELAY, |_| {});
            self.sender.flight().time_out(self.now, self.now - 5 * MS, 2, |_, _| {});
            self.check();
        }
        panic!("it never becomes quiet: {:?} {:?}", self.sender, self.receiver);
    }
}

/// Sequences at which a channel may stand: at the start, and around wraps of the 16 bits.
fn start() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 65_400u64..65_600, (1u64..1_000).prop_map(|wraps| wraps * 65_536 - 7), 0u64..1 << 40]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_channel_over_a_bad_link_is_a_queue(
        ops in vec(op(), 0..300),
        start in start(),
        send_window in 1usize..64,
        recv_window in 1usize..64,
        packet in 40usize..600,
        inbox in 1usize..4_000,
        is_doubtful in any::<bool>(),
    ) {
        let mut model = Model::new(start, send_window, recv_window, packet, inbox);
        model.is_doubtful = is_doubtful;
        for op in ops {
            model.run(op);
        }
        model.settle();
        prop_assert!(model.queue.is_empty());
        prop_assert_eq!(model.sender.undelivered(), (0, 0));
    }
}

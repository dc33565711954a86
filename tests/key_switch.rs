//! A key applies from exactly one message on, however the network loses, reorders and groups what carries it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use soe_core::{Action, AdmissionConfig, Endpoint, Message, ReliableChannel, Session, SessionConfig};

const STEP: Duration = Duration::from_millis(10);
const KEYS: [Option<&[u8]>; 3] = [None, Some(b"first key"), Some(b"the second")];

/// A client and a server over a link with a plan of what it does to each datagram.
struct Pair {
    now: Instant,
    client: Session,
    server: Session,
    /// What each next datagram meets: lost, late by a step, twice, or nothing.
    fates: Box<dyn FnMut() -> Fate>,
    late: [Vec<Vec<u8>>; 2],
}

#[derive(Clone, Copy)]
enum Fate {
    Arrives,
    Lost,
    Late,
    Twice,
}

impl Pair {
    fn new(fates: impl FnMut() -> Fate + 'static) -> Self {
        let now = Instant::now();
        let config = SessionConfig::builder("Test").build().unwrap();
        let admission = AdmissionConfig::builder(config.clone()).max_pending_handshakes(1).build().unwrap();
        let mut endpoint = Endpoint::new(now, admission, [1; 16]);
        let mut client = Session::connect(now, config, 1);
        let from = SocketAddr::from(([192, 0, 2, 1], 7));
        let server = loop {
            let mut asks = Vec::new();
            let _ = client.poll_transmit(now, &mut asks).unwrap();
            endpoint.handle_datagram(now, from.into(), asks[..].into());
            match endpoint.poll_action() {
                Some(Action::Open(opened)) => break opened.session,
                Some(Action::Send { datagram, .. }) => _ = client.handle_datagram(now, datagram[..].into()),
                other => panic!("neither answered nor opened: {other:?}"),
            }
        };
        Self { now, client, server, fates: Box::new(fates), late: Default::default() }
    }

    /// What the client has to send leaves now: messages before and after do not share a packet.
    fn flush(&mut self) {
        Self::carry(self.now, &mut self.client, &mut self.server, &mut self.fates, &mut self.late[0]);
    }

    fn carry(
        now: Instant,
        from: &mut Session,
        to: &mut Session,
        fates: &mut dyn FnMut() -> Fate,
        late: &mut Vec<Vec<u8>>,
    ) {
        let mut out = Vec::new();
        while let Some(transmit) = from.poll_transmit(now, &mut out) {
            for datagram in out.chunks(transmit.segment_size) {
                let times = match fates() {
                    Fate::Arrives => 1,
                    Fate::Twice => 2,
                    Fate::Lost => 0,
                    Fate::Late => {
                        late.push(datagram.to_vec());
                        0
                    }
                };
                (0..times).for_each(|_| drop(to.handle_datagram(now, datagram.into())));
            }
            out.clear();
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        let [to_server, to_client] = &mut self.late;
        let late = [std::mem::take(to_server), std::mem::take(to_client)];
        self.flush();
        Self::carry(now, &mut self.server, &mut self.client, &mut self.fates, &mut self.late[1]);
        late[0].iter().for_each(|datagram| drop(self.server.handle_datagram(now, datagram[..].into())));
        late[1].iter().for_each(|datagram| drop(self.client.handle_datagram(now, datagram[..].into())));
        self.client.handle_timeout(now);
        self.server.handle_timeout(now);
    }
}

fn message(n: usize, length: usize) -> Vec<u8> {
    // Some begin with 0, and some with what would be a Group.
    let head: &[u8] = [&[][..], &[0], &[0, 0x19], &[0, 0]][n % 4];
    let body = (0..length.max(1)).map(|at| (n * 31 + at) as u8);
    head.iter().copied().chain(body).collect()
}

/// Sends messages and switches keys as told: `keys[n]` holds from message n on. The server switches at the same messages, and
/// must read what was written.
fn exchange(mut pair: Pair, keys: &[usize], lengths: &[usize], flushes: u32) {
    for (n, (&key, &length)) in keys.iter().zip(lengths).enumerate() {
        if n == 0 || keys[n - 1] != key {
            pair.client.set_send_key(KEYS[key]).unwrap();
        }
        pair.client.send(Message::reliable(message(n, length))).unwrap();
        if flushes >> (n % 32) & 1 == 1 {
            pair.flush();
        }
    }
    let mut read = 0;
    for _ in 0..6_000 {
        while read < keys.len() {
            if read == 0 || keys[read - 1] != keys[read] {
                // As an application does it: after the message before, without knowing whether the next is here already.
                pair.server.set_recv_key(KEYS[keys[read]]).unwrap();
            }
            // If it is not, the switch is made again later: nothing has been decrypted since.
            let Some(received) = pair.server.recv() else { break };
            assert_eq!(received.payload, message(read, lengths[read]), "message {read} under {keys:?}");
            read += 1;
        }
        if read == keys.len() && pair.client.is_idle() {
            return;
        }
        pair.step();
    }
    panic!("{read} of {} messages arrived: {keys:?}", keys.len());
}

#[test]
fn a_switch_is_exact_under_every_small_interleaving_of_loss_and_grouping() {
    let mut runs = 0;
    for switches in 0..3u32.pow(4) {
        let keys: Vec<usize> = (0..4).map(|n| (switches / 3u32.pow(n) % 3) as usize).collect();
        for flushes in 0..8u32 {
            // Which of the first four datagrams, either way, are lost.
            for lost in 0..16u32 {
                let mut nth = 0;
                let fates = move || {
                    nth += 1;
                    if nth <= 4 && lost >> (nth - 1) & 1 == 1 { Fate::Lost } else { Fate::Arrives }
                };
                exchange(Pair::new(fates), &keys, &[3, 700, 5, 1], flushes);
                runs += 1;
            }
        }
    }
    assert_eq!(runs, 81 * 8 * 16);
}

#[test]
fn a_switch_is_exact_on_long_conversations_over_bad_links() {
    for seed in 0..60u64 {
        let mut word = seed;
        let mut random = move |limit: u64| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (word >> 33) % limit
        };
        let count = 60 + random(60) as usize;
        let mut key = 0;
        let keys: Vec<usize> = (0..count)
            .map(|_| {
                if random(4) == 0 {
                    key = random(3) as usize;
                }
                key
            })
            .collect();
        let lengths: Vec<usize> =
            (0..count).map(|_| if random(12) == 0 { 3_000 } else { 1 + random(120) as usize }).collect();
        let flushes = random(1 << 31) as u32;
        let fates = move || match random(10) {
            0 | 1 => Fate::Lost,
            2 => Fate::Late,
            3 => Fate::Twice,
            _ => Fate::Arrives,
        };
        exchange(Pair::new(fates), &keys, &lengths, flushes);
    }
}

/// Sends 40 messages, each on the next channel, under every loss of the first six datagrams. `switch` sets keys on the client
/// and the server; each channel must deliver its messages.
fn alternate(switch: impl Fn(&mut Session, &mut Session)) {
    for lost in 0..64u32 {
        let mut nth = 0;
        let mut pair = Pair::new(move || {
            nth += 1;
            if nth <= 6 && lost >> (nth - 1) & 1 == 1 { Fate::Lost } else { Fate::Arrives }
        });
        switch(&mut pair.client, &mut pair.server);
        let mut received = [const { Vec::new() }; 4];
        for n in 0..40 {
            let channel = ReliableChannel::ALL[n % 4];
            pair.client.send(Message::new(channel, message(n, 50))).unwrap();
            if n % 3 == 0 {
                pair.flush();
            }
        }
        for _ in 0..1_000 {
            pair.step();
            while let Some(Message { channel: soe_core::Channel::Reliable(channel), payload, .. }) = pair.server.recv()
            {
                received[channel.index()].push(payload.to_vec());
            }
        }
        for (channel, received) in received.iter().enumerate() {
            let expected: Vec<_> = (0..40).filter(|n| n % 4 == channel).map(|n| message(n, 50)).collect();
            assert_eq!(*received, expected, "channel {channel}, lost {lost:b}");
        }
    }
}

#[test]
fn channels_with_keys_of_their_own_do_not_disturb_each_other() {
    alternate(|client, server| {
        for (n, channel) in ReliableChannel::ALL.into_iter().enumerate() {
            let hook = || Some(Box::new(soe_core::Rc4::new(&[n as u8 + 1; 16]).unwrap()) as Box<_>);
            client.set_send_hook(channel, hook());
            server.set_recv_hook(channel, hook());
        }
    });
}

#[test]
fn one_key_serves_all_channels_whatever_the_order_of_arrival() {
    alternate(|client, server| {
        client.set_send_key(Some(b"one key")).unwrap();
        server.set_recv_key(Some(b"one key")).unwrap();
    });
}

#[test]
fn with_one_channel_in_use_a_key_is_one_stream_from_its_first_byte() {
    let mut pair = Pair::new(|| Fate::Arrives);
    pair.client.set_send_key(Some(b"one key")).unwrap();
    let mut stream = soe_core::Rc4::new(b"one key").unwrap();
    for n in 0..8 {
        // Neither begins with 0: nothing is escaped.
        let mut expected = message(n * 4, 30);
        pair.client.send(Message::reliable(expected.clone())).unwrap();
        stream.apply(&mut expected);
        pair.flush();
        assert_ne!(expected[0], 0, "the test wants messages without an escape");
        assert_eq!(pair.server.recv().unwrap().payload, expected, "message {n}");
    }
}

#[test]
fn a_hook_takes_the_place_of_the_key_on_its_own_channel_only() {
    let mut pair = Pair::new(|| Fate::Arrives);
    pair.client.set_send_key(Some(b"one key")).unwrap();
    pair.server.set_recv_key(Some(b"one key")).unwrap();
    pair.client.set_send_hook(ReliableChannel::ONE, None);
    pair.server.set_recv_hook(ReliableChannel::ONE, None);
    for n in 0..8 {
        pair.client.send(Message::new(ReliableChannel::ALL[n % 2], message(n, 30))).unwrap();
        pair.flush();
        assert_eq!(pair.server.recv().unwrap().payload, message(n, 30), "message {n}");
    }
}

#[test]
fn unreliable_messages_travel_in_plain() {
    let mut pair = Pair::new(|| Fate::Arrives);
    pair.client.set_send_key(Some(b"one key")).unwrap();
    pair.client.send(Message::unreliable(message(0, 30))).unwrap();
    pair.flush();
    assert_eq!(pair.server.recv().unwrap().payload, message(0, 30));
}

#[test]
fn nothing_is_delivered_behind_a_message_that_cannot_be_opened_on_its_channel() {
    let mut pair = Pair::new(|| Fate::Arrives);
    pair.server.set_recv_hook(ReliableChannel::ZERO, Some(Box::new(Tagged)));
    let on = |channel, payload: &'static [u8]| Message::new(channel, payload);
    let (zero, one) = (ReliableChannel::ZERO, ReliableChannel::ONE);
    let messages =
        [on(zero, b"+good"), on(zero, b"-bad"), on(zero, b"+behind it"), on(one, b"elsewhere"), on(zero, b"+last")];
    for (n, message) in messages.into_iter().enumerate() {
        pair.client.send(message).unwrap();
        // Some share a Group, some do not.
        if n % 2 == 0 {
            pair.flush();
        }
    }
    pair.flush();
    let mut received = Vec::new();
    for _ in 0..5 {
        received.extend(pair.server.recv().map(|message| message.payload));
    }
    assert_eq!(received, [&b"good"[..], b"elsewhere"]);
    assert_eq!(pair.server.closed().unwrap().reason, soe_core::DisconnectReason::CorruptPacket);
    assert!(!pair.server.is_readable());
}

/// Takes messages that begin with a plus.
#[derive(Debug)]
struct Tagged;

impl soe_core::MessageHook for Tagged {
    fn seal(&mut self, message: bytes::BytesMut) -> bytes::BytesMut {
        message
    }

    fn open(&mut self, message: bytes::Bytes, _: usize) -> Result<bytes::Bytes, soe_core::HookError> {
        if message[0] == b'+' { Ok(message.slice(1..)) } else { Err(soe_core::HookError::Malformed("no plus")) }
    }
}

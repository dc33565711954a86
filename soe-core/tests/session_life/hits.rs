//! Hits drawn at random into conversations drawn at random: what they cost is bounded.

use std::time::Duration;

use soe_core::Message;

use super::{
    guesses::miss,
    healing::{ONE, data, fragment, hit, multi},
    link::{Link, MS, Numbers, SECOND, pattern},
};

const SEEDS: u64 = 300;

/// The packets of one hit: where its sender believes the channel to be, or a little ahead.
fn fake(numbers: &mut Numbers, expected: u16) -> (Vec<u8>, usize) {
    let count = [1, 1, 2, 5, 20, 40][numbers.below(6) as usize];
    let first = expected.wrapping_add(numbers.below(8) as u16);
    let kind = numbers.below(6);
    let repeats = numbers.chance(0.3);
    let packets: Vec<_> = (0..count)
        .flat_map(|n| {
            let sequence = first.wrapping_add(n as u16);
            let packet = match if kind == 5 { numbers.below(5) } else { kind } {
                0 => data(sequence, b"Xgold"),
                1 => data(sequence, &[0, 0x19, 9, 1]),
                2 => fragment(sequence, b"XX"),
                3 => fragment(sequence, &[0, 0, 20, 0, b'X', b'X']),
                _ => fragment(sequence, &[0, 0, 0, 4, b'X', b'X']),
            };
            std::iter::repeat_n(packet, if repeats && n + 1 == count { 2 } else { 1 })
        })
        .collect();
    (multi(packets), count)
}

/// What one conversation came to.
struct Cost {
    /// Packets of the hits.
    packets: usize,
    lost: usize,
    hits: u32,
    /// The longest time that a message took which was heard.
    longest: Duration,
}

/// The conversation with this seed, with or without the hits.
fn conversation(seed: u64, is_hit: bool) -> Cost {
    let mut numbers = Numbers::new(seed);
    let mut link = Link::plain();
    miss(&mut link);
    let (loss, late) = [(0.0, 0.0), (0.02, 0.05), (0.1, 0.2)][numbers.below(3) as usize];
    let mut dice = Numbers::new(seed ^ 0xFA7E);
    link.fate = Box::new(move |_, _, _| {
        let delay = if dice.chance(late) { 10 + dice.below(60) as u32 } else { 10 };
        (!dice.chance(loss)).then_some(delay * MS)
    });
    let hits = 1 + numbers.below(2) as u32;
    let count = 60;
    let mut moments: Vec<_> = (0..hits).map(|_| numbers.below(40)).collect();
    moments.sort_unstable();
    let pause = [20, 100, 1_000, 8_000][numbers.below(4) as usize];
    // Not more than a bad link carries.
    let longest_message = [20, 20, 300, (10 * pause).min(20_000)][numbers.below(4) as usize];
    let (mut said, mut packets, mut longest): (Vec<(Vec<u8>, _)>, usize, Duration) = (Vec::new(), 0, Duration::ZERO);
    let mut heard: Vec<usize> = Vec::new();
    let mut listen = |link: &mut Link, said: &[(Vec<u8>, std::time::Instant)], heard: &mut Vec<usize>| {
        for message in std::mem::take(&mut link.received) {
            let Some(index) = said.iter().position(|(text, _)| message.payload[..] == text[..]) else { continue };
            assert!(!heard.contains(&index), "seed {seed}: message {index} is heard twice");
            assert!(heard.last().is_none_or(|&last| last < index), "seed {seed}: message {index} out of order");
            longest = longest.max(link.now - said[index].1);
            heard.push(index);
        }
    };
    for n in 0..count {
        for _ in moments.extract_if(.., |moment| *moment == n) {
            let newest = link.sent[0].iter().filter_map(|datagram| newest_of(datagram)).max();
            let (packet, count) = fake(&mut numbers, newest.map_or(0, |newest| newest + 1));
            if is_hit {
                packets += count;
                hit(&mut link, &packet);
            }
        }
        let length = 6 + numbers.below(longest_message) as usize;
        let mut text = pattern(length, n as u8).to_vec();
        text[..2].copy_from_slice(&[b'n', n as u8]);
        said.push((text.clone(), link.now));
        link.client.send(Message::new(ONE, text)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for _ in 0..10 {
            link.run(pause as u32 * MS / 10);
            listen(&mut link, &said, &mut heard);
        }
    }
    // The places of fakes that nobody has reached yet.
    for n in 0..packets + 3 {
        let text = vec![b'e', n as u8];
        said.push((text.clone(), link.now));
        link.client.send(Message::new(ONE, text)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for _ in 0..10 {
            link.run(SECOND / 10);
            listen(&mut link, &said, &mut heard);
        }
    }
    for _ in 0..70 {
        link.run(SECOND / 10);
        listen(&mut link, &said, &mut heard);
    }
    assert_eq!(link.client.closed(), None, "seed {seed}");
    assert_eq!(heard.last(), Some(&(said.len() - 1)), "seed {seed}: the last message is not heard");
    link.run(20 * SECOND);
    assert!(link.client.is_idle(), "seed {seed}: something is never acknowledged");
    Cost { packets, hits, lost: said.len() - heard.len(), longest }
}

/// The sequence on channel 1 that a datagram of one packet names.
fn newest_of(datagram: &[u8]) -> Option<u16> {
    let at = datagram.windows(2).position(|bytes| bytes == [0, 0x0A] || bytes == [0, 0x0E])?;
    Some(u16::from_be_bytes([*datagram.get(at + 2)?, *datagram.get(at + 3)?])).filter(|&sequence| sequence < 20_000)
}

#[test]
fn hits_at_random_cost_messages_and_seconds_and_no_more() {
    for seed in 1..=SEEDS {
        let undisturbed = conversation(seed, false);
        assert_eq!(undisturbed.lost, 0, "seed {seed}");
        let Cost { packets, lost, hits, longest } = conversation(seed, true);
        let most = undisturbed.longest + hits * 7 * SECOND;
        assert!(
            longest < most,
            "seed {seed}: a message took {longest:?}, {:?} without {hits} hits",
            undisturbed.longest
        );
        // A message in several fragments may be lost with one of them.
        assert!(lost <= packets + 8, "seed {seed}: {packets} packets cost {lost} messages");
    }
}

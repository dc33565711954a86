//! What one hit of a guessed CRC costs a reliable channel (section 10 of `docs/protocol.md`): a message or two, for seconds
//! at most, and never the session.

use std::time::Duration;

use soe_core::{ChannelOptions, Message, ReliableChannel};

use super::{
    guesses::miss,
    link::{Link, MS, Numbers, SECOND, To, config, delay, pattern},
};

pub(crate) const ONE: ReliableChannel = ReliableChannel::ONE;
/// The time after which a place is given up, and a little.
const AT_MOST: Duration = Duration::from_secs(6);

/// A session in which somebody may be guessing.
fn doubtful() -> Link {
    let mut link = Link::plain();
    miss(&mut link);
    link
}

/// A guess that hit.
pub(crate) fn hit(link: &mut Link, packet: &[u8]) {
    let (now, datagram) = (link.now, link.sealed(packet));
    let _ = link.server().handle_datagram(now, datagram);
    link.take();
    link.flush();
}

pub(crate) fn multi(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let pieces = pieces.into_iter().flat_map(|piece| [vec![piece.len() as u8], piece].concat());
    [0, 3].into_iter().chain(pieces).collect()
}

pub(crate) fn data(sequence: u16, text: &[u8]) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    [&[0, 0x0A, high, low][..], text].concat()
}

pub(crate) fn fragment(sequence: u16, body: &[u8]) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    [&[0, 0x0E, high, low][..], body].concat()
}

fn is_packet(datagram: &[u8], sequence: u8) -> bool {
    datagram.windows(4).any(|bytes| bytes == [0, 0x0A, 0, sequence])
}

/// The peer's client says something on channel 1.
fn say(link: &mut Link, message: &[u8]) {
    link.client.send(Message::new(ONE, message.to_vec())).unwrap();
}

/// Both sides talk on channel 0, as in play: no acknowledgement waits for long, and nobody is silent.
fn play(link: &mut Link, time: Duration) {
    let end = link.now + time;
    while link.now < end {
        link.client.send(vec![b'p'; 20].into()).unwrap();
        link.server().send(vec![b'p'; 20].into()).unwrap();
        link.run(50 * MS);
        link.received.retain(|message| message.channel == ONE.into());
    }
}

/// How long it takes until this message arrives.
fn heard_after(link: &mut Link, message: &[u8]) -> Duration {
    let start = link.now;
    while !link.received.iter().any(|heard| heard.payload[..] == *message) {
        assert!(link.now - start < 600 * SECOND, "not heard in ten minutes: {:?}", link.client.closed());
        link.run(100 * MS);
    }
    link.now - start
}

fn texts(link: &Link) -> Vec<&[u8]> {
    link.received.iter().map(|message| &message.payload[..]).collect()
}

#[test]
fn a_long_message_behind_a_fake_costs_itself_alone() {
    for (loss, length) in [0.0, 0.02].into_iter().flat_map(|loss| [600, 3_000, 50_000, 1_000_000].map(|n| (loss, n))) {
        let mut link = doubtful();
        let mut numbers = Numbers::new(7);
        link.fate = Box::new(move |_, _, _| (!numbers.chance(loss)).then_some(10 * MS));
        hit(&mut link, &data(0, b"gold"));
        say(&mut link, &pattern(length, 5));
        say(&mut link, b"behind");
        let time = heard_after(&mut link, b"behind");
        assert!(time < AT_MOST, "{length} bytes, loss {loss}: {time:?}");
        assert_eq!(texts(&link), [&b"gold"[..], b"behind"], "{length} bytes, loss {loss}");
        // And everything from here on.
        for n in 0..50 {
            link.received.clear();
            say(&mut link, &[b'n', n]);
            let time = heard_after(&mut link, &[b'n', n]);
            assert!(time < SECOND, "{length} bytes, loss {loss}, message {n}: {time:?}");
        }
    }
}

/// A transfer over a link of 500 packets a second, into which a fake falls. Returns what was heard, and when all of it was.
fn transfer(fake: Option<Vec<u8>>) -> (bool, Duration) {
    let mut link = doubtful();
    let mut free = link.now;
    link.fate = Box::new(move |to, now, _| {
        if to == To::Client {
            return Some(10 * MS);
        }
        free = free.max(now) + 2 * MS;
        (free - now < 200 * MS).then(|| free - now + 10 * MS)
    });
    let long = pattern(400_000, 5);
    say(&mut link, &long);
    link.run(SECOND / 2);
    let fragments = link.sent[0].iter().filter(|datagram| datagram[..2] == [0, 0x0E]);
    let newest = fragments.map(|datagram| u16::from_be_bytes([datagram[2], datagram[3]])).max().unwrap();
    if let Some(mut fake) = fake {
        fake[2..4].copy_from_slice(&(newest + 40).to_be_bytes());
        hit(&mut link, &fake);
    }
    say(&mut link, b"behind");
    let time = heard_after(&mut link, b"behind");
    (texts(&link).contains(&&long[..]), time)
}

#[test]
fn a_fake_within_a_transfer_costs_that_message_at_most() {
    let (is_heard, undisturbed) = transfer(None);
    assert!(is_heard);
    for fake in [data(0, b"gold"), data(0, &[0, 0x19, 9, 1]), fragment(0, b"gold"), fragment(0, &[0, 0x19, 9, 1])] {
        let (is_heard, time) = transfer(Some(fake.clone()));
        assert!(time < undisturbed + AT_MOST, "{fake:02x?}: {time:?}, undisturbed {undisturbed:?}");
        // A fake that looks like a part of the message cannot be told from one.
        assert_eq!(is_heard, fake[1] == 0x0A, "{fake:02x?}");
    }
}

#[test]
fn of_two_packets_for_one_place_that_which_continues_a_message_is_taken() {
    for fake in [data(4, &[0, 0x19, 9, 1]), data(4, b"gold")] {
        let mut link = doubtful();
        say(&mut link, b"before");
        link.run(SECOND);
        // Sequences 1 to 8 are the message. The third fragment is lost at first, so that there is a gap.
        let mut is_lost = false;
        link.fate = Box::new(move |to, _, datagram| {
            let is_it = to == To::Server && datagram[..4] == [0, 0x0E, 0, 3];
            let loses = is_it && !std::mem::replace(&mut is_lost, true);
            (!loses).then_some(10 * MS)
        });
        hit(&mut link, &fake);
        let long = pattern(4_000, 5);
        say(&mut link, &long);
        say(&mut link, b"behind");
        heard_after(&mut link, b"behind");
        assert_eq!(texts(&link), [&b"before"[..], &long, b"behind"], "{fake:02x?}");
    }
}

#[test]
fn a_place_is_given_up_only_once_something_has_waited_behind_it() {
    let mut link = doubtful();
    say(&mut link, b"0");
    play(&mut link, SECOND);
    // Held, then dropped: it is the rest of nothing.
    hit(&mut link, &fragment(2, &[7]));
    say(&mut link, b"1");
    play(&mut link, 10 * SECOND);
    // Long after, the peer's own packet for the place is overtaken by the next one.
    link.fate = Box::new(|to, _, datagram| {
        let is_late = to == To::Server && is_packet(datagram, 2);
        Some(if is_late { 40 * MS } else { 10 * MS })
    });
    for message in [b"2", b"3", b"4"] {
        say(&mut link, message);
        link.run(15 * MS);
    }
    play(&mut link, SECOND);
    assert_eq!(texts(&link), [b"0", b"1", b"2", b"3", b"4"]);
}

#[test]
fn places_of_fakes_stay_open_for_their_peer_however_long_it_says_nothing() {
    let mut link = doubtful();
    say(&mut link, b"0");
    link.run(SECOND);
    hit(&mut link, &multi((2..4).map(|sequence| fragment(sequence, &[7]))));
    for message in [b"1", b"2", b"3", b"4", b"5", b"6"] {
        say(&mut link, message);
        link.run(SECOND);
        // And another one, ahead of the place that is open now.
        let next = u16::from(message[0] - b'0') + 2;
        hit(&mut link, &fragment(next + 2, &[7]));
        link.run(20 * SECOND);
    }
    assert_eq!(texts(&link), [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]);
}

#[test]
fn an_impossible_packet_in_order_takes_no_place() {
    for fake in [data(0, &[0, 0x19, 9, 1]), fragment(0, &[7])] {
        let mut link = doubtful();
        for _ in 0..3 {
            hit(&mut link, &fake);
            link.run(20 * MS);
        }
        say(&mut link, b"0");
        link.run(SECOND);
        assert_eq!(texts(&link), [b"0"], "{fake:02x?}");
    }
}

#[test]
fn the_rest_of_a_message_is_dropped_at_once_after_its_first_fragment() {
    let mut link = doubtful();
    hit(&mut link, &data(0, b"gold"));
    // The peer's own first fragment is old. The next one is refused, comes again, and is its own.
    for (packet, pause) in [(fragment(1, &[0xFF; 9]), 200 * MS), (fragment(1, &[0xFF; 9]), Duration::ZERO)] {
        hit(&mut link, &packet);
        link.run(pause);
    }
    for packet in [fragment(2, &[0xFF; 9]), fragment(3, &[0xFF; 9]), data(4, b"behind")] {
        hit(&mut link, &packet);
    }
    assert_eq!(texts(&link), [&b"gold"[..], b"behind"]);
    // It is over with that message: what is impossible now is refused again.
    for packet in [fragment(5, &[0xFF; 9]), data(5, b"own")] {
        hit(&mut link, &packet);
    }
    assert_eq!(texts(&link).last(), Some(&&b"own"[..]));
}

#[test]
fn a_message_gives_way_to_what_cannot_belong_to_it_while_it_has_one_fragment() {
    let opening = [&1_000u32.to_be_bytes()[..], &[7; 40]].concat();
    for fragments in [1, 2] {
        let mut link = doubtful();
        hit(&mut link, &fragment(0, &opening));
        if fragments == 2 {
            hit(&mut link, &fragment(1, &[7; 40]));
        }
        hit(&mut link, &data(fragments, b"own"));
        assert_eq!(texts(&link).len(), usize::from(fragments == 1));
        link.run(200 * MS);
        hit(&mut link, &data(fragments, b"own"));
        assert_eq!(texts(&link), [b"own"], "when it comes again at the latest");
    }
}

#[test]
fn a_message_that_begins_in_a_gap_continues_in_a_contested_place() {
    let mut link = doubtful();
    let (first, second) = ([&60u32.to_be_bytes()[..], &[7; 40]].concat(), [8; 20]);
    for packet in [data(0, b"0"), data(2, b"gold"), fragment(2, &second), fragment(1, &first)] {
        hit(&mut link, &packet);
    }
    assert_eq!(texts(&link), [&b"0"[..], &[&[7; 40][..], &second].concat()]);
}

#[test]
fn a_packet_that_is_lost_for_long_is_not_given_up_because_another_one_was_dropped_before() {
    for is_behind in [false, true] {
        let mut link = doubtful();
        say(&mut link, b"0");
        link.run(SECOND);
        hit(&mut link, &fragment(2, &[7]));
        if is_behind {
            // Something that can be delivered waits behind the place when it is dropped.
            hit(&mut link, &data(3, b"3"));
        }
        for message in [b"1", b"2", b"3"] {
            say(&mut link, message);
            link.run(SECOND);
        }
        let lost_until = link.now + 8 * SECOND;
        link.fate = Box::new(move |to, now, datagram| {
            let is_lost = to == To::Server && now < lost_until && is_packet(datagram, 4);
            (!is_lost).then_some(10 * MS)
        });
        for message in [b"4", b"5", b"6"] {
            say(&mut link, message);
            link.run(20 * MS);
        }
        heard_after(&mut link, b"6");
        assert_eq!(texts(&link), [b"0", b"1", b"2", b"3", b"4", b"5", b"6"], "{is_behind}");
        assert!(link.now > lost_until);
    }
}

#[test]
fn what_waits_behind_a_place_that_nobody_fills_comes_though_its_peer_says_nothing_more() {
    let mut link = doubtful();
    say(&mut link, b"0");
    link.run(SECOND);
    hit(&mut link, &fragment(2, &[7]));
    say(&mut link, b"1");
    link.run(SECOND);
    // The peer's own is lost, and takes the acknowledgement of the fake for its own.
    link.fate = Box::new(|to, _, datagram| (to == To::Client || !is_packet(datagram, 2)).then_some(10 * MS));
    say(&mut link, b"2");
    link.flush();
    let (now, ack) = (link.now, link.sealed(&[0, 0x12, 0, 2]));
    let _ = link.client.handle_datagram(now, ack);
    link.fate = delay(10 * MS);
    say(&mut link, b"3");
    let time = heard_after(&mut link, b"3");
    assert!(time < AT_MOST && link.client.is_idle(), "{time:?}");
    assert_eq!(link.server().poll_timeout().filter(|&at| at <= now), None, "no timer is left in the past");
}

/// The peer's packets come for places that fakes hold.
#[test]
fn what_contests_a_fake_behind_a_place_that_nobody_fills_waits_no_longer() {
    let mut link = doubtful();
    say(&mut link, b"0");
    link.run(SECOND);
    hit(&mut link, &multi((2..42).map(|sequence| data(sequence, &[0, 0x19, 9, 1]))));
    say(&mut link, b"1");
    link.run(SECOND);
    link.fate = Box::new(|to, _, datagram| (to == To::Client || !is_packet(datagram, 2)).then_some(10 * MS));
    say(&mut link, b"2");
    link.flush();
    let (now, ack) = (link.now, link.sealed(&[0, 0x12, 0, 2]));
    let _ = link.client.handle_datagram(now, ack);
    link.fate = delay(10 * MS);
    say(&mut link, b"3");
    let time = heard_after(&mut link, b"3");
    assert!(time < AT_MOST, "{time:?}");
}

#[test]
fn places_that_nobody_fills_are_given_up_together() {
    let mut link = doubtful();
    say(&mut link, b"before");
    link.run(SECOND);
    let fakes = multi((2..22).map(|sequence| fragment(sequence, b"abcd")));
    hit(&mut link, &fakes);
    // The link loses what the peer says, but not the acknowledgements of the fakes.
    link.fate = Box::new(|to, _, _| (to == To::Client).then_some(300 * MS));
    for n in 1..22 {
        say(&mut link, &[b'0' + n]);
        link.flush();
    }
    hit(&mut link, &fakes);
    link.run(10 * MS);
    link.fate = delay(10 * MS);
    say(&mut link, b"behind");
    let time = heard_after(&mut link, b"behind");
    assert!(time < 2 * AT_MOST, "after a resend: {time:?}");
}

#[test]
fn fakes_in_the_first_places_of_a_channel_end_nothing_however_often_they_come() {
    let last_twice = (0..40).chain([39]);
    for (sequences, copies) in [((0..40).collect(), 1), ((0..40).collect(), 2), (last_twice.collect::<Vec<_>>(), 1)] {
        let mut link = doubtful();
        play(&mut link, 5 * SECOND);
        let fakes = multi(sequences.into_iter().map(|sequence| data(sequence, b"gold")));
        for _ in 0..copies {
            hit(&mut link, &fakes);
        }
        say(&mut link, b"hello");
        // The place of its message is taken, and its peer has to learn that.
        play(&mut link, 10 * SECOND);
        let now = link.now;
        let oldest = link.client.stats(now).oldest_unacknowledged;
        assert!(oldest.is_none_or(|age| age < SECOND), "{copies} times: {oldest:?}");
        play(&mut link, 150 * SECOND);
        assert_eq!(link.client.closed(), None);
    }
}

#[test]
fn nothing_impossible_ends_the_session_of_an_unordered_channel() {
    let config = || config().channel(ONE, ChannelOptions::default().with_unordered(true)).build().unwrap();
    let mut link = Link::connected(config(), config(), delay(10 * MS));
    miss(&mut link);
    say(&mut link, b"before");
    link.run(SECOND);
    hit(&mut link, &data(5, &[0, 0x19, 9, 1]));
    hit(&mut link, &data(6, &[0, 0x19, 9, 1, 1, 1]));
    assert_eq!(link.server().closed(), None);
    for n in 0..9 {
        say(&mut link, &[n]);
    }
    link.run(SECOND);
    assert_eq!(link.received.len(), 10);
}

/// Not that any peer is known to.
#[test]
fn a_peer_may_bundle_anew_what_it_sends_again() {
    let group = |texts: &[&[u8]]| -> Vec<u8> {
        [0, 0x19].into_iter().chain(texts.iter().flat_map(|text| [&[text.len() as u8][..], text].concat())).collect()
    };
    let (two, both): (&[&[u8]], &[&[u8]]) = (&[b"two"], &[b"two", b"more"]);
    let forms = [
        (b"two".to_vec(), group(two), two),
        (group(two), b"two".to_vec(), two),
        (b"two".to_vec(), group(both), both),
        (group(both), b"two".to_vec(), both),
    ];
    for (first, again, heard) in forms {
        let mut link = doubtful();
        for packet in [data(0, b"zero"), data(2, &first), data(2, &again), data(1, b"one")] {
            hit(&mut link, &packet);
        }
        assert_eq!(texts(&link), [&[&b"zero"[..], b"one"], heard].concat(), "{first:02x?} and {again:02x?}");
    }
}

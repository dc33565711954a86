//! A peer whose application stops reading, and reads again.

use std::time::Duration;

use super::link::{Link, MS, SECOND, config, delay, pattern, plain};

/// How long after the application reads again the first packet arrives that had not been there before. `pause`: how long it has
/// not read.
fn next_data_after(pause: Duration, messages: usize, named: bool) -> Duration {
    let server = config().recv_buffer(20_000).recv_window(256).window_discovery(named).build().unwrap();
    let mut link = Link::connected(plain(), server, delay(10 * MS));
    link.server_reads = false;
    for n in 0..messages {
        link.client.send(pattern(1_000, n as u8).into()).unwrap();
    }
    link.run(pause);
    link.server_reads = true;
    let begin = link.now;
    link.take();
    let held = link.received.len();
    assert!((20..messages - 100).contains(&held), "{held} messages were held");
    while link.received.len() == held {
        link.run(MS);
    }
    let after = link.now - begin;
    link.run(30 * SECOND);
    assert_eq!(link.received.len(), messages, "the rest follows");
    after
}

/// Half a round trip until the sender learns it, and half a round trip back.
#[test]
fn an_application_that_reads_again_has_new_data_a_round_trip_later() {
    for named in [false, true] {
        let mut late = 0;
        for pause in (2_000..20_000).step_by(377) {
            let after = next_data_after(pause * MS, 800, named);
            // What the sender tried a moment before may have met the open window: it waits for the answer.
            assert!(after <= 50 * MS, "the next data came {after:?} after a pause of {pause} ms");
            late += u32::from(after > 25 * MS);
        }
        assert!(late <= 3, "{late} of 48, the window named: {named}");
    }
}

#[test]
fn an_application_that_reads_now_and_then_is_sent_as_much_as_it_reads() {
    let server = config().recv_buffer(20_000).recv_window(256).build().unwrap();
    let mut link = Link::connected(plain(), server, delay(10 * MS));
    link.server_reads = false;
    for n in 0..800 {
        link.client.send(pattern(1_000, n as u8).into()).unwrap();
    }
    link.run(5 * SECOND);
    let mut read = 0;
    let begin = link.now;
    while read < 800 {
        read += std::iter::from_fn(|| link.server().recv()).take(5).count();
        link.run(100 * MS);
    }
    assert!(link.now - begin <= 17 * SECOND, "800 messages, 50 a second, took {:?}", link.now - begin);
}

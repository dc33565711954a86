//! Receipts, the options of channels, and full send buffers.

use super::*;

#[test]
fn a_receipt_comes_when_the_last_byte_is_acknowledged() {
    let mut link = Link::plain();
    link.lose = |to_client, _| to_client;
    let receipt = link.client.send_with_receipt(pattern(10_000, 1).into()).unwrap();
    link.run(MS * 300);
    assert_eq!(link.received().len(), 1);
    assert!(!link.events.contains(&Event::Delivered(receipt)));
    link.lose = |_, _| false;
    link.run(Duration::from_secs(3));
    assert_eq!(link.events.iter().filter(|event| **event == Event::Delivered(receipt)).count(), 1);
}

#[test]
fn a_trickle_rate_is_kept() {
    let rate = std::num::NonZeroU32::new(10_000).unwrap();
    let mut link =
        tuned(|config| config.channel(ReliableChannel::ONE, ChannelOptions::default().with_trickle_rate(rate)));
    link.client.send(Message::new(ReliableChannel::ONE, pattern(100_000, 1))).unwrap();
    link.run(Duration::from_secs(8));
    assert!(link.received().is_empty());
    link.client.send(pattern(100, 2).into()).unwrap();
    link.run(MS * 50);
    assert_eq!(link.received(), [pattern(100, 2)], "other channels do not wait");
    link.run(Duration::from_secs(3));
    assert_eq!(link.received(), [pattern(100_000, 1)]);
}

#[test]
fn a_channel_of_higher_priority_goes_first() {
    let mut link = tuned(|config| config.channel(ReliableChannel::ZERO, ChannelOptions::default().with_priority(9)));
    link.client.send(pattern(400_000, 1).into()).unwrap();
    link.run(MS * 30);
    link.client.send(Message::new(ReliableChannel::TWO, pattern(100_000, 2))).unwrap();
    link.run(Duration::from_secs(5));
    assert_eq!(link.received(), [pattern(100_000, 2), pattern(400_000, 1)]);
}

#[test]
fn a_channel_whose_packets_are_long_overdue_goes_before_those_of_higher_priority() {
    let mut link = tuned(|config| config.channel(ReliableChannel::TWO, ChannelOptions::default().with_priority(9)));
    link.lose = |to_client, _| !to_client;
    link.client.send(Message::new(ReliableChannel::TWO, pattern(100, 2))).unwrap();
    link.run(Duration::from_secs(1));
    link.client.send(pattern(100, 0).into()).unwrap();
    assert_eq!(link.client.send_order(link.now.into())[3], ReliableChannel::TWO);
    link.run(Duration::from_millis(4_500));
    assert_eq!(link.client.send_order(link.now.into())[0], ReliableChannel::TWO);
}

#[test]
fn channels_of_the_same_priority_share_the_window() {
    let mut link = Link::plain();
    link.client.send(pattern(400_000, 1).into()).unwrap();
    link.run(MS * 30);
    link.client.send(Message::new(ReliableChannel::TWO, pattern(50_000, 2))).unwrap();
    link.run(Duration::from_secs(5));
    assert_eq!(link.received(), [pattern(50_000, 2), pattern(400_000, 1)]);
}

#[test]
fn an_unordered_channel_does_not_wait_for_what_is_lost() {
    let options = ChannelOptions::default().with_unordered(true);
    let mut link = tuned(|config| config.channel(ReliableChannel::ZERO, options));
    let lost = link.sent[0] + 1;
    assert_eq!(lost, 3, "the loss below hits the first message");
    link.lose = |to_client, n| !to_client && n == 3;
    link.client.send(pattern(10, 1).into()).unwrap();
    link.run(MS);
    link.client.send(pattern(10, 2).into()).unwrap();
    link.run(MS * 15);
    assert_eq!(link.received(), [pattern(10, 2)]);
    link.run(Duration::from_secs(1));
    assert_eq!(link.received(), [pattern(10, 1)]);
}

#[test]
fn on_a_redundant_channel_a_loss_costs_one_send_interval() {
    let options = ChannelOptions::default().with_redundancy(true);
    let mut link = tuned(|config| config.channel(ReliableChannel::ZERO, options));
    link.lose = |to_client, n| !to_client && n == 3;
    link.client.send(pattern(10, 1).into()).unwrap();
    link.run(MS * 5);
    link.client.send(pattern(10, 2).into()).unwrap();
    link.run(MS * 11);
    assert_eq!(link.received(), [pattern(10, 1), pattern(10, 2)]);
    link.run(Duration::from_secs(2));
    let now = link.now;
    assert_eq!(link.client.stats(now).redundant_copies, 1);
    assert!(link.client.is_idle() && link.received().is_empty());
}

#[test]
fn an_overflow_returns_the_message_or_ends_the_session_as_configured() {
    let mut link = tuned(|config| config.send_buffer(1_000));
    let send = |link: &mut Link| (0..100).find_map(|n| link.client.send(pattern(500, n).into()).err());
    assert!(matches!(send(&mut link), Some(SendError::Blocked(_))));
    assert!(link.client.closed().is_none());
    let mut link = tuned(|config| config.send_buffer(1_000).overflow(Overflow::Close));
    assert!(matches!(send(&mut link), Some(SendError::Closed(_))));
    assert_eq!(link.client.closed().map(|closed| closed.reason), Some(DisconnectReason::ReliableOverflow));
}

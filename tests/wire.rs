//! The wire format against byte vectors.

use soe_core::{Channel, Message, ReliableChannel};

#[test]
fn a_message_names_its_channel() {
    assert_eq!(Message::unreliable(&b"hi"[..]).channel, Channel::Unreliable);
    assert_eq!(Message::from(&b"hi"[..]).channel, Channel::from(ReliableChannel::ZERO));
}

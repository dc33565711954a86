//! Reliable channels: sequences, windows, resends, reassembly. A channel handles no header except that of its own
//! payload.

pub(crate) mod acks;
pub(crate) mod congestion;
pub(crate) mod flight;
pub(crate) mod fragment;
pub(crate) mod inbox;
pub(crate) mod limits;
mod losses;
#[cfg(test)]
mod model_tests;
pub(crate) mod opening;
pub(crate) mod pacer;
pub(crate) mod packet;
pub(crate) mod recv;
pub(crate) mod rtt;
pub(crate) mod send;
pub(crate) mod sequence;
pub(crate) mod walk;

use std::collections::VecDeque;

/// Appends to a list and starts it with a capacity of one. Many sessions never have more than one message or packet
/// under way, and thousands of them keep the first allocation.
fn push_back<T>(list: &mut VecDeque<T>, item: T) {
    if list.capacity() == 0 {
        list.reserve_exact(1);
    }
    list.push_back(item);
}

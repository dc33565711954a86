//! Reliable channels: sequence spaces, windows, resends, reassembly. A channel knows no header but its own payload.

pub(crate) mod acks;
pub(crate) mod congestion;
pub(crate) mod flight;
pub(crate) mod fragment;
pub(crate) mod inbox;
#[cfg(test)]
mod model_tests;
pub(crate) mod pacer;
pub(crate) mod recv;
pub(crate) mod rtt;
pub(crate) mod send;
pub(crate) mod sequence;

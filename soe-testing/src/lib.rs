//! A UDP network in memory for tests of servers and clients that use [`soe_tokio`]: no sockets, no waiting, every fault on
//! demand, and the same run for the same seed.
//!
//! Under Tokio's paused clock time passes as soon as everybody waits. Ten minutes of play take as long as their work does.
//!
//! ```
//! use soe_testing::{Fault, LinkProfile, Loss, Network};
//! use soe_tokio::SessionConfig;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
//! // In a test: #[tokio::test(start_paused = true)]
//! let network = Network::new(1);
//! network.link(LinkProfile::mobile().loss(Loss::bursty(0.3, 4.0)));
//! let (mut client, mut server) = network.pair(SessionConfig::new("Example")?).await?;
//! for number in 0..100_u32 {
//!     client.send(number.to_be_bytes().to_vec()).await?;
//!     let message = server.recv().await.expect("the session is open")?;
//!     assert_eq!(message.payload[..], number.to_be_bytes());
//! }
//! network.stats().assert_happened_at_least(Fault::Lost, 10);
//! # Ok(()) })
//! # }
//! ```
//!
//! # What there is
//!
//! - [`Network`]: addresses, links, moves of clients, forged datagrams and ICMP reports, blackouts.
//! - [`LinkProfile`] and [`Loss`]: what a direction of a link does, with profiles of common links.
//! - [`Stats`] and [`Fault`]: what really happened, so that a test can prove that it met the fault it is about.
//! - [`RawPeer`]: a peer that the test plays by hand.
//! - [`Machines`]: several runtimes, each with a clock of its own, that stop, drift, are killed and start again.
//! - [`for_seeds`]: the same test for many seeds.
//!
//! # What makes a run repeatable
//!
//! One thread, the paused clock, and a test that asks for no other randomness than [`SimRng`]. The order in which the
//! standard library's `HashMap` iterates, for instance, is random.
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, clippy::unwrap_used)]

mod link;
mod machines;
mod nat;
mod network;
mod raw;
mod rng;
mod seeds;
mod socket;
mod stats;
mod wires;

pub use link::{LinkProfile, Loss};
pub use machines::{MachineId, Machines};
pub use network::{Network, SocketLimits};
pub use raw::RawPeer;
pub use rng::SimRng;
pub use seeds::for_seeds;
pub use stats::{Fault, Stats};

/// The code in the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

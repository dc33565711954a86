//! Micro-benchmarks of soe-core: the hot paths one by one, without sockets and in virtual time, through the public API.
//!
//! ```text
//! cd benches
//! cargo bench -p soe-micro                                             # about seven minutes
//! cargo bench -p soe-micro -- --warm-up-time 0.5 --measurement-time 1  # about three
//! cargo bench -p soe-micro -- session                                  # one group
//! ```

mod checksum;
mod content;
mod framing;
mod messages;
mod pair;
mod session;
mod wire;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, checksum::bench, framing::bench, wire::bench, messages::bench, session::bench);
criterion_main!(benches);

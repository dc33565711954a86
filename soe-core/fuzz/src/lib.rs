//! The fuzz targets' work, apart from the fuzzer: `tests/fuzz_smoke.rs` runs it on the seeds with a stable toolchain.
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 cargo fuzz run datagram_to_session corpus/datagram_to_session seeds/datagram_to_session
//! ```
#![forbid(unsafe_code)]

pub mod bodies;

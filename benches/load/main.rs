//! The load benchmark: workloads on loopback against this library, the crate `soe-protocol` and bare sockets, one datagram
//! at a time and in batches. Server and client are processes of their own with one core each.
//!
//! ```text
//! cargo bench --bench load -- [--quick] [--only WORKLOAD] [--with IMPLEMENTATION] [--runs N] [--json PATH]
//! ```

mod harness;
mod ours;
mod raw;
mod raw_gso;
mod soe_protocol;

use std::process::ExitCode;

use harness::spec::Kind;
use harness::{Implementation, block_on, join_with};

fn main() -> ExitCode {
    let mut implementations = Vec::from(ours::implementations());
    implementations.extend([
        Implementation {
            name: "soe-protocol",
            can: |_| true,
            serve: |spec, ready| block_on(soe_protocol::serve(spec, ready)),
            join: join_with::<soe_protocol::SoeProtocolClient>,
        },
        Implementation {
            name: "raw",
            // Bare sockets have no sessions and repair no loss.
            can: |spec| spec.delay == 0 && spec.kind != Kind::Idle,
            serve: |spec, ready| Ok(raw::serve(spec, ready)?),
            join: join_with::<raw::RawClient>,
        },
        Implementation {
            name: "raw-gso",
            can: |spec| matches!(spec.kind, Kind::Echo | Kind::Setup),
            serve: |spec, ready| block_on(raw_gso::serve(spec, ready)),
            join: join_with::<raw_gso::RawGsoClient>,
        },
    ]);
    harness::run(&implementations)
}

//! The load benchmark of the workspace above, run against QUIC (`quinn`), KCP (`tokio_kcp`) and ENet (`rusty_enet`). This
//! library runs along, so that the ratios are between rows of one run.
//!
//! ```text
//! cargo run --release -p soe-load-peers -- [--quick] [--only WORKLOAD] [--with IMPLEMENTATION] [--runs N] [--json PATH]
//! ```

mod enet;
#[path = "../../load/harness/mod.rs"]
mod harness;
mod kcp;
#[path = "../../load/ours.rs"]
mod ours;
mod quic;
mod stream;

use std::process::ExitCode;

use harness::{Implementation, block_on, join_with};

fn main() -> ExitCode {
    let mut implementations = Vec::from(ours::implementations());
    implementations.extend([
        Implementation {
            name: "quinn",
            can: |_| true,
            serve: |spec, ready| block_on(quic::serve(spec, ready)),
            join: join_with::<quic::QuicClient>,
        },
        Implementation {
            name: "kcp",
            can: |_| true,
            serve: |spec, ready| block_on(kcp::serve(spec, ready)),
            join: join_with::<kcp::KcpClient>,
        },
        Implementation {
            name: "enet",
            can: |spec| spec.sessions <= enet::MOST_SESSIONS,
            serve: |spec, ready| block_on(enet::serve(spec, ready)),
            join: join_with::<enet::ENetClient>,
        },
    ]);
    harness::run(&implementations)
}

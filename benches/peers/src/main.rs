//! The load benchmark of the workspace above, run against QUIC (`quinn`) and KCP (`tokio_kcp`).
//!
//! ```text
//! cargo run --release -p soe-load-peers -- [--quick] [--only WORKLOAD] [--with IMPLEMENTATION] [--runs N] [--json PATH]
//! ```

#[allow(dead_code, reason = "these peers do not tell how many datagrams they send")]
#[path = "../../load/harness/mod.rs"]
mod harness;
mod kcp;
mod quic;
mod stream;

use std::process::ExitCode;

use harness::{Implementation, block_on, join_with};

fn main() -> ExitCode {
    harness::run(&[
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
    ])
}

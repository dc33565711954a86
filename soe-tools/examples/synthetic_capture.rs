//! Writes a capture of simulated sessions, of any size:
//! `cargo run --release -p soe-tools --example synthetic_capture -- FILE MEGABYTES [DIALECT] [LOSS]`.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::net::SocketAddr;

use soe_core::Dialect;
use soe_tools::capture::PcapngWriter;
use soe_tools::synthetic::{Plan, write};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("FILE is missing")?;
    let megabytes: u64 = arguments.next().ok_or("MEGABYTES is missing")?.parse()?;
    let dialect = arguments.next().unwrap_or_else(|| "version3".into());
    let mut plan = Plan::new(Dialect::by_name(&dialect).ok_or("no such dialect")?);
    plan.loss = arguments.next().map_or(Ok(0.01), |loss| loss.parse())?;
    plan.bytes = megabytes * 1_000_000;
    plan.messages = 100;
    plan.longest = 1200;
    let mut writer = PcapngWriter::new(BufWriter::with_capacity(1 << 20, File::create(&path)?))?;
    let (client, server) = (SocketAddr::from(([10, 0, 0, 1], 50_000)), SocketAddr::from(([10, 0, 0, 2], 20_060)));
    let written = write(&plan, client, server, &mut writer)?;
    writer.finish()?;
    println!("{path}: {} datagrams, {} bytes, {} lost on the way", written.datagrams, written.bytes, written.lost);
    Ok(())
}

//! A login server and zone servers as processes on NATS, and the proof that they hold: `docs/cluster.md`.
//!
//! ```text
//! soe-cluster login           NATS_URL, NATS_PASSWORD, LISTEN
//! soe-cluster zone NAME       the same
//! soe-cluster setup           makes buckets and stream, as the user `operator`
//! soe-cluster proof [--smoke] starts everything, breaks it, and says what happened
//! ```

mod bus;
mod chat;
mod login;
mod proof;
mod records;
mod registry;
mod setup;
mod tickets;
mod wire;
mod zone;

use std::process::ExitCode;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done: Result<bool, Error> = match words[..] {
        ["login"] => login::run().await.map(|()| true),
        ["zone", name] => zone::run(name.into()).await,
        ["setup"] => async { setup::create(&bus::Bus::connect("operator").await?).await.map(|()| true) }.await,
        ["proof"] => proof::run(proof::Size::FULL).await,
        ["proof", "--smoke"] => proof::run(proof::Size::SMOKE).await,
        _ => Err("usage: soe-cluster login | zone NAME | setup | proof [--smoke]".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soe-cluster: {error}");
            ExitCode::from(2)
        }
    }
}

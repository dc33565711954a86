//! Echoes every message on the channel that it came on.

mod common;

use std::{error::Error, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use common::Args;
use soe_tokio::{
    Closed, DisconnectReason, Incoming, ListenerConfig, RecordWhen, RecorderConfig, RecordingFiles, SoeListener,
    SoeSession,
};
use tokio::{signal, task::JoinSet};

const USAGE: &str = "\
Echoes every message on the channel that it came on, until Ctrl-C.

usage: echo_server --listen ADDR --protocol NAME [options]

  --listen ADDR       where to listen, such as 127.0.0.1:20060; port 0 takes a free one and prints it
  --protocol NAME     the application protocol name that clients must ask for; dialects without names need none
  --key HEX           encrypt and decrypt the reliable messages of each session with RC4 under this key (a client with
                      another key gets its own bytes back all the same: the two key streams cancel out in an echo)
  --compress          offer zlib as first pass, in place of what the dialect has there
  --crc-length N      offer N bytes of CRC, 0 to 4
  --udp-length N      take datagrams of up to N bytes, 64 to 8192
  --dialect NAME      the game family (default version3)
  --record DIRECTORY  record every session into a file there, for `soe decode` and `soe replay`; it holds passwords

exit codes: 0 after Ctrl-C with everything delivered, 1 if not or if the socket failed, 2 for wrong arguments";

/// How long Ctrl-C waits for what is queued.
const DEADLINE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let options = ["listen", "protocol", "key", "crc-length", "udp-length", "dialect", "record"];
    let args = Args::parse(USAGE, &options, &["compress"]);
    let (address, key, config) = (args.required::<String>("listen"), args.key().map(Arc::from), args.session_config());
    let mut config = ListenerConfig::new(config);
    let recordings = args.text("record").map(|directory| match RecordingFiles::in_directory(directory) {
        Ok(files) => files,
        Err(error) => args.refuse(format!("{directory}: {error}")),
    });
    if let Some(files) = &recordings {
        config = config.recorder(RecorderConfig::new(files.clone()).when(RecordWhen::End));
    }
    let listener = match SoeListener::bind(&*address, config).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("error: {}", common::explain(&error));
            return ExitCode::FAILURE;
        }
    };
    println!("listening on {}", listener.local_addr());

    let mut sessions = JoinSet::new();
    // One future for the whole loop: a new one in each turn would miss a signal that comes between two turns.
    let mut interrupted = pin!(signal::ctrl_c());
    loop {
        tokio::select! {
            incoming = listener.accept() => match incoming {
                Some(incoming) => drop(sessions.spawn(serve(incoming, key.clone()))),
                None => break,
            },
            // Reaps the tasks of sessions that have ended.
            Some(_) = sessions.join_next() => {}
            _ = &mut interrupted => break,
        }
    }

    println!("shutting down");
    let report = listener.shutdown(DEADLINE).await;
    sessions.join_all().await;
    if let Some(files) = recordings {
        // Blocks this thread, on which nothing else runs any more.
        files.flush();
    }
    println!(
        "shut down: {} sessions ended clean, {} cut off, {} messages with {} bytes not delivered",
        report.clean, report.cut_off, report.messages_lost, report.bytes_lost
    );
    if report.cut_off == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn serve(incoming: Incoming, key: Option<Arc<[u8]>>) {
    let mut session = incoming.accept();
    let (id, peer) = (session.session_id(), session.peer_addr());
    println!("opened {id:08x} from {peer}");
    let outcome = echo(&mut session, key.as_deref()).await;
    // Changes nothing about a session that is over, and says how it ended.
    let closed = session.close(DisconnectReason::Application).await;
    let stats = session.stats();
    let how = match (closed, outcome) {
        (Some(Closed { reason, origin, .. }), _) => format!("by {origin}, {reason}"),
        (None, Err(error)) => error.to_string(),
        (None, Ok(())) => "the runtime has ended".to_owned(),
    };
    println!(
        "closed {id:08x} from {peer}: {how} ({} messages, {} bytes echoed)",
        stats.messages_sent, stats.message_bytes_sent
    );
}

async fn echo(session: &mut SoeSession, key: Option<&[u8]>) -> Result<(), Box<dyn Error + Send + Sync>> {
    // In force for the first message, even if that has arrived already: messages are decrypted as they are taken.
    session.set_recv_key(key)?;
    session.set_send_key(key)?;
    while let Some(message) = session.recv().await {
        // Waits while the client does not read. Nothing is taken meanwhile, so the client has to wait as well.
        session.send(message?).await?;
    }
    Ok(())
}

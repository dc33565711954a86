//! Commands to a running proxy over a local TCP connection.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::ProxyHandle;

/// Serves commands, a line each, to whoever connects: every line is answered with lines and an empty one behind them, errors
/// with one that begins with `error: `. At most 8 connections at a time.
///
/// # Errors
/// If the listener's address is not of this machine alone (a loopback address): whoever reaches it may do as he likes.
///
/// # Cancel safety
/// Dropping the future closes the connections.
pub async fn serve_control(listener: TcpListener, proxy: ProxyHandle) -> io::Result<()> {
    if !listener.local_addr()?.ip().is_loopback() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "commands are taken on a loopback address only"));
    }
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let Ok((stream, _)) = accepted else {
                    // Out of sockets, mostly. Those that close make room.
                    sleep(PAUSE).await;
                    continue;
                };
                let proxy = proxy.clone();
                // What goes wrong on one connection ends it, and nothing else.
                connections.spawn(async move { drop(serve(stream, &proxy).await) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, proxy: &ProxyHandle) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        let length = (&mut read).take(MAX_LINE).read_line(&mut line).await?;
        if length == 0 {
            return Ok(());
        }
        let answer = match proxy.command(line).await {
            Ok(answer) => answer,
            Err(error) => format!("error: {error}"),
        };
        write.write_all(format!("{}\n\n", answer.trim_end()).as_bytes()).await?;
    }
}

/// Bytes of a line.
const MAX_LINE: u64 = 4096;
const MAX_CONNECTIONS: usize = 8;
/// Between two tries to accept a connection when the first one fails.
const PAUSE: Duration = Duration::from_millis(100);

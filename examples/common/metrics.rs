//! `/metrics` for a monitoring system, and `/worst` for an operator: as much HTTP as that takes.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use soe_tokio::{OPENMETRICS_CONTENT_TYPE, SoeListener};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// The longest request that is read, in bytes.
const MAX_REQUEST: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves a listener's figures at this address, in the background. Keep it on loopback or a trusted network: `/worst` names
/// players' addresses.
pub(crate) async fn serve(address: SocketAddr, listener: Arc<SoeListener>) -> io::Result<()> {
    let server = TcpListener::bind(address).await?;
    println!("metrics on http://{}/metrics", server.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            tokio::spawn(timeout(PATIENCE, answer(stream, Arc::clone(&listener))));
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, listener: Arc<SoeListener>) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let path = request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let (status, kind, body) = match path {
        b"/metrics" => {
            let mut text = String::new();
            listener.metrics().encode_openmetrics(&mut text);
            ("200 OK", OPENMETRICS_CONTENT_TYPE, text)
        }
        b"/worst" => ("200 OK", "application/json", listener.metrics().worst_sessions_json()),
        _ => ("404 Not Found", "text/plain", "there is /metrics and /worst\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

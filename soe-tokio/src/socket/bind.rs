//! Binding a socket to the first address that works.

use std::{io, net::SocketAddr};

use tokio::net::{ToSocketAddrs, lookup_host};

use super::AsyncUdp;
use crate::error::BindError;

/// Resolves and binds: the first address that works, or else the last error.
pub(crate) async fn bind_first<T>(
    address: impl ToSocketAddrs,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, BindError> {
    let mut last = BindError::Resolve(io::Error::new(io::ErrorKind::NotFound, "no address"));
    for address in lookup_host(address).await.map_err(BindError::Resolve)? {
        match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(source) => last = BindError::Socket { address, source },
        }
    }
    Err(last)
}

pub(crate) fn local_address(socket: &dyn AsyncUdp) -> Result<SocketAddr, BindError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    socket.local_addr().map_err(|source| BindError::Socket { address: unknown, source })
}

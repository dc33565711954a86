//! Binding a socket to the first address that works.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::{
    net::{ToSocketAddrs, lookup_host},
    runtime::Handle,
};

use super::{AsyncUdp, kernel::KernelUdp};
use crate::{config::SocketConfig, error::BindError};

/// Resolves the address and binds to the first result that works; otherwise returns the last error.
pub(crate) async fn bind_first<T>(
    address: impl ToSocketAddrs,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, BindError> {
    // Outside of a runtime, Tokio's sockets panic.
    Handle::try_current().map_err(|_| BindError::NoRuntime)?;
    let mut last = None;
    for address in lookup_host(address).await.map_err(BindError::Resolve)? {
        match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(source) => last = Some(BindError::Socket { address, source }),
        }
    }
    Err(last.unwrap_or_else(|| BindError::Resolve(io::Error::new(io::ErrorKind::NotFound, "no address"))))
}

/// Takes over a socket that the caller has bound.
pub(crate) fn from_std(socket: std::net::UdpSocket, config: &SocketConfig) -> Result<KernelUdp, BindError> {
    Handle::try_current().map_err(|_| BindError::NoRuntime)?;
    let address = socket.local_addr().unwrap_or(UNKNOWN);
    let failed = |source| BindError::Socket { address, source };
    socket.set_nonblocking(true).map_err(failed)?;
    KernelUdp::from_socket(socket.into(), address, config).map_err(failed)
}

pub(crate) fn local_address(socket: &dyn AsyncUdp) -> Result<SocketAddr, BindError> {
    socket.local_addr().map_err(|source| BindError::Socket { address: UNKNOWN, source })
}

/// Reported in errors if the socket's address cannot be read.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

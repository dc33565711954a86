//! Several sockets on one port (`SO_REUSEPORT`), each with its own driver.

use std::{io, net::SocketAddr};

use crate::{config::ListenerConfig, socket::kernel::KernelUdp};

/// Binds the configured number of sockets to `address`. The kernel selects a socket by a hash of the peer's address and
/// port, so each peer stays at one socket. All are bound before the first is served: a socket that joins later changes
/// the selection for existing peers.
pub(crate) fn bind(address: SocketAddr, config: &ListenerConfig) -> io::Result<Vec<KernelUdp>> {
    let shares_port = config.shards > 1;
    if shares_port && !IS_SUPPORTED {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this system does not distribute datagrams over sockets",
        ));
    }
    if config.shards > MAX_SHARDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many sockets for one port"));
    }
    let first = KernelUdp::bind(address, &config.socket, shares_port)?;
    let address = SocketAddr::new(address.ip(), first.port()?);
    let mut sockets = vec![first];
    for _ in 1..config.shards {
        sockets.push(KernelUdp::bind(address, &config.socket, shares_port)?);
    }
    Ok(sockets)
}

/// On other systems `SO_REUSEPORT` does not exist, or delivers everything to one of the sockets.
const IS_SUPPORTED: bool = cfg!(any(target_os = "linux", target_os = "android"));
/// An upper bound against configuration mistakes; more was not tested.
const MAX_SHARDS: usize = 256;

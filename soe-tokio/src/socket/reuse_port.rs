//! Several sockets on one port (`SO_REUSEPORT`), each with its own driver.

use std::{io, net::SocketAddr};

use crate::{config::ListenerConfig, socket::kernel::KernelUdp};

/// Binds as many sockets to `address` as the configuration asks for. The kernel spreads peers over them by address and
/// port, so that each stays where it is.
///
/// All are bound before the first is served: one that joins later would take peers away from those before it.
pub(crate) fn bind(address: SocketAddr, config: &ListenerConfig) -> io::Result<Vec<KernelUdp>> {
    let shares_port = config.shards > 1;
    if shares_port && !IS_SUPPORTED {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this system does not spread datagrams over sockets"));
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

/// Elsewhere `SO_REUSEPORT` is unknown, or gives everything to one of the sockets.
const IS_SUPPORTED: bool = cfg!(any(target_os = "linux", target_os = "android"));
/// A bound on mistakes: no machine with more processors was tested.
const MAX_SHARDS: usize = 256;

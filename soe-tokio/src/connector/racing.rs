//! Which of a name's addresses to use: attempts that overlap (RFC 8305).

use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::pin,
    task::Poll,
    time::Duration,
};

use soe_core::Origin;
use tokio::time::{Instant, sleep};

use crate::{error::ConnectError, socket::kernel::canonical};

/// Returns the addresses of a name, without duplicates, in the order of the attempts: the families alternate, starting
/// with the family of the first address that the system returns (section 4 of RFC 8305).
pub(crate) fn in_order(resolved: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in resolved.map(canonical) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let Some(&first) = addresses.first().filter(|_| addresses.len() > 1) else { return addresses };
    let (preferred, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut ordered = Vec::new();
    loop {
        let before = ordered.len();
        ordered.extend(preferred.next());
        ordered.extend(other.next());
        if ordered.len() == before {
            return ordered;
        }
    }
}

/// Whether a socket that is bound to `local` can send to `remote`, by their address families.
pub(crate) fn can_reach(local: SocketAddr, remote: SocketAddr) -> bool {
    match (local.ip().to_canonical(), remote.ip().to_canonical()) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => true,
        (IpAddr::V6(local), IpAddr::V4(_)) => local.is_unspecified(),
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    }
}

/// Whether a server can have this address.
pub(crate) fn is_valid(remote: SocketAddr) -> bool {
    let ip = remote.ip().to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    remote.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

/// Attempts the first address at once and each further one 250 ms after the one before it, or as soon as an attempt has
/// failed. The first attempt that succeeds wins, and the others are dropped.
///
/// # Errors
///
/// A refusal by a server, if there was one; otherwise the error of the attempt that failed last.
pub(crate) async fn first<T, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    match addresses[..] {
        [only] => attempt(only).await,
        // Apart: few names have several addresses, and every connecting task would have room for a race.
        _ => Box::pin(race(addresses, attempt)).await,
    }
}

async fn race<T, F>(addresses: Vec<SocketAddr>, attempt: impl Fn(SocketAddr) -> F) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let mut waiting = addresses.into_iter();
    let mut running = Vec::new();
    let mut failure = ConnectError::NoAddress;
    let mut delay = pin!(sleep(Duration::ZERO));
    poll_fn(|cx| {
        loop {
            let (mut index, mut has_failed) = (0, running.is_empty());
            while let Some(attempt) = running.get_mut(index) {
                // All attempts are polled on every wake-up: there are few, one per address of a name.
                match Future::poll(std::pin::Pin::as_mut(attempt), cx) {
                    Poll::Ready(Ok(won)) => return Poll::Ready(Ok(won)),
                    Poll::Ready(Err(error)) => {
                        if !is_refusal(&failure) {
                            failure = error;
                        }
                        drop(running.swap_remove(index));
                        has_failed = true;
                    }
                    Poll::Pending => index += 1,
                }
            }
            if waiting.len() == 0 && running.is_empty() {
                return Poll::Ready(Err(std::mem::replace(&mut failure, ConnectError::NoAddress)));
            }
            // Another round only after starting an attempt: it must be polled once to register its waker.
            if waiting.len() == 0 || !(has_failed || delay.as_mut().poll(cx).is_ready()) {
                return Poll::Pending;
            }
            running.extend(waiting.next().map(|address| Box::pin(attempt(address))));
            delay.as_mut().reset(Instant::now() + ATTEMPT_DELAY);
        }
    })
    .await
}

fn is_refusal(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Closed(closed) if closed.origin == Origin::Peer)
}

/// The time between the starts of two attempts (the Connection Attempt Delay of RFC 8305).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses<const N: usize>(texts: [&str; N]) -> Vec<SocketAddr> {
        texts.map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn families_alternate_and_duplicates_are_removed() {
        let resolved = ["[::1]:1", "[::2]:1", "[::1]:1", "127.0.0.1:1", "[::ffff:127.0.0.1]:1", "[::3]:1"];
        let ordered = addresses(["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(in_order(addresses(resolved).into_iter()), ordered);
        assert_eq!(in_order(std::iter::empty()), []);
    }

    #[test]
    fn only_an_ipv6_wildcard_socket_reaches_both_families() {
        let reaches = |local: &str, remote: &str| can_reach(local.parse().unwrap(), remote.parse().unwrap());
        assert!(reaches("[::]:1", "192.0.2.1:1") && reaches("[::]:1", "[2001:db8::1]:1"));
        assert!(reaches("[::1]:1", "[2001:db8::1]:1") && !reaches("[::1]:1", "192.0.2.1:1"));
        assert!(reaches("0.0.0.0:1", "192.0.2.1:1") && !reaches("0.0.0.0:1", "[2001:db8::1]:1"));
    }
}

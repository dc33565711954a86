//! Waiting for the kernel's reports of unreachable peers.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{Interest, Ready},
    net::UdpSocket,
};

/// Wakes the task of a socket when its error queue gets an entry.
///
/// An ICMP report alone makes the socket neither readable nor newly writable (`EPOLLERR` without `EPOLLIN`), so that a task
/// which waits to read would not notice it.
pub(super) struct ErrorEvents {
    io: Arc<UdpSocket>,
    /// Kept between polls: registering anew for each would cost more than everything else that a wait does.
    event: Option<Event>,
}

type Event = Pin<Box<dyn Future<Output = std::io::Result<Ready>> + Send>>;

impl ErrorEvents {
    pub(super) fn of(io: &Arc<UdpSocket>) -> Self {
        Self { io: Arc::clone(io), event: None }
    }

    /// Ready as long as the socket's error event has not been cleared, which reading the error queue until it is empty does
    /// (`UdpSocket::try_io` with `Interest::ERROR`). Makes no system call.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let event = self.event.get_or_insert_with(|| {
            let io = Arc::clone(&self.io);
            Box::pin(async move { io.ready(Interest::ERROR).await })
        });
        let Poll::Ready(ready) = event.as_mut().poll(cx) else { return Poll::Pending };
        self.event = None;
        // An error: the runtime is shutting down, and reports nothing more.
        if ready.is_ok() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl fmt::Debug for ErrorEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorEvents").finish_non_exhaustive()
    }
}

//! Waiting for the kernel's reports of unreachable peers.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
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
    watch: Option<Watch>,
}

struct Watch {
    event: Event,
    alarm: Arc<Alarm>,
    /// The waker that the alarm has, to be compared without its lock.
    task: Waker,
}

type Event = Pin<Box<dyn Future<Output = std::io::Result<Ready>> + Send>>;

/// Notes that the event has woken the task, so that it is polled only then: a poll takes a lock of the runtime's, and the task
/// asks several times for each datagram.
struct Alarm {
    has_rung: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        task.wake();
    }
}

impl ErrorEvents {
    pub(super) fn of(io: &Arc<UdpSocket>) -> Self {
        Self { io: Arc::clone(io), watch: None }
    }

    /// Ready as long as the socket's error event has not been cleared, which reading the error queue until it is empty does
    /// (`UdpSocket::try_io` with `Interest::ERROR`). Makes no system call.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Watch { event, alarm, task } = self.watch.get_or_insert_with(|| {
            let (io, task) = (Arc::clone(&self.io), cx.waker().clone());
            let alarm = Arc::new(Alarm { has_rung: AtomicBool::new(true), task: Mutex::new(task.clone()) });
            Watch { event: Box::pin(async move { io.ready(Interest::ERROR).await }), alarm, task }
        });
        // Before the question whether it has rung: if it rings in between, this task is woken.
        if !task.will_wake(cx.waker()) {
            task.clone_from(cx.waker());
            alarm.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(task);
        }
        if !alarm.has_rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        alarm.has_rung.swap(false, Ordering::AcqRel);
        let waker = Waker::from(Arc::clone(alarm));
        let Poll::Ready(ready) = event.as_mut().poll(&mut Context::from_waker(&waker)) else { return Poll::Pending };
        self.watch = None;
        // An error: the runtime is shutting down, and reports nothing more.
        if ready.is_ok() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl fmt::Debug for ErrorEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorEvents").finish_non_exhaustive()
    }
}

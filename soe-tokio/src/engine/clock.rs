//! The time that sessions are driven by.

use std::time::Instant;

/// The runtime's idea of now: virtual when its clock is paused.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

//! The clock of the driver.

use std::time::Instant;

/// The current time of the Tokio clock, which is virtual while it is paused.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

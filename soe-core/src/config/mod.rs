//! All settings: each with its default, the reason for the default, and its source. They are validated when built.

mod admission;
mod channel;
mod choices;
#[cfg(feature = "serde")]
mod deserialize;
mod fields;
mod presets;
mod session;

pub use admission::{
    AdmissionConfig, AdmissionConfigBuilder, AdmissionSettings, RemapPolicy, RequestFilter, RequestInfo, StatusReply,
};
pub use channel::ChannelOptions;
pub use choices::{EscapeRule, Overflow, Oversized};
pub(crate) use fields::session_fields;
pub(crate) use session::{SMALLEST_PACKET, UDP_LENGTH};
pub use session::{SessionConfig, SessionConfigBuilder, Settings};

use crate::error::ConfigError;

/// Refuses a value with the rule that it breaks.
fn check(holds: bool, field: &'static str, value: impl ToString, rule: &'static str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { field, value: value.to_string(), rule }) }
}

/// The setters of a builder. Called with the fields of `session_fields` or `admission_fields`.
macro_rules! setters {
    ($builder:ident, $settings:ident, $($field:ident: $type:ty as $read:ty),* $(,)?) => {
        impl $builder {
            $(
                #[doc = concat!("Sets [`", stringify!($settings), "::", stringify!($field), "`].")]
                pub fn $field(mut self, $field: $type) -> Self {
                    self.settings.$field = $field;
                    self
                }
            )*
        }
    };
}
use setters;

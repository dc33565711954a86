//! Packets and events in words and in JSON.

mod exported;
mod json;
mod object;
mod text;

pub(crate) use self::exported::MessageFile;
pub(crate) use self::json::{JsonLines, packet_json};
pub use self::text::Show;
pub(crate) use self::text::{Timeline, packet_line, put_dump};

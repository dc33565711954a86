//! Secrets: session ids, and the key that seeds are derived from. They are all that stands between a session and somebody
//! who cannot see its datagrams, so they come from the system's generator.

use std::io;

use rand::{TryRng, rngs::SysRng};

pub(crate) fn session_id() -> io::Result<u32> {
    SysRng.try_next_u32().map_err(io::Error::other)
}

pub(crate) fn admission_key() -> io::Result<[u8; 16]> {
    let mut key = [0; 16];
    SysRng.try_fill_bytes(&mut key).map_err(io::Error::other)?;
    Ok(key)
}

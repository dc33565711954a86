//! Secrets: session ids, and the key that seeds are derived from. They are the only protection against an attacker who
//! cannot see the datagrams of a session, so they come from the system's generator.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use rand::{TryRng, rngs::SysRng};

/// Where the secrets of one socket come from.
#[derive(Debug)]
pub(crate) enum Secrets {
    System,
    /// For simulations only: the secrets follow from the seed.
    Seeded(AtomicU64),
}

impl Secrets {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        seed.map_or(Self::System, |seed| Self::Seeded(AtomicU64::new(seed)))
    }

    pub(crate) fn session_id(&self) -> io::Result<u32> {
        match self {
            Self::System => SysRng.try_next_u32().map_err(io::Error::other),
            Self::Seeded(state) => Ok((next(state) >> 32) as u32),
        }
    }

    pub(crate) fn endpoint_key(&self) -> io::Result<[u8; 16]> {
        let mut key = [0; 16];
        match self {
            Self::System => SysRng.try_fill_bytes(&mut key).map_err(io::Error::other)?,
            Self::Seeded(state) => key.chunks_exact_mut(8).for_each(|half| {
                half.copy_from_slice(&next(state).to_le_bytes());
            }),
        }
        Ok(key)
    }
}

/// SplitMix64: a counter and a mixing function.
fn next(state: &AtomicU64) -> u64 {
    let mixed = state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

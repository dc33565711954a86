//! Secrets: session ids, and the key that seeds are derived from. They are the only protection against an attacker who
//! cannot see the datagrams of a session, so they come from the system's generator.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use rand::{TryRng, rngs::SysRng};

/// Marks a session id that has been drawn.
const IS_DRAWN: u64 = 1 << 32;

/// Where the secrets of one socket come from.
#[derive(Debug)]
pub(crate) enum Secrets {
    /// A session id that was drawn together with the endpoint's key, with [`IS_DRAWN`], or 0: most connectors open one
    /// session, and a draw is a system call.
    System(AtomicU64),
    /// For simulations only: the secrets follow from the seed.
    Seeded(AtomicU64),
}

impl Secrets {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        seed.map_or(Self::System(AtomicU64::new(0)), |seed| Self::Seeded(AtomicU64::new(seed)))
    }

    pub(crate) fn session_id(&self) -> io::Result<u32> {
        match self {
            Self::System(drawn) => match drawn.swap(0, Ordering::Relaxed) {
                0 => SysRng.try_next_u32().map_err(io::Error::other),
                id => Ok(id as u32),
            },
            Self::Seeded(state) => Ok((next(state) >> 32) as u32),
        }
    }

    pub(crate) fn endpoint_key(&self) -> io::Result<[u8; 16]> {
        let mut key = [0; 16];
        match self {
            Self::System(drawn) => {
                let mut both = [0; 20];
                SysRng.try_fill_bytes(&mut both).map_err(io::Error::other)?;
                let (first, id) = both.split_at(key.len());
                key.copy_from_slice(first);
                let id = id.iter().fold(0, |id, &byte| id << 8 | u64::from(byte));
                drawn.store(IS_DRAWN | id, Ordering::Relaxed);
            }
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_id_is_given_twice_and_none_is_a_part_of_the_key() {
        for seed in [None, Some(1)] {
            let secrets = Secrets::new(seed);
            let mut ids = HashSet::new();
            for _ in 0..10 {
                let key = secrets.endpoint_key().unwrap();
                let key_words: HashSet<_> =
                    key.windows(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
                for _ in 0..3 {
                    let id = secrets.session_id().unwrap();
                    assert!(ids.insert(id) && !key_words.contains(&id) && !key_words.contains(&id.swap_bytes()));
                }
            }
        }
    }
}

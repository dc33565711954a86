//! A hash index of small numbers. The keys are stored where the numbers point to.

/// A hash index: open addressing, linear probing, no tombstones, four bytes per place. The caller computes the hashes.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// `VACANT` or a number. The length is a power of two; at most three quarters are in use.
    places: Vec<u32>,
    used: usize,
}

const VACANT: u32 = u32::MAX;
const FEWEST_PLACES: usize = 8;

impl Index {
    /// The first number with this hash for which `is` returns true.
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash)?;
        // Terminates: there is always a vacant place.
        while self.places[at] != VACANT {
            if is(self.places[at]) {
                return Some(self.places[at]);
            }
            at = (at + 1) & (self.places.len() - 1);
        }
        None
    }

    /// Adds a number. `hash_of` returns the hashes of existing numbers when the table grows.
    pub(super) fn insert(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.used + 1) * 4 > self.places.len() * 3 {
            self.resize((self.places.len() * 2).max(FEWEST_PLACES), &hash_of);
        }
        self.put(hash, number);
        self.used += 1;
    }

    /// Removes a number with this hash. Does nothing if it is absent.
    pub(super) fn remove(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        let Some(mut hole) = self.home(hash) else { return };
        let mask = self.places.len() - 1;
        while self.places[hole] != number {
            if self.places[hole] == VACANT {
                return;
            }
            hole = (hole + 1) & mask;
        }
        self.used -= 1;
        // Later entries of the probe sequence move into the hole, unless they would leave the sequence of their own
        // hash.
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let moving = self.places[next];
            if moving == VACANT {
                break;
            }
            let home = hash_of(moving) as usize & mask;
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.places[hole] = moving;
                hole = next;
            }
        }
        self.places[hole] = VACANT;
        // Grows at 3/4 and shrinks at 1/8, so that a number of entries near one limit does not resize back and forth.
        if self.used * 8 < self.places.len() && self.places.len() > FEWEST_PLACES {
            self.resize(self.places.len() / 2, &hash_of);
        }
    }

    fn home(&self, hash: u64) -> Option<usize> {
        (!self.places.is_empty()).then(|| hash as usize & (self.places.len() - 1))
    }

    fn put(&mut self, hash: u64, number: u32) {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while self.places[at] != VACANT {
            at = (at + 1) & mask;
        }
        self.places[at] = number;
    }

    fn resize(&mut self, places: usize, hash_of: &impl Fn(u32) -> u64) {
        let old = std::mem::replace(&mut self.places, vec![VACANT; places]);
        for number in old.into_iter().filter(|&number| number != VACANT) {
            self.put(hash_of(number), number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_finds_every_number_after_any_removals() {
        // Few different hashes, so that runs are long and wrap around.
        let hash_of = |number: u32| u64::from(number % 7) * 0x5555;
        let (mut index, mut model, mut word) = (Index::default(), BTreeSet::new(), 1u32);
        for _ in 0..20_000 {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = word >> 16 & 0x7F;
            if model.contains(&number) {
                index.remove(hash_of(number), number, hash_of);
                model.remove(&number);
            } else if model.len() < 90 {
                index.insert(hash_of(number), number, hash_of);
                model.insert(number);
            }
            let probe = word >> 8 & 0x7F;
            assert_eq!(index.find(hash_of(probe), |found| found == probe).is_some(), model.contains(&probe));
            assert_eq!(index.used, model.len());
        }
        for number in model {
            index.remove(hash_of(number), number, hash_of);
        }
        assert_eq!((index.used, index.places.len()), (0, FEWEST_PLACES));
    }
}

//! Chance from a seed: the only kind there is in a simulation.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::world::Random;

/// A sequence of numbers that its seed decides (splitmix64).
#[derive(Clone, Debug)]
pub struct Chance(Arc<Mutex<u64>>);

impl Chance {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    /// A sequence of its own for somebody named `name`, so that one host's draws do not shift
    /// another's.
    #[must_use]
    pub fn fork(&self, name: &str) -> Self {
        let mut seed = self.next();
        for byte in name.bytes() {
            seed = (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self::new(seed)
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 if `limit` is 0.
    pub fn below(&self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    /// A span up to `limit`, in whole microseconds.
    pub fn span(&self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Random for Chance {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            chunk.iter_mut().zip(number).for_each(|(to, from)| *to = from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_its_sequence_and_forks_differ() {
        let draw = |seed| (0..4).map(|_| Chance::new(seed).next()).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let (one, two) = (Chance::new(1), Chance::new(1));
        assert_ne!(one.fork("a").next(), two.fork("b").next());
        assert!((0..1000).all(|_| one.below(7) < 7));
    }
}

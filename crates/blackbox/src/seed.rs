//! Numbers from a printed seed, so that a failing run can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (`SplitMix64`); the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// The seed in `SELVEDGE_SEED`, else one from the clock; prints which.
    pub fn announced(test: &str) -> Self {
        let given = std::env::var("SELVEDGE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.as_secs() ^ u64::from(now.subsec_nanos()) << 20
        });
        println!("{test}: seed {seed}; repeat with SELVEDGE_SEED={seed}");
        Self(seed)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

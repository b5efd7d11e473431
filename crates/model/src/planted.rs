//! Planted faults: one-line sabotages that no product build has, each of which must be found.
//!
//! A build with `--cfg planted` reads the name of one fault from [`VARIABLE`]; in every other
//! build nothing is planted and the compiler removes the sabotage. `name/100` strikes one time
//! in a hundred instead of always. `cargo xtask planted` shows that each is found; its list has
//! every name that the code has, and no other.

/// Names the fault, in a build that has them.
pub const VARIABLE: &str = "SELVEDGE_PLANTED";

/// Whether the fault called `name` is planted.
#[cfg(not(planted))]
pub const fn is(_: &str) -> bool {
    false
}

/// Whether the fault called `name` is planted, and strikes this time.
#[cfg(planted)]
pub fn is(name: &str) -> bool {
    use std::sync::LazyLock;
    static PLANTED: LazyLock<Plant> = LazyLock::new(Plant::from_environment);
    PLANTED.strikes(name)
}

/// What is planted, and how often it was asked for.
#[cfg(planted)]
struct Plant {
    name: String,
    one_in: u64,
    asked: std::sync::atomic::AtomicU64,
}

#[cfg(planted)]
impl Plant {
    #[expect(clippy::disallowed_methods, reason = "no product build has this")]
    fn from_environment() -> Self {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let (name, rate) = text.split_once('/').unwrap_or((&text, "1"));
        let one_in = rate.parse().expect("how seldom it strikes is a number");
        Self { name: name.to_owned(), one_in, asked: std::sync::atomic::AtomicU64::new(0) }
    }

    /// One time in so many, without a period that a scenario could have as well.
    fn strikes(&self, name: &str) -> bool {
        self.name == name && {
            let asked = self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mixed = asked.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((mixed ^ (mixed >> 29)) >> 16).is_multiple_of(self.one_in)
        }
    }
}

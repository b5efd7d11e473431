//! Planted faults: one-line sabotages that no product build has, each of which must be found.
//!
//! A build with `--cfg planted` reads the name of one fault from [`VARIABLE`]; in every other
//! build nothing is planted and the compiler removes the sabotage. `cargo xtask planted` shows
//! that each is found.

/// Names the fault, in a build that has them.
pub const VARIABLE: &str = "SELVEDGE_PLANTED";

/// Whether the fault called `name` is planted.
#[cfg(not(planted))]
pub const fn is(_: &str) -> bool {
    false
}

/// Whether the fault called `name` is planted.
#[cfg(planted)]
#[expect(clippy::disallowed_methods, reason = "no product build has this")]
pub fn is(name: &str) -> bool {
    use std::sync::LazyLock;
    static PLANTED: LazyLock<String> =
        LazyLock::new(|| std::env::var(VARIABLE).unwrap_or_default());
    *PLANTED == name
}

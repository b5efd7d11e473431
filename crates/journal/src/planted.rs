//! Planted faults of this crate, which knows none of ours: see `model::planted`.

/// Whether the fault called `name` is planted.
#[cfg(not(planted))]
pub(crate) const fn is(_: &str) -> bool {
    false
}

/// Whether the fault called `name` is planted.
#[cfg(planted)]
pub(crate) fn is(name: &str) -> bool {
    use std::sync::LazyLock;
    static PLANTED: LazyLock<String> =
        LazyLock::new(|| std::env::var("SELVEDGE_PLANTED").unwrap_or_default());
    *PLANTED == name
}

//! Planted faults of this crate, which knows none of ours: see `model::planted`.

/// Whether the fault called `name` is planted.
#[cfg(not(planted))]
pub(crate) const fn is(_: &str) -> bool {
    false
}

/// Whether the fault called `name` is planted, and strikes this time.
#[cfg(planted)]
pub(crate) fn is(name: &str) -> bool {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static ASKED: AtomicU64 = AtomicU64::new(0);
    static PLANTED: LazyLock<(String, u64)> = LazyLock::new(|| {
        let text = std::env::var("SELVEDGE_PLANTED").unwrap_or_default();
        let (name, rate) = text.split_once('/').unwrap_or((&text, "1"));
        (name.to_owned(), rate.parse().expect("how seldom it strikes is a number"))
    });
    PLANTED.0 == name && {
        let mixed = ASKED.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ (mixed >> 29)) >> 16).is_multiple_of(PLANTED.1)
    }
}

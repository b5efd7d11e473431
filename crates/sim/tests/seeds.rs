//! A few seeds in the quick gate; `cargo xtask sim` runs more.

use sim::scenario::{self, Size};

#[test]
fn nothing_acknowledged_is_lost_and_a_seed_replays_itself() {
    let size = Size { devices: 3, numbers: 60 };
    for seed in 1..=4 {
        let first = scenario::run(seed, size).unwrap();
        assert_eq!(first, scenario::run(seed, size).unwrap(), "seed {seed}");
        assert_eq!(first.acknowledged, 180);
        assert!(first.cuts > 0, "seed {seed} cut nothing");
    }
}

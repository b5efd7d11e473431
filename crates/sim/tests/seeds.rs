//! A few seeds in the quick gate; `cargo xtask sim` runs more.

use sim::scenario::{self, Size};

#[test]
fn nothing_acknowledged_is_lost_and_a_seed_replays_itself() {
    let size = Size { devices: 2, edges: 2, numbers: 150, cuts: 30 };
    for seed in 1..=2 {
        let first = scenario::run(seed, size).unwrap();
        assert_eq!(first, scenario::run(seed, size).unwrap(), "seed {seed}");
        assert!(first.acknowledged >= 600, "{first}");
        assert!(first.quota_refusals > 0, "{first}");
        assert!(first.cuts > 0 && first.edge_power_cuts > 0, "{first}");
    }
}

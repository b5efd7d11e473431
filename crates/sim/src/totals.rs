//! What runs exercised, and the least that a gate accepts.

use std::fmt;

use anyhow::{Result, ensure};

/// Seeds that [`Totals::reach`] counts its minima by.
const MINIMA_SEEDS: u64 = 50;

/// Every counter has a name and a minimum: what that many seeds of the usual size must exercise.
macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident: $words:literal, least $least:literal;)*) => {
        /// What a run exercised, and a hash over everything that was observable.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
            /// What was planned and hit nothing.
            pub missed: Missed,
            /// The same for the same seed.
            pub transcript: u64,
        }

        impl Totals {
            /// Adds what another run exercised.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                self.missed.add(&other.missed);
                // Seeds finish in any order.
                self.transcript ^= other.transcript;
            }

            /// Words, count, and the least of [`MINIMA_SEEDS`] seeds.
            fn rows(&self) -> Vec<(&'static str, u64, u64)> {
                vec![$(($words, self.$name, $least)),*]
            }
        }
    };
}

totals! {
    /// Connections cut beneath living hosts.
    cuts: "cuts", least 12_000;
    /// Connections that fell silent instead.
    silences: "silent connections", least 200;
    /// Ends of the hub in the middle of its work, each followed by a start on the same folder.
    hub_restarts: "hub restarts", least 600;
    /// Those of them that were power cuts.
    hub_power_cuts: "hub power cuts", least 350;
    /// Kills of a device runtime whose modules ran on.
    edge_kills: "edge kills", least 350;
    /// Power cuts of a device.
    edge_power_cuts: "edge power cuts", least 600;
    /// Operations of disks that failed, and those that found no room.
    disk_errors: "disk errors", least 500;
    /// Commits of tables that failed.
    table_errors: "table errors", least 350;
    /// Operations of engines that failed.
    engine_failures: "engine failures", least 450;
    /// Modules that ended by themselves.
    module_exits: "module exits", least 200;
    /// Jumps of a wall clock.
    clock_jumps: "clock jumps", least 250;
    /// Method calls that were answered.
    calls: "calls answered", least 9_000;
    /// Manifests deployed.
    deployments: "deployments", least 500;
    /// Manifests that no agent takes.
    broken_manifests: "broken manifests", least 75;
    /// Values that modules were told.
    tellings: "values told", least 1_300;
    /// Reported properties that were acknowledged to their module.
    reports: "reports", least 4_500;
    /// Calls of the registry that were refused for what they asked, most of them for quotas.
    quota_refusals: "quota refusals", least 2_000;
    /// Messages acknowledged to their sender.
    acknowledged: "acknowledged", least 500_000;
    /// Messages that arrived more than once.
    duplicates: "duplicates", least 40_000;
}

/// What was planned and hit nothing: it is no part of what was exercised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Cuts and silences without an open connection, and broken connections that carried nothing
    /// any more.
    pub connections: u64,
    /// Failures of disks that met no operation.
    pub disks: u64,
    /// Failures of tables that met no commit.
    pub tables: u64,
    /// Failures of engines that met no operation.
    pub engines: u64,
    /// Ends of modules that did not run.
    pub exits: u64,
    /// Power cuts that were to come within a commit or a change, and came between them.
    pub moments: u64,
    /// Broken manifests for a device on which none was in force.
    pub manifests: u64,
}

impl Missed {
    fn rows(&self) -> [(&'static str, u64); 7] {
        [
            ("connections", self.connections),
            ("disks", self.disks),
            ("tables", self.tables),
            ("engines", self.engines),
            ("exits", self.exits),
            ("moments of power cuts", self.moments),
            ("broken manifests", self.manifests),
        ]
    }

    fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.disks += other.disks;
        self.tables += other.tables;
        self.engines += other.engines;
        self.exits += other.exits;
        self.moments += other.moments;
        self.manifests += other.manifests;
    }
}

impl Totals {
    /// Whether the runs of `seeds` seeds exercised enough to mean anything.
    ///
    /// # Errors
    /// Names what was exercised too little.
    pub fn reach(&self, seeds: u64) -> Result<()> {
        for (words, had, least) in self.rows() {
            let least = least * seeds / MINIMA_SEEDS;
            ensure!(had >= least, "only {had} {words}; at least {least} are wanted");
        }
        Ok(())
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (words, count, _) in self.rows() {
            write!(f, "{count} {words}, ")?;
        }
        write!(f, "transcript {:016x}; hit nothing:", self.transcript)?;
        for (words, count) in self.missed.rows() {
            write!(f, " {count} {words}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_that_is_printed_has_a_minimum_that_is_asked_for() {
        let all = Totals::default().rows();
        assert!(all.iter().all(|(words, _, least)| *least > 0 && !words.is_empty()), "{all:?}");
        let words = Totals::default().reach(MINIMA_SEEDS).unwrap_err().to_string();
        assert!(words.starts_with("only 0 cuts"), "{words}");
        // Of fewer seeds less is wanted, of none nothing.
        assert!(Totals::default().reach(0).is_ok());
        let cuts = Totals { cuts: 12_000 / 50, ..Totals::default() };
        let words = cuts.reach(1).unwrap_err().to_string();
        assert!(words.contains("silent connections"), "{words}");
    }
}

//! What runs exercised, and the least that a gate accepts.

use std::fmt;

use anyhow::{Result, ensure};

/// What a run exercised, and a hash over everything that was observable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections cut beneath living hosts.
    pub cuts: u64,
    /// Connections that fell silent instead.
    pub silences: u64,
    /// Ends of the hub in the middle of its work, each followed by a start on the same folder.
    pub hub_restarts: u64,
    /// Those of them that were power cuts.
    pub hub_power_cuts: u64,
    /// Kills of a device runtime whose modules ran on.
    pub edge_kills: u64,
    /// Power cuts of a device.
    pub edge_power_cuts: u64,
    /// Operations of disks and commits of tables that failed.
    pub disk_errors: u64,
    /// Operations of engines that failed.
    pub engine_failures: u64,
    /// Modules that ended by themselves.
    pub module_exits: u64,
    /// Jumps of a wall clock.
    pub clock_jumps: u64,
    /// Method calls that were answered.
    pub calls: u64,
    /// Manifests deployed, broken ones included.
    pub deployments: u64,
    /// Messages acknowledged to their sender.
    pub acknowledged: u64,
    /// Messages that arrived more than once.
    pub duplicates: u64,
    /// The same for the same seed.
    pub transcript: u64,
}

impl Totals {
    /// Adds what another run exercised.
    pub fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.silences += other.silences;
        self.hub_restarts += other.hub_restarts;
        self.hub_power_cuts += other.hub_power_cuts;
        self.edge_kills += other.edge_kills;
        self.edge_power_cuts += other.edge_power_cuts;
        self.disk_errors += other.disk_errors;
        self.engine_failures += other.engine_failures;
        self.module_exits += other.module_exits;
        self.clock_jumps += other.clock_jumps;
        self.calls += other.calls;
        self.deployments += other.deployments;
        self.acknowledged += other.acknowledged;
        self.duplicates += other.duplicates;
        // Seeds finish in any order.
        self.transcript ^= other.transcript;
    }

    /// Whether runs exercised enough to mean anything.
    ///
    /// # Errors
    /// Names what was exercised too little.
    pub fn reach(&self, least: &Self) -> Result<()> {
        for (what, had, least) in [
            ("connection cuts", self.cuts, least.cuts),
            ("hub restarts", self.hub_restarts, least.hub_restarts),
            ("edge power cuts", self.edge_power_cuts, least.edge_power_cuts),
            ("disk errors", self.disk_errors, least.disk_errors),
            ("engine failures", self.engine_failures, least.engine_failures),
            ("clock jumps", self.clock_jumps, least.clock_jumps),
            ("acknowledged messages", self.acknowledged, least.acknowledged),
        ] {
            ensure!(had >= least, "only {had} {what}; at least {least} are wanted");
        }
        Ok(())
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cuts, {} silent connections, {} hub restarts ({} power cuts), {} edge power cuts, \
             {} edge kills, {} disk errors, {} engine failures, {} module exits, {} clock jumps, \
             {} calls answered, {} deployments, {} acknowledged, {} duplicates, transcript {:016x}",
            self.cuts,
            self.silences,
            self.hub_restarts,
            self.hub_power_cuts,
            self.edge_power_cuts,
            self.edge_kills,
            self.disk_errors,
            self.engine_failures,
            self.module_exits,
            self.clock_jumps,
            self.calls,
            self.deployments,
            self.acknowledged,
            self.duplicates,
            self.transcript
        )
    }
}

//! Counting the fleet slice by slice. Pure: rows in, counts out.

use api::fleet::{DeviceCounts, FailingModule, ModuleCounts};
use model::time::WallTime;
use serde_json::{Map, Value};

use super::view::{self, Tally};
use super::{STALE_AFTER, Standing, standing};
use crate::registry::Ordinal;
use crate::storage::rows::DeviceTotals;

/// Failing modules that are named.
const TOP_MAX: usize = 20;

/// One identity as the count sees it.
#[derive(Clone, Debug)]
pub(crate) enum Counted {
    /// A device.
    Device { ord: Ordinal, enabled: bool, last_activity: WallTime },
    /// What an agent reported.
    Agent { device: String, reported: Map<String, Value> },
    /// Any other module.
    Other,
}

/// Counts of one pass, whole or under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) scanned: u64,
    pub(crate) devices: DeviceCounts,
    pub(crate) modules: ModuleCounts,
}

impl Counts {
    /// Counts one identity; `seen` gives what memory knows of a device.
    pub(crate) fn handle(
        &mut self,
        counted: &Counted,
        seen: impl Fn(Ordinal) -> (bool, Option<WallTime>),
        now: WallTime,
    ) {
        self.scanned += 1;
        match counted {
            Counted::Device { ord, enabled, last_activity } => {
                let (connected, newer) = seen(*ord);
                let last = newer.unwrap_or(*last_activity);
                match standing(*enabled, connected, last, now) {
                    Standing::Connected => self.devices.connected += 1,
                    Standing::Stale => self.devices.stale += 1,
                    Standing::NeverSeen => self.devices.never_seen += 1,
                    Standing::Disconnected => {}
                }
            }
            Counted::Agent { device, reported } => self.add(view::tally(device, reported)),
            Counted::Other => {}
        }
    }

    fn add(&mut self, tally: Tally) {
        self.modules.reported += tally.reported;
        self.modules.running += tally.running;
        self.modules.failing += tally.failing.len() as u64;
        let room = TOP_MAX.saturating_sub(self.modules.top.len());
        self.modules.top.extend(tally.failing.into_iter().take(room));
    }

    /// The counts with the facts that are known without counting.
    pub(crate) fn finish(mut self, connected: u64, totals: DeviceTotals) -> Self {
        self.devices.connected = connected;
        self.devices.total = totals.total;
        self.devices.enabled = totals.enabled;
        self.devices.disabled = totals.total.saturating_sub(totals.enabled);
        self.devices.edge = totals.edge;
        self.devices.stale_after_seconds = STALE_AFTER.as_secs();
        self.modules.top.sort_by(|a: &FailingModule, b| {
            (&a.device_id, &a.module_id).cmp(&(&b.device_id, &b.module_id))
        });
        self
    }
}

/// Passes over all identities, one slice after another.
#[derive(Debug, Default)]
pub(crate) struct Census {
    /// The last whole pass.
    whole: Option<Counts>,
    under_way: Counts,
    after: Ordinal,
}

impl Census {
    /// Where the next slice begins.
    pub(crate) fn next(&self) -> Ordinal {
        self.after
    }

    /// A slice was read up to `last`; `None` when there was nothing more. Gives whether a pass
    /// ended.
    pub(crate) fn handle_slice(&mut self, counts: Counts, last: Option<Ordinal>) -> bool {
        self.under_way = counts;
        if let Some(last) = last {
            self.after = last;
            return false;
        }
        self.whole = Some(std::mem::take(&mut self.under_way));
        self.after = Ordinal::default();
        true
    }

    /// Takes out what is counted so far, to be given back by [`Census::handle_slice`].
    pub(crate) fn take(&mut self) -> Counts {
        self.under_way.clone()
    }

    /// The best there is: the last whole pass, or what is counted so far. And whether it is
    /// whole.
    pub(crate) fn counts(&self) -> (&Counts, bool) {
        match &self.whole {
            Some(whole) => (whole, true),
            None => (&self.under_way, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_device_is_connected_stale_never_seen_or_just_away() {
        let now = WallTime(0).after(Duration::from_hours(1));
        let old = WallTime(0);
        let fresh = now;
        let check = |enabled, last, seen: (bool, Option<WallTime>), expected: [u64; 3]| {
            let mut counts = Counts::default();
            let row = Counted::Device { ord: Ordinal(1), enabled, last_activity: last };
            counts.handle(&row, |_| seen, now);
            let devices = counts.devices;
            assert_eq!([devices.connected, devices.stale, devices.never_seen], expected);
        };
        check(true, old, (true, None), [1, 0, 0]);
        check(true, old, (false, None), [0, 1, 0]);
        check(true, old, (false, Some(fresh)), [0, 0, 0]);
        check(true, fresh, (false, None), [0, 0, 0]);
        check(true, WallTime::UNSET, (false, None), [0, 0, 1]);
        check(false, old, (false, None), [0, 0, 0]);
    }

    #[test]
    fn a_pass_under_way_never_hides_the_last_whole_one() {
        let mut census = Census::default();
        let part = |scanned| Counts { scanned, ..Counts::default() };
        assert!(!census.handle_slice(part(5), Some(Ordinal(5))));
        assert_eq!(census.counts(), (&part(5), false));
        assert!(census.handle_slice(part(7), None));
        assert_eq!(census.next(), Ordinal::default());
        assert!(!census.handle_slice(part(5), Some(Ordinal(5))));
        assert_eq!(census.counts(), (&part(7), true));
    }

    #[test]
    fn so_many_failing_modules_are_named_and_all_are_counted() {
        let mut counts = Counts::default();
        for at in 0..TOP_MAX + 5 {
            let failing = FailingModule {
                device_id: format!("d{at:02}"),
                module_id: "m".to_owned(),
                runtime_status: "failed".to_owned(),
                exit_code: Some(1),
                description: None,
            };
            counts.add(Tally { reported: 1, running: 0, failing: vec![failing] });
        }
        assert_eq!(
            (counts.modules.failing, counts.modules.top.len()),
            (TOP_MAX as u64 + 5, TOP_MAX)
        );
    }
}

//! Copies of twins for children, and the reported patches that wait for the hub. Pure; what a
//! patch does is `model::twin`.

use model::twin::limits::{self, PROPERTIES_BYTES_MAX, TwinFault};
use model::twin::patch::{apply, difference};
use model::twin::pending::PendingPatches;
use model::twin::slot::DesiredChange;
use model::twin::{TwinDocument, TwinPatch, Version};

/// The copy of one twin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwinCopy {
    /// As last read upstream, later desired changes included; `None` if never.
    pub known: Option<TwinDocument>,
    /// Reported patches not yet accepted upstream.
    pub pending: PendingPatches,
    /// Rises with each change of `pending`, so that a push knows what it pushed.
    pub generation: u64,
}

/// What to do about a desired change that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredNews {
    /// It followed what was known: pass it on.
    Applied(Box<DesiredChange>),
    /// It is old: forget it.
    Stale,
    /// Something between is missing: read the whole twin.
    Gap,
}

impl TwinCopy {
    /// The twin as its owner sees it: what is known with what it reported since.
    pub fn view(&self) -> Option<TwinDocument> {
        let mut view = self.known.clone()?;
        self.pending.apply_to(&mut view.reported);
        Some(view)
    }

    /// A twin was read upstream; gives the desired change that its owner missed.
    pub fn handle_read(&mut self, mut read: TwinDocument) -> Option<DesiredChange> {
        let Some(known) = &mut self.known else {
            // Before the first read, the generation is what the owner is told.
            read.reported_version = read.reported_version.max(Version(self.generation));
            self.known = Some(read);
            return None;
        };
        // A read that started before a change came must not bring the old values back.
        if known.desired_version > read.desired_version {
            return None;
        }
        // The owner was told one version per patch; the hub got several patches as one.
        read.reported_version = read.reported_version.max(known.reported_version);
        let before = std::mem::replace(known, read);
        (known.desired_version > before.desired_version).then(|| DesiredChange {
            patch: difference(&before.desired, &known.desired),
            before: before.desired,
            after: known.desired.clone(),
            version: known.desired_version,
        })
    }

    /// Desired properties changed upstream.
    pub fn handle_desired(&mut self, patch: TwinPatch, version: Version) -> DesiredNews {
        let Some(known) = &mut self.known else { return DesiredNews::Gap };
        if version <= known.desired_version {
            return DesiredNews::Stale;
        }
        if version.0 > known.desired_version.0 + 1 {
            return DesiredNews::Gap;
        }
        let before = known.desired.clone();
        apply(&mut known.desired, &patch.0);
        known.desired_version = version;
        let after = known.desired.clone();
        DesiredNews::Applied(Box::new(DesiredChange { patch: patch.0, before, after, version }))
    }

    /// The owner reports; gives the version it is told.
    ///
    /// # Errors
    /// [`TwinFault`] if the hub would not take it; nothing is changed then.
    pub fn handle_reported(&mut self, patch: &TwinPatch) -> Result<Version, TwinFault> {
        limits::check_shape(&patch.0)?;
        let mut after = self.view().map(|view| view.reported).unwrap_or_default();
        apply(&mut after, &patch.0);
        limits::check_size("reported", &after, PROPERTIES_BYTES_MAX)?;
        let mut pending = self.pending.clone();
        pending.add(patch);
        let bytes = pending.bytes();
        if bytes > PENDING_BYTES_MAX {
            let section = "what is reported and waits for the hub";
            return Err(TwinFault::Large { section, bytes, most: PENDING_BYTES_MAX });
        }
        self.pending = pending;
        self.generation += 1;
        Ok(self.known.as_mut().map_or(Version(self.generation), |known| {
            known.reported_version.0 += 1;
            known.reported_version
        }))
    }

    /// What is pending at `generation` was accepted upstream, lastly as `version`.
    pub fn handle_pushed(&mut self, generation: u64, pushed: &PendingPatches, version: Version) {
        if let Some(known) = &mut self.known {
            pushed.apply_to(&mut known.reported);
            known.reported_version = known.reported_version.max(version);
        }
        // Newer patches came meanwhile: all of it is pushed once more, which changes nothing.
        if self.generation == generation {
            self.pending.clear();
        }
    }
}

/// Most bytes of reported patches that wait for the hub, counted as its limits count: names and
/// values that are deleted and made again may take more than the section itself.
const PENDING_BYTES_MAX: usize = 2 * PROPERTIES_BYTES_MAX;

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn known(version: u64) -> TwinCopy {
        let desired = map(&json!({ "a": 1 }));
        let document =
            TwinDocument { desired, desired_version: Version(version), ..TwinDocument::default() };
        TwinCopy { known: Some(document), ..TwinCopy::default() }
    }

    #[test]
    fn desired_changes_apply_in_order_and_gaps_are_seen() {
        let patch = TwinPatch(map(&json!({ "a": null, "b": 2 })));
        let check = |version, expected| {
            assert_eq!(known(4).handle_desired(patch.clone(), Version(version)), expected);
        };
        check(4, DesiredNews::Stale);
        let change = DesiredChange {
            patch: patch.0.clone(),
            before: map(&json!({ "a": 1 })),
            after: map(&json!({ "b": 2 })),
            version: Version(5),
        };
        check(5, DesiredNews::Applied(Box::new(change)));
        check(6, DesiredNews::Gap);
        let mut never_read = TwinCopy::default();
        assert_eq!(never_read.handle_desired(patch.clone(), Version(1)), DesiredNews::Gap);
    }

    #[test]
    fn what_was_reported_offline_is_seen_at_once_and_forgotten_when_pushed() {
        let mut copy = known(1);
        let first = TwinPatch(map(&json!({ "x": { "y": 1, "z": 1 } })));
        let second = TwinPatch(map(&json!({ "x": { "y": null } })));
        assert_eq!(copy.handle_reported(&first), Ok(Version(1)));
        assert_eq!(copy.handle_reported(&second), Ok(Version(2)));
        assert_eq!(Value::Object(copy.view().unwrap().reported), json!({ "x": { "z": 1 } }));
        let (pushed, generation) = (copy.pending.clone(), copy.generation);
        copy.handle_reported(&TwinPatch(map(&json!({ "q": 1 })))).unwrap();
        copy.handle_pushed(generation, &pushed, Version(9));
        assert!(!copy.pending.is_empty(), "a newer patch still waits");
        copy.handle_pushed(copy.generation, &copy.pending.clone(), Version(10));
        assert!(copy.pending.is_empty());
        let view = copy.view().unwrap();
        assert_eq!(Value::Object(view.reported), json!({ "x": { "z": 1 }, "q": 1 }));
    }

    #[test]
    fn what_the_hub_would_refuse_is_refused_here_and_changes_nothing() {
        let mut copy = known(1);
        let check = |copy: &mut TwinCopy, patch: Value| {
            let before = copy.clone();
            assert!(copy.handle_reported(&TwinPatch(map(&patch))).is_err(), "{patch}");
            assert_eq!(*copy, before);
        };
        check(&mut copy, json!({ "$z": 1 }));
        let text = "x".repeat(4000);
        for part in 0..8 {
            let patch = TwinPatch(map(&json!({ part.to_string(): text })));
            copy.handle_reported(&patch).unwrap();
        }
        check(&mut copy, json!({ "more": text }));
        let room = TwinPatch(map(&json!({ "0": null, "more": text })));
        copy.handle_reported(&room).unwrap();
    }

    #[test]
    fn reported_patches_are_held_to_the_table_that_the_hub_is_held_to() {
        for case in testkit::cases::twin_limits().iter().filter(|case| case.is_of("reported")) {
            let mut copy = known(1);
            let before = copy.clone();
            let outcome = copy.handle_reported(&TwinPatch(case.values.clone()));
            assert_eq!(outcome.is_err(), case.fault.is_some(), "{}: {outcome:?}", case.text);
            assert_eq!(copy == before, case.fault.is_some(), "{}", case.text);
        }
    }

    #[test]
    fn the_version_that_an_owner_is_told_never_falls() {
        let mut copy = known(1);
        let report = |copy: &mut TwinCopy, value: i64| {
            copy.handle_reported(&TwinPatch(map(&json!({ "n": value })))).unwrap()
        };
        let told = [report(&mut copy, 1), report(&mut copy, 2)];
        let read = TwinDocument { reported_version: Version(1), ..known(1).known.unwrap() };
        copy.handle_read(read);
        assert_eq!(copy.view().unwrap().reported_version, told[1]);
        assert!(report(&mut copy, 3) > told[1]);
    }

    #[test]
    fn a_read_that_was_overtaken_brings_nothing_back() {
        let mut copy = known(5);
        copy.handle_read(known(4).known.unwrap());
        assert_eq!(copy.known.unwrap().desired_version, Version(5));
    }

    #[test]
    fn what_waits_for_the_hub_may_reach_its_limit_and_no_more() {
        let mut copy = known(1);
        // Deleted and made again under another name, it takes room and the section does not.
        let large = |name: usize, value: Value| {
            let names =
                (0..8).map(|at| (format!("{name:03}-{at}{}", "n".repeat(1000)), value.clone()));
            TwinPatch(names.collect())
        };
        let mut round = 0;
        let refused = loop {
            assert!(round < 100, "no limit was reached");
            let made = copy.handle_reported(&large(round, json!(1)));
            let gone = copy.handle_reported(&large(round, Value::Null));
            if let Err(fault) = made.and(gone) {
                break fault;
            }
            round += 1;
        };
        let TwinFault::Large { bytes, most, .. } = refused else { panic!("{refused}") };
        assert!(most == PENDING_BYTES_MAX && bytes > most, "{bytes} {most}");
        assert!(copy.pending.bytes() <= PENDING_BYTES_MAX);
    }
}

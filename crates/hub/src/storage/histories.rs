//! Random histories of the registry at every limit, several operations in one turn, against a
//! small reference that knows no tables.

use std::collections::{BTreeMap, BTreeSet};

use model::id::{IdentityId, ModuleName};
use model::manifest::MODULES_MAX;
use model::refusal::{Refusal, RefusalKind};
use model::twin::limits::{PROPERTIES_BYTES_MAX, TAGS_BYTES_MAX, object_bytes};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::feed::Cause;
use super::identities::{self, MANAGED_BY_EDGE};
use super::rows;
use super::twins::{self, Deployment, SectionWrite};
use super::writer::tests::Desk;
use super::writer::{Reply, settle};
use crate::registry::{IfMatch, Wanted};

const DEVICES: [&str; 2] = ["a", "b"];
/// Names that mean something to somebody, and some that do not.
const NAMES: [&str; 6] = ["$edgeAgent", "$edgeHub", "$edgeZoo", "m0", "hand0", "x"];
/// Longest text of a property, in bytes.
const TEXT_BYTES: usize = 4000;

#[derive(Clone, Debug)]
enum Step {
    Create {
        device: usize,
        edge: bool,
    },
    Update {
        device: usize,
        edge: Option<bool>,
        stale: bool,
    },
    Delete {
        device: usize,
    },
    /// So many modules, one operation each.
    ByHand {
        device: usize,
        first: usize,
        count: usize,
    },
    /// As a device's own runtime does.
    Ensure {
        device: usize,
        name: usize,
    },
    DeleteModule {
        device: usize,
        name: usize,
    },
    Deploy {
        device: usize,
        modules: Option<usize>,
        twins: Vec<usize>,
    },
    /// One of the properties gets a text as long as may be, or is taken away.
    Write {
        device: usize,
        module: Option<usize>,
        tags: bool,
        key: usize,
        gone: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0..DEVICES.len();
    let name = || 0..NAMES.len();
    let rarely = || proptest::bool::weighted(0.15);
    // Mostly just below, at and just above what a device may have.
    let many = prop_oneof![
        3 => (Just(0), MODULES_MAX - 3..=MODULES_MAX + 3),
        1 => (0..60_usize, 1..8_usize),
    ];
    prop_oneof![
        2 => (device(), any::<bool>()).prop_map(|(device, edge)| Step::Create { device, edge }),
        6 => (device(), proptest::option::weighted(0.9, any::<bool>()), rarely())
            .prop_map(|(device, edge, stale)| Step::Update { device, edge, stale }),
        1 => device().prop_map(|device| Step::Delete { device }),
        5 => (device(), many)
            .prop_map(|(device, (first, count))| Step::ByHand { device, first, count }),
        2 => (device(), name()).prop_map(|(device, name)| Step::Ensure { device, name }),
        2 => (device(), name()).prop_map(|(device, name)| Step::DeleteModule { device, name }),
        4 => (
            device(),
            proptest::option::of(0..=MODULES_MAX + 3),
            proptest::collection::vec(name(), 0..3),
        )
            .prop_map(|(device, modules, twins)| Step::Deploy { device, modules, twins }),
        4 => (
            device(),
            proptest::option::of(name()),
            any::<bool>(),
            0..12_usize,
            proptest::bool::weighted(0.2),
        )
            .prop_map(|(device, module, tags, key, gone)| {
                Step::Write { device, module, tags, key, gone }
            }),
    ]
}

/// What must be true of one identity's twin.
#[derive(Clone, Debug, Default, PartialEq)]
struct Twin {
    tags: Map<String, Value>,
    desired: Map<String, Value>,
}

/// What must be true of one device.
#[derive(Clone, Debug, Default, PartialEq)]
struct Device {
    edge: bool,
    twin: Twin,
    /// Whether each belongs to the edge runtime, and its twin.
    modules: BTreeMap<String, (bool, Twin)>,
}

/// Whether `names` are too many for an edge device, or for a plain one.
fn is_full(edge: bool, names: &BTreeSet<String>) -> bool {
    let system = |name: &String| edge && ["$edgeAgent", "$edgeHub"].contains(&name.as_str());
    names.iter().filter(|name| !system(name)).count() > MODULES_MAX
}

impl Device {
    fn names(&self) -> BTreeSet<String> {
        self.modules.keys().cloned().collect()
    }

    fn make_system(&mut self) {
        for name in ["$edgeAgent", "$edgeHub"] {
            self.modules.entry(name.to_owned()).or_insert_with(|| (true, Twin::default()));
        }
    }
}

#[derive(Debug, Default)]
struct Reference(BTreeMap<&'static str, Device>);

type Expected = Result<(), RefusalKind>;

impl Reference {
    fn device(&mut self, device: usize) -> Result<&mut Device, RefusalKind> {
        self.0.get_mut(DEVICES[device]).ok_or(RefusalKind::DeviceNotFound)
    }

    fn create(&mut self, device: usize, edge: bool) -> Expected {
        if self.0.contains_key(DEVICES[device]) {
            return Err(RefusalKind::AlreadyExists);
        }
        let mut made = Device { edge, ..Device::default() };
        if edge {
            made.make_system();
        }
        self.0.insert(DEVICES[device], made);
        Ok(())
    }

    fn update(&mut self, device: usize, edge: Option<bool>, stale: bool) -> Expected {
        let device = self.device(device)?;
        if stale {
            return Err(RefusalKind::PreconditionFailed);
        }
        let edge = edge.unwrap_or(device.edge);
        if edge != device.edge && is_full(edge, &device.names()) {
            return Err(RefusalKind::QuotaExceeded);
        }
        let becomes = edge && !device.edge;
        device.edge = edge;
        if becomes {
            device.make_system();
        }
        Ok(())
    }

    fn module(&mut self, device: usize, name: &str, managed: bool) -> Expected {
        let device = self.device(device)?;
        if device.modules.contains_key(name) {
            return Err(RefusalKind::AlreadyExists);
        }
        let mut names = device.names();
        names.insert(name.to_owned());
        if is_full(device.edge, &names) {
            return Err(RefusalKind::QuotaExceeded);
        }
        device.modules.insert(name.to_owned(), (managed, Twin::default()));
        Ok(())
    }

    fn deploy(&mut self, device: usize, deployment: &Deployment) -> Expected {
        let device = self.device(device)?;
        if !device.edge {
            return Err(RefusalKind::InvalidRequest);
        }
        let mut after = device.clone();
        if let Some(wanted) = &deployment.modules {
            let wanted: BTreeSet<&str> = wanted.iter().map(ModuleName::as_str).collect();
            after.modules.retain(|name, (managed, _)| {
                !*managed
                    || ["$edgeAgent", "$edgeHub"].contains(&name.as_str())
                    || wanted.contains(name.as_str())
            });
            for name in wanted {
                after.modules.entry(name.to_owned()).or_insert_with(|| (true, Twin::default()));
            }
            if is_full(true, &after.names()) {
                return Err(RefusalKind::QuotaExceeded);
            }
        }
        for (name, values) in &deployment.desired {
            let module = after.modules.get_mut(name.as_str());
            module.ok_or(RefusalKind::ModuleNotFound)?.1.desired = values.clone();
        }
        *device = after;
        Ok(())
    }

    fn write(
        &mut self,
        (device, module): (usize, Option<&str>),
        tags: bool,
        patch: &Map<String, Value>,
    ) -> Expected {
        let twin = match module {
            None => self.device(device).map(|device| &mut device.twin)?,
            Some(name) => {
                let there = self.0.get_mut(DEVICES[device]);
                let module = there.and_then(|device| device.modules.get_mut(name));
                &mut module.ok_or(RefusalKind::ModuleNotFound)?.1
            }
        };
        let (section, most) = if tags {
            (&mut twin.tags, TAGS_BYTES_MAX)
        } else {
            (&mut twin.desired, PROPERTIES_BYTES_MAX)
        };
        let mut after = section.clone();
        for (key, value) in patch {
            if value.is_null() {
                after.remove(key);
            } else {
                after.insert(key.clone(), value.clone());
            }
        }
        if object_bytes(&after) > most {
            return Err(RefusalKind::TooLarge);
        }
        *section = after;
        Ok(())
    }
}

fn identity(device: usize, module: Option<&str>) -> IdentityId {
    let device = DEVICES[device];
    module.map_or_else(|| device.to_owned(), |name| format!("{device}/{name}")).parse().unwrap()
}

/// Enqueues the operations of `step`; each with what must come of it.
fn enqueue(desk: &Desk, reference: &mut Reference, step: Step) -> Vec<(Expected, Reply<()>)> {
    match step {
        Step::Create { device, edge } => {
            let id = identity(device, None);
            let wanted = Wanted { iot_edge: Some(edge), ..Wanted::default() };
            let made =
                desk.submit(move |w| identities::create(w, &id, wanted, Cause::Service).map(drop));
            vec![(reference.create(device, edge), made)]
        }
        Step::Update { device, edge, stale } => {
            let id = identity(device, None);
            let wanted = Wanted { iot_edge: edge, ..Wanted::default() };
            let if_match = if stale { IfMatch::Exactly("stale".into()) } else { IfMatch::Any };
            let updated =
                desk.submit(move |w| identities::update(w, &id, wanted, &if_match).map(drop));
            vec![(reference.update(device, edge, stale), updated)]
        }
        Step::Delete { device } => {
            let id = identity(device, None);
            let expected = reference.device(device).map(drop);
            reference.0.remove(DEVICES[device]);
            let gone =
                desk.submit(move |w| identities::delete(w, &id, &IfMatch::Any, Cause::Service));
            vec![(expected, gone)]
        }
        Step::ByHand { device, first, count } => {
            (first..first + count).map(|n| by_hand(desk, reference, device, n)).collect()
        }
        Step::Ensure { device, name } => {
            let (id, name) = (identity(device, None).device_id(), NAMES[name]);
            let expected = match reference.module(device, name, true) {
                Err(RefusalKind::AlreadyExists) => Ok(()),
                other => other,
            };
            let ensured = desk.submit(move |w| {
                let by = MANAGED_BY_EDGE.into();
                let name = name.parse().unwrap();
                identities::ensure_module(w, &id, &name, by, Cause::Device).map(drop)
            });
            vec![(expected, ensured)]
        }
        Step::DeleteModule { device, name } => {
            let id = identity(device, Some(NAMES[name]));
            let there = reference.0.get_mut(DEVICES[device]);
            let had = there.and_then(|device| device.modules.remove(NAMES[name]));
            let gone =
                desk.submit(move |w| identities::delete(w, &id, &IfMatch::Any, Cause::Service));
            vec![(had.map(drop).ok_or(RefusalKind::ModuleNotFound), gone)]
        }
        Step::Deploy { device, modules, twins } => {
            let twins = twins.into_iter().map(|name| NAMES[name]).collect();
            vec![deploy(desk, reference, device, modules, twins)]
        }
        Step::Write { device, module, tags, key, gone } => {
            let of = (device, module.map(|name| NAMES[name]));
            let value = if gone { Value::Null } else { json!("x".repeat(TEXT_BYTES)) };
            let patch: Map<_, _> = [(format!("k{key}"), value)].into_iter().collect();
            let expected = reference.write(of, tags, &patch);
            let id = identity(of.0, of.1);
            let merge = SectionWrite::Merge(patch);
            let sections =
                if tags { (merge, SectionWrite::Keep) } else { (SectionWrite::Keep, merge) };
            let written = desk.submit(move |w| {
                twins::write(w, &id, sections, &IfMatch::Any, Cause::Service).map(drop)
            });
            vec![(expected, written)]
        }
    }
}

fn by_hand(
    desk: &Desk,
    reference: &mut Reference,
    device: usize,
    n: usize,
) -> (Expected, Reply<()>) {
    let name = format!("hand{n}");
    let id = identity(device, Some(&name));
    let made = desk
        .submit(move |w| identities::create(w, &id, Wanted::default(), Cause::Service).map(drop));
    (reference.module(device, &name, false), made)
}

fn deploy(
    desk: &Desk,
    reference: &mut Reference,
    device: usize,
    modules: Option<usize>,
    twins: BTreeSet<&str>,
) -> (Expected, Reply<()>) {
    let values: Map<_, _> = [("n".to_owned(), json!(twins.len()))].into_iter().collect();
    let deployment = Deployment {
        desired: twins.iter().map(|name| (name.parse().unwrap(), values.clone())).collect(),
        modules: modules
            .map(|count| (0..count).map(|n| format!("m{n}").parse().unwrap()).collect()),
    };
    let id = identity(device, None).device_id();
    let expected = reference.deploy(device, &deployment);
    (expected, desk.submit(move |w| twins::deploy(w, &id, &deployment)))
}

/// What the tables hold, as the reference would say it.
fn found(db: &rusqlite::Connection) -> rusqlite::Result<BTreeMap<String, Device>> {
    let mut all = BTreeMap::new();
    let twin = |entry: &crate::registry::Entry| -> rusqlite::Result<Twin> {
        let twin = rows::twin(db, entry.ord)?.expect("every identity has a twin");
        Ok(Twin { tags: twin.tags, desired: twin.desired.values })
    };
    for entry in rows::devices(db, "", 100)? {
        let mut device = Device { edge: entry.iot_edge, twin: twin(&entry)?, ..Device::default() };
        for module in rows::modules(db, &entry.identity.device_id())? {
            let managed = &*module.managed_by == MANAGED_BY_EDGE;
            let name = module.identity.module_str().unwrap().to_owned();
            device.modules.insert(name, (managed, twin(&module)?));
        }
        all.insert(entry.identity.as_str().to_owned(), device);
    }
    Ok(all)
}

async fn run(turns: Vec<Vec<Step>>) {
    let (desk, mut reference) = (Desk::new(), Reference::default());
    let first = (0..DEVICES.len()).map(|device| Step::Create { device, edge: device == 0 });
    for turn in std::iter::once(first.collect()).chain(turns) {
        let told = format!("{turn:?}");
        let mut waiting = Vec::new();
        for step in turn {
            waiting.extend(enqueue(&desk, &mut reference, step));
        }
        for (at, (expected, reply)) in waiting.into_iter().enumerate() {
            let got = settle(reply).await.map_err(|Refusal { kind, .. }| kind);
            assert_eq!(got, expected, "operation {at} of {told}");
        }
        let found = desk.look(found).await;
        let expected: BTreeMap<_, _> =
            reference.0.iter().map(|(name, device)| ((*name).to_owned(), device.clone())).collect();
        assert_eq!(found, expected, "after {told}");
        let totals = desk.look(rows::device_totals).await;
        let edge = reference.0.values().filter(|device| device.edge).count() as u64;
        assert_eq!((totals.total, totals.edge), (reference.0.len() as u64, edge));
    }
    assert_eq!(desk.tables.taken_back(), 0, "nothing was refused after a write");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn histories_at_every_limit_are_as_the_reference_says(
        turns in proptest::collection::vec(proptest::collection::vec(step(), 1..6), 1..12)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(turns));
    }
}

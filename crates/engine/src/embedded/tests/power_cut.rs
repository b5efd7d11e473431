//! The power fails while modules go from one generation to the next.

use std::collections::BTreeMap;

use super::*;
use crate::files::disk::{Disk, ENDS, End, Random};
use crate::files::power_cut::{Course, Subject, Things, Totals, enumerate, folder};
use crate::files::watch;

/// Modules, and what they may be made from.
const NAMES: [&str; 2] = ["a", "b"];

#[derive(Clone, Debug)]
enum Step {
    /// Name and generation.
    Create(&'static str, usize),
    /// All of a start but what runs.
    Start(&'static str),
    Remove(&'static str),
}

/// What the folder of a module must hold besides its record.
type Held = BTreeMap<&'static str, Vec<u8>>;

struct Modules {
    place: tempfile::TempDir,
    root: PathBuf,
    /// With the image, and nothing else.
    bare: Disk,
    /// By name and generation.
    held: BTreeMap<(String, String), Held>,
}

fn one(name: &str, generation: usize) -> ModuleSpec {
    let options = json!({
        "Hostname": format!("{name}-{generation}"),
        "HostConfig": {
            "NetworkMode": "host", "Dns": [format!("10.0.0.{generation}")],
            "Mounts": [{"Type": "volume", "Source": "data", "Target": "/data"}],
        },
    });
    ModuleSpec {
        create_options: options.to_string(),
        env: BTreeMap::from([("GENERATION".to_owned(), generation.to_string())]),
        digest: generation.to_string(),
        ..spec(name, &[], json!({}))
    }
}

fn held(folder: &Path) -> Held {
    let names = ["config.json", "monitor.json", "hostname", "resolv.conf"];
    names.map(|name| (name, fs::read(folder.join(name)).unwrap_or_default())).into()
}

impl Modules {
    fn new() -> Self {
        let folder = folder();
        let root = folder.path().join("e");
        let mut all = Self { place: folder, root, bare: Disk::new(), held: BTreeMap::new() };
        all.bare.put(&all.root);
        watch::start(&all.root, None);
        let engine = all.open();
        let files = [LayerFile { path: "bin/", mode: 0o755, content: b"" }];
        let content = ImageContent {
            reference: "probe:1".to_owned(),
            config: json!({"Entrypoint": ["/bin/probe"]}),
            layers: vec![layer(&files).unwrap()],
        };
        let mut bytes = Vec::new();
        write_oci_archive(&content, &mut bytes).unwrap();
        let path = all.place.path().join("probe.tar");
        fs::write(&path, bytes).unwrap();
        engine.import_image(&ImageArchive { path, reference: None }).unwrap();
        all.bare.apply_all(&watch::stop());
        all.bare.apply(&watch::Operation::SyncDisk);
        for name in NAMES {
            for generation in [1, 2] {
                engine.create(&one(name, generation)).unwrap();
                let held = held(engine.container(name).folder());
                all.held.insert((name.to_owned(), generation.to_string()), held);
                engine.remove(name).unwrap();
            }
        }
        all
    }
}

impl Subject for Modules {
    type Step = Step;
    type Open = EmbeddedEngine;

    fn root(&self) -> &Path {
        &self.root
    }

    fn is_foreign(path: &Path) -> bool {
        // What overlayfs leaves in its own folder, and the lock that says that somebody is here.
        path.ends_with("work/work") || path.ends_with("network/lock")
    }

    fn open(&self) -> EmbeddedEngine {
        let settings = EmbeddedSettings {
            root: self.root.clone(),
            monitor: monitor_program(),
            policy: Policy::default(),
            network: None,
        };
        EmbeddedEngine::open(settings).unwrap()
    }

    fn look(&self, engine: &EmbeddedEngine) -> Things {
        let list = engine.list().unwrap();
        let folders = fs::read_dir(self.root.join("containers")).unwrap().count();
        assert_eq!(folders, list.len(), "something was left behind");
        for one in &list {
            let container = engine.container(&one.name);
            let key = (one.name.clone(), one.spec_digest.clone());
            for (name, content) in held(container.folder()) {
                assert!(content == self.held[&key][name], "{key:?}: {name} is of no generation");
            }
            for name in ["rootfs", "upper", "work", "log"] {
                assert!(container.folder().join(name).is_dir(), "{key:?}: no {name}");
            }
            assert!(self.root.join("volumes/data").is_dir());
            let found = container.record().unwrap().unwrap();
            assert!(found.layers.iter().all(|layer| layer.is_dir()));
        }
        list.into_iter().map(|one| (one.name, one.spec_digest)).collect()
    }

    fn act(&self, engine: &EmbeddedEngine, step: &Step) -> bool {
        match step {
            Step::Create(name, generation) => engine.create(&one(name, *generation)).is_ok(),
            Step::Start(name) => match engine.existing(name) {
                Ok((container, mut record)) => container.note_start(&mut record).is_ok(),
                Err(EngineError::NotFound { .. }) => true,
                Err(_) => false,
            },
            Step::Remove(name) => engine.remove(name).is_ok(),
        }
    }

    fn effect(&self, step: &Step) -> Vec<(String, Option<String>)> {
        match step {
            Step::Create(name, generation) => {
                vec![((*name).to_owned(), Some(generation.to_string()))]
            }
            Step::Start(_) => vec![],
            Step::Remove(name) => vec![((*name).to_owned(), None)],
        }
    }

    fn any(&self, there: &Things, random: &mut Random) -> Step {
        let name = NAMES[random.below(2)];
        match random.below(3) {
            0 => Step::Start(name),
            _ if there.contains_key(name) => Step::Remove(name),
            _ => Step::Create(name, 1 + random.below(2)),
        }
    }

    /// As the agent does it: what is not of the wanted generation goes, and is made afresh.
    fn mend(&self, there: &Things) -> (Vec<Step>, Things) {
        let mut steps = Vec::new();
        for name in NAMES.iter().filter(|name| there.get(**name).is_none_or(|it| it != "2")) {
            steps.extend([Step::Remove(name), Step::Create(name, 2), Step::Start(name)]);
        }
        (steps, NAMES.map(|name| (name.to_owned(), "2".to_owned())).into())
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn modules_are_of_one_generation_wherever_the_power_fails() {
    let modules = Modules::new();
    let mut totals = Totals::default();
    let steps = [
        Step::Create("a", 1),
        Step::Start("a"),
        Step::Create("b", 1),
        Step::Start("b"),
        Step::Remove("a"),
        Step::Create("a", 2),
        Step::Start("a"),
        Step::Remove("b"),
        Step::Create("b", 2),
        // Back to the last good one.
        Step::Remove("a"),
        Step::Create("a", 1),
        Step::Start("a"),
    ];
    let course = Course { steps: &steps, full_at: None };
    enumerate(&modules, &modules.bare, &course, (1, &ENDS), &mut totals);
    println!("modules: {totals:?}");
    assert!(totals.points >= 1500 && totals.lost >= totals.points);
}

#[test]
#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn modules_are_of_one_generation_when_the_disk_is_full_and_the_power_fails() {
    let modules = Modules::new();
    let mut totals = Totals::default();
    let mut full_at = 0;
    loop {
        let refused = totals.refused;
        let steps = [Step::Create("a", 1), Step::Start("a")];
        let course = Course { steps: &steps, full_at: Some(full_at) };
        enumerate(&modules, &modules.bare, &course, (7, &[End::Scattered]), &mut totals);
        if totals.refused == refused {
            break;
        }
        full_at += 2;
    }
    println!("modules on a full disk: {totals:?}");
    assert!(totals.refused >= 20 && totals.points >= 700);
}

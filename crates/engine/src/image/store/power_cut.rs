//! The power fails while images are imported, forgotten and swept.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;
use crate::embedded::tests::monitor_program;
use crate::files::disk::{Disk, ENDS, End, Random};
use crate::files::power_cut::{Course, Subject, Things, Totals, enumerate, folder};
use crate::files::watch;
use crate::image::archive::{ImageContent, LayerFile, layer, write_oci_archive};

/// Archives: two that share a layer, and another one of the first's name.
const ARCHIVES: [(&str, &[&str]); 3] =
    [("one:1", &["base", "one"]), ("two:1", &["base", "two"]), ("one:1", &["other", "one"])];

#[derive(Clone, Copy, Debug)]
enum Step {
    Import(usize),
    Forget(&'static str),
    Sweep,
}

/// Every path below a folder with its mode and content.
type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

struct Images {
    place: tempfile::TempDir,
    root: PathBuf,
    archives: Vec<PathBuf>,
    /// Digests of the images of the archives.
    digests: Vec<String>,
    /// What each layer holds.
    layers: BTreeMap<PathBuf, Tree>,
}

fn layer_of(name: &str) -> Vec<u8> {
    let content: Vec<u8> = name.bytes().cycle().take(1700).collect();
    let files = [
        LayerFile { path: "bin/", mode: 0o755, content: b"" },
        LayerFile { path: &format!("bin/{name}"), mode: 0o4755, content: &content },
        LayerFile { path: &format!("etc-{name}"), mode: 0o600, content: name.as_bytes() },
    ];
    layer(&files).unwrap()
}

fn tree(folder: &Path) -> Tree {
    fn add(folder: &Path, root: &Path, tree: &mut Tree) {
        for path in children(folder).unwrap() {
            let found = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let content = if found.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            tree.insert(name, (found.permissions().mode(), content));
            if found.is_dir() {
                add(&path, root, tree);
            }
        }
    }
    let mut all = Tree::new();
    add(folder, folder, &mut all);
    all
}

impl Images {
    fn new() -> Self {
        let folder = folder();
        let root = folder.path().join("images");
        let mut all = Self {
            root: root.clone(),
            archives: Vec::new(),
            digests: Vec::new(),
            layers: BTreeMap::new(),
            place: folder,
        };
        // Unpacked by the real child, once.
        let store = ImageStore::open(&root, &monitor_program()).unwrap();
        for (number, (reference, layers)) in ARCHIVES.into_iter().enumerate() {
            let image = ImageContent {
                reference: reference.to_owned(),
                config: json!({"Cmd": [number.to_string()]}),
                layers: layers.iter().map(|name| layer_of(name)).collect(),
            };
            let mut bytes = Vec::new();
            write_oci_archive(&image, &mut bytes).unwrap();
            let path = all.place.path().join(format!("{number}.tar"));
            fs::write(&path, bytes).unwrap();
            let archive = ImageArchive { path: path.clone(), reference: None };
            all.digests.push(store.import(&archive).unwrap().images[0].digest.clone());
            all.archives.push(path);
        }
        for path in children(&root.join("layers")).unwrap() {
            let held = tree(&path);
            all.layers.insert(path, held);
        }
        assert_eq!(all.layers.len(), 4);
        all
    }

    /// The disk of a device that has imported `archives`.
    fn with(&self, archives: &[usize]) -> Disk {
        let mut disk = Disk::new();
        disk.put(&self.root);
        watch::start(&self.root, None);
        let store = self.open();
        for archive in archives {
            assert!(self.act(&store, &Step::Import(*archive)));
        }
        disk.apply_all(&watch::stop());
        disk.apply(&watch::Operation::SyncDisk);
        disk
    }
}

impl Subject for Images {
    type Step = Step;
    type Open = ImageStore;

    fn root(&self) -> &Path {
        &self.root
    }

    fn is_foreign(_: &Path) -> bool {
        false
    }

    fn open(&self) -> ImageStore {
        let mut store = ImageStore::open(&self.root, &monitor_program()).unwrap();
        store.unpacker.is_inside = true;
        store
    }

    fn look(&self, store: &ImageStore) -> Things {
        // A layer with a name is whole, whether anybody refers to it or not.
        for path in children(&self.root.join("layers")).unwrap() {
            assert!(tree(&path) == self.layers[&path], "{} is not whole", path.display());
        }
        assert_eq!(children(&self.root.join("scratch")).unwrap(), [] as [PathBuf; 0]);
        for folder in ["refs", "blobs/sha256"] {
            for path in children(&self.root.join(folder)).unwrap() {
                let is_left = path.extension().is_some_and(|extension| extension == "new");
                assert!(!is_left, "{} was left behind", path.display());
            }
        }
        let images = store.images().unwrap();
        for image in &images {
            let stored = store.find(&image.reference).unwrap();
            assert!(!stored.layers.is_empty());
            for layer in &stored.layers {
                assert!(layer.is_dir(), "{}: {} is absent", image.reference, layer.display());
            }
        }
        images.into_iter().map(|image| (image.reference, image.digest)).collect()
    }

    fn act(&self, store: &ImageStore, step: &Step) -> bool {
        match step {
            Step::Import(number) => {
                let path = self.archives[*number].clone();
                match store.import(&ImageArchive { path, reference: None }) {
                    Ok(imported) => imported.images[0].digest == self.digests[*number],
                    Err(_) => false,
                }
            }
            Step::Forget(name) => match store.forget(name) {
                Ok(()) | Err(EngineError::ImageMissing { .. }) => true,
                Err(_) => false,
            },
            Step::Sweep => store.sweep(&BTreeSet::new()).is_ok(),
        }
    }

    fn effect(&self, step: &Step) -> Vec<(String, Option<String>)> {
        match step {
            Step::Import(number) => {
                vec![(ARCHIVES[*number].0.to_owned(), Some(self.digests[*number].clone()))]
            }
            Step::Forget(name) => vec![((*name).to_owned(), None)],
            Step::Sweep => vec![],
        }
    }

    fn any(&self, _: &Things, random: &mut Random) -> Step {
        match random.below(8) {
            0..4 => Step::Import(random.below(3)),
            4 => Step::Forget("one:1"),
            5 => Step::Forget("two:1"),
            _ => Step::Sweep,
        }
    }

    fn mend(&self, there: &Things) -> (Vec<Step>, Things) {
        let mut wanted = there.clone();
        for step in [Step::Import(0), Step::Import(1)] {
            wanted.extend(self.effect(&step).into_iter().filter_map(|(a, b)| Some((a, b?))));
        }
        (vec![Step::Import(0), Step::Sweep, Step::Import(1), Step::Sweep], wanted)
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn images_are_whole_or_absent_wherever_the_power_fails() {
    let images = Images::new();
    let mut totals = Totals::default();
    let all = [
        Step::Import(0),
        Step::Import(0),
        Step::Import(1),
        Step::Forget("one:1"),
        Step::Sweep,
        Step::Import(2),
        Step::Import(0),
        Step::Sweep,
        Step::Forget("two:1"),
        Step::Import(1),
        Step::Forget("one:1"),
        Step::Sweep,
    ];
    let course = Course { steps: &all, full_at: None };
    enumerate(&images, &Disk::new(), &course, (1, &ENDS), &mut totals);
    println!("images: {totals:?}");
    assert!(totals.points >= 1000 && totals.lost >= totals.points);
}

#[test]
#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn images_are_whole_or_absent_when_the_disk_is_full_and_the_power_fails() {
    let images = Images::new();
    let mut totals = Totals::default();
    let before = images.with(&[1]);
    let steps = [Step::Import(0), Step::Forget("two:1"), Step::Sweep];
    let mut full_at = 0;
    loop {
        let refused = totals.refused;
        let course = Course { steps: &steps, full_at: Some(full_at) };
        let ends = [End::Lost, End::Scattered];
        enumerate(&images, &before, &course, (7, &ends), &mut totals);
        if totals.refused == refused {
            break;
        }
        full_at += 1;
    }
    println!("images on a full disk: {totals:?}");
    assert!(totals.refused >= 50 && totals.points >= 1000);
}

//! A disk that keeps only what it must: what was synced, and of the rest what chance leaves.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::watch::Operation;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process is killed; all it did is there, and as unsafe as before.
    Killed,
    /// The power fails: whatever was not synced is lost.
    Lost,
    /// Names are kept up to one of them, contents up to one of their sectors.
    Torn,
    /// Each name and each sector is kept or lost by itself.
    Scattered,
    /// All names are kept, and of what was not synced only the length.
    Grown,
}

/// All ends.
pub(crate) const ENDS: [End; 5] = [End::Killed, End::Lost, End::Torn, End::Scattered, End::Grown];

/// Numbers that a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit.max(1) as u64).unwrap()
    }
}

type Id = usize;
type Names = BTreeMap<String, Id>;

/// The same in two states: what is safe, and what a reader sees.
#[derive(Clone, Debug, Default)]
struct Both<T> {
    safe: T,
    seen: T,
}

#[derive(Clone, Debug)]
enum Body {
    Folder(Both<Names>),
    File(Both<Vec<u8>>),
    Link(PathBuf),
}

#[derive(Clone, Debug)]
struct Node {
    mode: u32,
    body: Body,
}

/// A name that leads elsewhere from now on, or nowhere.
#[derive(Clone, Debug)]
struct Edge {
    folder: Id,
    name: String,
    to: Option<Id>,
}

/// Everything below one folder.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
    /// Changes of names that are not safe, in order; those of one group share their fate.
    pending: Vec<Vec<Edge>>,
    /// How much was lost so far: names and files.
    pub(crate) lost: u64,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let root = Node { mode: 0o755, body: Body::Folder(Both::default()) };
        Self { nodes: vec![root], pending: Vec::new(), lost: 0 }
    }

    fn names(&self, id: Id) -> &Names {
        match &self.nodes[id].body {
            Body::Folder(names) => &names.seen,
            _ => panic!("no folder"),
        }
    }

    fn find(&self, path: &Path) -> Option<Id> {
        path.iter().try_fold(0, |id, name| self.names(id).get(name.to_str().unwrap()).copied())
    }

    /// The folder above `path` and its last name.
    fn place(&self, path: &Path) -> (Id, String) {
        let above = path.parent().unwrap_or_else(|| panic!("{}: the root", path.display()));
        let folder = self.find(above).unwrap_or_else(|| panic!("{}: absent", above.display()));
        (folder, path.file_name().unwrap().to_str().unwrap().to_owned())
    }

    fn turn(&mut self, edges: Vec<Edge>) {
        for Edge { folder, name, to } in &edges {
            let Body::Folder(names) = &mut self.nodes[*folder].body else { panic!("no folder") };
            set(&mut names.seen, name, *to);
        }
        self.pending.push(edges);
    }

    fn make(&mut self, path: &Path, mode: u32, body: Body) {
        let (folder, name) = self.place(path);
        let to = Some(self.nodes.len());
        self.nodes.push(Node { mode, body });
        self.turn(vec![Edge { folder, name, to }]);
    }

    fn file(&mut self, path: &Path) -> &mut Both<Vec<u8>> {
        let id = self.find(path).unwrap_or_else(|| panic!("{}: absent", path.display()));
        match &mut self.nodes[id].body {
            Body::File(content) => content,
            _ => panic!("{}: no file", path.display()),
        }
    }

    pub(crate) fn apply_all(&mut self, operations: &[Operation]) {
        for operation in operations {
            self.apply(operation);
        }
    }

    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::MakeFolder(path, mode) => {
                self.make(path, *mode, Body::Folder(Both::default()));
            }
            Operation::SetMode(path, mode) => {
                let id = self.find(path).unwrap();
                self.nodes[id].mode = *mode;
            }
            Operation::MakeFile(path, _) if self.find(path).is_some() => {
                self.file(path).seen.clear();
            }
            Operation::MakeFile(path, mode) => self.make(path, *mode, Body::File(Both::default())),
            Operation::MakeLink(path, target) => {
                self.make(path, 0o777, Body::Link(target.clone()));
            }
            Operation::Write(path, bytes) => {
                let seen = &mut self.file(path).seen;
                seen.resize(seen.len().max(bytes.len()), 0);
                seen[..bytes.len()].copy_from_slice(bytes);
            }
            Operation::SetLen(path, len) => self.file(path).seen.resize(*len, 0),
            Operation::SyncContent(path) => {
                let content = self.file(path);
                content.safe.clone_from(&content.seen);
            }
            Operation::SyncNames(path) => {
                let id = self.find(path).unwrap();
                self.sync_names(|folder| folder == id);
            }
            Operation::SyncDisk => {
                self.sync_names(|_| true);
                for node in &mut self.nodes {
                    if let Body::File(content) = &mut node.body {
                        content.safe.clone_from(&content.seen);
                    }
                }
            }
            Operation::Rename(from, to) => {
                let id = self.find(from).unwrap_or_else(|| panic!("{}: absent", from.display()));
                let ((folder, name), (old, old_name)) = (self.place(to), self.place(from));
                self.turn(vec![
                    Edge { folder, name, to: Some(id) },
                    Edge { folder: old, name: old_name, to: None },
                ]);
            }
            // The kernel makes some itself, below the folder in which overlayfs works.
            Operation::Remove(path) if self.find(path).is_none() => {}
            Operation::Remove(path) => {
                let (folder, name) = self.place(path);
                self.turn(vec![Edge { folder, name, to: None }]);
            }
        }
    }

    fn sync_names(&mut self, is_synced: impl Fn(Id) -> bool) {
        let nodes = &mut self.nodes;
        for group in &mut self.pending {
            // Where a file goes to is its first change. A folder never has two names, not even
            // on a disk: with the new one the old one's end is safe. The other way round the
            // file may be lost.
            let is_whole = group.first().is_some_and(|edge| is_synced(edge.folder));
            group.retain(|edge| {
                let synced = is_whole || is_synced(edge.folder);
                if synced {
                    keep(nodes, edge);
                }
                !synced
            });
        }
        self.pending.retain(|group| !group.is_empty());
    }

    /// What is left when a life ends like this.
    pub(crate) fn end(&mut self, how: End, random: &mut Random) {
        if how == End::Killed {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let most = random.below(pending.len() + 1);
        for (number, group) in pending.iter().enumerate() {
            let is_kept = match how {
                End::Killed | End::Grown => true,
                End::Lost => false,
                End::Torn => number < most,
                End::Scattered => random.below(2) == 0,
            };
            if is_kept {
                for edge in group {
                    keep(&mut self.nodes, edge);
                }
            } else {
                self.lost += 1;
            }
        }
        for node in &mut self.nodes {
            match &mut node.body {
                Body::Folder(names) => names.seen.clone_from(&names.safe),
                Body::File(content) if content.safe == content.seen => {}
                Body::File(content) => {
                    self.lost += 1;
                    content.safe = left(content, how, random);
                    content.seen.clone_from(&content.safe);
                }
                Body::Link(_) => {}
            }
        }
    }

    /// Makes `root` what a reader sees, and nothing else.
    pub(crate) fn put(&self, root: &Path) {
        match fs::remove_dir_all(root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
        self.put_node(0, root);
    }

    fn put_node(&self, id: Id, path: &Path) {
        let Node { mode, body } = &self.nodes[id];
        match body {
            Body::Folder(names) => {
                fs::create_dir(path).unwrap();
                for (name, id) in &names.seen {
                    self.put_node(*id, &path.join(name));
                }
            }
            Body::File(content) => fs::write(path, &content.seen).unwrap(),
            Body::Link(target) => return symlink(target, path).unwrap(),
        }
        fs::set_permissions(path, Permissions::from_mode(*mode)).unwrap();
    }

    /// Panics unless `root` is what a reader would see, but for names that `is_foreign`: then
    /// everything that changed it was recorded.
    pub(crate) fn compare(&self, root: &Path, is_foreign: fn(&Path) -> bool) {
        self.compare_folder(0, root, Path::new(""), is_foreign);
    }

    fn compare_folder(&self, id: Id, root: &Path, at: &Path, is_foreign: fn(&Path) -> bool) {
        let mut there: Vec<String> = fs::read_dir(root.join(at))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !is_foreign(&at.join(name)))
            .collect();
        there.sort();
        let known: Vec<_> = self.names(id).keys().cloned().collect();
        assert_eq!(there, known, "in {}", at.display());
        for (name, id) in self.names(id) {
            let relative = at.join(name);
            let (path, node) = (root.join(&relative), &self.nodes[*id]);
            let found = fs::symlink_metadata(&path).unwrap();
            match &node.body {
                Body::Folder(_) => self.compare_folder(*id, root, &relative, is_foreign),
                Body::File(content) => {
                    assert!(fs::read(&path).unwrap() == content.seen, "{}", path.display());
                }
                Body::Link(target) => assert_eq!(&fs::read_link(&path).unwrap(), target),
            }
            assert_eq!(found.permissions().mode() & 0o7777, node.mode, "{}", path.display());
        }
    }
}

fn set(names: &mut Names, name: &str, to: Option<Id>) {
    match to {
        Some(id) => names.insert(name.to_owned(), id),
        None => names.remove(name),
    };
}

fn keep(nodes: &mut [Node], edge: &Edge) {
    let Body::Folder(names) = &mut nodes[edge.folder].body else { panic!("no folder") };
    set(&mut names.safe, &edge.name, edge.to);
}

/// What is left of a file that was not synced.
fn left(content: &Both<Vec<u8>>, how: End, random: &mut Random) -> Vec<u8> {
    let Both { safe, seen } = content;
    let sectors = seen.len().div_ceil(SECTOR);
    let mut left = match how {
        End::Lost => return safe.clone(),
        // Its new length was kept or not.
        End::Scattered if random.below(2) == 0 => safe.clone(),
        _ => {
            let mut grown = safe.clone();
            grown.resize(seen.len(), 0);
            grown
        }
    };
    let most = random.below(sectors + 1);
    for sector in 0..sectors {
        let is_kept = match how {
            End::Torn => sector < most,
            End::Scattered => random.below(2) == 0,
            _ => false,
        };
        let end = seen.len().min((sector + 1) * SECTOR).min(left.len());
        let start = end.min(sector * SECTOR);
        if is_kept {
            left[start..end].copy_from_slice(&seen[start..end]);
        }
    }
    left
}

//! What a simulated disk holds: what can be read now, what is durable, and what lies between.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::{DiskFault, Exercised, Operation, PowerCut};

/// What a disk writes at once or not at all, in bytes.
const SECTOR: u64 = 512;

/// A change of a file that is not synced.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, bytes: Bytes },
    Length(u64),
}

/// A change of a name that is not synced.
#[derive(Clone, Debug)]
pub(super) enum Naming {
    Bind(String, u64),
    Unbind(String),
    Move(String, String),
}

/// How an operation ends.
pub(super) enum Course {
    Runs,
    Fails(DiskFault),
    /// The power fails while it runs.
    Cut,
}

/// One file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Counts open handles: a file without name and handle is gone.
    pub(super) held: Arc<()>,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    random: u64,
    pub(super) epoch: u64,
    pub(super) powered: bool,
    pub(super) cut_at: Option<u64>,
    pub(super) names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    names_unsynced: Vec<Naming>,
    pub(super) files: BTreeMap<u64, Content>,
    files_made: u64,
    pub(super) capacity: Option<u64>,
    /// What fails, after how many more of its kind, and how.
    pub(super) faults: Vec<(Operation, u64, DiskFault)>,
    pub(super) exercised: Exercised,
}

pub(super) fn power_lost() -> io::Error {
    io::Error::other("simulated: the power is off")
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: seed,
            epoch: 0,
            powered: true,
            cut_at: None,
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            names_unsynced: Vec::new(),
            files: BTreeMap::new(),
            files_made: 0,
            capacity: None,
            faults: Vec::new(),
            exercised: Exercised::default(),
        }
    }

    pub(super) fn reseed(&mut self, seed: u64) {
        self.random = seed;
    }

    pub(super) fn check(&self, epoch: u64) -> io::Result<()> {
        if self.powered && self.epoch == epoch { Ok(()) } else { Err(power_lost()) }
    }

    /// Counts one operation that changes something and says how it ends.
    pub(super) fn course(&mut self, epoch: u64, operation: Operation) -> io::Result<Course> {
        self.check(epoch)?;
        let number = self.exercised.operations;
        self.exercised.operations += 1;
        if self.cut_at.is_some_and(|cut_at| cut_at <= number) {
            self.powered = false;
            return Ok(Course::Cut);
        }
        let mut due = None;
        for (place, (of, skip, fault)) in self.faults.iter_mut().enumerate() {
            match (*of == operation, *skip) {
                (false, _) => {}
                (true, 0) => due = due.or(Some((place, *fault))),
                (true, _) => *skip -= 1,
            }
        }
        let Some((place, fault)) = due else { return Ok(Course::Runs) };
        self.faults.remove(place);
        match fault {
            DiskFault::NoSpace => self.exercised.no_space += 1,
            DiskFault::Io => self.exercised.io_errors += 1,
        }
        Ok(Course::Fails(fault))
    }

    pub(super) fn add_file(&mut self) -> u64 {
        self.files_made += 1;
        self.files.insert(self.files_made, Content::default());
        self.files_made
    }

    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) {
        let file = self.add_file();
        if let Some(content) = self.files.get_mut(&file) {
            (content.now, content.durable) = (bytes.to_vec(), bytes.to_vec());
        }
        self.names.insert(name.into(), file);
        self.names_durable.insert(name.into(), file);
    }

    pub(super) fn rename(&mut self, naming: Naming) {
        apply_naming(&mut self.names, &naming);
        self.names_unsynced.push(naming);
    }

    pub(super) fn sync_names(&mut self) {
        for naming in mem::take(&mut self.names_unsynced) {
            apply_naming(&mut self.names_durable, &naming);
        }
        let named: Vec<u64> = self.names.values().copied().collect();
        self.files
            .retain(|file, content| named.contains(file) || Arc::strong_count(&content.held) > 1);
    }

    /// Bytes of all files that have a name.
    pub(super) fn used(&self) -> u64 {
        let named = self.names.values().filter_map(|file| self.files.get(file));
        named.map(|content| content.now.len() as u64).sum()
    }

    pub(super) fn length(&self, file: u64, epoch: u64) -> io::Result<u64> {
        self.check(epoch)?;
        let content = self.files.get(&file).ok_or(io::ErrorKind::NotFound)?;
        Ok(content.now.len() as u64)
    }

    pub(super) fn write(
        &mut self,
        file: u64,
        epoch: u64,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        let course = self.course(epoch, Operation::Write)?;
        self.room_for(file, offset + bytes.len() as u64)?;
        let failed = match course {
            Course::Runs => None,
            Course::Cut => Some(power_lost()),
            Course::Fails(fault) => Some(fault.error()),
        };
        let part = match course {
            Course::Fails(_) => self.below(bytes.len() as u64 + 1),
            Course::Runs | Course::Cut => bytes.len() as u64,
        };
        let part = bytes.get(..usize::try_from(part).unwrap_or(0)).unwrap_or_default();
        self.exercised.writes += 1;
        self.exercised.bytes_written += part.len() as u64;
        self.change(file, Change::Write { offset, bytes: Bytes::copy_from_slice(part) })?;
        failed.map_or(Ok(()), Err)
    }

    pub(super) fn set_length(
        &mut self,
        file: u64,
        epoch: u64,
        operation: Operation,
        length: u64,
    ) -> io::Result<()> {
        let course = self.course(epoch, operation)?;
        self.room_for(file, length)?;
        match course {
            Course::Fails(fault) => Err(fault.error()),
            Course::Runs => self.change(file, Change::Length(length)),
            Course::Cut => {
                self.change(file, Change::Length(length)).and_then(|()| Err(power_lost()))
            }
        }
    }

    pub(super) fn sync(
        &mut self,
        file: u64,
        epoch: u64,
        sync_failed: &AtomicBool,
    ) -> io::Result<()> {
        let course = self.course(epoch, Operation::Sync)?;
        self.exercised.syncs += 1;
        let mut random = self.random;
        let content = self.files.get_mut(&file).ok_or(io::ErrorKind::NotFound)?;
        if sync_failed.load(Ordering::Relaxed) {
            self.exercised.syncs_after_failure += 1;
        }
        let outcome = match course {
            Course::Cut => Err(power_lost()),
            Course::Runs => {
                for change in mem::take(&mut content.unsynced) {
                    apply(&mut content.durable, &change);
                }
                Ok(())
            }
            Course::Fails(fault) => {
                sync_failed.store(true, Ordering::Relaxed);
                let unsynced = mem::take(&mut content.unsynced);
                scatter(&mut content.durable, &unsynced, &mut random);
                Err(fault.error())
            }
        };
        self.random = random;
        outcome
    }

    pub(super) fn kill(&mut self) {
        self.exercised.kills += 1;
        self.restart();
    }

    pub(super) fn power_cut(&mut self, how: PowerCut) {
        self.exercised.power_cuts += 1;
        let namings = mem::take(&mut self.names_unsynced);
        let kept = match how {
            PowerCut::Lost => 0,
            PowerCut::Torn | PowerCut::Scattered | PowerCut::Grown => {
                self.below(namings.len() as u64 + 1)
            }
        };
        for naming in namings.iter().take(usize::try_from(kept).unwrap_or(0)) {
            apply_naming(&mut self.names_durable, naming);
        }
        self.names = self.names_durable.clone();
        let named: Vec<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
        let mut random = self.random;
        for content in self.files.values_mut() {
            let unsynced = mem::take(&mut content.unsynced);
            let lost = survive(&mut content.durable, &unsynced, how, &mut random);
            self.exercised.changes_lost += lost;
            content.now.clone_from(&content.durable);
            content.held = Arc::new(());
        }
        self.random = random;
        self.restart();
    }

    fn restart(&mut self) {
        self.epoch += 1;
        self.powered = true;
        self.cut_at = None;
    }

    fn change(&mut self, file: u64, change: Change) -> io::Result<()> {
        let content = self.files.get_mut(&file).ok_or(io::ErrorKind::NotFound)?;
        apply(&mut content.now, &change);
        content.unsynced.push(change);
        Ok(())
    }

    fn room_for(&mut self, file: u64, length: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let own = self.files.get(&file).map_or(0, |content| content.now.len() as u64);
        if length > own && self.used() + (length - own) > capacity {
            self.exercised.no_space += 1;
            return Err(DiskFault::NoSpace.error());
        }
        Ok(())
    }

    fn below(&mut self, limit: u64) -> u64 {
        below(&mut self.random, limit)
    }
}

/// A number below `limit`, by the `SplitMix64` sequence: equal seeds give equal disks.
fn below(random: &mut u64, limit: u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).checked_rem(limit).unwrap_or(0)
}

fn apply_naming(names: &mut BTreeMap<String, u64>, naming: &Naming) {
    match naming {
        Naming::Bind(name, file) => {
            names.insert(name.clone(), *file);
        }
        Naming::Unbind(name) => {
            names.remove(name);
        }
        Naming::Move(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => resize(content, usize::try_from(*length).unwrap_or(0)),
        Change::Write { offset, bytes } => {
            let from = usize::try_from(*offset).unwrap_or(0);
            let to = from + bytes.len();
            if content.len() < to {
                resize(content, to);
            }
            if let Some(place) = content.get_mut(from..to) {
                place.copy_from_slice(bytes);
            }
        }
    }
}

/// Segments grow by megabytes, and without optimisation `Vec::resize` writes byte by byte.
fn resize(content: &mut Vec<u8>, len: usize) {
    if len > content.capacity() {
        let mut grown = vec![0; len];
        if let Some(start) = grown.get_mut(..content.len()) {
            start.copy_from_slice(content);
        }
        *content = grown;
    } else {
        content.resize(len, 0);
    }
}

/// Decides what of `unsynced` reached the disk. Says how many changes did not, or not whole.
fn survive(durable: &mut Vec<u8>, unsynced: &[Change], how: PowerCut, random: &mut u64) -> u64 {
    let count = unsynced.len() as u64;
    match how {
        PowerCut::Lost => count,
        PowerCut::Scattered => scatter(durable, unsynced, random),
        PowerCut::Torn => {
            let kept = below(random, count + 1);
            let mut rest = unsynced.iter();
            for change in rest.by_ref().take(usize::try_from(kept).unwrap_or(0)) {
                apply(durable, change);
            }
            if let Some(Change::Write { offset, bytes }) = rest.next() {
                let pieces = sectors(*offset, bytes);
                let whole = below(random, pieces.len() as u64);
                for piece in pieces.iter().take(usize::try_from(whole).unwrap_or(0)) {
                    apply(durable, piece);
                }
            }
            count - kept
        }
        PowerCut::Grown => {
            for change in unsynced {
                let length = match change {
                    Change::Length(length) => *length,
                    Change::Write { offset, bytes } => {
                        (offset + bytes.len() as u64).max(durable.len() as u64)
                    }
                };
                apply(durable, &Change::Length(length));
            }
            count
        }
    }
}

/// Keeps each change whole, in part, or not at all.
fn scatter(durable: &mut Vec<u8>, unsynced: &[Change], random: &mut u64) -> u64 {
    let mut lost = 0;
    for change in unsynced {
        match (below(random, 4), change) {
            (0, _) => apply(durable, change),
            (1, _) | (_, Change::Length(_)) => lost += 1,
            (_, Change::Write { offset, bytes }) => {
                lost += 1;
                for piece in sectors(*offset, bytes) {
                    if below(random, 2) == 0 {
                        apply(durable, &piece);
                    }
                }
            }
        }
    }
    lost
}

/// A write in the pieces that a disk writes at once.
fn sectors(offset: u64, bytes: &Bytes) -> Vec<Change> {
    let mut rest = bytes.clone();
    let mut at = offset;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let room = usize::try_from(SECTOR - at % SECTOR).unwrap_or(1);
        let piece = rest.split_to(room.min(rest.len()));
        let offset = at;
        at += piece.len() as u64;
        out.push(Change::Write { offset, bytes: piece });
    }
    out
}

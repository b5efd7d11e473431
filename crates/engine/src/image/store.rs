//! The folder of images: `blobs/sha256` (configurations), `layers/<DiffID>`, `refs`.
//!
//! Nothing appears under its final name before all of it was checked; renames make it so.
//! Compressed layers are not kept.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::planted;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::files::{self, Change, write_whole};
use crate::image::digest::Digest;
use crate::image::import::{self, Found, FoundLayer, ImageDocument};
use crate::image::reference::Reference;
use crate::image::source::Source;
use crate::image::unpack::Unpacker;
use crate::runtime::{ImageArchive, ImageImported, ImageState};

/// The images of one engine.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
    unpacker: Unpacker,
    /// Held by imports and sweeps, so that a sweep cannot take what an import counts on.
    turn: Mutex<()>,
}

/// An image ready to be run.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// What the store knows it as.
    pub state: ImageState,
    /// Its configuration.
    pub document: ImageDocument,
    /// Folders of its layers, lowest first.
    pub layers: Vec<PathBuf>,
}

/// A file in `refs`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    reference: String,
    digest: Digest,
    config: Digest,
    layers: Vec<Digest>,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Layers removed.
    pub layers: u64,
    /// Configurations removed.
    pub blobs: u64,
}

fn at(path: &Path) -> impl Fn(io::Error) -> EngineError + '_ {
    move |error| EngineError::system(path.display().to_string(), error)
}

impl ImageStore {
    /// Opens the folder, made if absent, and clears what a crash left half done. `monitor` is
    /// the program `selvedge-monitor`, which unpacks.
    ///
    /// # Errors
    /// `InvalidImage`, `DigestMismatch` or `ImageMissing` as fits; `System` when the disk fails.
    pub fn open(root: &Path, monitor: &Path) -> Result<Self, EngineError> {
        files::ensure_folder(root).map_err(at(root))?;
        // Layers hold set-user-id files of others; only root may reach them.
        Change::SetMode { path: root, mode: 0o700 }.apply().map_err(at(root))?;
        for folder in ["blobs/sha256", "layers", "refs", "scratch"] {
            let folder = root.join(folder);
            // Who made the names in it may have been killed before it could make sure of them,
            // and from now on they are trusted.
            files::ensure_folder(&folder)
                .and_then(|()| files::sync_names(&folder))
                .map_err(at(&folder))?;
        }
        for folder in ["refs", "blobs/sha256"] {
            files::clear_half_written(&root.join(folder)).map_err(at(root))?;
        }
        for path in children(&root.join("scratch"))? {
            files::remove_tree(&path).map_err(at(&path))?;
        }
        let unpacker = Unpacker::new(monitor);
        Ok(Self { root: root.to_owned(), unpacker, turn: Mutex::new(()) })
    }

    /// Whether layers were unpacked without Landlock, which this kernel lacks.
    pub fn without_landlock(&self) -> bool {
        self.unpacker.without_landlock()
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // The guarded state is on disk, where a panic leaves nothing half named.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn record(&self, reference: &Reference) -> PathBuf {
        let name = Digest::of(reference.tagged().as_bytes());
        self.root.join("refs").join(format!("{}.json", name.hex()))
    }

    /// Imports every image of an archive, or none.
    ///
    /// # Errors
    /// `InvalidImage`, `DigestMismatch` or `ImageMissing` as fits; `System` when the disk fails.
    pub fn import(&self, archive: &ImageArchive) -> Result<ImageImported, EngineError> {
        let _turn = self.turn();
        let source = Source::open(&archive.path, &self.root.join("scratch"))?;
        let found = import::inspect(&source, archive.reference.as_deref())?;
        let mut bytes_new = 0;
        for layer in found.iter().flat_map(|image| &image.layers) {
            if !self.layer(&layer.diff_id).exists() {
                bytes_new += self.unpack(&source, layer)?;
            }
        }
        let mut images = Vec::new();
        for image in &found {
            images.push(self.name(image)?);
        }
        Ok(ImageImported { images, bytes_new })
    }

    fn unpack(&self, source: &Source, found: &FoundLayer) -> Result<u64, EngineError> {
        let scratch = self.root.join("scratch").join(found.diff_id.hex());
        files::make_folder(&scratch).map_err(at(&scratch))?;
        self.unpack_in(&scratch, source, found).inspect_err(|_| {
            // The first error counts; the next start clears the folder again.
            files::remove_tree(&scratch).ok();
        })
    }

    fn unpack_in(
        &self,
        scratch: &Path,
        source: &Source,
        found: &FoundLayer,
    ) -> Result<u64, EngineError> {
        let (part, form) = import::find_layer(source, found)?;
        let unpacked = self.unpacker.unpack(part, form, scratch)?;
        if unpacked.diff_id != found.diff_id {
            return Err(EngineError::DigestMismatch {
                subject: "a layer's uncompressed content".to_owned(),
                expected: found.diff_id.to_string(),
                found: unpacked.diff_id.to_string(),
            });
        }
        // Data first, then the name: a layer with a name is whole, also after power loss.
        // Planted: the name first.
        if !planted::is("layer_named_before_sync") {
            Change::SyncDisk { folder: scratch }.apply().map_err(at(scratch))?;
        }
        let target = self.layer(&found.diff_id);
        Change::Rename { from: scratch, to: &target }.apply().map_err(at(&target))?;
        files::sync_names(&self.root.join("layers")).map_err(at(&target))?;
        Ok(unpacked.bytes)
    }

    fn name(&self, image: &Found) -> Result<ImageState, EngineError> {
        let config = Digest::of(&image.config_bytes);
        write_whole(&self.blob(&config), &image.config_bytes)?;
        let record = Record {
            version: 1,
            reference: image.reference.tagged(),
            digest: image.digest.clone(),
            config,
            layers: image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        };
        let text = serde_json::to_vec(&record)
            .map_err(|error| EngineError::system("writing a reference", error))?;
        write_whole(&self.record(&image.reference), &text)?;
        Ok(self.load(&record)?.state)
    }

    fn load(&self, record: &Record) -> Result<StoredImage, EngineError> {
        let path = self.blob(&record.config);
        let bytes = fs::read(&path).map_err(at(&path))?;
        let found = Digest::of(&bytes);
        if found != record.config {
            return Err(EngineError::DigestMismatch {
                subject: path.display().to_string(),
                expected: record.config.to_string(),
                found: found.to_string(),
            });
        }
        let document: ImageDocument = serde_json::from_slice(&bytes)
            .map_err(|error| EngineError::system(path.display().to_string(), error))?;
        let labels = document.config.as_ref().and_then(|config| config.labels.clone());
        let state = ImageState {
            reference: record.reference.clone(),
            digest: record.digest.to_string(),
            labels: labels.unwrap_or_default(),
        };
        let layers = record.layers.iter().map(|diff_id| self.layer(diff_id)).collect();
        Ok(StoredImage { state, document, layers })
    }

    fn records(&self) -> Result<Vec<(PathBuf, Record)>, EngineError> {
        let folder = self.root.join("refs");
        let mut all = Vec::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let path = entry.map_err(at(&folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = fs::read(&path).map_err(at(&path))?;
                let record = serde_json::from_slice(&text)
                    .map_err(|error| EngineError::system(path.display().to_string(), error))?;
                all.push((path, record));
            }
        }
        all.sort_by(|(_, a): &(_, Record), (_, b)| a.reference.cmp(&b.reference));
        Ok(all)
    }

    /// Every reference, sorted.
    ///
    /// # Errors
    /// `InvalidImage`, `DigestMismatch` or `ImageMissing` as fits; `System` when the disk fails.
    pub fn images(&self) -> Result<Vec<ImageState>, EngineError> {
        let records = self.records()?;
        records.iter().map(|(_, record)| Ok(self.load(record)?.state)).collect()
    }

    /// The image `reference` stands for. A digest in it must be the image's own.
    ///
    /// # Errors
    /// `InvalidImage`, `DigestMismatch` or `ImageMissing` as fits; `System` when the disk fails.
    pub fn find(&self, reference: &str) -> Result<StoredImage, EngineError> {
        let wanted: Reference = reference.parse()?;
        let missing = || EngineError::ImageMissing { image: reference.to_owned() };
        let path = self.record(&wanted);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            text => text.map_err(at(&path))?,
        };
        let record: Record = serde_json::from_slice(&text)
            .map_err(|error| EngineError::system(path.display().to_string(), error))?;
        match wanted.digest() {
            Some(digest) if *digest != record.digest => Err(EngineError::DigestMismatch {
                subject: format!("image {}", wanted.tagged()),
                expected: digest.to_string(),
                found: record.digest.to_string(),
            }),
            _ => self.load(&record),
        }
    }

    /// Forgets a reference; a later sweep frees the room.
    ///
    /// # Errors
    /// `InvalidImage`, `DigestMismatch` or `ImageMissing` as fits; `System` when the disk fails.
    pub fn forget(&self, reference: &str) -> Result<(), EngineError> {
        let _turn = self.turn();
        let path = self.record(&reference.parse()?);
        match (Change::RemoveFile { path: &path }).apply() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(EngineError::ImageMissing { image: reference.to_owned() })
            }
            done => {
                done.and_then(|()| files::sync_names(&self.root.join("refs"))).map_err(at(&path))
            }
        }
    }

    /// Removes layers and configurations that neither a reference nor `in_use` (layer folders of
    /// existing containers) needs.
    ///
    /// # Errors
    /// `InvalidImage`, `DigestMismatch` or `ImageMissing` as fits; `System` when the disk fails.
    pub fn sweep(&self, in_use: &BTreeSet<PathBuf>) -> Result<Swept, EngineError> {
        let _turn = self.turn();
        let mut marked = in_use.clone();
        for (_, record) in self.records()? {
            marked.insert(self.blob(&record.config));
            marked.extend(record.layers.iter().map(|diff_id| self.layer(diff_id)));
        }
        let mut swept = Swept::default();
        let (layers, scratch) = (self.root.join("layers"), self.root.join("scratch"));
        for path in children(&layers)? {
            let Some(name) = path.file_name().filter(|_| !marked.contains(&path)) else { continue };
            let gone = scratch.join(name);
            Change::Rename { from: &path, to: &gone }.apply().map_err(at(&path))?;
            // A layer that has a name is whole: it is taken apart when the name is gone for good.
            files::sync_names(&layers).map_err(at(&layers))?;
            files::remove_tree(&gone).map_err(at(&gone))?;
            swept.layers += 1;
        }
        for path in children(&self.root.join("blobs/sha256"))? {
            if !marked.contains(&path) {
                files::remove_file(&path).map_err(at(&path))?;
                swept.blobs += 1;
            }
        }
        Ok(swept)
    }
}

fn children(folder: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let entries = fs::read_dir(folder).map_err(at(folder))?;
    entries.map(|entry| Ok(entry.map_err(at(folder))?.path())).collect()
}

#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod tests;

//! From an archive to layers and a reference: OCI layouts and what `docker save` writes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::EngineError;
use crate::image::archive::architecture;
use crate::image::digest::{Digest, HashingReader};
use crate::image::reference::Reference;
use crate::image::source::{Part, Source};
use crate::image::unpack::Form;

/// Most layers of one image; overlayfs and Docker stop near there too.
pub const LAYERS_MAX: usize = 127;
/// Most bytes of one layer as it lies in the archive.
const LAYER_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Most images in one archive.
const IMAGES_MAX: usize = 32;

/// An image an archive holds, its documents checked against their digests, layers not yet read.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) reference: Reference,
    /// Of the manifest; of the configuration where there is no manifest.
    pub(crate) digest: Digest,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) layers: Vec<FoundLayer>,
}

/// A layer of an archive.
#[derive(Debug)]
pub(crate) struct FoundLayer {
    file: String,
    /// Digest of the file as it lies in the archive, where one is promised.
    blob: Option<Digest>,
    gzip: Option<bool>,
    pub(crate) diff_id: Digest,
}

/// The image configuration, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ImageDocument {
    /// Processor, in the OCI's words.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default)]
    pub config: Option<ImageConfig>,
    /// What it consists of.
    pub rootfs: RootFs,
}

/// The layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// `DiffID`s, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    /// Program and first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Further arguments, or the program when there is no entry point.
    pub cmd: Option<Vec<String>>,
    /// Where the program starts.
    pub working_dir: Option<String>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal of a polite stop.
    pub stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The images of an archive. `name` replaces the archive's own, and then it must hold just one.
pub(crate) fn inspect(source: &Source, name: Option<&str>) -> Result<Vec<Found>, EngineError> {
    let name = name.map(str::parse::<Reference>).transpose()?;
    let found = if let Some(index) = source.document("index.json")? {
        layout(source, &parse(&index, "index.json")?, name.as_ref())?
    } else if let Some(manifest) = source.document("manifest.json")? {
        saved(source, &parse::<Vec<SavedImage>>(&manifest, "manifest.json")?, name.as_ref())?
    } else {
        return Err(EngineError::image("neither index.json nor manifest.json is in the archive"));
    };
    match found.len() {
        0 => Err(EngineError::image("the archive holds no image")),
        2.. if name.is_some() => {
            Err(EngineError::image("the archive holds several images, so one name cannot do"))
        }
        len if len > IMAGES_MAX => {
            Err(EngineError::image(format!("the archive holds more than {IMAGES_MAX} images")))
        }
        _ => Ok(found),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, EngineError> {
    serde_json::from_slice(bytes)
        .map_err(|error| EngineError::image(format!("{what} cannot be read: {error}")))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A document of an OCI layout, checked against the digest that names it.
fn blob(source: &Source, digest: &Digest) -> Result<Vec<u8>, EngineError> {
    let bytes = source
        .document(&blob_name(digest))?
        .ok_or_else(|| EngineError::image(format!("blob {digest} is not in the archive")))?;
    check(format!("blob {digest}"), digest, &Digest::of(&bytes))?;
    Ok(bytes)
}

fn check(subject: String, expected: &Digest, found: &Digest) -> Result<(), EngineError> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (expected.to_string(), found.to_string());
    Err(EngineError::DigestMismatch { subject, expected, found })
}

fn layout(
    source: &Source,
    index: &Index,
    name: Option<&Reference>,
) -> Result<Vec<Found>, EngineError> {
    let mut all = Vec::new();
    for entry in index.manifests.iter().take(IMAGES_MAX + 1) {
        let reference = match name {
            Some(name) => name.clone(),
            None => annotated(entry)?,
        };
        let mut digest = entry.digest.clone();
        if entry.media_type.contains("index") || entry.media_type.contains("manifest.list") {
            let nested: Index = parse(&blob(source, &digest)?, "the image index")?;
            let fits = |entry: &&Descriptor| {
                entry.platform.as_ref().is_some_and(|platform| {
                    platform.os == "linux" && platform.architecture == architecture()
                })
            };
            let fitting = nested.manifests.iter().find(fits).ok_or_else(|| {
                EngineError::image(format!("{reference} has no image for {}", architecture()))
            })?;
            digest = fitting.digest.clone();
        }
        let manifest: Manifest = parse(&blob(source, &digest)?, "the image manifest")?;
        let config_bytes = blob(source, &manifest.config.digest)?;
        let files = manifest.layers.iter().map(|layer| {
            let gzip = match layer.media_type.as_str() {
                kind if kind.ends_with("gzip") => Some(true),
                "application/vnd.oci.image.layer.v1.tar" => Some(false),
                kind => return Err(EngineError::image(format!("layer type {kind:?}"))),
            };
            Ok((blob_name(&layer.digest), Some(layer.digest.clone()), gzip))
        });
        let layers = join(&config_bytes, files.collect::<Result<_, _>>()?)?;
        all.push(Found { reference, digest, config_bytes, layers });
    }
    Ok(all)
}

/// The name in the annotations: containerd's holds all of it, the OCI's perhaps only a tag.
fn annotated(entry: &Descriptor) -> Result<Reference, EngineError> {
    let annotations = entry.annotations.as_ref();
    let value = |key: &str| annotations.and_then(|all| all.get(key)).cloned();
    let full = value("io.containerd.image.name");
    let full = full.or_else(|| {
        value("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']))
    });
    full.ok_or_else(|| EngineError::image("the archive names no image; give a reference"))?.parse()
}

fn saved(
    source: &Source,
    images: &[SavedImage],
    name: Option<&Reference>,
) -> Result<Vec<Found>, EngineError> {
    let mut all = Vec::new();
    for image in images.iter().take(IMAGES_MAX + 1) {
        let config_bytes = source.document(&image.config)?.ok_or_else(|| {
            EngineError::image(format!("{:?} is not in the archive", image.config))
        })?;
        let digest = Digest::of(&config_bytes);
        // Docker names the file by its digest; other writers may not.
        let stem = image.config.rsplit('/').next().unwrap_or("").trim_end_matches(".json");
        if let Ok(promised) = format!("sha256:{stem}").parse::<Digest>() {
            check(format!("configuration {:?}", image.config), &promised, &digest)?;
        }
        let references: Vec<Reference> = match name {
            Some(name) => vec![name.clone()],
            None => image
                .repo_tags
                .iter()
                .flatten()
                .take(IMAGES_MAX)
                .map(|tag| tag.parse())
                .collect::<Result<_, _>>()?,
        };
        if references.is_empty() {
            return Err(EngineError::image("the archive names no image; give a reference"));
        }
        for reference in references {
            let files = image.layers.iter().map(|file| (file.clone(), None, None)).collect();
            let layers = join(&config_bytes, files)?;
            let (digest, config_bytes) = (digest.clone(), config_bytes.clone());
            all.push(Found { reference, digest, config_bytes, layers });
        }
    }
    Ok(all)
}

type LayerFileRow = (String, Option<Digest>, Option<bool>);

/// Layer files beside their `DiffID`s.
fn join(config: &[u8], files: Vec<LayerFileRow>) -> Result<Vec<FoundLayer>, EngineError> {
    let document: ImageDocument = parse(config, "the image configuration")?;
    if document.os != "linux" || document.architecture != architecture() {
        return Err(EngineError::image(format!(
            "the image is for {}/{}, this device is linux/{}",
            document.os,
            document.architecture,
            architecture()
        )));
    }
    let diff_ids = document.rootfs.diff_ids;
    if diff_ids.len() != files.len() {
        let message = format!("{} layers but {} DiffIDs", files.len(), diff_ids.len());
        return Err(EngineError::image(message));
    }
    if files.len() > LAYERS_MAX {
        return Err(EngineError::image(format!("the image has more than {LAYERS_MAX} layers")));
    }
    let rows = files.into_iter().zip(diff_ids);
    Ok(rows.map(|((file, blob, gzip), diff_id)| FoundLayer { file, blob, gzip, diff_id }).collect())
}

/// Where a layer lies and how it is packed. Its digest, where one is promised, is checked here:
/// nothing is unzipped that is not what the manifest names.
pub(crate) fn find_layer(source: &Source, layer: &FoundLayer) -> Result<(Part, Form), EngineError> {
    let part = source
        .part(&layer.file)?
        .ok_or_else(|| EngineError::image(format!("layer {:?} is missing", layer.file)))?;
    if let Some(promised) = &layer.blob {
        let damaged = |error| EngineError::image(format!("layer {:?}: {error}", layer.file));
        let mut file = HashingReader::new(part.reader().map_err(damaged)?, LAYER_BYTES_MAX);
        file.drain().map_err(damaged)?;
        check(format!("layer {:?}", layer.file), promised, &file.finish().0)?;
    }
    let form = match layer.gzip {
        None => Form::Detect,
        Some(true) => Form::Gzip,
        Some(false) => Form::Plain,
    };
    Ok((part, form))
}

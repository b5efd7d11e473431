//! Writes OCI archives, byte for byte reproducible: sorted, no times, no owners.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use crate::image::digest::Digest;

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct ImageContent {
    /// `name:tag`.
    pub reference: String,
    /// The `config` object of the image configuration: `Cmd`, `Env`, `User`, …
    pub config: Value,
    /// Uncompressed tar streams, lowest first; see [`layer`].
    pub layers: Vec<Vec<u8>>,
}

/// One file or folder (its path ends in `/`) of a layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerFile<'a> {
    /// Relative path.
    pub path: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// Empty for a folder.
    pub content: &'a [u8],
}

/// A layer of `files`, in the order given, owned by root, at time zero.
///
/// # Errors
/// Those of the writer.
pub fn layer(files: &[LayerFile<'_>]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = plain_header(file.content.len(), file.mode);
        if file.path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        archive.append_data(&mut header, file.path, file.content)?;
    }
    archive.into_inner()
}

fn plain_header(len: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(u64::try_from(len).unwrap_or(u64::MAX));
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Writes the image as an OCI layout in a tar stream, its layers gzipped.
///
/// # Errors
/// Those of the writer.
pub fn write_oci_archive(image: &ImageContent, target: impl Write) -> io::Result<()> {
    let config = configuration(image)?;
    let mut blobs = vec![config.clone()];
    let mut layers = Vec::new();
    for layer in &image.layers {
        let mut gz = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
        gz.write_all(layer)?;
        let blob = gz.finish()?;
        layers.push(descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &blob));
        blobs.push(blob);
    }
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers,
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    if let Value::Object(fields) = &mut entry {
        let name = json!({ "org.opencontainers.image.ref.name": image.reference });
        fields.insert("annotations".to_owned(), name);
    }
    blobs.push(manifest);
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] }))?;
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index),
    ];
    for blob in blobs {
        files.push((format!("blobs/sha256/{}", Digest::of(&blob).hex()), blob));
    }
    files.sort();
    files.dedup();
    write_files(&files, target)
}

fn configuration(image: &ImageContent) -> io::Result<Vec<u8>> {
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    Ok(serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": image.config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?)
}

/// This machine's processor in the words of the OCI.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": Digest::of(content).to_string(),
        "size": content.len(),
    })
}

/// A tar stream of plain files.
pub(crate) fn write_files(files: &[(String, Vec<u8>)], target: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(target);
    for (path, content) in files {
        let mut header = plain_header(content.len(), 0o644);
        archive.append_data(&mut header, path, content.as_slice())?;
    }
    archive.finish()
}

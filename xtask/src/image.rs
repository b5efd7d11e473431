//! OCI images of the modules, packed without Docker and byte for byte reproducible.
//!
//! An image is one layer: the static binary, a passwd file with an unprivileged user, and an
//! empty `/tmp`. The archive is an OCI layout in a tar file: sorted, with all times at zero.
//! `sdk_module` packs one more image, for the tests: a module on a stock SDK.

mod sdk_module;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{release_dir, say};

/// Modules that we ship as images.
const MODULES: &[&str] = &["host-sensor", "anomaly"];
/// The user that a module runs as unless its createOptions say otherwise.
const MODULE_USER: &str = "10001:10001";
const PASSWD: &str =
    "root:x:0:0:root:/:/sbin/nologin\nmodule:x:10001:10001:module:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nmodule:x:10001:\n";

/// Packs every module into `target/images/<name>.tar`.
pub(crate) fn pack_all(root: &Path) -> Result<()> {
    let images = root.join("target/images");
    fs::create_dir_all(&images).with_context(|| format!("making {}", images.display()))?;
    for module in MODULES {
        let binary = release_dir()?.join(module);
        let content = fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?;
        let archive = pack(module, &content)?;
        let path = images.join(format!("{module}.tar"));
        fs::write(&path, &archive).with_context(|| format!("writing {}", path.display()))?;
        say(&format!("image {module}: {} KiB, {}", archive.len() / 1024, path.display()));
    }
    Ok(())
}

/// Packs the module that the tests run on a stock SDK into `target/images/sdk-module.tar`.
pub(crate) fn pack_sdk_module(root: &Path) -> Result<()> {
    sdk_module::pack(root)
}

fn pack(module: &str, binary: &[u8]) -> Result<Vec<u8>> {
    let run = json!({
        "User": MODULE_USER,
        "Entrypoint": [format!("/usr/bin/{module}")],
        "Env": ["PATH=/usr/bin"],
        "WorkingDir": "/",
    });
    let reference = format!("selvedge/{module}:{}", env!("CARGO_PKG_VERSION"));
    archive(&reference, &run, &[layer(module, binary)?])
}

/// An OCI archive of an image that runs as `run` says, on `layers`, lowest first.
fn archive(reference: &str, run: &Value, layers: &[Vec<u8>]) -> Result<Vec<u8>> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    let config = config(run, &diff_ids)?;
    let mut blobs = Vec::new();
    for layer in layers {
        let mut gz = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
        gz.write_all(layer)?;
        blobs.push(gz.finish()?);
    }
    let layer = |blob: &Vec<u8>| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": blobs.iter().map(layer).collect::<Vec<_>>(),
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    if let Some(fields) = entry.as_object_mut() {
        let names = json!({ "org.opencontainers.image.ref.name": reference });
        fields.insert("annotations".to_owned(), names);
    }
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] }))?;
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index),
    ];
    for content in [config, manifest].into_iter().chain(blobs) {
        let name = digest(&content).replace(':', "/");
        files.push((format!("blobs/{name}"), content));
    }
    files.sort();
    let entries: Vec<Entry<'_>> =
        files.iter().map(|(path, content)| Entry { path, mode: 0o644, content }).collect();
    tar_of(&entries)
}

fn layer(module: &str, binary: &[u8]) -> Result<Vec<u8>> {
    let path = format!("usr/bin/{module}");
    tar_of(&[
        Entry { path: "etc/", mode: 0o755, content: &[] },
        Entry { path: "etc/group", mode: 0o644, content: GROUP.as_bytes() },
        Entry { path: "etc/passwd", mode: 0o644, content: PASSWD.as_bytes() },
        Entry { path: "tmp/", mode: 0o1777, content: &[] },
        Entry { path: "usr/", mode: 0o755, content: &[] },
        Entry { path: "usr/bin/", mode: 0o755, content: &[] },
        Entry { path: &path, mode: 0o755, content: binary },
    ])
}

fn config(run: &Value, diff_ids: &[String]) -> Result<Vec<u8>> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Ok(serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image" }],
    }))?)
}

struct Entry<'a> {
    path: &'a str,
    mode: u32,
    content: &'a [u8],
}

fn tar_of(entries: &[Entry<'_>]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        let folder = entry.path.ends_with('/');
        header.set_entry_type(if folder {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_size(u64::try_from(entry.content.len())?);
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive.append_data(&mut header, entry.path, entry.content)?;
    }
    Ok(archive.into_inner()?)
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_binary_packs_to_the_same_bytes_and_the_index_names_what_is_inside() {
        let first = pack("host-sensor", b"\x7fELF not really").unwrap();
        assert_eq!(first, pack("host-sensor", b"\x7fELF not really").unwrap());
        assert_ne!(first, pack("host-sensor", b"\x7fELF other").unwrap());

        let mut archive = tar::Archive::new(first.as_slice());
        let mut blobs = Vec::new();
        let mut index = Value::Null;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            if path == "index.json" {
                index = serde_json::from_slice(&content).unwrap();
            } else if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(&content), format!("sha256:{name}"));
                blobs.push(format!("sha256:{name}"));
            }
        }
        let manifest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        assert!(blobs.contains(&manifest) && blobs.len() == 3);
    }
}

//! `HostConfig.Binds`, `Mounts` and `Tmpfs`.

use std::path::PathBuf;

use super::Policy;
use super::fields::Fields;
use crate::error::EngineError;

/// Control sockets of container engines: whoever writes to one is root on the host.
const ENGINE_SOCKETS: &[&str] =
    &["docker.sock", "podman.sock", "containerd.sock", "crio.sock", "control.sock"];

/// Something mounted into a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOption {
    /// What.
    pub kind: MountKind,
    /// Absolute path inside the module.
    pub target: PathBuf,
    /// The module may not write.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A path of the host.
    Bind {
        /// Absolute.
        source: PathBuf,
        /// Make a missing source as a folder (`Binds` do, `Mounts` do not).
        make: bool,
        /// Word of mount(8), such as `rslave`.
        propagation: &'static str,
    },
    /// A folder the engine keeps.
    Volume {
        /// Its name.
        name: String,
    },
    /// Memory.
    Tmpfs {
        /// Mount options, as `size=64m`.
        options: Vec<String>,
    },
}

pub(super) fn target(at: &str, path: &str) -> Result<PathBuf, EngineError> {
    let bad = !path.starts_with('/') || path.split('/').any(|part| part == "..") || path == "/";
    if bad {
        let message = format!("{path:?} is no absolute path below the module's root");
        return Err(EngineError::option(at, message));
    }
    Ok(PathBuf::from(path))
}

fn source(at: &str, path: &str, policy: Policy) -> Result<PathBuf, EngineError> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(EngineError::option(at, format!("{path:?} is no absolute path of the host")));
    }
    let socket = ENGINE_SOCKETS.iter().any(|name| path.ends_with(&format!("/{name}")));
    if socket && !policy.engine_sockets {
        let message = "the control socket of a container engine is denied by policy";
        return Err(EngineError::option(at, message));
    }
    Ok(PathBuf::from(path))
}

fn volume_name_is_good(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.len() <= 128
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.bytes().all(good)
}

fn propagation(word: &str) -> Option<&'static str> {
    ["private", "rprivate", "slave", "rslave", "shared", "rshared"]
        .into_iter()
        .find(|known| *known == word)
}

/// `source:target[:options]`.
fn bind(at: &str, text: &str, policy: Policy) -> Result<MountOption, EngineError> {
    let refuse = |message: String| Err(EngineError::option(at, message));
    let parts: Vec<&str> = text.split(':').collect();
    let (from, to, options) = match parts.as_slice() {
        [from, to] => (*from, *to, ""),
        [from, to, options] => (*from, *to, *options),
        _ => return refuse(format!("{text:?} is not source:target[:options]")),
    };
    let (mut read_only, mut spread) = (false, "rprivate");
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Labels of SELinux, which this engine does not set.
            "rw" | "z" | "Z" | "nocopy" | "copy" => {}
            other => match propagation(other) {
                Some(word) => spread = word,
                None => return refuse(format!("option {other:?} is not known")),
            },
        }
    }
    let kind = if from.starts_with('/') {
        let source = source(at, from, policy)?;
        MountKind::Bind { source, make: true, propagation: spread }
    } else if volume_name_is_good(from) {
        MountKind::Volume { name: from.to_owned() }
    } else {
        return refuse(format!("{from:?} is neither an absolute path nor a volume's name"));
    };
    Ok(MountOption { kind, target: target(at, to)?, read_only })
}

fn mount(mut fields: Fields, policy: Policy) -> Result<MountOption, EngineError> {
    let kind = fields.string("Type")?.unwrap_or_default();
    let from = fields.string("Source")?.unwrap_or_default();
    let to = fields.string("Target")?.unwrap_or_default();
    let read_only = fields.flag("ReadOnly")?;
    let target = target(&fields.at("Target"), &to)?;
    fields.take("Consistency"); // Docker itself ignores it on Linux
    let kind = match kind.as_str() {
        "bind" => {
            let mut spread = "rprivate";
            if let Some(mut options) = fields.object("BindOptions")? {
                if let Some(word) = options.string("Propagation")? {
                    spread = propagation(&word).ok_or_else(|| {
                        EngineError::option(options.at("Propagation"), format!("{word:?}"))
                    })?;
                }
                options.refuse("NonRecursive", "binds include what is mounted below")?;
                options.refuse("CreateMountpoint", "use HostConfig.Binds, which does")?;
                strict(options)?;
            }
            let source = source(&fields.at("Source"), &from, policy)?;
            MountKind::Bind { source, make: false, propagation: spread }
        }
        "volume" if volume_name_is_good(&from) => {
            if let Some(mut options) = fields.object("VolumeOptions")? {
                options.refuse("DriverConfig", "volumes are plain folders")?;
                options.refuse("Subpath", "bind a folder instead")?;
                options.take("NoCopy");
                options.take("Labels");
                strict(options)?;
            }
            MountKind::Volume { name: from }
        }
        "volume" => return Err(EngineError::option(fields.at("Source"), "a volume needs a name")),
        "tmpfs" => {
            let mut words = Vec::new();
            if let Some(mut options) = fields.object("TmpfsOptions")? {
                let size = options.integer("SizeBytes")?;
                words.extend(size.map(|bytes| format!("size={bytes}")));
                let mode = options.integer("Mode")?;
                words.extend(mode.map(|mode| format!("mode={mode:o}")));
                strict(options)?;
            }
            MountKind::Tmpfs { options: words }
        }
        other => {
            let message = format!("{other:?} is none of bind, volume, tmpfs");
            return Err(EngineError::option(fields.at("Type"), message));
        }
    };
    strict(fields)?;
    Ok(MountOption { kind, target, read_only })
}

/// In a mount every field counts.
fn strict(fields: Fields) -> Result<(), EngineError> {
    let path = fields.at("");
    let mut unknown = Vec::new();
    fields.finish(&mut unknown)?;
    match unknown.into_iter().next() {
        None => Ok(()),
        Some(message) => Err(EngineError::option(path.trim_end_matches('.'), message)),
    }
}

/// All mounts of a `HostConfig`; a target may appear once.
pub(super) fn read(host: &mut Fields, policy: Policy) -> Result<Vec<MountOption>, EngineError> {
    let mut all: Vec<(String, MountOption)> = Vec::new();
    for (at, text) in host.strings("Binds")?.unwrap_or_default() {
        let option = bind(&at, &text, policy)?;
        all.push((at, option));
    }
    for (at, value) in host.items("Mounts")?.unwrap_or_default() {
        let option = mount(Fields::of(&at, value)?, policy)?;
        all.push((at, option));
    }
    let at = host.at("Tmpfs");
    for (path, words) in host.map("Tmpfs")?.unwrap_or_default() {
        let target = target(&at, &path)?;
        let options = words.split(',').filter(|word| !word.is_empty());
        let mut kept = Vec::new();
        let mut read_only = false;
        for word in options {
            let key = word.split('=').next().unwrap_or_default();
            match key {
                "ro" => read_only = true,
                "rw" | "nosuid" | "nodev" | "noexec" | "exec" | "size" | "mode" | "uid" | "gid"
                | "nr_inodes" => kept.push(word.to_owned()),
                _ => return Err(EngineError::option(&at, format!("option {word:?} is not known"))),
            }
        }
        let kind = MountKind::Tmpfs { options: kept };
        all.push((at.clone(), MountOption { kind, target, read_only }));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (at, option) in &all {
        if !seen.insert(option.target.clone()) {
            let message = format!("{} is mounted twice", option.target.display());
            return Err(EngineError::option(at, message));
        }
    }
    Ok(all.into_iter().map(|(_, option)| option).collect())
}

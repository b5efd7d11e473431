//! The root file system of a container: overlayfs over the layers of its image.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::EngineError;
use crate::runtime::EngineResult;

/// Mounts `layers` (lowest first) under `folder/rootfs`, with `folder/upper` on top.
pub(super) fn overlay(folder: &Path, layers: &[PathBuf]) -> EngineResult<()> {
    let failed = |error: &dyn std::fmt::Display| {
        EngineError::system(format!("mounting {}", folder.join("rootfs").display()), error)
    };
    // The kernel takes one page of options: descriptors are shorter than paths, and their names
    // cannot hold a colon.
    let mut open = Vec::new();
    for layer in layers.iter().rev() {
        let file = File::open(layer)
            .map_err(|error| EngineError::system(layer.display().to_string(), error))?;
        open.push(file);
    }
    let (upper, work) = (File::open(folder.join("upper")), File::open(folder.join("work")));
    let upper = upper.map_err(|error| failed(&error))?;
    let work = work.map_err(|error| failed(&error))?;
    let name = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let lower = open.iter().map(name).collect::<Vec<_>>().join(":");
    let options = format!("lowerdir={lower},upperdir={},workdir={}", name(&upper), name(&work));
    let (target, kind) = (folder.join("rootfs"), Some("overlay"));
    mount(kind, &target, kind, MsFlags::MS_NODEV, Some(options.as_str()))
        .map_err(|error| failed(&error))
}

/// Unmounts everything at `target`; nothing there is fine.
pub(super) fn unmount(target: &Path) -> EngineResult<()> {
    while is_mounted(target) {
        umount2(target, MntFlags::MNT_DETACH).map_err(|error| {
            EngineError::system(format!("unmounting {}", target.display()), error)
        })?;
    }
    Ok(())
}

/// Whether something is mounted exactly there.
pub(super) fn is_mounted(target: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let parent = target.parent().and_then(device);
    device(target).is_some_and(|own| parent != Some(own))
}

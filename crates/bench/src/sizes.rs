//! Sizes of the programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::figures::mebibytes;
use crate::peers;
use crate::report::line;

/// What ships.
const OURS: [(&str, &str); 5] = [
    ("selvedge", "hub, console and command line"),
    ("selvedge-edge", "device runtime"),
    ("selvedge-monitor", "one process per module"),
    ("host-sensor", "module"),
    ("anomaly", "module"),
];
/// What a device has of ours, and what of Docker.
const DEVICE: [&str; 2] = ["selvedge-edge", "selvedge-monitor"];
const DOCKER: [&str; 5] = ["dockerd", "docker", "containerd", "containerd-shim-runc-v2", "runc"];

/// Tells.
pub(crate) fn section() -> Result<()> {
    line("| program | what | MiB |");
    line("|---|---|---|");
    let mut device = 0;
    for (name, what) in OURS {
        let bytes = fs::metadata(blackbox::place::binary(name)?)?.len();
        if DEVICE.contains(&name) {
            device += bytes;
        }
        line(&format!("| {name} | {what} | {:.2} |", mebibytes(bytes)));
    }
    line(&format!("| **on a device** | {} | **{:.2}** |", DEVICE.join(", "), mebibytes(device)));
    let mut docker = 0;
    for name in DOCKER {
        match installed(name).and_then(|path| fs::metadata(path).ok()) {
            Some(found) => {
                docker += found.len();
                line(&format!("| {name} | Debian | {:.2} |", mebibytes(found.len())));
            }
            None => line(&format!("| {name} | not installed | – |")),
        }
    }
    line(&format!("| **of Docker** | those above | **{:.2}** |", mebibytes(docker)));
    line(&format!(
        "\nOurs: as `cargo xtask build` makes them (release, no link-time optimisation), \
         stripped, static: they need no library of the system. Docker's: as Debian packs them, \
         with libraries of the system. Peers: {}; {}.",
        peers::docker(),
        peers::runc()
    ));
    Ok(())
}

/// Where Debian puts it; another one may stand earlier in the path.
fn installed(name: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
    places.into_iter().find(|path| path.is_file())
}

//! What an operator writes into `config.toml`, against a real hub.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use blackbox::edge::{Edge, Options, Proof, Trust};
use blackbox::hub::{Door, Hub};
use blackbox::wait;

const SOON: Duration = Duration::from_secs(30);

fn start(scratch: &Path, hub: &Hub, device: &str, trust: Trust, proof: Proof) -> Result<Edge> {
    let folder = scratch.join(device);
    std::fs::create_dir(&folder)?;
    let log = "info,edge=debug";
    let options = Options { engine: "process", log, trust, proof, ..Options::default() };
    Edge::start(&folder, hub, device, options)
}

fn connects(edge: &Edge) -> Result<()> {
    wait::until("the device to reach its hub", SOON, || {
        let connected = edge.status()?["upstream_connected"] == true;
        Ok(connected.then_some(()))
    })
}

#[test]
fn a_device_finds_its_hub_by_uri_by_key_file_and_by_the_roots_of_its_system() -> Result<()> {
    // Short, because paths of Unix sockets are; the clone may lie anywhere.
    let scratch = tempfile::Builder::new().prefix("ec").tempdir_in("/tmp")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let system = || Trust::System(hub.ca());
    let mut by_uri = start(scratch.path(), &hub, "u", Trust::Bundle, Proof::ConnectionString)?;
    let mut by_file = start(scratch.path(), &hub, "f", system(), Proof::KeyFile)?;
    connects(&by_uri)?;
    connects(&by_file)?;

    // Roots that do not hold the hub's authority: the device never speaks to it.
    let other = by_uri.folder().join("keys/edge-ca.pem");
    let mut stranger =
        start(scratch.path(), &hub, "s", Trust::System(other), Proof::ConnectionString)?;
    wait::until("the stranger to be refused", SOON, || {
        Ok(stranger.log()?.contains("not connected").then_some(()))
    })?;
    ensure!(stranger.status()?["upstream_connected"] == false, "it connected");

    for edge in [&mut by_uri, &mut by_file, &mut stranger] {
        edge.stop()?;
    }
    hub.stop()?;
    drop((by_uri, by_file, stranger));
    Ok(scratch.close()?)
}

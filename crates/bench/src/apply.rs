//! From a manifest at the hub to the program on the device.

use std::time::Duration;

use anyhow::{Result, ensure};
use blackbox::edge::{HOSTNAME, Options, content, module};
use blackbox::wait;
use serde_json::{Value, json};

use crate::calls::Calls;
use crate::device::{DEVICE, Device, IMAGE, calling};
use crate::docker::Docker;
use crate::figures::Rounds;
use crate::report::{line, progress};
use crate::start::millis;
use crate::{clock, peers, targets};

/// A device that does not do as its manifest says by then is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rounds that nobody counts.
const WARM_UP: usize = 2;

/// Where the module's container is.
#[derive(Clone, Copy, Debug)]
struct Place {
    words: &'static str,
    network: &'static str,
    host: &'static str,
}

const HOST: Place = Place { words: "host network", network: "host", host: "127.0.0.1" };
const BRIDGE: Place = Place { words: "bridge, the default", network: "bridge", host: HOSTNAME };

/// Measures and tells. Needs root.
pub(crate) async fn section(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "at least one round");
    ensure!(nix::unistd::geteuid().is_root(), "containers need root");
    progress("apply: starting hub, device and dockerd");
    let device = Device::start(Options { engine: "embedded", ..Options::default() })?;
    let docker = match Docker::start().await {
        Ok(docker) => docker.load(&device.archive()).await.map(|()| docker),
        Err(error) => Err(error),
    };
    let calls = Calls::listen()?;
    let (mut new, mut changed, mut peer) =
        (Rounds::default(), Rounds::default(), Rounds::default());
    let mut bridged = Rounds::default();
    for round in 0..rounds + WARM_UP {
        if round % 5 == 0 {
            progress(&format!("apply: round {round} of {}", rounds + WARM_UP));
        }
        let [first, second] = one(&device, &calls, HOST, round).await?;
        let [third, _] = one(&device, &calls, BRIDGE, round).await?;
        let fourth = match &docker {
            Ok(docker) => Some(docker_once(docker, &calls, round).await?),
            Err(_) => None,
        };
        if round >= WARM_UP {
            new.push(first);
            changed.push(second);
            bridged.push(third);
            peer.extend(fourth);
        }
    }
    line("| what | p50 ms (least–most) | p95 |");
    line("|---|---|---|");
    for (name, rounds) in [
        (format!("selvedge: a new module, {}", HOST.words), &new),
        (format!("selvedge: a new module, {}", BRIDGE.words), &bridged),
        (format!("selvedge: a changed module, {}", HOST.words), &changed),
    ] {
        line(&format!("| {name} | {} | {:.1} |", rounds.text(1), rounds.percentile(95)));
    }
    match &docker {
        Ok(_) => line(&format!(
            "| Docker: create and start by its API, host network | {} | {:.1} |",
            peer.text(1),
            peer.percentile(95)
        )),
        Err(error) => line(&format!("| Docker | not measured: {error:#} | |")),
    }
    line(&format!(
        "\n{rounds} interleaved rounds after {WARM_UP} of warm-up. From the moment the request \
         with the manifest is sent to the hub until the module's program opens its first \
         connection: hub (validates, stores, pushes), device (stores, plans, makes the identity \
         known, opens the workload socket), engine (create, start). A changed module is ended \
         with SIGKILL and made anew. The image is on the device. Docker has neither hub nor \
         manifest; its row is what creating and starting alone takes there. Peers: {}.\n",
        peers::docker()
    ));
    line(&targets::APPLY.verdict(new.median().max(bridged.median())));
    Ok(())
}

/// A new module, the same one changed, and away with it; what the first two took.
async fn one(device: &Device, calls: &Calls, place: Place, round: usize) -> Result<[f64; 2]> {
    let name = format!("{}-{round}", place.network);
    let manifest = |value: &str| {
        let options = calling(place.host, calls.port, place.network);
        let made = module(IMAGE, &options, &[("VALUE", value)]);
        content(&Value::Object([(name.clone(), made)].into_iter().collect()), &json!({}))
    };
    let mut taken = [f64::NAN; 2];
    let mut held = Vec::new();
    for (taken, value) in taken.iter_mut().zip(["a", "b"]) {
        settle(device)?;
        let begun = clock::now();
        device.service.apply(DEVICE, &manifest(value)).await?;
        let call = calls.next()?;
        *taken = millis(call.at.saturating_duration_since(begun));
        held.push(call);
    }
    settle(device)?;
    device.service.apply(DEVICE, &content(&json!({}), &json!({}))).await?;
    wait::until("the module to go", PATIENCE, || Ok(device.modules()?.is_empty().then_some(())))?;
    drop(held);
    Ok(taken)
}

/// Waits until the device has nothing more to do, so that no round pays for the one before.
fn settle(device: &Device) -> Result<()> {
    wait::until("the device to be as desired", PATIENCE, || {
        let is_settled = |one: &Value| one.get("actual") == one.get("desired");
        Ok(device.modules()?.iter().all(is_settled).then_some(()))
    })?;
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

async fn docker_once(docker: &Docker, calls: &Calls, round: usize) -> Result<f64> {
    let (name, port) = (format!("apply-{round}"), calls.port.to_string());
    let begun = clock::now();
    docker.create(&name, IMAGE, &["dial", "127.0.0.1", &port]).await?;
    docker.begin(&name).await?;
    let call = calls.next()?;
    docker.remove(&name).await?;
    Ok(millis(call.at.saturating_duration_since(begun)))
}

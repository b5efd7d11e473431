//! From the start of the runtime's process to its interfaces and to its modules.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use blackbox::edge::Options;
use blackbox::place::MQTT_PORT;

use crate::calls::Calls;
use crate::device::{DEVICE, Device};
use crate::figures::Rounds;
use crate::report::{line, progress};
use crate::stack::{MODULES, deployment};
use crate::start::millis;
use crate::{clock, targets};

/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_secs(30);
/// Rounds that nobody counts.
const WARM_UP: usize = 2;

#[derive(Default)]
struct All {
    management: Rounds,
    workload: Rounds,
    router: Rounds,
    modules: Rounds,
}

/// Measures and tells. Needs root.
pub(crate) async fn section(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "at least one round");
    ensure!(nix::unistd::geteuid().is_root(), "containers need root");
    progress("ready: starting hub and device");
    let mut device = Device::start(Options { engine: "embedded", ..Options::default() })?;
    let calls = Calls::listen()?;
    device.service.apply(DEVICE, &deployment(calls.port)).await?;
    let mut held = calls.take(MODULES.len())?;
    let mut all = All::default();
    for round in 0..rounds + WARM_UP {
        progress(&format!("ready: round {} of {}", round + 1, rounds + WARM_UP));
        device.edge.stop()?;
        held.clear();
        let begun = clock::now();
        device.edge.spawn()?;
        let (router, management, workload) = watch(&device, begun)?;
        held = calls.take(MODULES.len())?;
        device.edge.ready()?;
        if round >= WARM_UP {
            all.router.push(router);
            all.management.push(management);
            all.workload.push(workload);
            let last = held.iter().map(|call| call.at).max().unwrap_or(begun);
            all.modules.push(millis(last.saturating_duration_since(begun)));
        }
    }
    line("| until | p50 ms (least–most) | p95 |");
    line("|---|---|---|");
    for (name, rounds) in [
        ("the management API answers", &all.management),
        ("the workload API answers a module", &all.workload),
        ("the router takes connections", &all.router),
        ("all 3 modules run", &all.modules),
    ] {
        line(&format!("| {name} | {} | {:.1} |", rounds.text(1), rounds.percentile(95)));
    }
    line(&format!(
        "\n{rounds} starts after {WARM_UP} of warm-up, from the start of the process \
         `selvedge-edge run` (embedded engine: launcher, runtime and engine helper) on a folder \
         with keys, a stored manifest of three modules and their stopped containers, with its \
         hub reachable. An API answers when a request over its Unix socket has got a status \
         line; it is tried every {} µs.\n",
        LOOK.as_micros()
    ));
    line(&targets::API_READY.verdict(all.management.median().max(all.workload.median())));
    Ok(())
}

/// When router, management API and workload API first answered, in milliseconds.
pub(crate) fn watch(device: &Device, begun: Instant) -> Result<(f64, f64, f64)> {
    let management = device.edge.folder().join("run/mgmt.sock");
    let workload = device.edge.workload_folder(MODULES[0]).join("workload.sock");
    let mut found = [None; 3];
    while found.iter().any(Option::is_none) {
        let now = || Some(millis(begun.elapsed()));
        let [router, operator, module] = &mut found;
        if router.is_none() && listens(device.edge.address()) {
            *router = now();
        }
        if operator.is_none() && answers(&management, "/status") {
            *operator = now();
        }
        if module.is_none() && answers(&workload, "/trust-bundle?api-version=2020-07-07") {
            *module = now();
        }
        if begun.elapsed() > PATIENCE {
            bail!("the runtime does not answer: {found:?}");
        }
        std::thread::sleep(LOOK);
    }
    let [router, operator, module] = found.map(Option::unwrap_or_default);
    Ok((router, operator, module))
}

fn listens(address: Ipv4Addr) -> bool {
    TcpStream::connect((address, MQTT_PORT)).is_ok()
}

fn answers(socket: &Path, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.starts_with(b"HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

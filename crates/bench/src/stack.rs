//! The whole device stack at rest with three modules, beside Docker with the same containers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blackbox::edge::{Options, content, module};
use serde_json::{Value, json};

use crate::calls::Calls;
use crate::device::{DEVICE, Device, IMAGE, calling, image};
use crate::docker::{Docker, FLAGS};
use crate::figures::mebibytes;
use crate::process::{Group, Memory, memory, threads};
use crate::report::{line, progress};
use crate::{device, peers, targets};

/// The modules.
pub(crate) const MODULES: [&str; 3] = ["one", "two", "three"];
/// How long a stack rests before it is measured.
const REST: Duration = Duration::from_secs(10);

/// One process of a stack.
struct One {
    name: String,
    memory: Memory,
    threads: usize,
}

fn one(name: &str, pid: u32) -> Result<One> {
    let memory = memory(pid).with_context(|| format!("{name}, process {pid}"))?;
    Ok(One { name: name.to_owned(), memory, threads: threads(pid) })
}

/// Measures and tells. Needs root.
pub(crate) async fn section() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "containers need root");
    line("| stack | process | threads | PSS MiB | of it anonymous | RSS MiB |");
    line("|---|---|---|---|---|---|");
    let (own, own_group) = ours().await?;
    let own_pss = tell("selvedge", &own);
    let peer = theirs().await;
    let mut docker = String::new();
    match &peer {
        Ok((all, group)) => {
            let pss = tell("Docker", all);
            docker = format!(
                " The same for Docker, all its containers' own groups left out: {}. Without the \
                 containers' own programs it takes {:.1} times our memory (PSS).",
                group_text(*group),
                pss / own_pss
            );
        }
        Err(error) => line(&format!("| Docker | not measured: {error:#} | | | | |")),
    }
    line(&format!(
        "\nThree containers of one static program each, which holds one TCP connection and \
         sleeps, on the host's network; measured {} s after the last of them ran. PSS shares \
         pages among those who map them. The sum leaves the modules' own programs out, on both \
         sides; ours has launcher, runtime (agent, router, workload API; connected to its hub by \
         MQTT over TLS), engine helper, and one monitor per module. \
         Memory of the control group in which the stack was started (kernel memory and touched \
         file pages included, idle file pages left out): {}.{docker}\n\n\
         Peers: {}, dockerd with {}.\n",
        REST.as_secs(),
        group_text(own_group),
        peers::docker(),
        FLAGS.join(" "),
    ));
    line(&targets::STACK.verdict(own_pss));
    Ok(())
}

fn group_text(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "not counted here".to_owned(), |it| format!("{:.1} MiB", mebibytes(it)))
}

/// Rows for all, and the sum without modules, which it gives in MiB.
fn tell(stack: &str, all: &[One]) -> f64 {
    let mut sum = Memory::default();
    for one in all {
        let Memory { rss, pss, anonymous } = one.memory;
        if one.name != "module" {
            sum = Memory {
                rss: sum.rss + rss,
                pss: sum.pss + pss,
                anonymous: sum.anonymous + anonymous,
            };
        }
        line(&format!(
            "| {stack} | {} | {} | {:.2} | {:.2} | {:.2} |",
            one.name,
            one.threads,
            mebibytes(pss),
            mebibytes(anonymous),
            mebibytes(rss),
        ));
    }
    line(&format!(
        "| {stack} | **all but modules** | | **{:.2}** | {:.2} | {:.2} |",
        mebibytes(sum.pss),
        mebibytes(sum.anonymous),
        mebibytes(sum.rss),
    ));
    mebibytes(sum.pss)
}

async fn ours() -> Result<(Vec<One>, Option<u64>)> {
    progress("stack: starting hub and device");
    let group = Group::new("selvedge-bench")?;
    // The hub is not on the device; the runtime is started again inside the group.
    let mut device = Device::start(Options { engine: "embedded", ..Options::default() })?;
    device.edge.stop()?;
    group.inside(|| device.edge.spawn())?;
    device.edge.ready()?;
    let calls = Calls::listen()?;
    device.service.apply(DEVICE, &deployment(calls.port)).await?;
    let held = calls.take(MODULES.len())?;
    progress(&format!("stack: resting {} s", REST.as_secs()));
    tokio::time::sleep(REST).await;
    let edge = &device.edge;
    let mut all = vec![one("launcher", edge.pid()?)?, one("runtime", edge.runtime()?)?];
    all.push(one("engine helper", edge.helper().context("no engine helper")?)?);
    for monitor in edge.monitors() {
        all.push(one("monitor", monitor)?);
    }
    ensure!(all.len() == 3 + MODULES.len(), "{} processes", all.len());
    for module in MODULES {
        for pid in edge.module(module) {
            all.push(one("module", pid)?);
        }
    }
    let used = group.working_set();
    drop(held);
    drop(device);
    Ok((all, used))
}

/// What the device runs.
pub(crate) fn deployment(port: u16) -> Value {
    let options = calling("127.0.0.1", port, "host");
    let all = MODULES.map(|name| (name.to_owned(), module(IMAGE, &options, &[])));
    content(&Value::Object(all.into_iter().collect()), &json!({}))
}

async fn theirs() -> Result<(Vec<One>, Option<u64>)> {
    progress("stack: starting dockerd");
    let folder = device::folder("i")?;
    let archive = image(folder.path().join("image.tar"))?;
    let group = Group::new("docker-bench")?;
    group.enter()?;
    let docker = Docker::start().await;
    group.leave()?;
    let docker = docker?;
    docker.load(&archive).await?;
    let calls = Calls::listen()?;
    let port = calls.port.to_string();
    for name in MODULES {
        docker.create(name, IMAGE, &["dial", "127.0.0.1", &port]).await?;
        docker.begin(name).await?;
    }
    let held = calls.take(MODULES.len())?;
    progress(&format!("stack: resting {} s", REST.as_secs()));
    tokio::time::sleep(REST).await;
    let mut all = Vec::new();
    for (name, pid) in docker.family() {
        all.push(one(&name, pid)?);
    }
    ensure!(all.len() == 2 + MODULES.len(), "{} processes of Docker", all.len());
    for name in MODULES {
        all.push(one("module", docker.process(name).await?)?);
    }
    let used = group.working_set();
    drop(held);
    for name in MODULES {
        docker.remove(name).await?;
    }
    Ok((all, used))
}

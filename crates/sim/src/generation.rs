//! The power fails at every commit of a device's facts and after every change its engine makes,
//! while it goes from one generation of its modules to the next, and once more while it comes
//! back without the hub. It runs one generation, never a mix, and what it has reported as
//! applied stays.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use engine::runtime::ModuleStatus;
use model::commit::{CommitFault, CommitStage};
use model::world::Clock as _;
use serde_json::{Value, json};
use testkit::chance::Chance;
use testkit::world::VirtualClock;

use crate::cloud::Edge;
use crate::edge_site::EdgeSite;
use crate::hub_site::HubSite;
use crate::pipes::Pipes;

const DEVICE: &str = "edge-0";
/// Longest time until everything is as it is to be.
const CALM_MAX: Duration = Duration::from_mins(20);
/// Longest time until a power cut that was aimed comes; none comes later.
const AIM_MAX: Duration = Duration::from_secs(15);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Modules, each with the image that it has in a generation.
type Generation = &'static [(&'static str, &'static str)];
const FIRST: Generation = &[("a", "img:1"), ("b", "img:1"), ("old", "img:1")];
const SECOND: Generation = &[("a", "img:2"), ("b", "img:1"), ("new", "img:1")];
/// Of one module the image is missing: what ran before runs on.
const LACKING: Generation = &[("a", "img:9"), ("b", "img:2"), ("old", "img:1")];

/// What is deployed after [`FIRST`], in order.
#[derive(Clone, Copy, Debug)]
enum Deployment {
    Second,
    /// One that no agent takes.
    Broken,
    /// One that cannot be reached, and back to the first.
    LackingAndBack,
}

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Commit(u64, CommitStage),
    /// The engine has made so many changes; nobody was told of the last one.
    Change(usize),
}

struct Place {
    clock: VirtualClock,
    hub: HubSite,
    site: EdgeSite,
}

fn number(generation: Generation) -> &'static str {
    match generation {
        it if it == FIRST => "1",
        it if it == SECOND => "2",
        _ => "3",
    }
}

fn content(generation: Generation) -> Value {
    let system = json!({
        "type": "docker", "status": "running", "restartPolicy": "always",
        "settings": { "image": "x" },
    });
    let modules: serde_json::Map<_, _> = generation
        .iter()
        .map(|(name, image)| {
            let module = json!({
                "type": "docker", "status": "running", "restartPolicy": "always",
                "settings": { "image": image, "createOptions": "{}" },
                "env": { "GENERATION": { "value": number(generation) } },
            });
            ((*name).to_owned(), module)
        })
        .collect();
    json!({ "modulesContent": {
        "$edgeAgent": { "properties.desired": {
            "schemaVersion": "1.1",
            "runtime": { "type": "docker", "settings": {} },
            "systemModules": {
                "edgeAgent": { "type": "docker", "settings": { "image": "x" } },
                "edgeHub": system,
            },
            "modules": modules,
        } },
        "$edgeHub": { "properties.desired": {
            "schemaVersion": "1.1",
            "routes": { "up": "FROM /messages/* INTO $upstream" },
            "storeAndForwardConfiguration": { "timeToLiveSecs": 60 },
        } },
    } })
}

impl Place {
    async fn new() -> Result<Self> {
        let (chance, clock) = (Chance::new(1), VirtualClock::begin());
        let pipes = Pipes::new(chance.fork("pipes"));
        let mut hub = HubSite::new(clock.beside(), pipes.clone(), chance.fork("hub"))?;
        hub.start().await?;
        let key = hub.service()?.create(DEVICE, Edge::Yes).await?;
        let sends = (0, Duration::from_secs(1));
        let mut site = EdgeSite::new(DEVICE, &key, clock.beside(), pipes, chance, sends)?;
        site.start().await?;
        let place = Self { clock, hub, site };
        place.deploy(FIRST).await?;
        place.settles(&[FIRST], 200).await?;
        Ok(place)
    }

    async fn deploy(&self, generation: Generation) -> Result<()> {
        self.hub.service()?.apply(DEVICE, content(generation)).await
    }

    /// Whether the hub was told that what is desired now is in force, or refused, with `code`.
    async fn has_told(&self, code: u64) -> Result<bool> {
        let twin = self.hub.service()?.twin(DEVICE, "$edgeAgent").await?;
        let at = |path: &str| twin.pointer(path).and_then(Value::as_u64);
        Ok(at("/properties/reported/lastDesiredVersion") == at("/properties/desired/$version")
            && at("/properties/reported/lastDesiredStatus/code") == Some(code))
    }

    /// Waits until the device runs one of `allowed` and has told the hub so.
    async fn settles(&self, allowed: &[Generation], code: u64) -> Result<Generation> {
        let found = self.runs(allowed).await?;
        let from = self.clock.now().tick;
        while !self.has_told(code).await? {
            ensure!(self.clock.now().tick < from.after(CALM_MAX), "the hub is told no {code}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(found)
    }

    /// Waits until the device runs one of `allowed`, and nothing else.
    async fn runs(&self, allowed: &[Generation]) -> Result<Generation> {
        let from = self.clock.now().tick;
        loop {
            let missing = match self.look(allowed).await {
                Ok(found) => return Ok(found),
                Err(missing) => missing,
            };
            if self.clock.now().tick > from.after(CALM_MAX) {
                return Err(missing);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn look(&self, allowed: &[Generation]) -> Result<Generation> {
        let status = self.site.status().await?;
        let wanted = status.modules.iter().filter(|module| !module.desired.is_empty());
        let wanted: BTreeMap<&str, &str> =
            wanted.map(|module| (module.name.as_str(), module.image.as_str())).collect();
        let is_it = |it: &&Generation| wanted == it.iter().copied().collect();
        let found = *allowed.iter().find(is_it).with_context(|| format!("{wanted:?} in force"))?;
        let there: BTreeMap<_, _> =
            self.site.engine.modules().into_iter().map(|it| (it.name.clone(), it)).collect();
        let is_wanted = |name: &String| wanted.contains_key(name.as_str());
        ensure!(there.keys().all(is_wanted), "{:?} are there", there.keys());
        for (name, image) in found {
            let words = status.modules.iter().find(|it| it.name == *name).map(|it| &*it.words);
            let Some(module) = there.get(*name) else {
                let is_unknown = words.is_some_and(|words| words.contains("identity"));
                ensure!(is_unknown, "{name} is missing: {words:?}");
                continue;
            };
            ensure!(module.status == ModuleStatus::Running, "{name} is {:?}", module.status);
            let spec = self.site.engine.spec(name).context("no specification")?;
            let made = spec.env.get("GENERATION").map(String::as_str);
            let expected = if *image == "img:9" { "1" } else { number(found) };
            ensure!(made == Some(expected), "{name} is of generation {made:?}, not {expected}");
        }
        Ok(found)
    }

    /// Waits until the power goes; whether it does.
    async fn wait_for(&self, moment: Moment, changes: usize) -> bool {
        let from = self.clock.now().tick;
        while self.clock.now().tick < from.after(AIM_MAX) {
            let is_now = match moment {
                Moment::Commit(..) => self.site.strikes.is_cut(),
                Moment::Change(after) => self.site.engine.calls().len() >= changes + after,
            };
            if is_now {
                return true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        false
    }

    fn aim(&self, moment: Moment) {
        if let Moment::Commit(skip, stage) = moment {
            self.site.strikes.aim(skip, stage, CommitFault::Cut);
        }
    }
}

/// One cut, then another one; whether the first came at all.
async fn point(deployment: Deployment, moment: Moment, second: Moment) -> Result<bool> {
    let mut place = Place::new().await?;
    let changes = place.site.engine.calls().len();
    place.aim(moment);
    let (allowed, last, code): (&[Generation], _, _) = match deployment {
        Deployment::Second => {
            place.deploy(SECOND).await?;
            (&[FIRST, SECOND], SECOND, 200)
        }
        Deployment::Broken => {
            let service = place.hub.service()?;
            service.desire(DEVICE, "$edgeAgent", json!({ "schemaVersion": "9.9" })).await?;
            (&[FIRST], FIRST, 412)
        }
        Deployment::LackingAndBack => {
            place.deploy(LACKING).await?;
            tokio::time::sleep(Duration::from_secs(4)).await;
            place.deploy(FIRST).await?;
            (&[FIRST, LACKING], FIRST, 200)
        }
    };
    if !place.wait_for(moment, changes).await {
        return Ok(false);
    }
    let allowed = if place.has_told(code).await? { &[last][..] } else { allowed };
    place.hub.kill().await;
    place.site.power_cut_now().await;
    place.site.start().await?;
    let changes = place.site.engine.calls().len();
    place.aim(second);
    place.wait_for(second, changes).await;
    // What was in force after the first cut stays in force after the second.
    let seen = place.look(allowed).await.ok();
    let allowed = seen.as_ref().map_or(allowed, std::slice::from_ref);
    place.site.power_cut_now().await;
    place.site.start().await?;
    place.runs(allowed).await.context("without the hub")?;
    place.hub.start().await?;
    place.settles(&[last], code).await.context("with the hub again")?;
    place.site.close().await?;
    place.hub.close().await;
    Ok(true)
}

/// All moments of a deployment, with a second cut that moves along.
fn enumerate(deployment: Deployment) -> u64 {
    let run = |moment, second| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let came = runtime.unwrap().block_on(point(deployment, moment, second));
        came.unwrap_or_else(|error| panic!("{deployment:?}, {moment:?}, {second:?}: {error:#}"))
    };
    let mut points = 0;
    for stage in [CommitStage::Before, CommitStage::After] {
        for skip in 0.. {
            let seconds = [Moment::Commit(skip % 5, stage), Moment::Change(1 + points % 4)];
            if !run(Moment::Commit(skip, stage), seconds[points % 2]) {
                break;
            }
            points += 1;
        }
    }
    for after in 1.. {
        if !run(Moment::Change(after), Moment::Commit(points as u64 % 5, CommitStage::Before)) {
            break;
        }
        points += 1;
    }
    points as u64
}

#[test]
#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn a_device_runs_one_generation_wherever_the_power_fails() {
    let all = [Deployment::Second, Deployment::Broken, Deployment::LackingAndBack];
    let points = all.map(enumerate);
    println!("generations: {points:?} points");
    assert!(points[0] >= 30 && points[1] >= 4 && points[2] >= 30, "{points:?}");
}

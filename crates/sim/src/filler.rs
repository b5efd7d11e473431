//! Whoever fills a device's quotas: calls that ask for too much, several at a time, beside one
//! that asks for nothing special.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use model::manifest::MODULES_MAX;
use serde_json::{Map, Value, json};
use testkit::chance::Chance;

use crate::cloud::{Call, Edge, Service};
use crate::sentence::Sentence;

/// How long one round of calls may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Calls of one of the three lanes of a round; lanes meet in the turns of the hub's writer.
const CALLS: u64 = 4;

/// One device whose quotas are filled, and its neighbour.
#[derive(Debug)]
pub struct Filler {
    device: &'static str,
    neighbour: &'static str,
    chance: Chance,
    /// Calls that were refused for what they asked.
    pub refused: u64,
    /// Writes of the neighbour that were answered.
    pub written: u64,
}

impl Filler {
    /// Registers the two.
    ///
    /// # Errors
    /// If the hub refuses.
    pub async fn register(service: &Service, chance: Chance) -> Result<Self> {
        let (device, neighbour) = ("full", "beside-full");
        service.create(device, Edge::Yes).await?;
        service.create(neighbour, Edge::No).await?;
        Ok(Self { device, neighbour, chance, refused: 0, written: 0 })
    }

    /// One round. What is not answered in time may have happened.
    ///
    /// # Errors
    /// If the hub answers with something else than what was asked, a refusal that names the
    /// request, or a moment in which it could not write.
    pub async fn work(&mut self, service: &Service) -> Result<()> {
        let written = self.written + 1;
        let tags = json!({ "tags": { "written": written } });
        let beside = Call {
            method: Method::PATCH,
            path: format!("/twins/{}", self.neighbour),
            if_match: None,
            body: Some(tags),
        };
        let round = async {
            tokio::join!(
                lane(service, self.calls()),
                lane(service, self.calls()),
                lane(service, self.calls()),
                lane(service, vec![beside])
            )
        };
        let Ok((one, two, three, beside)) = tokio::time::timeout(PATIENCE, round).await else {
            return Ok(());
        };
        for status in [one?, two?, three?].into_iter().flatten() {
            let refused = status.is_client_error();
            let told = status.is_success() || refused || status == StatusCode::SERVICE_UNAVAILABLE;
            ensure!(told, "{} was answered with {status}", self.device);
            self.refused += u64::from(refused);
        }
        // Neighbours of a refused call are written; only a disk that fails stops them.
        for status in beside? {
            let told = status.is_success() || status == StatusCode::SERVICE_UNAVAILABLE;
            ensure!(told, "beside quotas: {status}");
            if status.is_success() {
                self.written = written;
            }
        }
        Ok(())
    }

    fn calls(&self) -> Vec<Call> {
        (0..CALLS).map(|_| self.call()).collect()
    }

    fn call(&self) -> Call {
        let (chance, device) = (&self.chance, self.device);
        let hand = |n: u64| format!("/devices/{device}/modules/hand{n}");
        let (method, path, if_match, body) = match chance.below(8) {
            0..4 => (Method::PUT, hand(chance.below(60)), None, Some(json!({}))),
            4 => (Method::DELETE, hand(chance.below(60)), None, None),
            5 => {
                let body = json!({ "capabilities": { "iotEdge": chance.below(3) > 0 } });
                (Method::PUT, format!("/devices/{device}"), Some("*"), Some(body))
            }
            other => {
                let zoo = other == 6 && chance.below(4) == 0;
                let count = chance.below(MODULES_MAX as u64 + 1);
                let path = format!("/devices/{device}/applyConfigurationContent");
                (Method::POST, path, None, Some(content(count, zoo)))
            }
        };
        Call { method, path, if_match, body }
    }

    /// What the hub holds is within the quotas, and nothing that the neighbour was told is lost.
    ///
    /// # Errors
    /// What is not.
    pub async fn judge(&self, service: &Service) -> Result<()> {
        let device = service.get(&format!("/devices/{}", self.device)).await?;
        let edge = device.pointer("/capabilities/iotEdge") == Some(&Value::Bool(true));
        let modules = service.get(&format!("/devices/{}/modules", self.device)).await?;
        let names = modules.as_array().context("no list of modules")?.iter();
        let names: BTreeSet<_> =
            names.filter_map(|one| one.get("moduleId").and_then(Value::as_str)).collect();
        let system = ["$edgeAgent", "$edgeHub"];
        let counted = names.iter().filter(|name| !edge || !system.contains(*name)).count();
        ensure!(counted <= MODULES_MAX, "{} has {counted} modules: {names:?}", self.device);
        let has_system = system.iter().all(|name| names.contains(name));
        ensure!(!edge || has_system, "an edge device without its modules: {names:?}");
        let twin = service.get(&format!("/twins/{}", self.neighbour)).await?;
        let kept = twin.pointer("/tags/written").and_then(Value::as_u64).unwrap_or(0);
        let written = self.written;
        Sentence::Kept
            .check(kept >= written, || format!("{kept} is kept of {written} that were answered"))
    }
}

/// One call after the other.
async fn lane(service: &Service, calls: Vec<Call>) -> Result<Vec<StatusCode>> {
    let mut all = Vec::new();
    for call in calls {
        all.push(service.status(call).await?);
    }
    Ok(all)
}

fn content(count: u64, zoo: bool) -> Value {
    let module = json!({ "type": "docker", "status": "running", "restartPolicy": "always",
                         "settings": { "image": "x", "createOptions": "{}" } });
    let modules: Map<_, _> = (0..count).map(|n| (format!("m{n}"), module.clone())).collect();
    let mut all = json!({ "$edgeAgent": { "properties.desired": {
        "schemaVersion": "1.1",
        "runtime": { "type": "docker", "settings": {} },
        "systemModules": {
            "edgeAgent": { "type": "docker", "settings": { "image": "x" } },
            "edgeHub": module,
        },
        "modules": modules,
    } } });
    if let (true, Some(all)) = (zoo, all.as_object_mut()) {
        all.insert("$edgeZoo".to_owned(), json!({ "properties.desired": {} }));
    }
    json!({ "modulesContent": all })
}

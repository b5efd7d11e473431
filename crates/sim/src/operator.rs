//! Whoever deploys to one edge device: changes what is desired, and tries until the hub took it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::chance::Chance;

use crate::cloud::Service;
use crate::program::{EXTRA, SINK, SOURCE};

/// How long one call of the service may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Messages wait so long for whoever they are for: longer than any clock jumps.
const LIFE_SECONDS: u64 = 10 * 365 * 86_400;

/// What is desired of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    source: u64,
    sink: u64,
    extra: Option<u64>,
    order: u64,
    decoy: bool,
}

/// Something to be done.
#[derive(Clone, Debug)]
enum Order {
    Deploy(Plan),
    Break(u64),
    Tell(u64),
}

/// What ought to be, once everything has settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Image by module.
    pub modules: BTreeMap<&'static str, String>,
    /// The code that the agent reports.
    pub code: u64,
    /// The value that modules were told.
    pub value: u64,
}

/// The operator of one device.
#[derive(Debug)]
pub struct Operator {
    device: String,
    chance: Chance,
    todo: VecDeque<Order>,
    plan: Plan,
    code: u64,
    value: u64,
    last_told: u64,
    /// What it did, broken manifests apart.
    pub deployed: u64,
    /// Manifests that no agent takes.
    pub broken: u64,
    /// Broken manifests that were not deployed, for there was no good one to fall back on.
    pub spared: u64,
    /// Values that modules were told.
    pub told: u64,
}

impl Operator {
    /// An operator that deploys for the first time.
    pub fn new(device: &str, chance: Chance) -> Self {
        let plan = Plan { source: 1, sink: 1, extra: None, order: 1, decoy: false };
        let todo = VecDeque::from([Order::Deploy(plan.clone()), Order::Tell(1)]);
        let (deployed, broken, spared, told) = (0, 0, 0, 0);
        Self {
            device: device.to_owned(),
            chance,
            todo,
            plan,
            code: 200,
            value: 0,
            last_told: 1,
            deployed,
            broken,
            spared,
            told,
        }
    }

    /// Wants other modules, other images, other routes.
    pub fn deploy(&mut self) {
        let chance = &self.chance;
        let plan = Plan {
            source: 1 + chance.below(4) / 3,
            sink: 1 + chance.below(4) / 3,
            extra: (chance.below(2) == 0).then(|| 1 + chance.below(2)),
            order: chance.below(3),
            decoy: chance.below(2) == 0,
        };
        self.todo.push_back(Order::Deploy(plan));
    }

    /// Makes the manifest one that no agent takes.
    pub fn break_manifest(&mut self) {
        self.todo.push_back(Order::Break(self.chance.below(3)));
    }

    /// Tells the modules a larger value.
    pub fn tell(&mut self) {
        self.last_told += 1 + self.chance.below(1 << 30);
        self.todo.push_back(Order::Tell(self.last_told));
    }

    /// Whether everything was done.
    pub fn is_done(&self) -> bool {
        self.todo.is_empty()
    }

    /// Does what is to be done, until the hub does not answer.
    pub async fn work(&mut self, service: &Service) {
        while let Some(order) = self.todo.front().cloned() {
            // What was not answered may have happened; it is done again.
            let done = tokio::time::timeout(PATIENCE, self.carry_out(service, &order)).await;
            tracing::debug!(device_id = self.device, ?order, ?done, "operator");
            if !matches!(done, Ok(Ok(()))) {
                return;
            }
            self.todo.pop_front();
        }
    }

    async fn carry_out(&mut self, service: &Service, order: &Order) -> Result<()> {
        match order {
            Order::Deploy(plan) => {
                service.apply(&self.device, content(plan)).await?;
                (self.plan, self.code) = (plan.clone(), 200);
                self.deployed += 1;
            }
            Order::Tell(value) => {
                for module in [SOURCE, SINK] {
                    service.desire(&self.device, module, json!({ "value": value })).await?;
                }
                self.value = *value;
                self.told += 1;
            }
            // Of a good manifest that was never seen nothing can be the last good one.
            Order::Break(_) if self.code == 200 && !self.is_in_force(service).await? => {
                self.spared += 1;
            }
            Order::Break(which) if self.code == 200 => {
                let (desired, code) = broken(*which);
                service.desire(&self.device, "$edgeAgent", desired).await?;
                self.code = code;
                self.broken += 1;
            }
            Order::Break(_) => self.spared += 1,
        }
        Ok(())
    }

    async fn is_in_force(&self, service: &Service) -> Result<bool> {
        let twin = service.twin(&self.device, "$edgeAgent").await?;
        let at = |path: &str| twin.pointer(path).and_then(Value::as_u64);
        let version = at("/properties/desired/$version").context("no version")?;
        let seen = at("/properties/reported/lastDesiredVersion");
        let code = at("/properties/reported/lastDesiredStatus/code");
        Ok(seen == Some(version) && code == Some(200))
    }

    /// What ought to be when everything is done.
    pub fn expected(&self) -> Expected {
        let image = |which: u64| format!("img:{which}");
        let mut modules =
            BTreeMap::from([(SOURCE, image(self.plan.source)), (SINK, image(self.plan.sink))]);
        if let Some(which) = self.plan.extra {
            modules.insert(EXTRA, image(which));
        }
        Expected { modules, code: self.code, value: self.value }
    }
}

fn broken(which: u64) -> (Value, u64) {
    match which {
        0 => (json!({ "schemaVersion": "9.9" }), 412),
        1 => (json!({ "modules": { SOURCE: { "restartPolicy": "sometimes" } } }), 400),
        _ => (json!({ "modules": { SINK: { "settings": { "createOptions": "{" } } } }), 400),
    }
}

fn content(plan: &Plan) -> Value {
    let system = json!({ "type": "docker", "settings": { "image": "x" } });
    let mut hub = system.clone();
    if let Some(fields) = hub.as_object_mut() {
        fields.insert("status".to_owned(), json!("running"));
        fields.insert("restartPolicy".to_owned(), json!("always"));
    }
    let module = |image: u64, order: u64| {
        json!({
            "type": "docker", "status": "running", "restartPolicy": "always",
            "startupOrder": order,
            "settings": { "image": format!("img:{image}"), "createOptions": "{}" },
        })
    };
    let mut modules = serde_json::Map::new();
    modules.insert(SOURCE.to_owned(), module(plan.source, 0));
    modules.insert(SINK.to_owned(), module(plan.sink, plan.order));
    if let Some(image) = plan.extra {
        modules.insert(EXTRA.to_owned(), module(image, plan.order));
    }
    let mut routes = json!({
        "up": "FROM /messages/* INTO $upstream",
        "in": format!(
            "FROM /messages/modules/{SOURCE}/outputs/* INTO \
             BrokeredEndpoint(\"/modules/{SINK}/inputs/in\")"
        ),
    });
    // The hub refuses a route to a module that the manifest does not name.
    let has_decoy = plan.decoy && plan.extra.is_some();
    if let (true, Some(routes)) = (has_decoy, routes.as_object_mut()) {
        let decoy = format!(
            "FROM /messages/modules/nobody/* INTO BrokeredEndpoint(\"/modules/{EXTRA}/inputs/x\")"
        );
        routes.insert("decoy".to_owned(), Value::String(decoy));
    }
    json!({ "modulesContent": {
        "$edgeAgent": { "properties.desired": {
            "schemaVersion": "1.1",
            "runtime": { "type": "docker", "settings": {} },
            "systemModules": { "edgeAgent": system, "edgeHub": hub },
            "modules": modules,
        } },
        "$edgeHub": { "properties.desired": {
            "schemaVersion": "1.1",
            "routes": routes,
            "storeAndForwardConfiguration": { "timeToLiveSecs": LIFE_SECONDS },
        } },
    } })
}

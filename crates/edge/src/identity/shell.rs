//! Module identities: made, read and removed at the hub; their keys kept for offline starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use credentials::key::SymmetricKey;
use model::id::{DeviceId, IdentityId, ModuleName};
use model::names::{EDGE_AGENT, EDGE_HUB};
use model::refusal::{Refusal, RefusalKind};
use model::waist::{Answer, DeviceRequest, ModuleIdentity, ModuleOperation};
use tracing::{info, warn};

use crate::access::ModuleKeys;
use crate::router::shell::Core;
use crate::storage::store::{Area, Store};
use crate::storage::tables;
use crate::upstream::shell::{Link, Links};

/// Who manages the identities that this runtime makes. Source: edge agent.
const MANAGED_BY: &str = "IotEdge";

/// The identities of this device's modules, those of the runtime included.
pub(crate) struct Identities {
    device: DeviceId,
    link: Arc<Link>,
    links: Arc<Links>,
    store: Store,
    router: Arc<Core>,
    keys: Mutex<BTreeMap<ModuleName, ModuleKeys>>,
}

impl Identities {
    /// `keys` are those that were kept.
    pub(crate) fn new(
        device: DeviceId,
        key: SymmetricKey,
        links: Arc<Links>,
        store: Store,
        router: Arc<Core>,
        keys: BTreeMap<ModuleName, ModuleKeys>,
    ) -> Self {
        let link = links.link(&IdentityId::device(&device));
        link.set_key(key);
        let all = Self { device, link, links, store, router, keys: Mutex::new(keys) };
        all.hand_out();
        all
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<ModuleName, ModuleKeys>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link of the device itself.
    pub(crate) fn device_link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The keys of `module`, if its identity is known.
    pub(crate) fn keys(&self, module: &ModuleName) -> Option<ModuleKeys> {
        self.all().get(module).cloned()
    }

    /// Reads the identities at the hub and makes those of `wanted` that are missing. Others
    /// that this runtime made are removed, but only if `wanted` is all there is to be.
    pub(crate) async fn ensure(
        &self,
        wanted: Option<&BTreeSet<ModuleName>>,
    ) -> Result<(), Refusal> {
        let there = self.ask(ModuleOperation::List).await?;
        let mut there: BTreeMap<_, _> =
            there.into_iter().map(|one| (one.name.clone(), one)).collect();
        let own = own_names();
        for name in own.iter().chain(wanted.into_iter().flatten()) {
            if !there.contains_key(name) {
                let managed_by = MANAGED_BY.into();
                let made = ModuleOperation::Ensure { name: name.clone(), managed_by };
                let made = self.ask(made).await?;
                there.extend(made.into_iter().map(|one| (one.name.clone(), one)));
                info!(module_id = %name, "module identity made");
            }
        }
        if let Some(wanted) = wanted {
            let gone: Vec<_> = there
                .values()
                .filter(|one| &*one.managed_by == MANAGED_BY)
                .map(|one| one.name.clone())
                .filter(|name| !wanted.contains(name) && !own.contains(name))
                .collect();
            for name in gone {
                self.ask(ModuleOperation::Delete { name: name.clone() }).await?;
                there.remove(&name);
                info!(module_id = %name, "module identity removed");
            }
        }
        self.keep(there.into_values().filter_map(keys_of).collect()).await;
        Ok(())
    }

    async fn ask(&self, operation: ModuleOperation) -> Result<Vec<ModuleIdentity>, Refusal> {
        match self.link.request(DeviceRequest::Modules(operation)).await? {
            Answer::Modules(all) => Ok(all),
            Answer::Accepted => Ok(Vec::new()),
            _ => Err(Refusal::new(RefusalKind::Internal, "the hub gave another answer")),
        }
    }

    async fn keep(&self, fresh: BTreeMap<ModuleName, ModuleKeys>) {
        let before = std::mem::replace(&mut *self.all(), fresh.clone());
        for (name, keys) in &fresh {
            if before.get(name) != Some(keys) {
                let fact = tables::from_keys(keys);
                self.save(name, Some(fact)).await;
            }
        }
        self.hand_out();
        for name in before.keys().filter(|name| !fresh.contains_key(*name)) {
            self.save(name, None).await;
            self.links.remove(&IdentityId::module(&self.device, name)).await;
        }
    }

    async fn save(&self, name: &ModuleName, fact: Option<serde_json::Value>) {
        if let Err(error) = self.store.save(Area::Keys, name.as_str(), move || fact).await {
            warn!(%error, module_id = %name, "keys not kept; an offline start would miss them");
        }
    }

    /// Gives the keys to those who prove with them and those who check them.
    fn hand_out(&self) {
        let all = self.all().clone();
        for (name, keys) in &all {
            self.links.link(&IdentityId::module(&self.device, name)).set_key(keys.primary.clone());
        }
        self.router.set_modules(with_sessions(&all));
    }
}

/// The modules among `all` that have sessions with the router: those of the runtime have none.
pub(crate) fn with_sessions(
    all: &BTreeMap<ModuleName, ModuleKeys>,
) -> BTreeMap<ModuleName, ModuleKeys> {
    let mut modules = all.clone();
    for name in own_names() {
        modules.remove(&name);
    }
    modules
}

fn own_names() -> [ModuleName; 2] {
    [EDGE_AGENT, EDGE_HUB].map(|name| name.parse().expect("a name of the platform is a name"))
}

/// Identities without symmetric keys are of no use to this runtime.
fn keys_of(one: ModuleIdentity) -> Option<(ModuleName, ModuleKeys)> {
    let key = |text: &model::secret::Secret| SymmetricKey::parse(text.expose_str()?).ok();
    let keys = ModuleKeys {
        generation_id: one.generation_id,
        primary: key(one.primary_key.as_ref()?)?,
        secondary: one.secondary_key.as_ref().and_then(key),
    };
    Some((one.name, keys))
}

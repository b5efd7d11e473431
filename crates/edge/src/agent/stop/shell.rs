//! Ends all modules, when nobody starts them again and while the router still answers them.

use engine::runtime::{ModuleRuntime, ModuleStatus};
use futures_util::future::join_all;
use tracing::{info, warn};

use super::super::shell::STOP_GRACE;

/// Stops every module that runs, all at once; each has the grace to say its last words.
pub(crate) async fn stop_all(runtime: &dyn ModuleRuntime) {
    let modules = match runtime.list().await {
        Ok(modules) => modules,
        Err(error) => return warn!(%error, "modules not stopped"),
    };
    let alive = modules.into_iter().filter(|module| module.status == ModuleStatus::Running);
    let stops =
        alive.map(async |module| match runtime.stop(module.name.clone(), STOP_GRACE).await {
            Ok(()) => info!(module_id = module.name, "module stopped"),
            Err(error) => warn!(module_id = module.name, %error, "module not stopped"),
        });
    join_all(stops).await;
}

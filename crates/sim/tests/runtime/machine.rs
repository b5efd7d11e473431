//! The machine of one device: its engine, and the doors through which modules reach the runtime.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use edge::workload::WorkloadSockets;
use engine::runtime::ModuleSpec;
use model::id::ModuleName;
use model::world::Boxed;
use testkit::engine::{FakeEngine, Programs};
use testkit::world::VirtualClock;

use super::cloud::lock;

/// Which modules have their workload socket; no module may start without.
#[derive(Clone, Default)]
pub(crate) struct Doors(Arc<Mutex<BTreeSet<String>>>);

impl WorkloadSockets for Doors {
    fn open<'a>(
        &'a self,
        module: &'a ModuleName,
        path: &'a Path,
        _: axum::Router,
    ) -> Boxed<'a, io::Result<()>> {
        assert!(path.ends_with(format!("mnt/{module}/workload.sock")), "{}", path.display());
        lock(&self.0).insert(module.to_string());
        Box::pin(std::future::ready(Ok(())))
    }

    fn close(&self, module: &ModuleName) {
        lock(&self.0).remove(module.as_str());
    }
}

impl Programs for Doors {
    fn started(&self, spec: &ModuleSpec) {
        assert!(lock(&self.0).contains(&spec.name), "{} starts without its socket", spec.name);
    }

    fn ended(&self, _: &str) {}
}

/// An engine with `images` whose modules say two lines.
pub(crate) fn engine(clock: &VirtualClock, doors: &Doors, images: &[&str]) -> FakeEngine {
    let engine = FakeEngine::new(clock.clone(), images);
    engine.set_programs(Arc::new(doors.clone()));
    engine.say("one");
    engine.say("two");
    engine
}

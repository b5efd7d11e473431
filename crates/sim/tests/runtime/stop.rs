//! The end of a device in order: modules first, while the router still hears them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use engine::runtime::ModuleSpec;
use model::time::Tick;
use model::waist::{Answer, Completion, DeviceSession};
use testkit::engine::Programs;

use super::cloud::lock;
use super::{Bench, all_up, eventually, numbered};

type Words = Option<Completion>;

/// Modules that send one more message when they are told to end.
#[derive(Default)]
struct LastWords {
    sessions: BTreeMap<String, Arc<dyn DeviceSession>>,
    said: Mutex<BTreeMap<String, Words>>,
}

impl Programs for LastWords {
    fn started(&self, spec: &ModuleSpec) {
        panic!("{} is started while the device stops", spec.name);
    }

    fn ended(&self, name: &str) {
        let said = self.sessions[name].submit(numbered(99..100), Tick::NEVER).ok();
        lock(&self.said).insert(name.to_owned(), said);
    }
}

#[tokio::test(start_paused = true)]
async fn modules_are_stopped_while_the_router_answers_and_none_is_started_again() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let mut modules = LastWords::default();
    for name in ["a", "b"] {
        modules.sessions.insert(name.to_owned(), bench.open(&edge, name, true).await.session);
    }
    let modules = Arc::new(modules);
    bench.machine.set_programs(Arc::<LastWords>::clone(&modules));

    edge.stop_modules().await;
    assert!(!bench.machine.is_running("a") && !bench.machine.is_running("b"));
    let said = std::mem::take(&mut *lock(&modules.said));
    assert_eq!(said.len(), 2);
    for (name, words) in said {
        let mut words = words.unwrap_or_else(|| panic!("{name} was not heard"));
        assert_eq!(words.next().await, Some(Ok(Answer::Accepted)), "{name}");
        eventually("the hub has the last words", async || {
            (bench.cloud.received(&name).await == [99]).then_some(())
        })
        .await;
    }
    // Whatever the hub wants now, the agent starts nothing: `LastWords` would panic.
    bench.cloud.set_desired("$edgeAgent", super::manifest(&["a", "b", "c"])).await;
    tokio::time::sleep(super::PATIENCE).await;
    assert!(!bench.machine.calls().contains(&"create c".to_owned()));
    edge.close().await;
}

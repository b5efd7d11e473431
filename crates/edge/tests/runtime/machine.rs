//! An engine in memory, and the world of one test process.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use edge::workload::WorkloadSockets;
use engine::error::EngineError;
use engine::runtime::*;
use model::id::ModuleName;
use model::time::{Now, Tick, WallTime};
use model::world::{Boxed, Clock, Random, Spawner, Turn, Worker, World};
use tokio::sync::Notify;

use super::cloud::lock;

#[derive(Clone, Default)]
pub(crate) struct Machine(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    images: BTreeSet<String>,
    modules: BTreeMap<String, (ModuleSpec, ModuleState)>,
    calls: Vec<String>,
    doors: BTreeSet<String>,
}

type Done<T> = Boxed<'static, EngineResult<T>>;

fn done<T: Send + 'static>(result: EngineResult<T>) -> Done<T> {
    Box::pin(std::future::ready(result))
}

impl Machine {
    pub(crate) fn with_images(images: &[&str]) -> Self {
        let machine = Self::default();
        lock(&machine.0.state).images = images.iter().map(|&name| name.to_owned()).collect();
        machine
    }

    /// Every change that was asked for, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        lock(&self.0.state).calls.clone()
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        let state = lock(&self.0.state);
        state.modules.get(name).is_some_and(|(_, it)| it.status == ModuleStatus::Running)
    }

    pub(crate) fn spec(&self, name: &str) -> Option<ModuleSpec> {
        lock(&self.0.state).modules.get(name).map(|(spec, _)| spec.clone())
    }

    /// The first process of `name` ends.
    pub(crate) fn end(&self, name: &str, exit_code: i32) {
        self.with(name, "", |state| {
            state.status = ModuleStatus::Exited;
            state.exit_code = Some(exit_code);
        })
        .unwrap();
    }

    fn with(
        &self,
        name: &str,
        call: &str,
        change: impl FnOnce(&mut ModuleState),
    ) -> EngineResult<()> {
        let mut state = lock(&self.0.state);
        if !call.is_empty() {
            state.calls.push(format!("{call} {name}"));
        }
        let found = state.modules.get_mut(name);
        let (_, module) = found.ok_or_else(|| EngineError::NotFound { name: name.to_owned() })?;
        change(module);
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl WorkloadSockets for Machine {
    fn open<'a>(
        &'a self,
        module: &'a ModuleName,
        path: &'a Path,
        _: axum::Router,
    ) -> Boxed<'a, io::Result<()>> {
        assert!(path.ends_with(format!("mnt/{module}/workload.sock")), "{}", path.display());
        lock(&self.0.state).doors.insert(module.to_string());
        Box::pin(std::future::ready(Ok(())))
    }

    fn close(&self, module: &ModuleName) {
        lock(&self.0.state).doors.remove(module.as_str());
    }
}

struct Lines(std::vec::IntoIter<LogLine>);

impl LogStream for Lines {
    fn poll_line(&mut self, _: &mut Context<'_>) -> Poll<Option<EngineResult<LogLine>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

impl ModuleRuntime for Machine {
    fn info(&self) -> Boxed<'_, EngineResult<EngineInfo>> {
        done(Ok(EngineInfo { kind: "test".into(), version: String::new(), warnings: vec![] }))
    }

    fn list(&self) -> Boxed<'_, EngineResult<Vec<ModuleState>>> {
        let state = lock(&self.0.state);
        done(Ok(state.modules.values().map(|(_, state)| state.clone()).collect()))
    }

    fn import_image(&self, _: ImageArchive) -> Boxed<'_, EngineResult<ImageImported>> {
        done(Err(EngineError::image("not here")))
    }

    fn images(&self) -> Boxed<'_, EngineResult<Vec<ImageState>>> {
        done(Ok(Vec::new()))
    }

    fn prepare(&self, image: String) -> Boxed<'_, EngineResult<ImageState>> {
        if !lock(&self.0.state).images.contains(&image) {
            return done(Err(EngineError::ImageMissing { image }));
        }
        let digest = format!("sha256:{}", "0".repeat(64));
        done(Ok(ImageState { reference: image, digest, labels: BTreeMap::new() }))
    }

    fn create(&self, spec: ModuleSpec) -> Boxed<'_, EngineResult<ModuleCreated>> {
        let mut state = lock(&self.0.state);
        state.calls.push(format!("create {}", spec.name));
        if spec.create_options.contains("Nonsense") {
            return done(Err(EngineError::option("Nonsense", "is unknown")));
        }
        let made = ModuleState {
            name: spec.name.clone(),
            image: spec.image.clone(),
            image_digest: String::new(),
            spec_digest: spec.digest.clone(),
            labels: BTreeMap::new(),
            status: ModuleStatus::Created,
            exit_code: None,
            out_of_memory: false,
            failure: None,
            started_at: None,
            finished_at: None,
            pid: None,
            log_path: "/nowhere".into(),
        };
        state.modules.insert(spec.name.clone(), (spec, made));
        done(Ok(ModuleCreated::default()))
    }

    fn start(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        assert!(lock(&self.0.state).doors.contains(&name), "{name} starts without its socket");
        done(self.with(&name, "start", |state| state.status = ModuleStatus::Running))
    }

    fn stop(&self, name: String, _: Duration) -> Boxed<'_, EngineResult<()>> {
        done(self.with(&name, "stop", |state| {
            state.status = ModuleStatus::Exited;
            state.exit_code = Some(0);
        }))
    }

    fn remove(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        let mut state = lock(&self.0.state);
        state.calls.push(format!("remove {name}"));
        state.modules.remove(&name);
        done(Ok(()))
    }

    fn logs(&self, name: String, _: LogQuery) -> Boxed<'_, EngineResult<Box<dyn LogStream>>> {
        if !lock(&self.0.state).modules.contains_key(&name) {
            return done(Err(EngineError::NotFound { name }));
        }
        let line = |text: &str| LogLine { time: 0, stream: LogSource::Stdout, text: text.into() };
        let lines: Box<dyn LogStream> = Box::new(Lines(vec![line("one"), line("two")].into_iter()));
        done(Ok(lines))
    }

    fn changed(&self) -> Boxed<'_, ()> {
        Box::pin(self.0.changed.notified())
    }
}

pub(crate) fn world() -> World {
    let start = clock_of_this_machine();
    let clock: Arc<dyn Clock> = Arc::new(TestClock(start));
    World {
        random: Arc::new(Counting(Mutex::new(start.1.unsigned_abs()))),
        spawner: Arc::new(Tasks(tokio::runtime::Handle::current(), Arc::clone(&clock))),
        clock,
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock of the tests")]
fn clock_of_this_machine() -> (std::time::Instant, i64) {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    (std::time::Instant::now(), i64::try_from(since.as_millis()).unwrap())
}

struct TestClock((std::time::Instant, i64));

impl Clock for TestClock {
    fn now(&self) -> Now {
        let up = self.0.0.elapsed();
        Now { tick: Tick(0).after(up), wall: WallTime(self.0.1).after(up) }
    }
}

struct Counting(Mutex<u64>);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let mut state = lock(&self.0);
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (*state >> 56) as u8;
        }
    }
}

struct Tasks(tokio::runtime::Handle, Arc<dyn Clock>);

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Spawner for Tasks {
    fn spawn(&self, task: Boxed<'static, ()>) {
        self.0.spawn(task);
    }

    fn offload(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.spawn_blocking(work);
    }

    fn start(&self, name: &'static str, mut worker: Box<dyn Worker>) -> Waker {
        let clock = Arc::clone(&self.1);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                loop {
                    match worker.turn(clock.now()) {
                        Turn::Again => {}
                        Turn::Idle => std::thread::park(),
                        Turn::Until(at) => {
                            std::thread::park_timeout(at.since(clock.now().tick));
                        }
                        Turn::Finished => return,
                    }
                }
            })
            .unwrap();
        Waker::from(Arc::new(Unpark(thread.thread().clone())))
    }
}

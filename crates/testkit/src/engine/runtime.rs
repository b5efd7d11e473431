//! The operations of the fake engine.

use std::collections::BTreeMap;
use std::task::{Context, Poll};
use std::time::Duration;

use engine::error::EngineError;
use engine::runtime::{
    EngineInfo, EngineResult, ImageArchive, ImageImported, ImageState, LogLine, LogQuery,
    LogSource, LogStream, ModuleCreated, ModuleRuntime, ModuleSpec, ModuleState, ModuleStatus,
};
use model::time::WallTime;
use model::world::{Boxed, Clock as _};

use super::{EngineCall, EngineFault, FakeEngine, KILLED, Module, PAUSE_MIN, State};

impl FakeEngine {
    /// Takes its time, does `work` unless it is to fail first, takes its time again.
    async fn call<T>(
        &self,
        call: EngineCall,
        work: impl FnOnce(&mut State, i64) -> EngineResult<T> + Send,
    ) -> EngineResult<T> {
        self.dawdle().await;
        let done = {
            let mut state = self.state();
            let now = self.0.clock.now().wall.0;
            match state.strike(call) {
                Some(EngineFault::Before) => Err(fault(call)),
                Some(EngineFault::After) => work(&mut state, now).and(Err(fault(call))),
                None => work(&mut state, now),
            }
        };
        self.dawdle().await;
        done
    }

    async fn dawdle(&self) {
        let span = self.state().slowness.as_ref().map(|(chance, most)| chance.span(*most));
        if let Some(span) = span {
            tokio::time::sleep(span).await;
        }
    }

    async fn change(
        &self,
        call: EngineCall,
        work: impl FnOnce(&mut State, i64) -> EngineResult<()> + Send,
    ) -> EngineResult<()> {
        let done = self.call(call, work).await;
        self.0.changed.notify_one();
        done
    }
}

fn fault(call: EngineCall) -> EngineError {
    EngineError::Unavailable { message: format!("simulated: {call:?} fails") }
}

struct Lines(std::vec::IntoIter<LogLine>);

impl LogStream for Lines {
    fn poll_line(&mut self, _: &mut Context<'_>) -> Poll<Option<EngineResult<LogLine>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

impl ModuleRuntime for FakeEngine {
    fn info(&self) -> Boxed<'_, EngineResult<EngineInfo>> {
        let info = EngineInfo {
            kind: "fake".into(),
            version: String::new(),
            warnings: vec![],
            gateway: None,
        };
        Box::pin(async { Ok(info) })
    }

    fn list(&self) -> Boxed<'_, EngineResult<Vec<ModuleState>>> {
        let all = |state: &mut State, _| {
            Ok(state.modules.values().map(|module| module.state.clone()).collect())
        };
        Box::pin(self.call(EngineCall::List, all))
    }

    fn import_image(&self, archive: ImageArchive) -> Boxed<'_, EngineResult<ImageImported>> {
        let path = archive.path.display().to_string();
        Box::pin(async move { Err(EngineError::image(format!("{path}: no archives here"))) })
    }

    fn images(&self) -> Boxed<'_, EngineResult<Vec<ImageState>>> {
        let images = self.state().images.iter().map(|name| image(name)).collect();
        Box::pin(async { Ok(images) })
    }

    fn prepare(&self, name: String) -> Boxed<'_, EngineResult<ImageState>> {
        let found = move |state: &mut State, _| {
            let known = state.images.contains(&name).then(|| image(&name));
            known.ok_or(EngineError::ImageMissing { image: name })
        };
        Box::pin(self.call(EngineCall::Prepare, found))
    }

    fn create(&self, spec: ModuleSpec) -> Boxed<'_, EngineResult<ModuleCreated>> {
        let make = move |state: &mut State, _| {
            state.note("create", &spec.name);
            if spec.create_options.contains("Nonsense") {
                return Err(EngineError::option("Nonsense", "is unknown"));
            }
            if state.modules.contains_key(&spec.name) {
                let message = "it exists; remove it first".to_owned();
                return Err(EngineError::Conflict { name: spec.name, message });
            }
            let made = Module { state: created(&spec), spec, fell: None };
            state.modules.insert(made.spec.name.clone(), made);
            Ok(ModuleCreated::default())
        };
        Box::pin(self.call(EngineCall::Create, make))
    }

    fn start(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        let start = move |state: &mut State, now| {
            state.note("start", &name);
            let programs = state.programs.clone();
            let module = state.module(&name)?;
            let fell = module.fell.take();
            if module.state.status != ModuleStatus::Running {
                module.state.status = ModuleStatus::Running;
                module.state.started_at = Some(now);
                if let Some(programs) = programs {
                    programs.started(&module.spec);
                }
                let waited = fell.map(|at| WallTime(now).since(at));
                state.hasty += u64::from(waited.is_some_and(|waited| waited < PAUSE_MIN));
            }
            Ok(())
        };
        Box::pin(self.change(EngineCall::Start, start))
    }

    fn stop(&self, name: String, _: Duration) -> Boxed<'_, EngineResult<()>> {
        let stop = move |state: &mut State, now| {
            state.note("stop", &name);
            state.module(&name)?;
            state.end(&name, 0, now);
            Ok(())
        };
        Box::pin(self.change(EngineCall::Stop, stop))
    }

    fn remove(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        let remove = move |state: &mut State, now| {
            state.note("remove", &name);
            state.end(&name, KILLED, now);
            state.modules.remove(&name);
            Ok(())
        };
        Box::pin(self.change(EngineCall::Remove, remove))
    }

    fn logs(&self, name: String, _: LogQuery) -> Boxed<'_, EngineResult<Box<dyn LogStream>>> {
        let mut state = self.state();
        let lines = state.lines.clone();
        let opened = state.module(&name).map(|_| {
            let line = |text| LogLine { time: 0, stream: LogSource::Stdout, text };
            let lines: Vec<_> = lines.into_iter().map(line).collect();
            Box::new(Lines(lines.into_iter())) as Box<dyn LogStream>
        });
        Box::pin(async { opened })
    }

    fn changed(&self) -> Boxed<'_, ()> {
        Box::pin(self.0.changed.notified())
    }
}

fn image(name: &str) -> ImageState {
    let digest = format!("sha256:{}", "0".repeat(64));
    ImageState { reference: name.to_owned(), digest, labels: BTreeMap::new() }
}

fn created(spec: &ModuleSpec) -> ModuleState {
    ModuleState {
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
    }
}

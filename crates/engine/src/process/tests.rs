use std::sync::Arc;

use model::time::{Now, Tick};
use model::world::{Boxed, Clock, Random, Spawner, Turn, Worker};

use super::*;
use crate::backend::Offloaded;
use crate::runtime::ModuleRuntime;

/// A world on real threads, as `net::world` gives it in production.
struct Threads;

impl Clock for Threads {
    fn now(&self) -> Now {
        let wall = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let wall_ms = i64::try_from(wall.as_millis()).unwrap();
        Now { tick: Tick(u64::try_from(wall.as_nanos()).unwrap()), wall: WallTime(wall_ms) }
    }
}

impl Random for Threads {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

impl Spawner for Threads {
    #[expect(clippy::disallowed_methods, reason = "this is the test's spawner")]
    fn spawn(&self, task: Boxed<'static, ()>) {
        tokio::spawn(task);
    }

    #[expect(clippy::disallowed_methods, reason = "this is the test's spawner")]
    fn offload(&self, work: Box<dyn FnOnce() + Send>) {
        std::thread::spawn(work);
    }

    #[expect(clippy::disallowed_methods, reason = "this is the test's spawner")]
    fn start(&self, _: &'static str, mut worker: Box<dyn Worker>) -> std::task::Waker {
        std::thread::spawn(move || while worker.turn(Self.now()) != Turn::Finished {});
        std::task::Waker::noop().clone()
    }
}

pub(crate) fn world() -> World {
    let threads = Arc::new(Threads);
    World {
        clock: Arc::<Threads>::clone(&threads),
        random: Arc::<Threads>::clone(&threads),
        spawner: threads,
    }
}

fn open(folder: &Path) -> ProcessEngine {
    let programs = [("shell:1".to_owned(), PathBuf::from("/bin/sh"))].into();
    ProcessEngine::open(folder, programs, world()).unwrap()
}

pub(crate) fn spec(name: &str, script: &str) -> ModuleSpec {
    ModuleSpec {
        name: name.to_owned(),
        image: "shell:1".to_owned(),
        create_options: serde_json::json!({"Cmd": ["-c", script], "Env": ["A=1", "B=2"]})
            .to_string(),
        env: [("B".to_owned(), "3".to_owned())].into(),
        binds: Vec::new(),
        labels: BTreeMap::new(),
        aliases: Vec::new(),
        extra_hosts: BTreeMap::new(),
        digest: "d1".to_owned(),
    }
}

fn wait_for(engine: &ProcessEngine, name: &str, status: ModuleStatus) -> ModuleState {
    for _ in 0..1000 {
        let state = engine.observe(name).unwrap();
        if state.status == status {
            return state;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} is never {status:?}: {:?}", engine.observe(name).unwrap());
}

fn text(engine: &ProcessEngine, name: &str) -> Vec<String> {
    let page = engine.read_log(name, &LogQuery::default(), None).unwrap();
    page.lines.into_iter().map(|line| line.text).collect()
}

#[test]
fn a_module_runs_logs_and_leaves_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let created = engine.create(&spec("m", "echo $A$B; echo bad >&2; exit 3")).unwrap();
    assert!(created.warnings.iter().any(|warning| warning.contains("DEVELOPMENT")));
    assert_eq!(engine.observe("m").unwrap().status, ModuleStatus::Created);
    engine.start("m").unwrap();
    let state = wait_for(&engine, "m", ModuleStatus::Exited);
    assert_eq!((state.exit_code, state.spec_digest.as_str()), (Some(3), "d1"));
    let mut lines = text(&engine, "m");
    lines.sort();
    assert_eq!(lines, ["13", "bad"]);
    engine.start("m").unwrap();
    wait_for(&engine, "m", ModuleStatus::Exited);
    assert_eq!(text(&engine, "m").len(), 4);
    engine.remove("m").unwrap();
    engine.remove("m").unwrap();
    assert_eq!(engine.list().unwrap(), []);
}

#[test]
fn a_stop_asks_first_and_kills_after_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    engine
        .create(&spec("polite", "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done"))
        .unwrap();
    engine.create(&spec("deaf", "trap '' TERM; echo up; while :; do sleep 0.02; done")).unwrap();
    for (name, grace, code) in [("polite", 10_000, 7), ("deaf", 50, 137)] {
        engine.start(name).unwrap();
        while text(&engine, name).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        engine.stop(name, Duration::from_millis(grace)).unwrap();
        assert_eq!(engine.observe(name).unwrap().exit_code, Some(code), "{name}");
        engine.stop(name, Duration::ZERO).unwrap();
    }
}

#[test]
fn a_module_outlives_its_engine_and_is_adopted_with_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let script = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done";
    engine.create(&spec("m", script)).unwrap();
    engine.start("m").unwrap();
    let pid = engine.observe("m").unwrap().pid;
    while text(&engine, "m").len() < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(engine);
    std::thread::sleep(Duration::from_millis(200));
    let engine = open(folder.path());
    assert_eq!(engine.observe("m").unwrap().pid, pid);
    let before = text(&engine, "m").len();
    while text(&engine, "m").len() < before + 5 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let numbers: Vec<u32> = text(&engine, "m").iter().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<u32> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "lines were lost while no engine read");
    engine.stop("m", Duration::ZERO).unwrap();
    assert_eq!(wait_for(&engine, "m", ModuleStatus::Dead).exit_code, None);
}

#[test]
fn what_cannot_run_is_said_precisely() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let absent = ModuleSpec { image: "other:1".to_owned(), ..spec("m", "") };
    assert!(matches!(engine.create(&absent), Err(EngineError::ImageMissing { .. })));
    let outside = ModuleSpec { name: "../m".to_owned(), ..spec("m", "") };
    assert!(matches!(engine.create(&outside), Err(EngineError::InvalidSpec { .. })));
    assert!(matches!(engine.start("m"), Err(EngineError::NotFound { .. })));
    let data = folder.path().join("data");
    fs::write(&data, "no program").unwrap();
    let image = format!("process:{}", data.display());
    engine.create(&ModuleSpec { image, ..spec("m", "") }).unwrap();
    assert!(matches!(engine.start("m"), Err(EngineError::StartFailed { .. })));
    let state = engine.observe("m").unwrap();
    assert_eq!((state.status, state.exit_code), (ModuleStatus::Exited, Some(127)));
    assert!(state.failure.unwrap().contains("data"));
    assert!(matches!(engine.create(&spec("m", "")), Err(EngineError::Conflict { .. })));
}

#[tokio::test]
async fn the_asynchronous_face_wakes_on_change_and_streams_logs() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Offloaded::new(Arc::new(open(folder.path())), world());
    assert_eq!(runtime.info().await.unwrap().kind, "process");
    runtime.create(spec("m", "echo one; sleep 0.5; echo two")).await.unwrap();
    runtime.start("m".to_owned()).await.unwrap();
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut log = runtime.logs("m".to_owned(), query).await.unwrap();
    for want in ["one", "two"] {
        let line = std::future::poll_fn(|cx| log.poll_line(cx)).await.unwrap().unwrap();
        assert_eq!(line.text, want);
    }
    loop {
        if runtime.list().await.unwrap()[0].status == ModuleStatus::Exited {
            break;
        }
        runtime.changed().await;
    }
    assert!(runtime.logs("x".to_owned(), LogQuery::default()).await.is_err());
}

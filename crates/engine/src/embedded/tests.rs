use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::json;

use super::*;
use crate::image::archive::{ImageContent, LayerFile, layer, write_oci_archive};

/// A short path: the folder of a container must fit a Unix socket's address.
fn bench() -> (Folder, EmbeddedEngine) {
    let folder = Folder(tempfile::tempdir_in("/tmp").unwrap());
    let engine = open(folder.path());
    (folder, engine)
}

/// The folder of an engine, with what its containers have made of the machine.
struct Folder(tempfile::TempDir);

impl Folder {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn container(&self, name: &str) -> PathBuf {
        self.path().join("e/containers").join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Of a failed test, too.
        let engine = open(self.path());
        for name in engine.names().unwrap() {
            engine.remove(&name).ok();
        }
        engine.leave();
    }
}

/// The monitor lies beside the test's own program, if it was built.
pub(crate) fn monitor_program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("selvedge-monitor")
}

fn open(folder: &Path) -> EmbeddedEngine {
    let settings = EmbeddedSettings {
        root: folder.join("e"),
        monitor: monitor_program(),
        policy: Policy::default(),
        network: None,
    };
    EmbeddedEngine::open(settings).unwrap()
}

/// Packed once: the program is large, and hashed slowly without optimisation.
fn archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let program = monitor_program();
        let program = fs::read(program).expect("cargo build -p selvedge-monitor goes first");
        let base = layer(&[
            LayerFile { path: "bin/", mode: 0o755, content: b"" },
            LayerFile { path: "bin/probe", mode: 0o755, content: &program },
            LayerFile { path: "gone", mode: 0o644, content: b"x" },
        ]);
        let top = layer(&[LayerFile { path: ".wh.gone", mode: 0o644, content: b"" }]);
        let image = ImageContent {
            reference: "probe:1".to_owned(),
            config: json!({"Entrypoint": ["/bin/probe", "probe"], "User": "1234"}),
            layers: vec![base.unwrap(), top.unwrap()],
        };
        let mut archive = Vec::new();
        write_oci_archive(&image, &mut archive).unwrap();
        archive
    })
}

fn import(folder: &Path, engine: &EmbeddedEngine) {
    let path = folder.join("probe.tar");
    fs::write(&path, archive()).unwrap();
    engine.import_image(&ImageArchive { path, reference: None }).unwrap();
}

fn spec(name: &str, words: &[&str], host: serde_json::Value) -> ModuleSpec {
    let mut host = host;
    if host.get("NetworkMode").is_none() {
        host["NetworkMode"] = json!("host");
    }
    ModuleSpec {
        name: name.to_owned(),
        image: "probe:1".to_owned(),
        create_options: json!({"Cmd": words, "HostConfig": host}).to_string(),
        env: BTreeMap::new(),
        binds: Vec::new(),
        labels: BTreeMap::new(),
        aliases: Vec::new(),
        extra_hosts: BTreeMap::new(),
        digest: "d".to_owned(),
    }
}

fn end(engine: &EmbeddedEngine, name: &str) -> ModuleState {
    for _ in 0..1000 {
        let state = engine.observe(name).unwrap();
        if matches!(state.status, ModuleStatus::Exited | ModuleStatus::Dead) {
            return state;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} does not end");
}

fn lines(engine: &EmbeddedEngine, name: &str) -> Vec<String> {
    let page = engine.read_log(name, &LogQuery::default(), None).unwrap();
    page.lines.into_iter().map(|line| line.text).collect()
}

#[test]
fn a_container_runs_confined_and_leaves_exit_code_and_log() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    engine.create(&spec("m", &["status"], json!({}))).unwrap();
    let root = folder.container("m").join("rootfs");
    assert!(!mount::is_mounted(&root), "what does not run needs no file system");
    engine.start("m").unwrap();
    assert_eq!(end(&engine, "m").exit_code, Some(0));
    assert!(!mount::is_mounted(&root));
    let status = lines(&engine, "m");
    for want in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "Pid:\t1"] {
        assert!(status.iter().any(|line| line == want), "{want}: {status:?}");
    }
    assert!(status.iter().any(|line| line.starts_with("Uid:\t1234")));
    engine.remove("m").unwrap();
    assert!(!folder.path().join("e/containers/m").exists());
    assert_eq!(engine.list().unwrap(), []);
}

#[test]
fn a_container_outlives_the_engine_and_is_adopted_and_stopped() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    engine.create(&spec("m", &["sleep"], json!({}))).unwrap();
    engine.start("m").unwrap();
    let root = folder.container("m").join("rootfs");
    assert!(root.join("bin/probe").exists() && !root.join("gone").exists());
    let pid = engine.observe("m").unwrap().pid.unwrap();
    drop(engine);
    let engine = open(folder.path());
    let state = engine.observe("m").unwrap();
    assert_eq!((state.status, state.pid), (ModuleStatus::Running, Some(pid)));
    engine.start("m").unwrap();
    assert_eq!(engine.observe("m").unwrap().pid, Some(pid));
    engine.stop("m", Duration::from_millis(100)).unwrap();
    // The first process of a namespace has no default action for SIGTERM.
    assert_eq!(end(&engine, "m").exit_code, Some(137));
    engine.start("m").unwrap();
    assert_eq!(engine.observe("m").unwrap().status, ModuleStatus::Running);
    engine.remove("m").unwrap();
}

#[test]
fn a_killed_monitor_takes_its_container_with_it() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    engine.create(&spec("m", &["sleep"], json!({}))).unwrap();
    engine.start("m").unwrap();
    let pid = engine.observe("m").unwrap().pid.unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
    kill(Pid::from_raw(parent.parse().unwrap()), Signal::SIGKILL).unwrap();
    let state = end(&engine, "m");
    assert_eq!((state.status, state.exit_code), (ModuleStatus::Dead, None));
    for _ in 0..500 {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the container lives on unseen");
    engine.start("m").unwrap();
    assert_eq!(engine.observe("m").unwrap().status, ModuleStatus::Running);
    engine.remove("m").unwrap();
}

#[test]
fn a_machine_that_went_down_costs_a_module_nothing_that_it_had_written() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    engine.create(&spec("m", &["sleep"], json!({}))).unwrap();
    engine.start("m").unwrap();
    let written = folder.container("m").join("upper/written");
    fs::write(&written, b"state").unwrap();
    let pid = engine.observe("m").unwrap().pid.unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
    kill(Pid::from_raw(parent.parse().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(end(&engine, "m").status, ModuleStatus::Dead, "its monitor alone was killed");
    fs::write(folder.container("m").join("boot"), "another").unwrap();
    let state = end(&engine, "m");
    assert_eq!((state.status, state.exit_code), (ModuleStatus::Exited, Some(255)));
    engine.start("m").unwrap();
    assert_eq!(engine.observe("m").unwrap().status, ModuleStatus::Running);
    assert_eq!(fs::read(&written).unwrap(), b"state");
    engine.remove("m").unwrap();
}

#[test]
fn the_memory_limit_holds_and_its_breach_is_told() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    let host = json!({"Memory": 33_554_432, "MemorySwap": 33_554_432});
    engine.create(&spec("m", &["eat", "100"], host)).unwrap();
    engine.start("m").unwrap();
    let state = end(&engine, "m");
    assert_eq!((state.exit_code, state.out_of_memory), (Some(137), true));
    engine.remove("m").unwrap();
}

/// What a container prints that runs `words` under the limits of `host`.
fn felt(words: &[&str], host: serde_json::Value) -> String {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    engine.create(&spec("m", words, host)).unwrap();
    engine.start("m").unwrap();
    let state = end(&engine, "m");
    let said = lines(&engine, "m");
    assert_eq!((state.exit_code, said.len()), (Some(0), 1), "{state:?} {said:?}");
    engine.remove("m").unwrap();
    said.into_iter().next().unwrap()
}

/// A number, and what the kernel said when it went no further.
fn count(said: &str) -> (u64, &str) {
    let (number, words) = said.split_once(' ').unwrap();
    (number.parse().unwrap(), words)
}

#[test]
fn the_limit_of_processes_is_felt_inside() {
    let said = felt(&["forks", "12"], json!({"PidsLimit": 5}));
    let (children, words) = count(&said);
    assert_eq!(children, 4, "with itself that is five: {said}");
    assert!(words.contains("temporarily unavailable"), "{said}");
    let said = felt(&["forks", "12"], json!({}));
    assert_eq!(said, "12 nothing", "the control");
}

#[test]
fn the_limit_of_open_files_is_felt_inside() {
    let limit = json!({"Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 64}]});
    let said = felt(&["files", "100"], limit);
    let (files, words) = count(&said);
    // Standard input, output and errors are open already.
    assert_eq!(files, 61, "{said}");
    assert!(words.contains("Too many open files"), "{said}");
    assert_eq!(felt(&["files", "100"], json!({})), "100 nothing", "the control");
}

/// Twenty milliseconds of every hundred: a tenth of a second of work takes four tenths at least,
/// for the first share is there at once. A busy machine only makes it longer.
#[test]
fn the_limit_of_the_processor_is_felt_inside() {
    for host in
        [json!({"NanoCpus": 200_000_000}), json!({"CpuQuota": 20_000, "CpuPeriod": 100_000})]
    {
        let took: u64 = felt(&["burn", "100"], host.clone()).parse().unwrap();
        assert!(took >= 350, "{host}: {took} ms");
    }
}

#[test]
fn what_cannot_run_is_refused_and_leaves_nothing() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    let check = |spec: ModuleSpec, words: &str| {
        let message = engine.create(&spec).unwrap_err().to_string();
        assert!(message.contains(words), "{words}: {message}");
    };
    let good = || spec("m", &["exit", "0"], json!({}));
    check(ModuleSpec { image: "other:1".to_owned(), ..good() }, "not on this device");
    check(ModuleSpec { name: "../m".to_owned(), ..good() }, "name must be");
    let long = format!("over {FOLDER_BYTES_MAX}");
    check(ModuleSpec { name: "m".repeat(FOLDER_BYTES_MAX), ..good() }, &long);
    check(
        ModuleSpec {
            create_options: r#"{"User":"ghost","HostConfig":{"NetworkMode":"host"}}"#.to_owned(),
            ..good()
        },
        "ghost",
    );
    check(spec("m", &[], json!({"NetworkMode": "container:x"})), "reach each other by name");
    check(spec("m", &[], json!({"Devices": [{"PathOnHost": "/dev/absent"}]})), "/dev/absent");
    assert_eq!(fs::read_dir(folder.path().join("e/containers")).unwrap().count(), 0);
    let options = r#"{"Entrypoint":["/none"],"HostConfig":{"NetworkMode":"host"}}"#;
    engine.create(&ModuleSpec { create_options: options.to_owned(), ..good() }).unwrap();
    let error = engine.start("m").unwrap_err();
    assert!(matches!(error, EngineError::StartFailed { .. }), "{error}");
    let state = end(&engine, "m");
    assert_eq!(state.exit_code, Some(127));
    assert!(state.failure.unwrap().contains("/none"));
    engine.remove("m").unwrap();
}

mod network;
mod power_cut;

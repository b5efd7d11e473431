//! Real containers, as root: the monitor's own binary is the program inside.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "black-box tests outside a test module, against real processes"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(name: &str, command: &[&str], memory: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("rootfs");
        for inner in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(root.join(inner)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_selvedge-monitor"), root.join("probe")).unwrap();
        let id = format!("{name}-{}", std::process::id());
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": root},
            "hostname": name,
            "process": {
                "args": command, "cwd": "/", "env": ["PATH=/"], "noNewPrivileges": true,
                "user": {"uid": 0, "gid": 0},
                "capabilities": {
                    "bounding": CAPABILITIES, "effective": CAPABILITIES,
                    "permitted": CAPABILITIES,
                },
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "cgroupsPath": format!("/selvedge-test/{id}"),
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "network"},
                ],
                "resources": memory.map_or(json!({}), |limit| json!({"memory": {"limit": limit}})),
            },
        });
        let settings = json!({"version": 1, "id": id, "log": {"max_size": 2000, "max_file": 2}});
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        fs::write(folder.path().join("monitor.json"), settings.to_string()).unwrap();
        Self { folder }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-monitor"));
        command.arg("run").arg(self.folder.path());
        command
    }

    fn start(&self) -> Value {
        serde_json::from_slice(&self.command().output().unwrap().stdout).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn exit(&self) -> Value {
        let asked = Instant::now();
        loop {
            if let Ok(text) = fs::read(self.file("exit.json")) {
                return serde_json::from_slice(&text).unwrap();
            }
            let complaints = fs::read_to_string(self.file("monitor.log")).unwrap_or_default();
            assert!(asked.elapsed() < PATIENCE, "no exit.json; {complaints}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ask(&self, request: Value) -> Value {
        let mut stream = UnixStream::connect(self.file("control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.file("log").join(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| line["log"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn an_exit_code_is_told_and_logs_rotate() {
    let bench = Bench::new("code", &["/probe", "probe", "exit", "7"], None);
    assert_eq!(bench.start()["result"], "running");
    let exit = bench.exit();
    assert_eq!((&exit["exit_code"], &exit["oom"]), (&json!(7), &json!(false)), "{exit}");

    let bench = Bench::new("lines", &["/probe", "probe", "lines", "100"], None);
    assert_eq!(bench.start()["result"], "running");
    bench.exit();
    assert!(bench.log("container.log").ends_with("line 99\n"));
    assert!(bench.file("log/container.log.1").exists());
    assert!(!bench.file("log/container.log.2").exists());
}

#[test]
fn a_missing_program_is_told_by_name() {
    let bench = Bench::new("missing", &["/nothing"], None);
    let answer = bench.start();
    assert_eq!(answer["result"], "failed");
    assert_eq!(answer["reason"], "exec \"/nothing\": executable file not found");
    assert_eq!(bench.exit()["failure"], answer["reason"]);
}

#[test]
fn a_container_that_ignores_the_signal_is_killed_after_the_grace() {
    // The first process of a pid namespace gets no signal that it does not handle.
    let bench = Bench::new("stop", &["/probe", "probe", "sleep"], None);
    assert_eq!(bench.start()["result"], "running");
    assert_eq!(bench.ask(json!({"op": "status", "later": 1}))["state"], "running");
    assert_eq!(bench.ask(json!({"op": "dance"}))["ok"], false);
    let second: Value = bench.start();
    assert!(second["reason"].as_str().unwrap().starts_with("already monitored"), "{second}");
    let answer = bench.ask(json!({"op": "stop", "grace_ms": 50}));
    assert_eq!(answer["exit_code"], 137, "{answer}");
    assert_eq!(bench.exit()["signal"], 9);
}

#[test]
fn too_much_memory_is_told_as_such() {
    let bench = Bench::new("oom", &["/probe", "probe", "eat", "100"], Some(32 * 1024 * 1024));
    assert_eq!(bench.start()["result"], "running");
    let exit = bench.exit();
    assert_eq!((&exit["exit_code"], &exit["oom"]), (&json!(137), &json!(true)), "{exit}");
}

#[test]
fn it_survives_its_starter() {
    let bench = Bench::new("orphan", &["/probe", "probe", "sleep"], None);
    let mut shell = Command::new("/bin/sh")
        .args(["-c", "\"$0\" run \"$1\" >\"$1/answer\"; exec sleep 600"])
        .arg(env!("CARGO_BIN_EXE_selvedge-monitor"))
        .arg(bench.folder.path())
        .spawn()
        .unwrap();
    let asked = Instant::now();
    while !fs::read_to_string(bench.file("answer")).is_ok_and(|text| text.contains("running")) {
        assert!(asked.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    shell.kill().unwrap();
    shell.wait().unwrap();
    assert_eq!(bench.ask(json!({"op": "status"}))["state"], "running");
    bench.ask(json!({"op": "stop", "grace_ms": 0}));
}

#[test]
fn from_inside_the_filter_and_the_capabilities_are_as_dockers() {
    let bench = Bench::new("refused", &["/probe", "probe", "refused"], None);
    assert_eq!(bench.start()["result"], "running");
    bench.exit();
    assert_eq!(
        bench.log("container.log"),
        "unshare 1\nclone 1\nmount 1\nkeyctl 1\nbpf 1\nclone3 38\nvsock 1\ngetpid 0\n"
    );

    let bench = Bench::new("status", &["/probe", "probe", "status"], None);
    assert_eq!(bench.start()["result"], "running");
    bench.exit();
    let status = bench.log("container.log");
    for line in ["CapBnd:\t00000000a80425fb", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
}

//! What the unpacker has given up, seen from outside and by a probe in its place.

#![expect(clippy::disallowed_methods, reason = "a deadline against a real process")]

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn monitor() -> Command {
    Command::new(env!("CARGO_BIN_EXE_selvedge-monitor"))
}

#[test]
fn a_process_in_the_unpackers_place_reaches_nothing_but_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let done = monitor().args(["probe", "confined"]).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    let check = |name: &str, expected: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let line = line.unwrap_or_else(|| panic!("{name} is not there: {said}"));
        assert!(line.starts_with(expected), "{name}: {line}");
    };
    // A kernel without Landlock would say so here; this test wants one.
    check("landlock", "true");
    check("make", "done");
    // Written, but not to be read again: nothing of it is needed.
    check("read", "Permission denied");
    check("outside", "No such file");
    check("above", "No such file");
    check("socket", "Operation not permitted");
    check("unix", "Operation not permitted");
    check("rename", "Operation not permitted");
    check("program", "Operation not permitted");
    for call in ["kill", "mount", "unshare", "ptrace", "chroot"] {
        check(call, "1");
    }
    let made: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(made.len(), 1);
}

#[test]
fn the_unpacker_itself_is_confined_while_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let archive = tempfile::NamedTempFile::new().unwrap();
    // An empty archive with a long tail, which is hashed: time to look.
    let len: u64 = 64 << 30;
    archive.as_file().set_len(len).unwrap();
    let mut child = monitor()
        .args(["unpack", "0", &len.to_string(), "plain"])
        .current_dir(folder.path())
        .stdin(File::open(archive.path()).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let place = format!("/proc/{}", child.id());
    let status = loop {
        let status = fs::read_to_string(format!("{place}/status")).unwrap();
        if status.contains("Seccomp:\t2") {
            break status;
        }
        assert!(begin.elapsed() < Duration::from_mins(1), "{status}");
        std::thread::yield_now();
    };
    let root = fs::read_link(format!("{place}/root")).unwrap();
    let limits = fs::read_to_string(format!("{place}/limits")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(root, folder.path());
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN, MKNOD, SETFCAP.
    for line in ["NoNewPrivs:\t1", "Threads:\t1", "CapEff:\t000000008820001b"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let limit = |line: &&str| line.starts_with("Max address space") && line.contains("536870912");
    assert!(limits.lines().any(|line| limit(&line)), "{limits}");
}

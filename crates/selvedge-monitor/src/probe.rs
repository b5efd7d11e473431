//! A program to run inside a container in tests: it tells what it is allowed to do.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use crate::{start, sys};

/// Does what `words` say and ends.
pub(crate) fn run(words: &[&str]) -> ExitCode {
    match words {
        ["exit", code] => return ExitCode::from(code.parse().unwrap_or(99)),
        ["lines", count] => {
            for number in 0..count.parse().unwrap_or(0) {
                start::say(&format!("line {number}"));
            }
        }
        ["sleep"] => std::thread::sleep(Duration::from_mins(10)),
        ["eat", mebibytes] => {
            let len = mebibytes.parse::<usize>().unwrap_or(0) * 1024 * 1024;
            start::say(&format!("{}", std::hint::black_box(vec![1_u8; len]).len()));
        }
        ["refused"] => refused(),
        ["status"] => start::say(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        _ => return ExitCode::from(98),
    }
    ExitCode::SUCCESS
}

fn refused() {
    let new_user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let calls = [
        ("unshare", libc::SYS_unshare, new_user),
        ("clone", libc::SYS_clone, new_user),
        ("mount", libc::SYS_mount, 0),
        ("keyctl", libc::SYS_keyctl, 0),
        ("bpf", libc::SYS_bpf, 0),
        ("clone3", libc::SYS_clone3, 0),
        ("vsock", libc::SYS_socket, u64::from(libc::AF_VSOCK.unsigned_abs())),
        ("getpid", libc::SYS_getpid, 0),
    ];
    for (name, number, first) in calls {
        start::say(&format!("{name} {}", sys::errno_of(number, [first, 0, 0])));
    }
}

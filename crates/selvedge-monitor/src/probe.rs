//! A program to run inside a container in tests: it tells what it is allowed to do.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrIn;

use crate::{clock, start, sys};

/// How often a call is tried, and how long lies between two tries.
const DIALS_MAX: u32 = 200;
const DIAL_EVERY: Duration = Duration::from_millis(50);
/// Where user time stands in `/proc/self/stat` behind the name; system time follows.
const TICKS_USER: usize = 11;

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
        ["forks", most] => forks(most.parse().unwrap_or(0)),
        ["files", most] => files(most.parse().unwrap_or(0)),
        ["burn", millis] => burn(millis.parse().unwrap_or(0)),
        ["refused"] => refused(),
        ["cat", path] => start::say(&fs::read_to_string(path).unwrap_or_default()),
        ["interfaces"] => interfaces(),
        ["listen", port] => return listen(port),
        ["dial", host, port] => return dial(host, port),
        ["confined"] => confined(),
        ["status"] => start::say(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        _ => return ExitCode::from(98),
    }
    ExitCode::SUCCESS
}

/// Starts children until it may not, or `most`; prints how many, and what the kernel said.
fn forks(most: usize) {
    let mut children = Vec::new();
    let mut said = "nothing".to_owned();
    while children.len() < most {
        match std::process::Command::new("/proc/self/exe").args(["probe", "sleep"]).spawn() {
            Ok(child) => children.push(child),
            Err(error) => {
                said = error.to_string();
                break;
            }
        }
    }
    start::say(&format!("{} {said}", children.len()));
    for child in &mut children {
        child.kill().ok();
        child.wait().ok();
    }
}

/// Opens files until it may not, or `most`; prints how many, and what the kernel said.
fn files(most: usize) {
    let mut open = Vec::new();
    let mut said = "nothing".to_owned();
    while open.len() < most {
        match fs::File::open("/proc/self/status") {
            Ok(file) => open.push(file),
            Err(error) => {
                said = error.to_string();
                break;
            }
        }
    }
    let count = open.len();
    // The line needs no descriptor, but whoever prints it may.
    drop(open);
    start::say(&format!("{count} {said}"));
}

/// Works until it has had `millis` more of the processor; prints how long that took, in
/// milliseconds. What its start has cost does not count: on a slow machine that is much.
fn burn(millis: u64) {
    let begun = clock::deadline(Duration::ZERO);
    let had = processor_millis();
    while processor_millis() - had < millis {
        std::hint::black_box((0..100_000_u64).fold(0, |sum: u64, it| sum.wrapping_mul(31) ^ it));
    }
    start::say(&format!("{}", clock::since(begun).as_millis()));
}

/// What this process has had of the processor; the kernel counts in hundredths of a second.
fn processor_millis() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = behind.split_whitespace().collect();
    let of = |at: usize| fields.get(at).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
    (of(TICKS_USER) + of(TICKS_USER + 1)) * 10
}

fn interfaces() {
    for one in getifaddrs().into_iter().flatten() {
        if let Some(ip) = one.address.and_then(|it| it.as_sockaddr_in().map(SockaddrIn::ip)) {
            start::say(&format!("{} {ip}", one.interface_name));
        }
    }
}

/// Tells everybody who calls where the call comes from.
fn listen(port: &str) -> ExitCode {
    let port = port.parse().unwrap_or(0);
    let Ok(listener) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) else {
        start::say("cannot listen");
        return ExitCode::from(97);
    };
    start::say("listening");
    loop {
        if let Ok((mut stream, from)) = listener.accept() {
            // A caller that went away asks no more.
            writeln!(stream, "hello {}", from.ip()).ok();
        }
    }
}

/// Calls until somebody answers, and prints the answer.
fn dial(host: &str, port: &str) -> ExitCode {
    let address = format!("{host}:{port}");
    let mut failure = String::new();
    for _ in 0..DIALS_MAX {
        let mut text = String::new();
        let heard = TcpStream::connect(&address).and_then(|mut it| it.read_to_string(&mut text));
        match heard {
            Ok(_) => {
                start::say(text.trim());
                return ExitCode::SUCCESS;
            }
            Err(error) => failure = error.to_string(),
        }
        std::thread::sleep(DIAL_EVERY);
    }
    start::say(&format!("{address}: {failure}"));
    ExitCode::from(96)
}

/// What an unpacker that was taken over could still do: nothing of this.
fn confined() {
    let starter = u64::from(std::os::unix::process::parent_id());
    match crate::unpack::confine() {
        Ok(landlock) => start::say(&format!("landlock {landlock}")),
        Err(words) => return start::say(&format!("not confined: {words}")),
    }
    let tries: [(&str, std::io::Result<()>); 8] = [
        ("make", fs::write("inside", "x")),
        ("read", fs::read("inside").map(drop)),
        ("outside", fs::write("/etc/selvedge-probe", "x")),
        ("above", fs::write("../../etc/selvedge-probe", "x")),
        ("socket", TcpListener::bind("127.0.0.1:0").map(drop)),
        ("unix", std::os::unix::net::UnixListener::bind("s").map(drop)),
        ("rename", fs::rename("inside", "other")),
        ("program", std::process::Command::new("/probe").status().map(drop)),
    ];
    for (name, done) in tries {
        start::say(&format!(
            "{name} {}",
            done.map_or_else(|error| error.to_string(), |()| "done".to_owned())
        ));
    }
    for (name, number, first) in [
        ("kill", libc::SYS_kill, starter),
        ("mount", libc::SYS_mount, 0),
        ("unshare", libc::SYS_unshare, 0),
        ("ptrace", libc::SYS_ptrace, 0),
        ("chroot", libc::SYS_chroot, 0),
    ] {
        start::say(&format!("{name} {}", sys::errno_of(number, [first, 0, 0])));
    }
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

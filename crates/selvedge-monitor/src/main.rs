//! One per module: runs a container from an OCI bundle, owns its logs and exit status.
//!
//! What it is: a small program with one thread that outlives whoever started it, because the
//! container is its child and must survive a restart of the runtime.
//! What it is not: it decides nothing about restarts, pulls nothing, listens to no network.
//! `unpack` makes a folder of a layer of an image, confined to that folder.
//! `network` is a second use of the same small program: one change of the machine's network.
//! Start reading at `monitor.rs`; the files of a container directory are listed in `files.rs`.

mod cgroup;
mod clock;
mod control;
mod executor;
mod files;
mod log;
mod monitor;
mod network;
mod oom;
mod probe;
mod seccomp;
mod start;
mod sys;
mod unpack;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", directory] => start::run(Path::new(directory)),
        ["network"] => network::run(),
        ["unpack", rest @ ..] => unpack::run(rest),
        ["probe", rest @ ..] => probe::run(rest),
        _ => {
            start::say(
                "usage: selvedge-monitor run <container directory> | network < request.json | \
                 unpack <offset> <length> plain|gzip|detect < archive",
            );
            ExitCode::from(2)
        }
    }
}

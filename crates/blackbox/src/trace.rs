//! System calls of a running process, in the order in which they began and ended.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::wait;

/// What is traced: all that reads or writes a socket or a file, and all that syncs.
const CALLS: &str = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,\
                     pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,msync";

/// strace, attached to a process. Dropped, it detaches.
#[derive(Debug)]
pub struct Tracer {
    strace: Option<Child>,
    file: PathBuf,
}

/// One system call on a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `fdatasync`, `recvfrom`, …
    pub name: String,
    /// What the descriptor stands for: a path, or `TCP:[from->to]`.
    pub target: String,
    /// Place in the trace where it began.
    pub begun: usize,
    /// Place in the trace where it ended; later than all that ended before it.
    pub ended: usize,
    /// What it returned; negative for an error.
    pub result: i64,
    /// The rest of its line: what was written, as far as the tracer was told to show it.
    pub rest: String,
}

impl Tracer {
    /// Attaches to all threads of `pid`; the trace goes to `file`.
    pub fn attach(pid: u32, file: &Path) -> Result<Self> {
        Self::attach_showing(pid, file, 0)
    }

    /// The same; the first `bytes` of what each call reads or writes are shown.
    pub fn attach_showing(pid: u32, file: &Path, bytes: usize) -> Result<Self> {
        let words = file.with_extension("strace.log");
        let strace = Command::new("strace")
            .args(["-f", "-yy", "-s", &bytes.to_string(), "-e", CALLS, "-o"])
            .arg(file)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(fs::File::create(&words)?)
            .spawn()
            .context("starting strace; `cargo xtask test` installs it")?;
        let mut tracer = Self { strace: Some(strace), file: file.to_owned() };
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?.count();
        wait::until("strace to attach", Duration::from_secs(20), || {
            let said = fs::read_to_string(&words)?;
            if let Some(status) = tracer.strace.as_mut().and_then(|s| s.try_wait().transpose()) {
                bail!("strace ended with {}: {said}", status?);
            }
            let attached = said.contains("attached") && traced(pid)? >= threads;
            Ok(attached.then_some(()))
        })?;
        Ok(tracer)
    }

    /// Detaches and reads the trace.
    pub fn finish(mut self) -> Result<Vec<Call>> {
        self.detach()?;
        calls(&fs::read_to_string(&self.file)?)
    }

    fn detach(&mut self) -> Result<()> {
        let Some(mut strace) = self.strace.take() else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(strace.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        strace.wait()?;
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Fails only if strace is gone, which is what is wanted.
        self.detach().ok();
    }
}

/// How many threads of `pid` a tracer holds.
fn traced(pid: u32) -> Result<usize> {
    let mut count = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the two reads.
        let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        count += usize::from(tracer.is_some_and(|tracer| tracer.trim() != "0"));
    }
    Ok(count)
}

/// Parses strace's output with `-f -yy`: `1234 name(5<target>, …) = result`, also in two parts.
pub fn calls(trace: &str) -> Result<Vec<Call>> {
    let mut begun: HashMap<&str, Call> = HashMap::new();
    let mut found = Vec::new();
    for (place, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        let mut call = if rest.starts_with("<... ") {
            // The beginning may lie before the trace did.
            let Some(call) = begun.remove(thread) else { continue };
            call
        } else {
            let Some(call) = beginning(rest, place) else { continue };
            call
        };
        if rest.ends_with("<unfinished ...>") {
            begun.insert(thread, call);
            continue;
        }
        // Still going on when the trace ended.
        if rest.ends_with("<detached ...>") {
            continue;
        }
        let (_, result) = rest.rsplit_once(" = ").with_context(|| format!("line {line:?}"))?;
        let number = result.split_ascii_whitespace().next().unwrap_or_default();
        // `?` stands for a call that a signal ended.
        call.result = number.parse().unwrap_or(-1);
        call.ended = place;
        found.push(call);
    }
    ensure!(!found.is_empty(), "the trace is empty");
    found.sort_by_key(|call| call.ended);
    Ok(found)
}

fn beginning(text: &str, place: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (_, rest) = rest.split_once('<')?;
    // `->` inside a target is not its end.
    let end = rest
        .match_indices('>')
        .map(|(at, _)| at)
        .find(|&at| rest[at + 1..].starts_with([',', ')', ' ']) || rest.len() == at + 1)?;
    let target = rest[..end].to_owned();
    let name = name.to_owned();
    // Only writes to files are looked into.
    let rest = if name.starts_with("pwrite") { rest[end..].to_owned() } else { String::new() };
    Some(Call { name, target, begun: place, ended: place, result: -1, rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_in_one_part_and_in_two_keep_where_they_began_and_ended() {
        let trace = "\
1 recvfrom(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\"..., 65536, 0, NULL, NULL) = 300\n\
2 pwrite64(4</a/b c>, \"\"..., 330, 0) = 330\n\
2 fdatasync(4</a/b c> <unfinished ...>\n\
1 recvfrom(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, 0x1, 9, 0, NULL, NULL) = -1 EAGAIN (Busy)\n\
2 <... fdatasync resumed>)               = 0\n\
3 <... read resumed>)               = 7\n\
1 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\"..., 26, MSG_NOSIGNAL, NULL, 0) = 26\n";
        let calls = calls(trace).unwrap();
        let told: Vec<(&str, &str, usize, usize, i64)> = calls
            .iter()
            .map(|c| (c.name.as_str(), c.target.as_str(), c.begun, c.ended, c.result))
            .collect();
        let socket = "TCP:[127.0.0.1:1->127.0.0.1:2]";
        assert_eq!(
            told,
            [
                ("recvfrom", socket, 0, 0, 300),
                ("pwrite64", "/a/b c", 1, 1, 330),
                ("recvfrom", socket, 3, 3, -1),
                ("fdatasync", "/a/b c", 2, 4, 0),
                ("sendto", socket, 6, 6, 26),
            ]
        );
    }
}

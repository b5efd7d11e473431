//! The life of one container, from bundle to `exit.json`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, mkfifo, pipe2};
use serde_json::{Value, json};

use crate::cgroup;
use crate::control::{self, Client, Request};
use crate::executor::Launch;
use crate::files::{After, Exit, Settings, VERSION};
use crate::log::{Log, Stream};
use crate::seccomp::Filters;
use crate::start::{Starter, one_thread};
use crate::{clock, network, oom};

/// How long a container may take to stop when the machine asks the monitor to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How often the lock of a folder is tried, and how long lies between two tries.
const LOCK_TRIES: u32 = 20;
const LOCK_TRY_EVERY: Duration = Duration::from_millis(5);
/// The kernel should kill almost anything before a monitor.
const OOM_SCORE: &str = "-900";
/// Bytes taken from a stream before others get their turn.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Runs the container in `directory` to its end.
pub(crate) fn run(directory: &Path, mut starter: Starter) {
    let lock = match lock(directory) {
        Ok(lock) => lock,
        // Another monitor owns the folder: nothing in it is ours to write.
        Err(error) => return starter.failed(&format!("already monitored: {error}")),
    };
    let mut after = After::default();
    let started = Settings::read(directory).and_then(|mut settings| {
        after = std::mem::take(&mut settings.after);
        Monitor::start(directory, settings)
    });
    let exit = match started {
        Ok(mut monitor) => {
            starter.running(monitor.pid.as_raw());
            monitor.attend()
        }
        Err(reason) => {
            starter.failed(&reason);
            let finished_at = clock::wall();
            let failure = Some(reason);
            Exit { version: VERSION, exit_code: 127, finished_at, failure, ..Exit::default() }
        }
    };
    if let Err(error) = exit.write(directory) {
        complain(&format!("cannot write exit.json: {error}"));
    }
    // After the exit status is safe, and before the lock says that all is done.
    tidy(&after);
    drop(lock);
}

/// Takes away what only a running container needs. What fails here the engine does again.
fn tidy(after: &After) {
    if let Some(path) = &after.unmount {
        match umount2(path, MntFlags::MNT_DETACH) {
            // Nothing was mounted there.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => complain(&format!("unmounting {}: {error}", path.display())),
        }
    }
    if let Some(netns) = &after.netns
        && let Err(error) = network::detach(netns, after.host_interface.as_deref())
    {
        complain(&error);
    }
}

fn lock(directory: &Path) -> io::Result<Flock<File>> {
    let path = directory.join("monitor.lock");
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            // The engine looks whether somebody lives here by taking the lock for a moment.
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, error)) => return Err(error.into()),
        }
        std::thread::sleep(LOCK_TRY_EVERY);
    }
    Err(Errno::EWOULDBLOCK.into())
}

#[expect(clippy::print_stderr, reason = "stderr is monitor.log")]
fn complain(what: &str) {
    eprintln!("{} {what}", clock::wall());
}

struct Monitor {
    settings: Settings,
    container: Container,
    pid: Pid,
    started_at: String,
    log: Log,
    streams: [(Stream, File); 2],
    signals: SignalFd,
    listener: UnixListener,
    clients: Vec<Client>,
    kill_at: Option<Instant>,
    oom_counter: Option<PathBuf>,
    paused: bool,
}

impl Monitor {
    fn start(directory: &Path, settings: Settings) -> Result<Self, String> {
        fn at<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
            move |error| format!("{what}: {error}")
        }
        let filters = filters(directory, &settings)?;
        match fs::remove_file(directory.join("exit.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("cannot remove the old exit.json: {error}"));
            }
            _ => {}
        }
        let log = Log::open(&directory.join("log"), settings.log).map_err(at("log"))?;
        let mut watched = SigSet::empty();
        watched.add(Signal::SIGCHLD);
        watched.add(Signal::SIGTERM);
        watched.thread_block().map_err(at("signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&watched, flags).map_err(at("signals"))?;
        let listener = control::listen(&directory.join("control.sock")).map_err(at("control"))?;
        let (out, out_end) = fifo(&directory.join("stdout.fifo")).map_err(at("stdout.fifo"))?;
        let (err, err_end) = fifo(&directory.join("stderr.fifo")).map_err(at("stderr.fifo"))?;
        let container = launch(directory, &settings.id, filters, out_end, err_end)?;
        let pid = container.pid().ok_or("libcontainer tells no process id")?;
        let pid = Pid::from_raw(pid.as_raw());
        // After the container was made, which would inherit it.
        if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
            complain(&format!("cannot lower oom_score_adj: {error}"));
        }
        Ok(Self {
            settings,
            pid,
            started_at: clock::wall(),
            log,
            streams: [(Stream::Stdout, out), (Stream::Stderr, err)],
            signals,
            listener,
            clients: Vec::new(),
            kill_at: None,
            oom_counter: oom::counter_of(pid.as_raw()),
            container,
            paused: false,
        })
    }

    /// Serves everybody until the container has ended.
    fn attend(&mut self) -> Exit {
        loop {
            if let Err(error) = self.wait() {
                complain(&format!("poll: {error}"));
            }
            self.copy_logs();
            if let Some(status) = self.reap() {
                return self.end(status);
            }
            control::accept(&self.listener, &mut self.clients);
            self.serve();
            if self.kill_at.is_some_and(|deadline| clock::until(deadline).is_zero()) {
                self.kill_at = None;
                self.send(Signal::SIGKILL).unwrap_or_else(|error| complain(&error));
            }
        }
    }

    fn wait(&self) -> nix::Result<()> {
        let timeout = match self.kill_at {
            None => PollTimeout::NONE,
            // One more millisecond, so that rounding down does not spin.
            Some(at) => PollTimeout::try_from(clock::until(at) + Duration::from_millis(1))
                .unwrap_or(PollTimeout::MAX),
        };
        let mut all = vec![self.signals.as_fd(), self.listener.as_fd()];
        all.extend(self.streams.iter().map(|(_, file)| file.as_fd()));
        all.extend(self.clients.iter().map(|client| client.stream.as_fd()));
        let mut all: Vec<_> =
            all.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut all, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether something was there.
    fn copy_logs(&mut self) -> bool {
        let mut buffer = vec![0; READ_BYTES_MAX];
        let mut any = false;
        for (stream, file) in &mut self.streams {
            // The pipe would block when it is empty; there is no end to it, as we hold it open.
            let Ok(len) = file.read(&mut buffer) else { continue };
            any |= len > 0;
            if let Err(error) = self.log.take(*stream, buffer.get(..len).unwrap_or_default()) {
                complain(&format!("log: {error}"));
            }
        }
        any
    }

    /// How the container ended, if it has. Others that were adopted are only buried.
    fn reap(&mut self) -> Option<WaitStatus> {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if i32::try_from(signal.ssi_signo) == Ok(libc::SIGTERM) {
                self.stop(SHUTDOWN_GRACE).unwrap_or_else(|error| complain(&error));
            }
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return None,
                Ok(status) if status.pid() == Some(self.pid) => return Some(status),
                Ok(_) => {}
            }
        }
    }

    fn serve(&mut self) {
        for mut client in std::mem::take(&mut self.clients) {
            let Some(requests) = client.read() else { continue };
            for request in requests {
                let answer = match request {
                    Ok(Request::Stop { grace_ms }) => {
                        client.waits = true;
                        match self.stop(Duration::from_millis(grace_ms)) {
                            Ok(()) => continue,
                            Err(error) => control::refused(&error),
                        }
                    }
                    Ok(request) => self.handle(&request),
                    Err(error) => control::refused(&error),
                };
                client.answer(&answer);
            }
            self.clients.push(client);
        }
    }

    fn handle(&mut self, request: &Request) -> Value {
        let done = match request {
            Request::Signal { signal } => Signal::try_from(*signal)
                .map_err(|error| format!("signal {signal}: {error}"))
                .and_then(|signal| self.send(signal)),
            Request::Pause => self.pause(true),
            Request::Resume => self.pause(false),
            Request::Status | Request::Stop { .. } => Ok(()),
        };
        let state = if self.paused { "paused" } else { "running" };
        match done {
            Err(error) => control::refused(&error),
            Ok(()) => json!({
                "ok": true, "version": VERSION, "state": state,
                "pid": self.pid.as_raw(), "started_at": self.started_at,
            }),
        }
    }

    fn pause(&mut self, pause: bool) -> Result<(), String> {
        if pause == self.paused {
            return Ok(());
        }
        let done = if pause { self.container.pause() } else { self.container.resume() };
        done.map_err(|error| words(&error))?;
        self.paused = pause;
        Ok(())
    }

    /// Asks politely now and kills after `grace`; an earlier deadline stays.
    fn stop(&mut self, grace: Duration) -> Result<(), String> {
        // A frozen process handles no signal, and is not killed on cgroup v1 either.
        self.pause(false)?;
        let signal = Signal::try_from(self.settings.stop_signal).unwrap_or(Signal::SIGTERM);
        self.send(signal)?;
        let deadline = clock::deadline(grace);
        self.kill_at = Some(self.kill_at.map_or(deadline, |earlier| earlier.min(deadline)));
        Ok(())
    }

    fn send(&self, signal: Signal) -> Result<(), String> {
        // It is our child and not buried yet, so the number cannot be another's.
        kill(self.pid, signal).map_err(|error| format!("cannot send {signal}: {error}"))
    }

    fn end(&mut self, status: WaitStatus) -> Exit {
        let finished_at = clock::wall();
        while self.copy_logs() {}
        self.log.finish().unwrap_or_else(|error| complain(&format!("log: {error}")));
        let counted = self.oom_counter.as_ref().and_then(|path| fs::read_to_string(path).ok());
        assert!(one_thread(), "the monitor has one thread");
        if let Err(error) = self.container.delete(true) {
            complain(&format!("delete: {}", words(&error)));
        }
        let (exit_code, signal) = match status {
            WaitStatus::Exited(_, code) => (code, None),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
            _ => (255, None),
        };
        for client in self.clients.iter_mut().filter(|client| client.waits) {
            client.answer(&json!({"ok": true, "state": "exited", "exit_code": exit_code}));
        }
        Exit {
            version: VERSION,
            exit_code,
            signal,
            oom: counted.is_some_and(|text| oom::killed(&text)),
            started_at: Some(self.started_at.clone()),
            finished_at,
            failure: None,
        }
    }
}

/// An error with all its causes.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The filters the bundle needs, compiled before anything exists that would need cleaning up.
fn filters(directory: &Path, settings: &Settings) -> Result<Filters, String> {
    let spec = Spec::load(directory.join("config.json")).map_err(|error| words(&error))?;
    if spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some()) {
        // libcontainer without its seccomp library would ignore it with a warning.
        return Err("config.json has a seccomp profile; the monitor applies its own".to_owned());
    }
    let process = spec.process().as_ref();
    let capabilities = process.and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|sets| sets.bounding().as_ref());
    let names: Vec<String> =
        bounding.into_iter().flatten().map(|name| name.to_string().to_uppercase()).collect();
    Filters::compile(settings.seccomp, &names)
}

/// The control group that the bundle asks for.
fn cgroup_path(directory: &Path) -> Result<Option<PathBuf>, String> {
    let spec = Spec::load(directory.join("config.json")).map_err(|error| words(&error))?;
    Ok(spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()))
}

/// A named pipe: our end, which does not block, and the container's.
///
/// Both are open for reading and writing, so that a container does not get a broken pipe
/// when its monitor dies.
fn fifo(path: &Path) -> io::Result<(File, OwnedFd)> {
    match mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let open = |flags: i32| {
        OpenOptions::new().read(true).write(true).custom_flags(flags | libc::O_CLOEXEC).open(path)
    };
    Ok((open(libc::O_NONBLOCK)?, open(0)?.into()))
}

/// Makes the container and waits until its own program has taken over.
fn launch(
    directory: &Path,
    id: &str,
    filters: Filters,
    out: OwnedFd,
    err: OwnedFd,
) -> Result<Container, String> {
    let state = directory.join("state");
    match fs::remove_dir_all(&state) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(format!("cannot remove what an earlier container left: {error}"));
        }
        _ => {}
    }
    fs::create_dir_all(&state).map_err(|error| format!("state: {error}"))?;
    if let Some(group) = cgroup_path(directory)? {
        cgroup::make_parents(&group).map_err(|error| format!("control groups: {error}"))?;
    }
    let (fault, fault_end) = pipe2(OFlag::O_CLOEXEC).map_err(|error| format!("pipe: {error}"))?;
    let stdin = File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
    let executor = Launch { filters: Rc::new(filters), fault: Rc::new(fault_end) };
    assert!(one_thread(), "the monitor has one thread");
    let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(&state)
        .map_err(|error| words(&error))?
        .with_executor(executor)
        .with_stdin(stdin)
        .with_stdout(out)
        .with_stderr(err);
    // The builder's copy of the executor goes with it; then only the container can write.
    let built = builder.as_init(directory).with_systemd(false).build();
    let mut container = built.map_err(|error| {
        if let Ok(mut half_made) = Container::load(state.join(id)) {
            half_made.delete(true).ok();
        }
        words(&error)
    })?;
    assert!(one_thread(), "the monitor has one thread");
    let started = container.start().map_err(|error| words(&error));
    let reason = started.err().or_else(|| {
        let mut reason = String::new();
        File::from(fault)
            .read_to_string(&mut reason)
            .err()
            .map(|error| error.to_string())
            .or(Some(reason))
    });
    match reason.filter(|reason| !reason.is_empty()) {
        None => Ok(container),
        Some(reason) => {
            container.delete(true).unwrap_or_else(|error| complain(&words(&error)));
            Err(reason)
        }
    }
}

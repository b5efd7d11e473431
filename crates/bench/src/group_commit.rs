//! The journal alone: group commit of small records, no network, one writer thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use journal::disk::file::FileDisk;
use journal::log::{LaneId, Log, LogOptions, Record};
use journal::worker::{Intake, IntakeLimits, WriterTurn, channel};

use crate::figures::{Rounds, to_f64};
use crate::report::{line, progress};
use crate::{clock, process};

/// How long a thread with nothing to do sleeps at most before it looks again.
const NAP: Duration = Duration::from_millis(1);
const LANES: u64 = 32;

/// What one run brought.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Records committed per second.
    rate: f64,
    /// Records per sync.
    group: f64,
    /// Bytes the log takes on disk per payload byte.
    stored: f64,
    /// Bytes that reached the block device per payload byte, by the kernel's account.
    written: f64,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What the callbacks count.
#[derive(Debug, Default)]
struct Answers {
    committed: AtomicU64,
    failed: AtomicU64,
}

/// Records waiting for their commit at any time.
const WINDOWS: [u64; 4] = [1, 16, 256, 4096];

/// Measures and tells.
pub(crate) fn section(rounds: usize, span: Duration, payload: usize) -> Result<()> {
    ensure!(rounds > 0 && payload > 0, "at least one round and one byte");
    let mut all: [Vec<Outcome>; 4] = Default::default();
    for round in 1..=rounds {
        progress(&format!("journal: round {round} of {rounds}"));
        for (window, outcomes) in WINDOWS.into_iter().zip(&mut all) {
            outcomes.push(run(window, payload, span)?);
        }
    }
    line("| records in flight | records/s | records per sync | log/payload | written/payload |");
    line("|---|---|---|---|---|");
    for (window, outcomes) in WINDOWS.into_iter().zip(&all) {
        let of = |value: fn(&Outcome) -> f64| outcomes.iter().map(value).collect::<Rounds>();
        line(&format!(
            "| {window} | {} | {} | {} | {} |",
            of(|o| o.rate).text(0),
            of(|o| o.group).text(1),
            of(|o| o.stored).text(2),
            of(|o| o.written).text(2),
        ));
    }
    line(&format!(
        "\n{payload} B payload, 32 lanes, one sender, one writer, {rounds} interleaved rounds of \
         {} s each. Log: header, frames and lanes; written: what the kernel sent to the block \
         device, in whole pages.",
        span.as_secs()
    ));
    Ok(())
}

/// Commits records of `payload` bytes for `span`, with `in_flight` of them not yet answered.
fn run(in_flight: u64, payload: usize, span: Duration) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let disk = Arc::new(FileDisk::open(folder.path())?);
    let (log, _) = Log::open(disk, LogOptions::default(), 1, 0)?;
    let (intake, mut writer) = channel(log, IntakeLimits::default());
    let answers = Arc::new(Answers::default());
    let own = std::process::id();
    let before = process::bytes_written(own)?;
    let (commits, bytes, elapsed) = thread::scope(|scope| {
        let committing = scope.spawn(move || {
            let reader = writer.store().reader();
            let mut commits = 0u64;
            loop {
                let end = reader.bounds().end;
                let turn = writer.turn(0);
                commits += u64::from(reader.bounds().end > end);
                match turn {
                    WriterTurn::Idle => thread::park_timeout(NAP),
                    WriterTurn::Again => {}
                    WriterTurn::Finished => return (commits, writer.store().bytes()),
                }
            }
        });
        intake.set_waker(Waker::from(Arc::new(Unpark(committing.thread().clone()))));
        let start = clock::now();
        feed(&intake, &answers, in_flight, payload, || start.elapsed() < span);
        let elapsed = start.elapsed();
        intake.close();
        committing.join().map(|(commits, bytes)| (commits, bytes, elapsed))
    })
    .map_err(|_| anyhow::anyhow!("the writer has panicked"))?;
    let committed = answers.committed.load(Ordering::Acquire);
    ensure!(answers.failed.load(Ordering::Acquire) == 0 && committed > 0, "commits failed");
    let (records, body) = (to_f64(committed), to_f64(committed) * to_f64(payload as u64));
    Ok(Outcome {
        rate: records / elapsed.as_secs_f64(),
        group: records / to_f64(commits.max(1)),
        stored: to_f64(bytes) / body,
        written: to_f64(process::bytes_written(own)?.saturating_sub(before)) / body,
    })
}

fn feed(
    intake: &Intake<Log>,
    answers: &Arc<Answers>,
    in_flight: u64,
    payload: usize,
    goes_on: impl Fn() -> bool,
) {
    let body = Bytes::from(vec![b'x'; payload]);
    let waker = Arc::new(thread::current());
    let mut sent = 0;
    loop {
        let answered = answers.committed.load(Ordering::Acquire);
        let open = goes_on() && answers.failed.load(Ordering::Acquire) == 0;
        if !open && sent <= answered {
            return;
        }
        if !open || sent - answered >= in_flight {
            thread::park_timeout(NAP);
            continue;
        }
        let lane = LaneId(u32::try_from(sent % LANES).unwrap_or(0));
        let payload = body.clone();
        let record = Record { lanes: [lane].into(), enqueued_ms: 0, expires_ms: None, payload };
        let (answers, waker) = (Arc::clone(answers), Arc::clone(&waker));
        let counted = intake.submit(
            vec![record],
            Box::new(move |outcome| {
                let counter = match outcome {
                    Ok(_) => &answers.committed,
                    Err(_) => &answers.failed,
                };
                counter.fetch_add(1, Ordering::AcqRel);
                waker.unpark();
            }),
        );
        match counted {
            Ok(()) => sent += 1,
            Err(_) => thread::park_timeout(NAP),
        }
    }
}

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use bytes::Bytes;

use super::*;
use crate::disk::simulated::{DiskFault, Operation, SimulatedDisk};
use crate::log::{LaneId, LogOptions, Position};

type Answers = Arc<Mutex<Vec<(u64, Result<u64, String>)>>>;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn record(number: u64) -> Record {
    let payload = Bytes::from(number.to_le_bytes().repeat(8));
    Record { lanes: [LaneId(1)].into(), enqueued_ms: 0, expires_ms: None, payload }
}

fn opened(limits: IntakeLimits) -> (SimulatedDisk, Intake<Log>, Writer<Log>) {
    let disk = SimulatedDisk::new(1);
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    let (log, _) = Log::open(Arc::new(disk.clone()), options, 7, 0).unwrap();
    let (intake, writer) = channel(log, limits);
    (disk, intake, writer)
}

fn answer(answers: &Answers, number: u64) -> Callback {
    let answers = Arc::clone(answers);
    Box::new(move |outcome| {
        let outcome = outcome.as_ref().map(|committed| committed.end().0);
        answers.lock().unwrap().push((number, outcome.map_err(ToString::to_string)));
    })
}

#[test]
fn many_submissions_share_one_write_and_one_sync_and_are_answered_in_order() {
    let (disk, intake, mut writer) = opened(IntakeLimits::default());
    let answers = Answers::default();
    for number in 0..100 {
        intake.submit(vec![record(number), record(number)], answer(&answers, number)).unwrap();
    }
    assert!(answers.lock().unwrap().is_empty(), "nothing is answered before the sync");
    let before = disk.exercised();
    assert_eq!(writer.turn(0), WriterTurn::Idle);
    let after = disk.exercised();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
    let expected: Vec<_> = (0..100).map(|number| (number, Ok(200))).collect();
    assert_eq!(*answers.lock().unwrap(), expected);
}

#[test]
fn a_full_intake_gives_the_submission_back_and_wakes_its_sender_when_there_is_room() {
    let limits = IntakeLimits { records: 3, bytes: 1 << 20, commands: 1 };
    let (_, intake, mut writer) = opened(limits);
    let answers = Answers::default();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);

    intake.submit(vec![record(0), record(1)], answer(&answers, 0)).unwrap();
    assert!(intake.poll_ready(&mut cx).is_ready());
    // Who was told that there is room is not sent away, whatever it brings.
    intake.submit((2..9).map(record).collect(), answer(&answers, 2)).unwrap();
    let two = vec![record(2), record(3)];
    let back = intake.submit(two.clone(), answer(&answers, 1)).unwrap_err();
    assert_eq!(back.records, two);
    assert!(intake.poll_ready(&mut cx).is_pending());
    assert!(intake.poll_ready(&mut cx).is_pending());
    writer.turn(0);
    assert_eq!(count.0.load(Ordering::SeqCst), 1, "one sender, one wake-up");
    assert!(intake.poll_ready(&mut cx).is_ready());
    intake.submit(back.records, back.callback).unwrap();
    writer.turn(0);
    intake.submit((0..9).map(record).collect(), answer(&answers, 3)).unwrap();
    writer.turn(0);
    let order: Vec<u64> = answers.lock().unwrap().iter().map(|(number, _)| *number).collect();
    assert_eq!(order, [0, 2, 1, 3]);
}

#[test]
fn commands_run_in_order_with_submissions_and_are_committed_by_the_same_turn() {
    let limits = IntakeLimits { commands: 2, ..IntakeLimits::default() };
    let (disk, intake, mut writer) = opened(limits);
    let answers = Answers::default();
    let seen: Arc<Mutex<Vec<i64>>> = Arc::default();
    intake.submit(vec![record(0)], answer(&answers, 0)).unwrap();
    for cursor in [1, 2] {
        let seen = Arc::clone(&seen);
        let command: Command<Log> = Box::new(move |log, now_ms| {
            seen.lock().unwrap().push(now_ms);
            log.stage_cursor(LaneId(1), Position(cursor));
        });
        assert!(intake.command(command).is_ok());
    }
    assert!(intake.command(Box::new(|_, _| ())).is_err(), "no more than two wait");
    let before = disk.exercised().syncs;
    writer.turn(42);
    assert_eq!(disk.exercised().syncs - before, 1);
    assert_eq!(*seen.lock().unwrap(), [42, 42]);
    assert_eq!(writer.store().lanes().next().map(|(_, cursor, _)| cursor), Some(Position(2)));
}

#[test]
fn an_error_of_the_disk_answers_its_group_and_the_next_group_succeeds() {
    let (disk, intake, mut writer) = opened(IntakeLimits::default());
    let answers = Answers::default();
    disk.fail(Operation::Sync, 0, DiskFault::Io);
    intake.submit(vec![record(0)], answer(&answers, 0)).unwrap();
    intake.submit(vec![record(1)], answer(&answers, 1)).unwrap();
    writer.turn(0);
    intake.submit(vec![record(2)], answer(&answers, 2)).unwrap();
    writer.turn(0);
    let failed = Err("cannot write the journal".to_owned());
    let expected = [(0, failed.clone()), (1, failed), (2, Ok(1))];
    assert_eq!(*answers.lock().unwrap(), expected);
}

#[test]
fn what_cannot_be_staged_is_refused_alone() {
    let (_, intake, mut writer) = opened(IntakeLimits::default());
    let answers = Answers::default();
    let bad = Record { lanes: [].into(), ..record(1) };
    intake.submit(vec![record(0)], answer(&answers, 0)).unwrap();
    intake.submit(vec![bad], answer(&answers, 1)).unwrap();
    intake.submit(vec![record(2)], answer(&answers, 2)).unwrap();
    writer.turn(0);
    let refused = Err("the journal refused the records".to_owned());
    assert_eq!(*answers.lock().unwrap(), [(0, Ok(1)), (1, refused), (2, Ok(2))]);
}

#[test]
fn closing_answers_what_waits_first_and_refuses_the_rest() {
    let (_, intake, mut writer) = opened(IntakeLimits::default());
    let answers = Answers::default();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    intake.set_waker(Waker::from(Arc::clone(&count)));
    assert_eq!(count.0.load(Ordering::SeqCst), 0, "nothing to do yet");
    intake.submit(vec![record(0)], answer(&answers, 0)).unwrap();
    intake.submit(vec![record(1)], answer(&answers, 1)).unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 1, "woken once for both");
    intake.close();
    intake.submit(vec![record(2)], answer(&answers, 2)).unwrap();
    assert!(intake.command(Box::new(|_, _| ())).is_err());
    assert_eq!(writer.turn(0), WriterTurn::Finished);
    let closed = Err("the journal is closed".to_owned());
    assert_eq!(*answers.lock().unwrap(), [(2, closed), (0, Ok(2)), (1, Ok(2))]);
}

#[test]
fn what_waits_behind_a_failed_submission_of_its_chain_fails_with_it() {
    let (disk, intake, mut writer) = opened(IntakeLimits::default());
    let answers = Answers::default();
    let chain = Chain::default();
    disk.fail(Operation::Sync, 0, DiskFault::Io);
    intake.submit_in(&chain, vec![record(0)], answer(&answers, 0)).unwrap();
    writer.turn(0);
    intake.submit_in(&chain, vec![record(1)], answer(&answers, 1)).unwrap();
    intake.submit(vec![record(2)], answer(&answers, 2)).unwrap();
    intake.submit_in(&Chain::default(), vec![record(3)], answer(&answers, 3)).unwrap();
    writer.turn(0);
    let answers = answers.lock().unwrap();
    let done: Vec<_> = answers.iter().map(|(number, outcome)| (*number, outcome.is_ok())).collect();
    assert_eq!(done, [(0, false), (1, false), (2, true), (3, true)]);
}

#[test]
fn a_chain_holds_over_the_commits_of_one_turn() {
    let disk = SimulatedDisk::new(1);
    let options = LogOptions { segment_bytes: 64 * 1024, ..LogOptions::default() };
    let (log, _) = Log::open(Arc::new(disk.clone()), options, 7, 0).unwrap();
    let (intake, mut writer) = channel(log, IntakeLimits::default());
    let (answers, chain) = (Answers::default(), Chain::default());
    let large = || vec![Record { payload: vec![0; 30 * 1024].into(), ..record(0) }];
    disk.fail(Operation::Sync, 0, DiskFault::Io);
    // Two of them do not go into one write.
    for number in 0..3 {
        intake.submit_in(&chain, large(), answer(&answers, number)).unwrap();
    }
    intake.submit(large(), answer(&answers, 3)).unwrap();
    writer.turn(0);
    let answers = answers.lock().unwrap();
    let done: Vec<_> = answers.iter().map(|(number, outcome)| (*number, outcome.is_ok())).collect();
    assert_eq!(done, [(0, false), (1, false), (2, false), (3, true)]);
}

#[test]
fn what_comes_after_a_turn_was_begun_belongs_to_the_next() {
    let (disk, intake, mut writer) = opened(IntakeLimits::default());
    let answers = Answers::default();
    assert!(!writer.begin(), "nothing waits");
    disk.fail(Operation::Sync, 0, DiskFault::Io);
    intake.submit(vec![record(0)], answer(&answers, 0)).unwrap();
    assert!(writer.begin());
    intake.submit(vec![record(1)], answer(&answers, 1)).unwrap();
    assert!(!writer.begin(), "what was begun comes first");
    assert_eq!(writer.turn(0), WriterTurn::Again);
    assert_eq!(answers.lock().unwrap().len(), 1);
    assert_eq!(writer.turn(0), WriterTurn::Idle);
    let done: Vec<_> = answers.lock().unwrap().iter().map(|(_, it)| it.is_ok()).collect();
    assert_eq!(done, [false, true]);
}

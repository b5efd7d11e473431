use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Now {
    Now { tick: Tick(seconds * 1_000_000_000), ..Now::default() }
}

fn id(name: &str) -> IdentityId {
    format!("d/{name}").parse().unwrap()
}

#[test]
fn an_empty_queue_means_waiting_for_work() {
    let mut pump = Pump::new();
    assert_eq!(pump.poll(at(0)), Step::Fetch(FETCH_RECORDS));
    pump.handle_fetched(0, 0);
    assert_eq!(pump.poll(at(0)), Step::Wait);
    pump.handle_work();
    assert_eq!(pump.poll(at(0)), Step::Fetch(FETCH_RECORDS));
}

#[test]
fn the_window_is_bounded_and_answers_open_it() {
    let mut pump = Pump::new();
    for _ in 0..IN_FLIGHT_MAX / FETCH_RECORDS {
        assert_eq!(pump.poll(at(0)), Step::Fetch(FETCH_RECORDS));
        pump.handle_fetched(FETCH_RECORDS, FETCH_RECORDS);
    }
    assert_eq!(pump.poll(at(0)), Step::Wait);
    assert_eq!(pump.handle_answer((&id("a"), 1), None, at(0), 0), Fate::Arrived);
    assert_eq!(pump.poll(at(0)), Step::Fetch(1));
}

#[test]
fn a_queue_that_gave_nothing_for_its_oldest_message_is_asked_again_when_that_arrived() {
    let mut pump = Pump::new();
    pump.handle_fetched(200, 200);
    pump.handle_fetched(0, 0);
    assert_eq!(pump.poll(at(0)), Step::Wait);
    pump.handle_answer((&id("slow"), 1), None, at(0), 0);
    assert_eq!(pump.poll(at(0)), Step::Fetch(FETCH_RECORDS));
    // Still shut: the next answer asks again, and an empty queue with nothing in flight rests.
    pump.handle_fetched(0, 0);
    pump.handle_given_up(199, 199);
    assert_eq!(pump.poll(at(0)), Step::Fetch(FETCH_RECORDS));
    pump.handle_fetched(0, 0);
    assert_eq!(pump.poll(at(0)), Step::Wait);
}

#[test]
fn the_window_is_bounded_in_bytes_too() {
    let mut pump = Pump::new();
    pump.handle_fetched(1, IN_FLIGHT_BYTES_MAX);
    assert_eq!(pump.poll(at(0)), Step::Wait);
    pump.handle_answer((&id("a"), 1), None, at(0), 0);
    assert_eq!(pump.poll(at(0)), Step::Fetch(FETCH_RECORDS));
}

#[test]
fn a_failure_blocks_its_sender_only_and_pauses_grow_to_a_limit() {
    let mut pump = Pump::new();
    let mut now = 0;
    for seconds in [1, 2, 4, 8, 16, 20, 20] {
        pump.handle_fetched(1, 1);
        let fate = pump.handle_answer((&id("a"), 1), Some(RefusalKind::Unavailable), at(now), 0);
        assert_eq!(fate, Fate::Again);
        assert!(!pump.may_send(&id("a")) && pump.may_send(&id("b")));
        pump.handle_fetched(0, 0);
        assert_eq!(pump.poll(at(now)), Step::WaitUntil(at(now + seconds).tick));
        now += seconds;
        assert_eq!(pump.poll(at(now)), Step::Rewind);
        pump.handle_rewound();
        assert!(pump.may_send(&id("a")));
    }
    pump.handle_fetched(1, 1);
    pump.handle_answer((&id("a"), 1), None, at(now), 0);
    pump.handle_fetched(1, 1);
    pump.handle_answer((&id("a"), 1), Some(RefusalKind::TimedOut), at(now), 0);
    pump.handle_fetched(0, 0);
    assert_eq!(pump.poll(at(now)), Step::WaitUntil(at(now + 1).tick), "success forgets failures");
}

#[test]
fn a_message_that_will_never_be_accepted_is_done_with() {
    let mut pump = Pump::new();
    pump.handle_fetched(1, 1);
    let fate = pump.handle_answer((&id("a"), 1), Some(RefusalKind::TooLarge), at(0), 0);
    assert_eq!(fate, Fate::Poison);
    assert!(pump.may_send(&id("a")));
}

#[test]
fn an_upstream_that_is_back_ends_the_pause() {
    let mut pump = Pump::new();
    pump.handle_fetched(1, 1);
    pump.handle_answer((&id("a"), 1), Some(RefusalKind::Unavailable), at(0), 0);
    pump.handle_upstream_back(at(0));
    assert_eq!(pump.poll(at(0)), Step::Rewind);
}

#[test]
fn over_a_newer_session_nothing_is_sent_before_the_older_one_answered() {
    let epoch = |counter| Epoch { incarnation: 0, counter };
    let mut pump = Pump::new();
    pump.handle_fetched(3, 3);
    assert!(pump.handle_sending(&id("a"), epoch(1), at(0)));
    assert!(pump.handle_sending(&id("a"), epoch(1), at(0)), "one session keeps the order");
    assert!(pump.handle_sending(&id("b"), epoch(2), at(0)));
    // Its connection broke and another was made; what was in flight failed, unheard of so far.
    assert!(!pump.handle_sending(&id("a"), epoch(3), at(0)));
    assert!(!pump.may_send(&id("a")) && pump.may_send(&id("b")));
    assert_eq!(pump.poll(at(0)), Step::Rewind, "as soon as all is answered");
    for _ in 0..2 {
        pump.handle_batch_over(&id("a"));
        pump.handle_answer((&id("a"), 1), Some(RefusalKind::Unavailable), at(0), 0);
    }
    pump.handle_batch_over(&id("b"));
    pump.handle_answer((&id("b"), 1), None, at(0), 0);
    pump.handle_rewound();
    assert!(pump.handle_sending(&id("a"), epoch(3), at(0)));
}

#[test]
fn a_newer_session_is_used_at_once_when_the_older_one_owes_nothing() {
    let epoch = |counter| Epoch { incarnation: 0, counter };
    let mut pump = Pump::new();
    pump.handle_fetched(1, 1);
    assert!(pump.handle_sending(&id("a"), epoch(1), at(0)));
    pump.handle_batch_over(&id("a"));
    assert!(pump.handle_sending(&id("a"), epoch(2), at(0)));
}

#[test]
fn pauses_are_spread_by_at_most_a_quarter() {
    assert_eq!(pause(0, 0), Duration::from_secs(1));
    assert!(pause(0, 255) > Duration::from_millis(750));
    assert_eq!(pause(99, 0), PAUSE_MAX);
}

proptest! {
    /// Against a queue that is a `VecDeque`: however answers fail, first copies of each sender
    /// arrive in order, and all of them.
    #[test]
    fn first_copies_of_each_sender_arrive_complete_and_in_order(
        senders in proptest::collection::vec(0..3_u8, 1..60),
        fails in proptest::collection::vec(0..3_u8, 200),
    ) {
        let records: Vec<(usize, IdentityId)> =
            senders.iter().enumerate().map(|(at, who)| (at, id(&who.to_string()))).collect();
        let mut queue: VecDeque<_> = records.clone().into();
        let mut in_flight: Vec<(usize, IdentityId)> = Vec::new();
        let mut arrived: BTreeMap<IdentityId, Vec<usize>> = BTreeMap::new();
        let mut fails = fails.into_iter();
        let mut pump = Pump::new();
        let mut now = at(0);
        for _ in 0..10_000 {
            match pump.poll(now) {
                Step::Fetch(room) => {
                    let batch: Vec<_> = queue.drain(..room.min(queue.len()).min(7)).collect();
                    pump.handle_fetched(batch.len(), batch.len());
                    in_flight.extend(batch.iter().cloned());
                    for (position, sender) in batch {
                        if !pump.may_send(&sender) {
                            continue;
                        }
                        let refusal = (fails.next() == Some(0)).then_some(RefusalKind::Unavailable);
                        if pump.handle_answer((&sender, 1), refusal, now, 0) != Fate::Again {
                            in_flight.retain(|(other, _)| *other != position);
                            arrived.entry(sender).or_default().push(position);
                        }
                    }
                }
                Step::Rewind => {
                    in_flight.drain(..).rev().for_each(|record| queue.push_front(record));
                    queue.make_contiguous().sort();
                    pump.handle_rewound();
                }
                Step::WaitUntil(tick) => now.tick = tick,
                Step::Wait => break,
            }
        }
        for (sender, positions) in &arrived {
            let expected: Vec<_> =
                records.iter().filter(|(_, who)| who == sender).map(|(at, _)| *at).collect();
            prop_assert_eq!(positions, &expected);
        }
        prop_assert_eq!(arrived.values().map(Vec::len).sum::<usize>(), records.len());
    }
}

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Tick {
    Tick(0).after(Duration::from_millis(ms))
}

fn piece(text: &str) -> Piece {
    Piece::one(Bytes::from(text.to_owned()))
}

fn queue(topics: &[(&str, Kind)]) -> Queue {
    let mut queue = Queue::new("s".into());
    for (name, kind) in topics {
        queue.add((*name).into(), *kind);
    }
    queue
}

fn sent(next: Next) -> String {
    let Next::Send(frame) = next else { panic!("{next:?}") };
    let all = [&frame.head[..], &frame.payload, TAIL].concat();
    String::from_utf8(all).unwrap()
}

#[test]
fn state_keeps_the_newest_and_counts_what_it_skipped() {
    let mut queue = queue(&[("t", Kind::State)]);
    queue.handle_piece("t", piece("1"), at(0));
    let first = sent(queue.poll(at(0)));
    assert_eq!(
        first,
        "event: update\nid: s.1\ndata: {\"topic\":\"t\",\"dropped\":0,\"data\":1}\n\n"
    );
    for n in 2..=5 {
        queue.handle_piece("t", piece(&n.to_string()), at(10));
    }
    assert_eq!(queue.poll(at(20)), Next::WaitUntil(at(250)));
    assert!(sent(queue.poll(at(250))).ends_with("\"dropped\":3,\"data\":5}\n\n"));
    assert_eq!(queue.poll(at(900)), Next::Idle);
    assert_eq!(queue.counters.dropped, 3);
}

#[test]
fn lines_come_one_by_one_and_no_faster_than_four_a_second() {
    let mut queue = queue(&[("a", Kind::Lines), ("b", Kind::Lines)]);
    for n in 0..3 {
        queue.handle_piece("a", piece(&n.to_string()), at(0));
    }
    queue.handle_piece("b", piece("9"), at(0));
    assert!(sent(queue.poll(at(0))).contains("\"data\":0}"));
    assert!(
        sent(queue.poll(at(0))).contains("\"topic\":\"b\""),
        "one topic does not hold up another"
    );
    assert_eq!(queue.poll(at(0)), Next::WaitUntil(at(250)));
    assert!(sent(queue.poll(at(250))).contains("\"data\":1}"));
    assert!(sent(queue.poll(at(500))).contains("\"data\":2}"));
}

#[test]
fn what_does_not_fit_pushes_out_the_oldest_of_the_largest_topic() {
    let mut queue = queue(&[("large", Kind::Lines), ("small", Kind::Lines)]);
    queue.handle_piece("small", piece("s"), at(0));
    let row = "x".repeat(PENDING_BYTES_MAX / 4);
    for _ in 0..10 {
        let piece = Piece { weight: 100, ..piece(&row) };
        queue.handle_piece("large", piece, at(0));
    }
    assert!(queue.pending_bytes() <= PENDING_BYTES_MAX);
    assert_eq!(queue.counters.dropped, 700);
    assert_eq!(queue.counters.overflows, 7);
    assert!(sent(queue.poll(at(0))).contains("\"dropped\":700"));
    assert!(sent(queue.poll(at(0))).contains("\"dropped\":0,\"data\":s"));
}

#[test]
fn who_comes_back_gets_what_is_kept_and_hears_what_is_lost() {
    let mut queue = queue(&[("t", Kind::Lines)]);
    for n in 0..4 {
        queue.handle_piece("t", piece(&n.to_string()), at(0));
        sent(queue.poll(at(n * 250)));
    }
    let (missed, again) = queue.handle_return(2).unwrap();
    assert_eq!((missed, again.len()), (0, 2));
    assert_eq!(&again[0].payload[..], b"2");
    assert_eq!(queue.handle_return(4).unwrap().1.len(), 0);
    assert_eq!(queue.handle_return(5), None);
    let large = "x".repeat(REPLAY_BYTES_MAX - 1000);
    for n in 4..6 {
        queue.handle_piece("t", piece(&large), at(0));
        sent(queue.poll(at(n * 250)));
    }
    let (missed, again) = queue.handle_return(0).unwrap();
    assert_eq!((missed, again.len()), (5, 1));
}

#[test]
fn a_topic_that_ends_is_told_once_and_takes_its_updates_along() {
    let mut queue = queue(&[("t", Kind::Lines)]);
    queue.handle_piece("t", piece("1"), at(0));
    queue.handle_ended("t", "the device is gone");
    assert_eq!(queue.pending_bytes(), 0);
    let said = sent(queue.poll(at(0)));
    assert!(said.starts_with("event: gone\nid: s.1\ndata: {"), "{said}");
    assert!(said.ends_with("}\n\n") && said.contains("the device is gone"), "{said}");
    let data = said.lines().nth(2).unwrap().strip_prefix("data: ").unwrap();
    assert!(serde_json::from_str::<Value>(data).is_ok(), "{data}");
    assert_eq!(queue.poll(at(0)), Next::Idle);
    queue.handle_piece("t", piece("2"), at(0));
    assert_eq!(queue.poll(at(0)), Next::Idle);
}

#[test]
fn only_who_takes_nothing_although_something_waits_is_stalled() {
    let mut queue = queue(&[("t", Kind::State)]);
    assert!(!queue.is_stalled(at(1_000_000)));
    queue.handle_piece("t", piece("1"), at(0));
    queue.handle_piece("t", piece("2"), at(14_000));
    let most = u64::try_from(STALL_MAX.as_millis()).unwrap();
    assert!(!queue.is_stalled(at(most)));
    assert!(queue.is_stalled(at(most + 1)));
    sent(queue.poll(at(most + 1)));
    assert!(!queue.is_stalled(at(99_000)));
    queue.handle_piece("t", piece("3"), at(99_000));
    queue.remove("t");
    assert!(!queue.is_stalled(at(999_000)));
}

proptest! {
    #[test]
    fn room_is_never_exceeded_and_every_update_is_sent_or_counted(
        steps in prop::collection::vec((0_usize..3, 0_usize..100_000, any::<bool>()), 1..80),
    ) {
        let names = ["a", "b", "c"];
        let kinds = [Kind::State, Kind::Lines, Kind::Lines];
        let topics: Vec<_> = names.into_iter().zip(kinds).collect();
        let mut queue = queue(&topics);
        let (mut offered, mut sent, mut now) = (0, 0, 0);
        for (topic, size, take) in steps {
            now += 100;
            queue.handle_piece(names[topic], piece(&"x".repeat(size)), at(now));
            offered += 1;
            prop_assert!(queue.pending_bytes() <= PENDING_BYTES_MAX);
            if take && matches!(queue.poll(at(now)), Next::Send(_)) {
                sent += 1;
            }
            prop_assert!(queue.sent_bytes <= REPLAY_BYTES_MAX);
        }
        loop {
            match queue.poll(at(now)) {
                Next::Send(_) => sent += 1,
                Next::WaitUntil(_) => now += 250,
                Next::Idle => break,
            }
        }
        prop_assert_eq!(offered, sent + queue.counters.dropped);
        prop_assert_eq!(queue.pending_bytes(), 0);
    }
}

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::limits::UNPROVEN_MAX;
use crate::unproven::OWN_SEARCH_MAX;

#[expect(clippy::unnecessary_wraps, reason = "as a gate takes it")]
fn from(last: u8) -> Option<Origin> {
    Some(IpAddr::from(Ipv4Addr::new(10, 0, 0, last)).into())
}

fn phase(seat: &mut Seat) -> Phase {
    seat.poll_phase(&Context::from_waker(Waker::noop()))
}

fn gate(seats: usize, unproven: usize) -> Arc<Gate> {
    Arc::new(Gate::new(SeatLimits { seats, unproven }))
}

#[test]
fn a_newcomer_takes_the_place_of_the_oldest_who_has_proven_nothing() {
    let gate = gate(100, 8);
    let mut seats: Vec<Seat> = (0..8).map(|n| Gate::seat(&gate, from(n)).unwrap()).collect();
    let mut newcomer = Gate::seat(&gate, from(99)).unwrap();
    assert_eq!(phase(&mut newcomer), Phase::Open);
    let cut: Vec<bool> = seats.iter_mut().map(|seat| phase(seat) == Phase::Cut).collect();
    assert_eq!(cut, [true, false, false, false, false, false, false, false]);
    assert_eq!((gate.unproven(), gate.seated()), (8, 9), "its task has not ended yet");
    seats.remove(0);
    assert_eq!((gate.unproven(), gate.seated()), (8, 8));
    assert_eq!(gate.counts.gave_way.get(), 1);
}

#[test]
fn who_brings_many_pays_with_his_own() {
    let gate = gate(100, 8);
    let mut slow = Gate::seat(&gate, from(1)).unwrap();
    let mut many: Vec<Seat> = (0..7).map(|_| Gate::seat(&gate, from(2)).unwrap()).collect();
    for _ in 0..50 {
        many.push(Gate::seat(&gate, from(2)).unwrap());
        many.remove(0);
    }
    assert_eq!(phase(&mut slow), Phase::Open, "the oldest of all, but of another address");
    // Of whom there is none near the oldest end, the oldest of all pays.
    drop(Gate::seat(&gate, from(3)).unwrap());
    assert_eq!(phase(&mut slow), Phase::Cut);
}

#[test]
fn a_process_that_brings_many_pays_with_its_own() {
    let gate = gate(100, 8);
    let mut honest = Gate::seat(&gate, Some(Origin::Process(1))).unwrap();
    let hostile = Some(Origin::Process(2));
    let mut many: Vec<Seat> = (0..7).map(|_| Gate::seat(&gate, hostile).unwrap()).collect();
    for _ in 0..50 {
        many.push(Gate::seat(&gate, hostile).unwrap());
        assert_eq!(phase(&mut many.remove(0)), Phase::Cut);
    }
    assert_eq!((phase(&mut honest), gate.counts.gave_way.get()), (Phase::Open, 50));
}

#[test]
fn the_search_for_ones_own_ends_after_its_limit() {
    let gate = gate(10_000, OWN_SEARCH_MAX + 1);
    let mut seats: Vec<Seat> =
        (0..OWN_SEARCH_MAX).map(|_| Gate::seat(&gate, from(1)).unwrap()).collect();
    let mut behind = Gate::seat(&gate, from(2)).unwrap();
    let _newcomer = Gate::seat(&gate, from(2)).unwrap();
    assert_eq!(phase(&mut behind), Phase::Open);
    assert_eq!(seats.first_mut().map(phase), Some(Phase::Cut));
}

#[test]
fn addresses_of_one_household_are_one() {
    let gate = gate(100, 8);
    let address = |text: &str| Some(text.parse::<IpAddr>().unwrap().into());
    let mut other = Gate::seat(&gate, address("2001:db8:0:2::1")).unwrap();
    let mut own = Gate::seat(&gate, address("2001:db8::1")).unwrap();
    let _fill: Vec<Seat> = (0..6).map(|n| Gate::seat(&gate, from(n)).unwrap()).collect();
    let _newcomer = Gate::seat(&gate, address("2001:db8::ffff")).unwrap();
    assert_eq!((phase(&mut other), phase(&mut own)), (Phase::Open, Phase::Cut));
}

#[test]
fn who_is_proven_gives_way_to_nobody_and_a_full_house_refuses() {
    let gate = gate(4, 2);
    let mut proven: Vec<Seat> = Vec::new();
    for n in 0..4 {
        let mut seat = Gate::seat(&gate, from(n)).unwrap();
        seat.prove();
        proven.push(seat);
    }
    assert_eq!(Gate::seat(&gate, from(9)).err(), Some(Full::House));
    assert_eq!((gate.counts.refused.get(), gate.counts.gave_way.get()), (1, 0));
    assert!(proven.iter_mut().all(|seat| phase(seat) == Phase::Open));
    proven.pop();
    let mut last = Gate::seat(&gate, from(9)).unwrap();
    // Full again, but its last has proven nothing.
    assert!(Gate::seat(&gate, from(10)).is_ok());
    assert_eq!(phase(&mut last), Phase::Cut);
}

#[test]
fn proof_that_comes_too_late_is_none() {
    let gate = gate(10, 1);
    let mut late = Gate::seat(&gate, from(1)).unwrap();
    let _newcomer = Gate::seat(&gate, from(2)).unwrap();
    late.prove();
    assert_eq!(phase(&mut late), Phase::Cut);
    drop(late);
    assert_eq!((gate.seated(), gate.unproven()), (1, 1));
}

#[test]
fn so_many_may_be_on_their_way_out_and_no_more() {
    let gate = gate(1000, 8);
    let leaving = gate.limits().leaving();
    let seats: Vec<Seat> = (0..8 + leaving).map(|_| Gate::seat(&gate, None).unwrap()).collect();
    assert_eq!(Gate::seat(&gate, None).err(), Some(Full::ForNow));
    assert_eq!(gate.seated(), 8 + leaving);
    drop(seats);
    assert_eq!((gate.seated(), gate.unproven()), (0, 0));
    assert!(Gate::seat(&gate, None).is_ok());
    assert_eq!(SeatLimits::of(1 << 20).leaving(), crate::limits::LEAVING_MAX);
}

#[test]
fn silence_fills_its_own_pool_only() {
    let gate = Arc::new(Gate::new(SeatLimits::of(1 << 20)));
    let mut seats = std::collections::VecDeque::new();
    for _ in 0..3 * UNPROVEN_MAX {
        seats.push_back(Gate::seat(&gate, from(1)).unwrap());
        if seats.len() > UNPROVEN_MAX {
            let mut oldest = seats.pop_front().unwrap();
            assert_eq!(phase(&mut oldest), Phase::Cut);
        }
    }
    assert_eq!((gate.unproven(), gate.seated()), (UNPROVEN_MAX, UNPROVEN_MAX));
    let more = u64::try_from(2 * UNPROVEN_MAX).unwrap();
    assert_eq!(gate.counts.gave_way.get(), more);
}

#[test]
fn the_bytes_of_the_unproven_are_one_budget() {
    let gate = gate(100, 50);
    let mut first = Gate::seat(&gate, None).unwrap();
    let mut second = Gate::seat(&gate, None).unwrap();
    assert!(first.charge(UNPROVEN_BYTES_MAX - 10));
    assert!(second.charge(10));
    assert!(!second.charge(11));
    assert_eq!(gate.counts.too_large.get(), 1);
    drop(second);
    let mut third = Gate::seat(&gate, None).unwrap();
    assert!(third.charge(10));
    first.prove();
    assert!(third.charge(UNPROVEN_BYTES_MAX), "who is proven is charged elsewhere");
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_for_a_task_that_never_ends() {
    const PATIENCE: Duration = Duration::from_secs(7);
    let gate = gate(10, 5);
    let mut stuck = Gate::seat(&gate, from(1)).unwrap();
    let (world, closed) = (crate::testbed::world(), PATIENCE + CUT_TIMEOUT);
    let begun = world.now().tick;
    gate.close(PATIENCE).await;
    let took = world.now().tick.since(begun);
    assert!(took >= closed && took < closed + Duration::from_secs(1), "{took:?}");
    assert_eq!((phase(&mut stuck), gate.seated()), (Phase::Cut, 1));
}

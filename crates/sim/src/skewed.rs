//! A machine's clock that jumps, and what it ever showed.

use std::time::Duration;

use model::time::WallTime;
use model::world::Clock as _;
use testkit::chance::Chance;
use testkit::world::VirtualClock;

/// How far a clock jumps.
const JUMP_HOURS_MAX: u64 = 24 * 30;

/// Remembers how a clock was set, to tell times that it showed from invented ones.
#[derive(Debug)]
pub struct Skewed {
    clock: VirtualClock,
    /// From which time to which it showed, each time it ran on evenly.
    showed: Vec<(WallTime, WallTime)>,
    since: WallTime,
}

impl Skewed {
    /// A clock that is right.
    pub fn new(clock: VirtualClock) -> Self {
        let since = clock.now().wall;
        Self { clock, showed: Vec::new(), since }
    }

    /// The clock.
    pub fn clock(&self) -> VirtualClock {
        self.clock.clone()
    }

    /// It jumps forward or back, by up to a month.
    pub fn jump(&mut self, chance: &Chance) {
        self.set(jump_ms(chance));
    }

    /// It is right again.
    pub fn set_right(&mut self) {
        self.set(0);
    }

    /// Whether it showed `time` so far, to the millisecond.
    pub fn has_shown(&self, time: WallTime) -> bool {
        let now = (self.since, self.clock.now().wall);
        let mut all = self.showed.iter().chain([&now]);
        all.any(|(from, to)| *from <= time && time <= to.after(Duration::from_millis(1)))
    }

    fn set(&mut self, skew_ms: i64) {
        self.showed.push((self.since, self.clock.now().wall));
        self.clock.set_skew_ms(skew_ms);
        self.since = self.clock.now().wall;
    }
}

/// By how much a clock is wrong after a jump, in milliseconds.
pub fn jump_ms(chance: &Chance) -> i64 {
    let hours = 1 + chance.below(JUMP_HOURS_MAX);
    let millis = i64::try_from(hours * 3_600_000).unwrap_or(i64::MAX);
    if chance.below(2) == 0 { millis } else { -millis }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_showed_what_it_passed_and_nothing_that_it_jumped_over() {
        let clock = VirtualClock::begin();
        let began = clock.now().wall;
        let mut skewed = Skewed::new(clock.clone());
        tokio::time::sleep(Duration::from_secs(10)).await;
        skewed.jump(&Chance::new(1));
        let jumped = clock.now().wall;
        tokio::time::sleep(Duration::from_secs(10)).await;
        skewed.set_right();
        let later = |from: WallTime, seconds| from.after(Duration::from_secs(seconds));
        for (time, expected) in [
            (began, true),
            (later(began, 10), true),
            (later(began, 15), false),
            (later(began, 20), true),
            (later(began, 21), false),
            (later(jumped, 9), true),
            (later(jumped, 11), false),
        ] {
            assert_eq!(skewed.has_shown(time), expected, "{time}");
        }
    }
}

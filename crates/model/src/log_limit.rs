//! How much strangers may write into a log. Pure.
//!
//! Whatever an unproven peer can cause again and again is told, but not without end: a full disk
//! would be the peer's to give.

/// Most lines of one kind in a minute; what comes beyond is counted and told with the next line.
pub const LOG_LINES_PER_MINUTE_MAX: u32 = 60;
const MINUTE_MS: u64 = 60_000;

/// Counts the lines of one kind.
#[derive(Debug, Default)]
pub struct LogLimit {
    began_ms: i64,
    said: u32,
    silenced: u64,
}

impl LogLimit {
    /// Whether a line may be written at `now_ms` of any clock, and how many were not since the last
    /// one.
    pub fn admit(&mut self, now_ms: i64) -> Option<u64> {
        // A clock that was set, forward or back, begins another minute too.
        if now_ms.abs_diff(self.began_ms) >= MINUTE_MS {
            (self.began_ms, self.said) = (now_ms, 0);
        }
        if self.said >= LOG_LINES_PER_MINUTE_MAX {
            self.silenced = self.silenced.saturating_add(1);
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.silenced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_up_to_the_limit_and_counted_beyond_it() {
        let mut limit = LogLimit::default();
        let start = 1_000_000;
        for _ in 0..LOG_LINES_PER_MINUTE_MAX {
            assert_eq!(limit.admit(start), Some(0));
        }
        for later in 0..100 {
            assert_eq!(limit.admit(start + later), None);
        }
        assert_eq!(limit.admit(start + 60_000), Some(100));
        assert_eq!(limit.admit(start + 60_000), Some(0));
        // The clock is set back by a day.
        assert_eq!(limit.admit(start - 86_400_000), Some(0));
    }
}

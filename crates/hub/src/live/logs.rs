//! A module's log, followed by asking its agent again and again. Pure.
//!
//! The agent answers `GetModuleLogs` with records from a time on, that millisecond included, so
//! what was seen of that millisecond is passed over.
//! Source: Azure IoT Edge, `doc/built-in-logs-pull.md`.

pub(crate) mod shell;

use std::collections::VecDeque;

use model::id::ModuleName;
use model::time::WallTime;
use serde::Serialize;
use serde_json::{Value, json};

/// Lines of the first answer.
const FIRST_TAIL: u32 = 200;
/// Most lines of a later answer; more than fit make the agent refuse, and fewer are asked for.
const TAIL: u32 = 1000;
/// Most lines that are kept for those who begin to watch later, and most bytes of their text.
const RECENT_MAX: usize = 200;
const RECENT_BYTES_MAX: usize = 64 * 1024;
/// Fewest lines that are asked for.
const TAIL_MIN: u32 = 10;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// When it was written, RFC 3339.
    pub(crate) at: Option<String>,
    /// Syslog's level, 0 to 7.
    pub(crate) level: Option<u8>,
    pub(crate) text: String,
}

/// The last lines, for those who begin to watch later.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Recent {
    /// New lines came.
    pub(crate) fn handle_lines(&mut self, lines: &[Line]) {
        for line in lines {
            self.bytes += line.text.len();
            self.lines.push_back(line.clone());
        }
        while self.lines.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.text.len();
        }
    }

    /// The lines, oldest first.
    pub(crate) fn lines(&self) -> &VecDeque<Line> {
        &self.lines
    }
}

/// How far a log was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Follower {
    module: ModuleName,
    last: Option<WallTime>,
    /// Lines seen that were written at `last`.
    seen: usize,
    tail: u32,
}

/// New lines, and whether some before them may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) lines: Vec<Line>,
    pub(crate) gap: bool,
}

impl Follower {
    /// Nothing of `module` was read.
    pub(crate) fn new(module: ModuleName) -> Self {
        Self { module, last: None, seen: 0, tail: FIRST_TAIL }
    }

    /// What to ask the agent.
    pub(crate) fn request(&self) -> Value {
        let mut filter = json!({ "tail": self.tail });
        if let (Some(last), Some(fields)) = (self.last, filter.as_object_mut()) {
            fields.insert("since".to_owned(), json!(last.to_string()));
        }
        json!({
            "schemaVersion": "1.0",
            "items": [{ "id": self.module.as_str(), "filter": filter }],
            "encoding": "none",
            "contentType": "json",
        })
    }

    /// The agent refused because its answer would be too large; `false` if that cannot be.
    pub(crate) fn handle_too_large(&mut self) -> bool {
        let fewer = self.tail / 2;
        if fewer < TAIL_MIN {
            return false;
        }
        self.tail = fewer;
        true
    }

    /// The agent answered.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub(crate) fn handle_answer(&mut self, answer: &Value) -> Result<News, String> {
        let payload = answer.get(0).and_then(|item| item.get("payload"));
        let records: Vec<Value> = match payload {
            Some(Value::String(text)) => serde_json::from_str(text)
                .map_err(|error| format!("the log is no JSON: {error}"))?,
            Some(Value::Array(records)) => records.clone(),
            _ => return Err("the answer holds no log".to_owned()),
        };
        let full = records.len() >= usize::try_from(self.tail).unwrap_or(usize::MAX);
        let at_last = |record: &Value| time(record).is_some() && time(record) == self.last;
        // A full answer that begins after what was seen has lost what was between.
        let gap = full && self.last.is_some() && !records.first().is_some_and(at_last);
        let known = records.iter().take_while(|record| at_last(record)).count().min(self.seen);
        let fresh = records.get(known..).unwrap_or_default();
        let lines = fresh.iter().map(line).collect();
        if let Some(newest) = records.iter().rev().find_map(time) {
            let again = records.iter().filter(|record| time(record) == Some(newest)).count();
            self.seen = if self.last == Some(newest) { self.seen.max(again) } else { again };
            self.last = Some(newest);
        }
        self.tail = TAIL.min(self.tail.saturating_mul(2));
        Ok(News { lines, gap })
    }
}

/// When the agent's engine got the line, which is what `since` asks for. Agents that say only
/// what the line says of itself are believed.
fn time(record: &Value) -> Option<WallTime> {
    let said = record.get("received").or_else(|| record.get("timestamp"));
    WallTime::parse_rfc3339(said?.as_str()?)
}

fn line(record: &Value) -> Line {
    let level = record.get("loglevel").and_then(Value::as_u64);
    Line {
        at: time(record).map(|at| at.to_string()),
        level: level.and_then(|level| u8::try_from(level).ok()).filter(|level| *level <= 7),
        text: record.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn follower() -> Follower {
        Follower::new("m".parse().unwrap())
    }

    fn answer(lines: &[(i64, &str)]) -> Value {
        let records: Vec<Value> = lines
            .iter()
            .map(|(at, text)| {
                json!({"timestamp": WallTime(*at).to_string(), "loglevel": 6, "text": text})
            })
            .collect();
        json!([{ "id": "m", "payload": Value::Array(records).to_string() }])
    }

    fn texts(news: &News) -> Vec<&str> {
        news.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_of_the_same_millisecond_come_once_each() {
        let mut follower = follower();
        assert_eq!(follower.request()["items"][0]["filter"], json!({"tail": 200}));
        let news = follower.handle_answer(&answer(&[(1, "a"), (5, "b"), (5, "c")])).unwrap();
        assert_eq!(texts(&news), ["a", "b", "c"]);
        let filter = &follower.request()["items"][0]["filter"];
        assert_eq!(filter["since"], "1970-01-01T00:00:00.005Z");
        let news = follower.handle_answer(&answer(&[(5, "b"), (5, "c"), (5, "d")])).unwrap();
        assert_eq!(texts(&news), ["d"]);
        let news =
            follower.handle_answer(&answer(&[(5, "b"), (5, "c"), (5, "d"), (9, "e")])).unwrap();
        assert_eq!(texts(&news), ["e"]);
        assert_eq!(texts(&follower.handle_answer(&answer(&[(9, "e")])).unwrap()), [""; 0]);
        assert_eq!(texts(&follower.handle_answer(&answer(&[])).unwrap()), [""; 0]);
    }

    #[test]
    fn a_log_is_followed_by_the_engines_time_whatever_its_lines_say() {
        let mut follower = follower();
        let record = |received: i64, said: i64, text: &str| {
            json!({ "received": WallTime(received).to_string(), "loglevel": 6, "text": text,
                    "timestamp": WallTime(said).to_string() })
        };
        let answer = |records: Value| json!([{ "id": "m", "payload": records.to_string() }]);
        let first = [record(10, 9_000_000, "a"), record(20, 3, "b")];
        let news = follower.handle_answer(&answer(json!(first))).unwrap();
        assert_eq!(texts(&news), ["a", "b"]);
        let since = WallTime(20).to_string();
        assert_eq!(follower.request()["items"][0]["filter"]["since"], since);
        let next = [record(20, 3, "b"), record(21, 1, "c")];
        assert_eq!(texts(&follower.handle_answer(&answer(json!(next))).unwrap()), ["c"]);
    }

    #[test]
    fn an_answer_that_is_full_and_begins_later_has_a_gap() {
        let mut follower = follower();
        follower.handle_answer(&answer(&[(1, "a")])).unwrap();
        let many: Vec<_> = (0..400).map(|n| (n + 2, "x")).collect();
        assert!(follower.handle_answer(&answer(&many)).unwrap().gap);
        assert!(!follower.handle_answer(&answer(&[(401, "x"), (402, "y")])).unwrap().gap);
    }

    #[test]
    fn the_last_lines_are_kept_within_their_room() {
        let line = |text: String| Line { at: None, level: None, text };
        let mut recent = Recent::default();
        let many: Vec<_> = (0..300).map(|n| line(n.to_string())).collect();
        recent.handle_lines(&many);
        assert_eq!(recent.lines().len(), RECENT_MAX);
        assert_eq!(recent.lines().back().unwrap().text, "299");
        recent.handle_lines(&[line("x".repeat(RECENT_BYTES_MAX)), line("y".into())]);
        assert_eq!(recent.lines().len(), 1);
    }

    #[test]
    fn too_large_an_answer_is_asked_for_again_with_fewer_lines() {
        let mut follower = follower();
        let mut tails = vec![];
        while follower.handle_too_large() {
            tails.push(follower.tail);
        }
        assert_eq!(tails, [100, 50, 25, 12]);
    }

    #[test]
    fn answers_that_make_no_sense_are_refused() {
        for bad in [json!(null), json!([]), json!([{"payload": "{"}]), json!([{"id": "m"}])] {
            assert!(follower().handle_answer(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_times_every_line_comes_once_and_in_order(
            steps in prop::collection::vec((0_i64..3, 1_usize..5), 1..20),
        ) {
            let mut follower = follower();
            let mut log: Vec<(i64, String)> = Vec::new();
            let (mut now, mut seen) = (1_i64, Vec::new());
            for (pause, count) in steps {
                now += pause;
                for _ in 0..count {
                    let text = log.len().to_string();
                    log.push((now, text));
                }
                let since = follower.last.map_or(0, |last| last.0);
                let part: Vec<_> = log
                    .iter()
                    .filter(|(at, _)| *at >= since)
                    .map(|(at, text)| (*at, text.as_str()))
                    .collect();
                let news = follower.handle_answer(&answer(&part)).unwrap();
                seen.extend(news.lines.into_iter().map(|line| line.text));
            }
            let all: Vec<_> = log.into_iter().map(|(_, text)| text).collect();
            prop_assert_eq!(seen, all);
        }
    }
}

//! Lines of modules' logs, in the forms that people and the cloud ask for.

pub(crate) mod shell;

use engine::runtime::LogLine;
use model::id::ModuleName;
use model::time::WallTime;
use serde_json::{Value, json};

use super::spec::Surroundings;

/// The level of a line that names none. Source: edge agent, syslog "informational".
const LEVEL: u8 = 6;

/// One line as a JSON record. Source: Azure IoT Edge, `doc/built-in-logs-pull.md`.
///
/// Level and time are those that the line says of itself. `received` is ours: when the engine got
/// the line, which is the time that `since` and `until` ask for; it stands for a time that the
/// line does not say.
pub(crate) fn record(line: &LogLine, module: &ModuleName, around: &Surroundings) -> Value {
    let said = Said::of(&line.text);
    let received = WallTime(line.time);
    json!({
        "iothub": &*around.hub_host,
        "device": around.device.as_str(),
        "id": module.as_str(),
        "stream": match line.stream {
            engine::runtime::LogSource::Stdout => "stdout",
            engine::runtime::LogSource::Stderr => "stderr",
        },
        "loglevel": said.level.unwrap_or(LEVEL),
        "text": said.text,
        "timestamp": said.time.unwrap_or(received).to_string(),
        "received": received.to_string(),
    })
}

/// What a line says of itself: `<N> yyyy-MM-dd HH:mm:ss.fff zzz text`, level and time optional.
#[derive(Debug, PartialEq, Eq)]
struct Said<'l> {
    level: Option<u8>,
    time: Option<WallTime>,
    text: &'l str,
}

impl<'l> Said<'l> {
    fn of(line: &'l str) -> Self {
        let (level, rest) = match level(line) {
            Some((level, rest)) => (Some(level), rest.trim_start()),
            None => (None, line),
        };
        match time(rest.trim_start()) {
            Some((time, text)) => Self { level, time: Some(time), text: text.trim_start() },
            None => Self { level, time: None, text: rest },
        }
    }
}

/// `<N>` with a syslog level from 0 to 7, and what follows.
fn level(line: &str) -> Option<(u8, &str)> {
    let (number, rest) = line.strip_prefix('<')?.split_once('>')?;
    let [digit @ b'0'..=b'7'] = number.as_bytes() else { return None };
    Some((digit - b'0', rest))
}

/// `yyyy-MM-dd HH:mm:ss.fff zzz ` and what follows.
fn time(line: &str) -> Option<(WallTime, &str)> {
    let mut words = line.splitn(4, ' ');
    let (date, clock, zone) = (words.next()?, words.next()?, words.next()?);
    let text = words.next()?;
    if (date.len(), clock.len(), zone.len()) != (10, 12, 6) {
        return None;
    }
    let time = WallTime::parse_rfc3339(&format!("{date}T{clock}{zone}"))?;
    Some((time, text))
}

#[cfg(test)]
mod tests {
    use engine::runtime::LogSource;

    use super::*;

    #[test]
    fn a_line_says_its_level_and_its_time_and_the_rest_is_its_text() {
        let check = |line: &str, level: Option<u8>, time: Option<&str>, text: &str| {
            let time = time.and_then(WallTime::parse_rfc3339);
            assert_eq!(Said::of(line), Said { level, time, text }, "{line}");
        };
        let at = Some("2019-02-08T02:23:22.137Z");
        check(
            "<6> 2019-02-08 02:23:22.137 +00:00 [INF] - Starting",
            Some(6),
            at,
            "[INF] - Starting",
        );
        check("<3> 2019-02-08 04:23:22.137 +02:00 late", Some(3), at, "late");
        check("<0>2019-02-07 21:23:22.137 -05:00   x", Some(0), at, "x");
        check("2019-02-08 02:23:22.137 +00:00 no level", None, at, "no level");
        check("<4> no time", Some(4), None, "no time");
        check("<4>", Some(4), None, "");
        check("plain  text ", None, None, "plain  text ");
        check("  indented", None, None, "  indented");
        check("<9> too much", None, None, "<9> too much");
        check("<x> y", None, None, "<x> y");
        check("<12> y", None, None, "<12> y");
        check("2019-02-08 02:23:22 +00:00 x", None, None, "2019-02-08 02:23:22 +00:00 x");
        check("2019-02-30 02:23:22.137 +00:00 x", None, None, "2019-02-30 02:23:22.137 +00:00 x");
        check("", None, None, "");
    }

    #[test]
    fn a_record_has_the_times_of_line_and_engine() {
        let around = crate::agent::spec::tests::surroundings();
        let line = |text: &str| LogLine { time: 5, stream: LogSource::Stderr, text: text.into() };
        let of = |text: &str| record(&line(text), &"m".parse().unwrap(), &around);
        let said = of("<3> 2019-02-08 02:23:22.137 +00:00 full");
        assert_eq!((&said["loglevel"], &said["text"]), (&json!(3), &json!("full")));
        assert_eq!(said["timestamp"], "2019-02-08T02:23:22.137Z");
        assert_eq!(said["received"], "1970-01-01T00:00:00.005Z");
        let silent = of("full");
        assert_eq!((&silent["loglevel"], &silent["timestamp"]), (&json!(6), &silent["received"]));
    }
}

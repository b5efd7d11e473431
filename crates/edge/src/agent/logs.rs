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
pub(crate) fn record(line: &LogLine, module: &ModuleName, around: &Surroundings) -> Value {
    json!({
        "iothub": &*around.hub_host,
        "device": around.device.as_str(),
        "id": module.as_str(),
        "stream": match line.stream {
            engine::runtime::LogSource::Stdout => "stdout",
            engine::runtime::LogSource::Stderr => "stderr",
        },
        "loglevel": level(&line.text),
        "text": line.text,
        "timestamp": WallTime(line.time).to_string(),
    })
}

/// `<N> …` with a syslog level from 0 to 7.
fn level(text: &str) -> u8 {
    let said = text.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    said.and_then(|(number, _)| number.parse().ok()).filter(|level| *level <= 7).unwrap_or(LEVEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_its_level_or_counts_as_informational() {
        let check = |text, expected| assert_eq!(level(text), expected, "{text}");
        check("<3> 2026-11-23 disk full", 3);
        check("<9> too much", 6);
        check("plain", 6);
        check("<x> y", 6);
    }
}

//! What `up` shows: modules, rates, the last reading and the last anomaly. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use api::telemetry::TelemetryMessage;
use serde_json::Value;
use tokio::time::Instant;

/// A block is shown this often even if nothing happened, and at once when a module changes.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// The state behind the screen.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    modules: BTreeMap<String, String>,
    shown_modules: BTreeMap<String, String>,
    counts: BTreeMap<String, u64>,
    last_counts: BTreeMap<String, u64>,
    reading: Option<String>,
    anomaly: Option<String>,
    fault: Option<String>,
    shown_at: Option<Instant>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A message arrived at the hub.
    pub(crate) fn handle_message(&mut self, message: &TelemetryMessage) {
        let output = message.system_properties.get("outputName").and_then(Value::as_str);
        let module = message.module_id.as_deref().unwrap_or("device");
        let key = format!("{module}/{}", output.unwrap_or("-"));
        *self.counts.entry(key).or_default() += 1;
        let Ok(body) = serde_json::from_str::<Value>(&message.body) else { return };
        let number = |pointer: &str| body.pointer(pointer).and_then(Value::as_f64);
        if let (Some(seq), Some(cpu)) = (number("/seq"), number("/cpu/percent")) {
            let memory = number("/memory/usedPercent").unwrap_or(f64::NAN);
            self.reading = Some(format!("#{seq:.0} cpu {cpu:.1} % memory {memory:.1} %"));
        }
        if let (Some(seq), Some(score)) = (number("/seq"), number("/score")) {
            let metric = body.get("metric").and_then(Value::as_str).unwrap_or_default();
            let value = number("/value").unwrap_or(f64::NAN);
            self.anomaly = Some(format!("#{seq:.0} {metric} = {value:.1}, score {score:.1}"));
        }
    }

    /// The agent's twin was read.
    pub(crate) fn handle_agent(&mut self, twin: &Value) {
        let section = |name: &str| twin.pointer(&format!("/properties/{name}/modules"));
        let desired = section("desired").and_then(Value::as_object);
        self.modules.clear();
        for (name, module) in
            desired.into_iter().flatten().filter(|(name, _)| !name.starts_with('$'))
        {
            let text =
                |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("-").to_owned();
            let actual = section("reported").and_then(|all| all.get(name));
            let actual = text(actual.and_then(|module| module.get("runtimeStatus")));
            let desired = text(module.get("status"));
            self.modules.insert(name.clone(), format!("{actual} (desired {desired})"));
        }
        let status = twin.pointer("/properties/reported/lastDesiredStatus");
        let code = status.and_then(|s| s.get("code")).and_then(Value::as_u64);
        self.fault = code.filter(|code| *code != 200).map(|code| {
            let words = status.and_then(|s| s.get("description")).and_then(Value::as_str);
            format!("{code} {}", words.unwrap_or_default())
        });
    }

    /// The block to show now, if it is time.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<String> {
        let passed = self.shown_at.map(|at| now.saturating_duration_since(at));
        let due = passed.is_none_or(|passed| passed >= SHOW_EVERY);
        if !due && self.modules == self.shown_modules {
            return None;
        }
        let seconds = passed.map_or(1.0, |passed| passed.as_secs_f64().max(0.1));
        let mut text = String::new();
        let mut line = |head: &str, words: &str| {
            writeln!(text, "{head:<12} {words}").expect("a String takes everything");
        };
        for (name, state) in &self.modules {
            line(name, state);
        }
        for (key, count) in &self.counts {
            let new = count - self.last_counts.get(key).copied().unwrap_or(0);
            let new = u32::try_from(new).unwrap_or(u32::MAX);
            line("at the hub", &format!("{key}: {count} ({:.1}/s)", f64::from(new) / seconds));
        }
        for (head, words) in
            [("reading", &self.reading), ("anomaly", &self.anomaly), ("deployment", &self.fault)]
        {
            if let Some(words) = words {
                line(head, words);
            }
        }
        self.last_counts.clone_from(&self.counts);
        self.shown_modules.clone_from(&self.modules);
        self.shown_at = Some(now);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(module: &str, output: &str, body: &Value) -> TelemetryMessage {
        serde_json::from_value(json!({
            "partition": 0, "offset": 1, "enqueuedTime": "", "deviceId": "d", "moduleId": module,
            "systemProperties": { "outputName": output }, "properties": {},
            "body": body.to_string(), "bodyEncoding": "utf-8",
        }))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_screen_shows_modules_rates_and_the_last_of_each_kind() {
        let mut screen = Screen::new();
        screen.handle_agent(&json!({ "properties": {
            "desired": { "modules": { "m": { "status": "running" } } },
            "reported": { "modules": { "m": { "runtimeStatus": "backoff" } },
                          "lastDesiredStatus": { "code": 500, "description": "no image" } },
        }}));
        let reading =
            json!({ "seq": 7, "cpu": { "percent": 12.5 }, "memory": { "usedPercent": 40 } });
        screen.handle_message(&message("m", "readings", &reading));
        let found = json!({ "seq": 7, "metric": "cpu.percent", "value": 99, "score": 8.25 });
        screen.handle_message(&message("a", "anomalies", &found));
        #[expect(clippy::disallowed_methods, reason = "the paused clock of the test")]
        let start = Instant::now();
        let text = screen.poll(start).unwrap();
        for words in [
            "backoff (desired running)",
            "m/readings: 1",
            "#7 cpu 12.5 %",
            "score 8.2",
            "500 no image",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
        assert_eq!(screen.poll(start + Duration::from_secs(1)), None);
        assert!(screen.poll(start + SHOW_EVERY).is_some());
    }
}

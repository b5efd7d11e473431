//! Who is connected to the router, and since when: `clients` of `$edgeHub`. Pure.
//!
//! Source: Azure IoT Edge, "Properties of the IoT Edge hub": one entry for each client, by
//! `device/module`.

use std::collections::BTreeMap;

use model::id::IdentityId;
use model::time::WallTime;
use serde_json::{Map, Value, json};

const CONNECTED: &str = "Connected";
const DISCONNECTED: &str = "Disconnected";

/// Everybody who was connected since the module identities are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clients {
    all: BTreeMap<Box<str>, Client>,
    /// Whether it is known what an earlier run reported.
    is_restored: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Client {
    is_connected: bool,
    connected_at: Option<WallTime>,
    disconnected_at: Option<WallTime>,
}

impl Clients {
    /// A session of `identity` was opened.
    pub(crate) fn handle_connected(&mut self, identity: &IdentityId, now: WallTime) {
        let client = self.all.entry(identity.as_str().into()).or_default();
        client.is_connected = true;
        client.connected_at = Some(now);
    }

    /// The session of `identity` has ended.
    pub(crate) fn handle_disconnected(&mut self, identity: &IdentityId, now: WallTime) {
        let client = self.all.entry(identity.as_str().into()).or_default();
        client.is_connected = false;
        client.disconnected_at = Some(now);
    }

    /// `identity` is no more.
    pub(crate) fn handle_removed(&mut self, identity: &IdentityId) {
        self.all.remove(identity.as_str());
    }

    /// Takes over what an earlier run of the router `reported`; only the first call has an
    /// effect. Who was connected then and did not come back is not connected; that is noticed
    /// `now`.
    pub(crate) fn handle_reported(&mut self, reported: Option<&Value>, now: WallTime) {
        if std::mem::replace(&mut self.is_restored, true) {
            return;
        }
        for (name, said) in reported.and_then(Value::as_object).into_iter().flatten() {
            let time = |field: &str| WallTime::parse_rfc3339(said.get(field)?.as_str()?);
            let was_connected = said.get("status").and_then(Value::as_str) == Some(CONNECTED);
            let earlier = Client {
                is_connected: false,
                connected_at: time("lastConnectedTimeUtc"),
                disconnected_at: if was_connected {
                    Some(now)
                } else {
                    time("lastDisconnectedTimeUtc")
                },
            };
            let client = self.all.entry(name.as_str().into()).or_insert(earlier);
            if !was_connected {
                client.disconnected_at = client.disconnected_at.or(earlier.disconnected_at);
            }
        }
    }

    /// What is reported.
    pub(crate) fn to_value(&self) -> Value {
        let mut all = Map::new();
        for (name, client) in &self.all {
            let status = if client.is_connected { CONNECTED } else { DISCONNECTED };
            let mut fields = Map::from_iter([("status".to_owned(), json!(status))]);
            for (field, at) in [
                ("lastConnectedTimeUtc", client.connected_at),
                ("lastDisconnectedTimeUtc", client.disconnected_at),
            ] {
                if let Some(at) = at {
                    fields.insert(field.to_owned(), json!(at.to_string()));
                }
            }
            all.insert(name.to_string(), Value::Object(fields));
        }
        Value::Object(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> IdentityId {
        text.parse().unwrap()
    }

    fn at(second: i64) -> WallTime {
        WallTime::from_unix_seconds(second)
    }

    #[test]
    fn a_client_is_reported_with_the_times_that_are_known() {
        let mut clients = Clients::default();
        assert_eq!(clients.to_value(), json!({}));
        clients.handle_connected(&id("d/m"), at(1));
        let connected =
            json!({ "status": "Connected", "lastConnectedTimeUtc": "1970-01-01T00:00:01.000Z" });
        assert_eq!(clients.to_value(), json!({ "d/m": connected }));
        clients.handle_disconnected(&id("d/m"), at(2));
        clients.handle_connected(&id("d/n"), at(3));
        let gone = json!({
            "status": "Disconnected",
            "lastConnectedTimeUtc": "1970-01-01T00:00:01.000Z",
            "lastDisconnectedTimeUtc": "1970-01-01T00:00:02.000Z",
        });
        assert_eq!(clients.to_value()["d/m"], gone);
        clients.handle_removed(&id("d/m"));
        assert_eq!(clients.to_value().as_object().unwrap().len(), 1);
    }

    #[test]
    fn after_a_restart_who_did_not_come_back_is_disconnected_and_times_are_kept() {
        let mut before = Clients::default();
        before.handle_connected(&id("d/stays"), at(1));
        before.handle_connected(&id("d/leaves"), at(1));
        before.handle_connected(&id("d/left"), at(1));
        before.handle_disconnected(&id("d/left"), at(2));
        let reported = before.to_value();

        let mut clients = Clients::default();
        clients.handle_connected(&id("d/stays"), at(9));
        clients.handle_reported(Some(&reported), at(10));
        let again = clients.to_value();
        assert_eq!(again["d/stays"]["status"], "Connected");
        assert_eq!(again["d/stays"]["lastConnectedTimeUtc"], at(9).to_string());
        assert_eq!(again["d/leaves"]["status"], "Disconnected");
        assert_eq!(again["d/leaves"]["lastDisconnectedTimeUtc"], at(10).to_string());
        assert_eq!(again["d/left"], reported["d/left"]);
        // Later it is this run that knows: what it forgot does not come back.
        clients.handle_removed(&id("d/left"));
        clients.handle_reported(Some(&again), at(99));
        assert!(clients.to_value()["d/left"].is_null());
    }

    #[test]
    fn a_damaged_report_restores_nothing() {
        for reported in [None, Some(json!("rubbish")), Some(json!({}))] {
            let mut clients = Clients::default();
            clients.handle_reported(reported.as_ref(), at(1));
            assert_eq!(clients.to_value(), json!({}));
        }
    }
}

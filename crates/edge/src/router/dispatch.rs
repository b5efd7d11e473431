//! Which lanes a message goes to. Pure: the routes in force and a message in, records out.

use std::collections::BTreeMap;
use std::time::Duration;

use journal::log::{LaneId, Record};
use model::id::ModuleName;
use model::message::Message;
use model::refusal::{Refusal, RefusalKind};
use model::route::{Endpoint, MessageSource, Route, endpoints_for};
use model::router_plan::{RouterPlan, TIME_TO_LIVE};
use model::time::WallTime;

use super::record;
use crate::access::Proven;

/// The routes in force, with the lanes their messages lie in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    /// Whether anybody ever said which routes there are.
    is_heard: bool,
    plan: RouterPlan,
    lanes: BTreeMap<(Endpoint, u32), LaneId>,
}

/// One accepted message as it is to be stored.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    /// What goes into the journal; several records if life times differ, none without a route.
    pub(crate) records: Vec<Record>,
    /// Whether any of it goes upstream.
    pub(crate) is_upstream: bool,
    /// Whose inputs get some of it.
    pub(crate) modules: Vec<ModuleName>,
}

impl Table {
    /// Before the routes of the device were ever heard: nothing may be taken, for nobody knows
    /// where it is to go. (The reference does not even listen before.)
    pub(crate) fn unheard() -> Self {
        let plan = RouterPlan {
            schema_version: "1.1".into(),
            routes: BTreeMap::new(),
            time_to_live: Some(TIME_TO_LIVE),
            store_bytes_max: None,
            notices: Vec::new(),
        };
        Self { is_heard: false, plan, lanes: BTreeMap::new() }
    }

    /// `plan` with the lanes that `lane` gives for an endpoint and a priority.
    pub(crate) fn new(plan: RouterPlan, mut lane: impl FnMut(&str, u32) -> LaneId) -> Self {
        let lanes = plan.routes.values().map(|route| {
            let id = lane(&route.endpoint.to_string(), route.priority);
            ((route.endpoint.clone(), route.priority), id)
        });
        let lanes = lanes.collect();
        Self { is_heard: true, plan, lanes }
    }

    /// Whether anybody ever said which routes there are.
    pub(crate) fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// The routes in force, by name.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (&str, &Route)> {
        self.plan.routes.iter().map(|(name, route)| (&**name, route))
    }

    /// The inputs of `module` that routes lead to, as endpoint and input name.
    pub(crate) fn inputs_of(&self, module: &ModuleName) -> Vec<(String, Box<str>)> {
        let mut inputs: Vec<(String, Box<str>)> = Vec::new();
        for (endpoint, _) in self.lanes.keys() {
            if let Endpoint::ModuleInput { module: reader, input } = endpoint
                && reader == module
                && inputs.last().is_none_or(|(_, last)| last != input)
            {
                inputs.push((endpoint.to_string(), input.clone()));
            }
        }
        inputs
    }

    /// What becomes of `message` from a proven sender.
    ///
    /// # Errors
    /// `Unavailable` before the routes were ever heard, `TooLarge` if the message is larger than
    /// the hub would take.
    pub(crate) fn dispatch(
        &self,
        from: &Proven,
        message: &Message,
        now: WallTime,
    ) -> Result<Dispatch, Refusal> {
        if !self.is_heard {
            let reason = "this device has not heard its routes yet; try again later";
            return Err(Refusal::new(RefusalKind::Unavailable, reason));
        }
        message.check_size()?;
        let message = stamped(from, message);
        let output = message.system.output_name.clone();
        let source = match from.identity.module_str() {
            Some(module) => MessageSource::Module { module, output: output.as_deref() },
            None => MessageSource::Device,
        };
        let mut dispatch = Dispatch::default();
        let mut lanes: BTreeMap<Option<i64>, Vec<LaneId>> = BTreeMap::new();
        for found in endpoints_for(self.plan.routes.values(), source, &message) {
            let key = (found.endpoint.clone(), found.priority);
            let Some(lane) = self.lanes.get(&key) else { continue };
            match found.endpoint {
                Endpoint::Upstream => dispatch.is_upstream = true,
                Endpoint::ModuleInput { module, .. } => dispatch.modules.push(module.clone()),
            }
            let life = found.time_to_live.or(self.plan.time_to_live);
            lanes.entry(expires(life, &message, now)).or_default().push(*lane);
        }
        if !lanes.is_empty() {
            let payload = record::encode(&from.identity, &message);
            let record = |(expires_ms, lanes): (Option<i64>, Vec<LaneId>)| Record {
                lanes: lanes.into(),
                enqueued_ms: now.0,
                expires_ms,
                payload: payload.clone(),
            };
            dispatch.records = lanes.into_iter().map(record).collect();
        }
        Ok(dispatch)
    }
}

/// The sooner of the route's life time and the message's own expiry.
fn expires(life: Option<Duration>, message: &Message, now: WallTime) -> Option<i64> {
    let routed = life.map(|life| now.after(life).0);
    let own = message.system.expires().map(|at| at.0);
    routed.into_iter().chain(own).min()
}

/// Who sent it is what was proven, whatever the message says.
fn stamped(from: &Proven, message: &Message) -> Message {
    let mut message = message.clone();
    message.system.connection_device_id = Some(from.identity.device_str().into());
    message.system.connection_module_id = from.identity.module_str().map(Into::into);
    message.system.connection_generation_id = Some(from.generation_id.clone());
    message.system.connection_auth_method = None;
    message.system.input_name = None;
    message
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model::message::MESSAGE_BYTES_MAX;
    use serde_json::{Value, json};

    use super::*;

    const NOW: WallTime = WallTime(1_000_000);

    fn table(routes: Value) -> Table {
        let desired = json!({ "schemaVersion": "1.1", "routes": routes });
        let plan = RouterPlan::parse(desired.as_object().unwrap()).unwrap();
        let mut ids = Vec::new();
        Table::new(plan, |endpoint, priority| {
            let name = format!("{priority}:{endpoint}");
            let at = ids.iter().position(|known| *known == name).unwrap_or(ids.len());
            if at == ids.len() {
                ids.push(name);
            }
            LaneId(u32::try_from(at).unwrap())
        })
    }

    fn from_a() -> Proven {
        Proven { identity: "d/a".parse().unwrap(), valid_until: NOW, generation_id: "g1".into() }
    }

    fn message(output: &str) -> Message {
        let mut message = Message { body: Bytes::from_static(b"x"), ..Message::default() };
        message.system.output_name = Some(output.into());
        message.system.connection_module_id = Some("liar".into());
        message
    }

    #[test]
    fn a_message_lies_in_one_record_per_life_time() {
        let table = table(json!({
            "a": "FROM /messages/modules/a/outputs/o INTO $upstream",
            "b": { "route": "FROM /messages/* INTO BrokeredEndpoint(\"/modules/b/inputs/i\")",
                   "priority": 1, "timeToLiveSecs": 60 },
            "c": "FROM /messages/* INTO BrokeredEndpoint(\"/modules/c/inputs/i\")",
        }));
        let got = table.dispatch(&from_a(), &message("o"), NOW).unwrap();
        assert!(got.is_upstream);
        let found: Vec<_> =
            got.records.iter().map(|it| (it.lanes.to_vec(), it.expires_ms)).collect();
        assert_eq!(
            found,
            [
                (vec![LaneId(1)], Some(NOW.0 + 60_000)),
                (vec![LaneId(0), LaneId(2)], Some(NOW.0 + 7_200_000)),
            ]
        );
        let names: Vec<_> = got.modules.iter().map(ModuleName::as_str).collect();
        assert_eq!(names, ["b", "c"]);
    }

    #[test]
    fn nothing_is_stored_for_a_message_that_no_route_wants() {
        let table = table(json!({ "a": "FROM /messages/modules/z/* INTO $upstream" }));
        let got = table.dispatch(&from_a(), &message("o"), NOW).unwrap();
        assert!(got.records.is_empty() && !got.is_upstream && got.modules.is_empty());
    }

    #[test]
    fn what_comes_before_the_routes_were_heard_is_refused_and_can_come_again() {
        let refused = Table::unheard().dispatch(&from_a(), &message("o"), NOW).unwrap_err();
        assert_eq!(refused.kind, RefusalKind::Unavailable);
        // Routes that were heard and lead nowhere are another thing.
        assert!(table(json!({})).dispatch(&from_a(), &message("o"), NOW).is_ok());
    }

    #[test]
    fn the_sender_is_what_was_proven_and_the_sooner_expiry_counts() {
        let table = table(json!({ "a": "FROM /messages/* INTO $upstream" }));
        let mut sent = message("o");
        sent.system.expiry = Some(WallTime(NOW.0 + 5).to_string().into());
        let got = table.dispatch(&from_a(), &sent, NOW).unwrap();
        assert_eq!(got.records[0].expires_ms, Some(NOW.0 + 5));
        let (sender, stored) = record::decode(got.records[0].payload.clone()).unwrap();
        assert_eq!(sender.as_str(), "d/a");
        assert_eq!(stored.system.connection_module_id.as_deref(), Some("a"));
        assert_eq!(stored.system.connection_generation_id.as_deref(), Some("g1"));
    }

    #[test]
    fn an_expiry_that_cannot_be_read_goes_on_as_text_and_expires_nothing() {
        let table = table(json!({ "a": "FROM /messages/* INTO $upstream" }));
        let mut sent = message("o");
        sent.system.expiry = Some("1795844700000".into());
        let got = table.dispatch(&from_a(), &sent, NOW).unwrap();
        assert_eq!(got.records[0].expires_ms, Some(NOW.0 + 7_200_000));
        let (_, stored) = record::decode(got.records[0].payload.clone()).unwrap();
        assert_eq!(stored.system.expiry, sent.system.expiry);
    }

    #[test]
    fn a_message_larger_than_the_hub_takes_is_refused_in_the_hubs_words() {
        let mut large = Message { body: vec![0; MESSAGE_BYTES_MAX].into(), ..Message::default() };
        let none = table(json!({}));
        assert!(none.dispatch(&from_a(), &large, NOW).is_ok());
        large.system.message_id = Some("x".into());
        let refused = none.dispatch(&from_a(), &large, NOW).unwrap_err();
        assert_eq!(Err(refused), large.check_size());
    }

    #[test]
    fn inputs_are_named_once_whatever_their_priorities() {
        let into = "INTO BrokeredEndpoint(\"/modules/b/inputs/i\")";
        let table = table(json!({
            "x": { "route": format!("FROM /messages/modules/a/* {into}"), "priority": 1 },
            "y": { "route": format!("FROM /messages/modules/c/* {into}"), "priority": 2 },
        }));
        let inputs = table.inputs_of(&"b".parse().unwrap());
        assert_eq!(inputs.len(), 1);
        assert_eq!(&*inputs[0].1, "i");
        assert!(table.inputs_of(&"a".parse().unwrap()).is_empty());
    }
}

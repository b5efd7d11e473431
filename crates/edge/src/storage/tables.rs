//! The JSON form of each kind of fact, both ways, by hand.

use credentials::key::SymmetricKey;
use model::feature::{Feature, FeatureSet, Subscription};
use model::time::WallTime;
use model::twin::pending::PendingPatches;
use model::twin::{TwinDocument, TwinPatch, Version};
use serde_json::{Map, Value, json};

use crate::access::ModuleKeys;
use crate::agent::restart::History;
use crate::router::twins::TwinCopy;

/// The fact of a twin copy.
pub(crate) fn from_copy(copy: &TwinCopy) -> Value {
    let known = copy.known.as_ref().map(|known| {
        json!({
            "desired": known.desired, "desiredVersion": known.desired_version.0,
            "reported": known.reported, "reportedVersion": known.reported_version.0,
        })
    });
    let pending: Vec<_> = copy.pending.parts().iter().map(|patch| &patch.0).collect();
    json!({ "known": known, "pending": pending, "generation": copy.generation })
}

/// The twin copy behind a fact.
pub(crate) fn to_copy(fact: &Value) -> Option<TwinCopy> {
    let known = match fact.get("known")? {
        Value::Null => None,
        known => Some(TwinDocument {
            desired: map(known.get("desired"))?,
            desired_version: Version(known.get("desiredVersion")?.as_u64()?),
            reported: map(known.get("reported"))?,
            reported_version: Version(known.get("reportedVersion")?.as_u64()?),
        }),
    };
    let pending = fact.get("pending")?.as_array()?;
    let pending = pending.iter().map(|patch| map(Some(patch)).map(TwinPatch));
    let pending = PendingPatches::from_parts(pending.collect::<Option<_>>()?);
    Some(TwinCopy { known, pending, generation: fact.get("generation")?.as_u64()? })
}

fn map(value: Option<&Value>) -> Option<Map<String, Value>> {
    value?.as_object().cloned()
}

const FEATURES: &[(Feature, &str)] = &[
    (Feature::CloudToDevice, "cloudToDevice"),
    (Feature::Inputs, "inputs"),
    (Feature::Methods, "methods"),
    (Feature::TwinAnswers, "twinAnswers"),
    (Feature::DesiredChanges, "desiredChanges"),
];

/// The fact of a set of subscriptions.
pub(crate) fn from_features(features: &FeatureSet) -> Value {
    let name = |feature| FEATURES.iter().find(|(known, _)| *known == feature).map(|(_, name)| name);
    let all = features
        .iter()
        .map(|one| json!({ "feature": name(one.feature), "qos": one.qos, "filter": &*one.filter }));
    Value::Array(all.collect())
}

/// The subscriptions behind a fact.
pub(crate) fn to_features(fact: &Value) -> Option<FeatureSet> {
    let one = |value: &Value| {
        let name = value.get("feature")?.as_str()?;
        Some(Subscription {
            feature: FEATURES.iter().find(|(_, known)| *known == name)?.0,
            qos: u8::try_from(value.get("qos")?.as_u64()?).ok()?,
            filter: value.get("filter")?.as_str()?.into(),
        })
    };
    fact.as_array()?.iter().map(one).collect()
}

/// The fact of a module's keys.
pub(crate) fn from_keys(keys: &ModuleKeys) -> Value {
    let text = |key: &SymmetricKey| key.to_base64().expose_str().map(str::to_owned);
    json!({
        "generationId": &*keys.generation_id,
        "primary": text(&keys.primary),
        "secondary": keys.secondary.as_ref().and_then(text),
    })
}

/// The keys behind a fact.
pub(crate) fn to_keys(fact: &Value) -> Option<ModuleKeys> {
    let key = |name| SymmetricKey::parse(fact.get(name)?.as_str()?).ok();
    Some(ModuleKeys {
        generation_id: fact.get("generationId")?.as_str()?.into(),
        primary: key("primary")?,
        secondary: key("secondary"),
    })
}

/// The fact of a module's restarts; none if there were none.
pub(crate) fn from_history(history: History) -> Option<Value> {
    let last = history.last_restart.map(|at| at.0);
    (history.restarts > 0).then(|| json!({ "restarts": history.restarts, "lastRestart": last }))
}

/// The restarts behind a fact.
pub(crate) fn to_history(fact: &Value) -> Option<History> {
    Some(History {
        restarts: u32::try_from(fact.get("restarts")?.as_u64()?).ok()?,
        last_restart: fact.get("lastRestart").and_then(Value::as_i64).map(WallTime),
    })
}

/// The fact of desired properties that were in force, with their version.
pub(crate) fn from_desired(desired: &Map<String, Value>, version: Version) -> Value {
    json!({ "desired": desired, "version": version.0 })
}

/// The desired properties behind a fact.
pub(crate) fn to_desired(fact: &Value) -> Option<(Map<String, Value>, Version)> {
    Some((map(fact.get("desired"))?, Version(fact.get("version")?.as_u64()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_comes_back_as_it_went() {
        let map = |value: Value| value.as_object().unwrap().clone();
        let copy = TwinCopy {
            known: Some(TwinDocument {
                desired: map(json!({ "a": { "b": null } })),
                desired_version: Version(4),
                reported: map(json!({ "x": [1] })),
                reported_version: Version(9),
            }),
            pending: PendingPatches::from_parts(vec![TwinPatch(map(json!({ "x": null })))]),
            generation: 3,
        };
        assert_eq!(to_copy(&from_copy(&copy)), Some(copy));
        assert_eq!(to_copy(&from_copy(&TwinCopy::default())), Some(TwinCopy::default()));

        let features: FeatureSet = FEATURES
            .iter()
            .map(|(feature, name)| Subscription {
                feature: *feature,
                qos: 1,
                filter: (*name).into(),
            })
            .collect();
        assert_eq!(to_features(&from_features(&features)), Some(features));

        let keys = ModuleKeys {
            generation_id: "g".into(),
            primary: SymmetricKey::parse("a2V5").unwrap(),
            secondary: None,
        };
        assert_eq!(to_keys(&from_keys(&keys)), Some(keys));

        let history = History { restarts: 2, last_restart: Some(WallTime(-5)) };
        assert_eq!(to_history(&from_history(history).unwrap()), Some(history));
        assert_eq!(from_history(History::default()), None);
    }

    #[test]
    fn damage_is_noticed() {
        assert_eq!(to_copy(&json!({ "known": 3 })), None);
        assert_eq!(to_features(&json!([{ "feature": "flying", "qos": 0, "filter": "" }])), None);
        assert_eq!(to_keys(&json!({ "generationId": "g", "primary": "%" })), None);
    }
}

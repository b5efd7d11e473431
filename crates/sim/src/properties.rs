//! What every message of a scenario carries beside its number, as its sender gave it.

use model::message::{Message, PropertyBag};
use serde_json::Value;

/// The content type of every message.
const CONTENT_TYPE: &str = "text/plain";
/// A property with signs that a topic must escape.
const SIGNS: (&str, &str) = ("k&k", "v=v/+ü %");
/// [`SIGNS`] in a topic, as stock SDKs write it.
const SIGNS_ESCAPED: &str = "k%26k=v%3Dv%2F%2B%C3%BC%20%25";
/// A property that follows from the number.
const TWICE: &str = "twice";

fn twice(number: u64) -> String {
    (number * 2).to_string()
}

/// The properties of `number` at the end of a topic.
pub fn in_topic(number: u64) -> String {
    format!("%24.mid={number}&%24.ct=text%2Fplain&{SIGNS_ESCAPED}&{TWICE}={}", twice(number))
}

/// A message with `number` that goes to `output`.
pub fn message(number: u64, output: &str) -> Message {
    let mut message = Message { body: number.to_string().into(), ..Message::default() };
    message.system.output_name = Some(output.into());
    message.system.message_id = Some(number.to_string().into());
    message.system.content_type = Some(CONTENT_TYPE.into());
    message.properties = PropertyBag::from_pairs([SIGNS, (TWICE, &*twice(number))]);
    message
}

/// What is wrong with `message`, which has `number`.
pub fn fault_of(message: &Message, number: u64) -> Option<String> {
    let own = |name: &str| message.properties.get(name).map(std::borrow::Cow::into_owned);
    let texts = [&message.system.message_id, &message.system.content_type];
    let [id, content_type] = texts.map(|text| text.as_deref().map(str::to_owned));
    fault([id, content_type, own(SIGNS.0), own(TWICE)], number)
}

/// What is wrong with `message`, as the hub's log shows it.
pub fn fault_of_logged(message: &Value, number: u64) -> Option<String> {
    let at = |path: &str| message.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let system = [at("/systemProperties/messageId"), at("/systemProperties/contentType")];
    let [id, content_type] = system;
    let (signs, twice) = (format!("/properties/{}", SIGNS.0), format!("/properties/{TWICE}"));
    fault([id, content_type, at(&signs), at(&twice)], number)
}

fn fault(has: [Option<String>; 4], number: u64) -> Option<String> {
    let wanted = [number.to_string(), CONTENT_TYPE.into(), SIGNS.1.into(), twice(number)];
    let is_same = has.iter().zip(&wanted).all(|(has, wanted)| has.as_ref() == Some(wanted));
    (!is_same).then(|| format!("{number} has the properties {has:?}, not {wanted:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_property_that_is_lost_or_changed_is_noticed() {
        let whole = message(7, "out");
        assert_eq!(fault_of(&whole, 7), None);
        assert!(fault_of(&whole, 8).is_some());
        let bare = Message { properties: PropertyBag::default(), ..whole.clone() };
        assert!(fault_of(&bare, 7).is_some());
        let mut unnamed = whole;
        unnamed.system.message_id = None;
        assert!(fault_of(&unnamed, 7).is_some());
        let logged = json!({
            "systemProperties": { "messageId": "7", "contentType": "text/plain" },
            "properties": { "k&k": "v=v/+ü %", "twice": "14" },
        });
        assert_eq!(fault_of_logged(&logged, 7), None);
        assert!(fault_of_logged(&json!({}), 7).is_some());
        let (_, bag) = in_topic(7)
            .split_once("%24.ct=text%2Fplain&")
            .map(|(a, b)| (a.len(), b.to_owned()))
            .unwrap();
        assert_eq!(PropertyBag::parse(bag.into()).unwrap().get("k&k").as_deref(), Some(SIGNS.1));
    }
}

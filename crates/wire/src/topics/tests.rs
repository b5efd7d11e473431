use bytes::Bytes;
use model::id::IdentityId;
use model::message::Message;
use serde_json::{Map, Value};

use super::device::{self, DeviceTopic};
use super::user::UserName;
use super::{InvalidTopic, hub};

#[path = "../../../testkit/src/cases.rs"]
#[expect(unreachable_pub, dead_code, reason = "testkit shows the same file to other rooms")]
mod table;

/// What a reader sees of `message`.
fn seen(message: &Message) -> (Map<String, Value>, Map<String, Value>) {
    let system = &message.system;
    let texts = [
        ("messageId", &system.message_id),
        ("correlationId", &system.correlation_id),
        ("userId", &system.user_id),
        ("to", &system.to),
        ("contentType", &system.content_type),
        ("contentEncoding", &system.content_encoding),
        ("outputName", &system.output_name),
        ("interfaceId", &system.interface_id),
        ("dt-subject", &system.component),
        ("messageSchema", &system.schema),
        ("expiryTimeUtc", &system.expiry),
        ("creationTimeUtc", &system.creation_time),
        ("iothub-ack", &system.ack),
    ];
    let said = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
    let said = said.map(|(name, text)| (name.to_owned(), text.into()));
    let pairs = message.properties.iter();
    let pairs = pairs.map(|(key, value)| (key.into_owned(), Value::from(value.into_owned())));
    (pairs.collect(), said.collect())
}

#[test]
fn whatever_stands_in_a_bag_readers_see_what_the_table_says_after_every_hop() {
    for case in table::message_properties() {
        let topic = format!("devices/d/messages/events/{}", case.bag);
        let Ok(DeviceTopic::Telemetry { message, lost }) = device::parse(&id("d"), &topic) else {
            panic!("{topic}");
        };
        let mut expected = (case.properties, case.system);
        assert_eq!((seen(&message), lost), (expected.clone(), case.lost), "{topic}");
        let bag = &message.properties;
        assert_eq!(model::message::PropertyBag::parse(bag.0.clone()).as_ref(), Ok(bag), "{topic}");

        let upstream = device::telemetry(&id("d"), &message);
        let Ok(DeviceTopic::Telemetry { message: next, lost }) = device::parse(&id("d"), &upstream)
        else {
            panic!("{upstream}");
        };
        assert_eq!((seen(&next), lost), (expected.clone(), 0), "{upstream}");

        let mut granted = super::filter::Granted::default();
        granted.insert(super::filter::Filter::Inputs, 1);
        let input = Message {
            system: model::message::SystemProperties {
                input_name: Some("in".into()),
                ..message.system.clone()
            },
            ..*message
        };
        let (down, _) = hub::message(&id("d/m"), granted, &input).unwrap();
        let hub::HubTopic::Message(got) = hub::parse(&id("d/m"), &down).unwrap() else { panic!() };
        // Java's SDK throws on a property without a value.
        expected.0.retain(|_, value| value != "");
        assert_eq!(seen(&got), expected, "{down}");
    }
}

fn id(text: &str) -> IdentityId {
    text.parse().unwrap()
}

#[test]
fn telemetry_topics_of_every_sdk_are_read() {
    let check = |who: &str, topic: &str, expected: Option<(&str, Option<&str>)>| {
        let read = match device::parse(&id(who), topic) {
            Ok(DeviceTopic::Telemetry { message, .. }) => {
                let bag = String::from_utf8(message.properties.0.to_vec()).unwrap();
                Some((bag, message.system.output_name.map(String::from)))
            }
            _ => None,
        };
        let expected = expected.map(|(bag, out)| (bag.to_owned(), out.map(str::to_owned)));
        assert_eq!(read, expected, "{topic}");
    };
    check("d", "devices/d/messages/events/", Some(("", None)));
    check("d", "devices/d/messages/events", Some(("", None)));
    check("d", "devices/d/messages/events/a=1+2&%24.mid=x", Some(("a=1+2", None)));
    check("d/m", "devices/d/modules/m/messages/events/%24.on=out1/", Some(("", Some("out1"))));
    check("d/m", "devices/d/modules/m/messages/events/$.on=o&k=v", Some(("k=v", Some("o"))));
    check("a+#", "devices/a+#/messages/events/", Some(("", None)));
    check("d", "devices/e/messages/events/", None);
    check("d", "devices/d/messages/eventsx", None);
    check("d/m", "devices/d/messages/events/", None);
    check("d", "devices/d/messages/events/a=%zz", Some(("a=%25zz", None)));
}

#[test]
fn a_message_survives_the_way_down() {
    let mut sent = Message::default();
    sent.system.message_id = Some("a/b=c&d+e f".into());
    sent.system.input_name = Some("in".into());
    sent.properties = model::message::PropertyBag(Bytes::from_static(b"k=%2B&bare&e="));
    let mut granted = super::filter::Granted::default();
    assert_eq!(hub::message(&id("d/m"), granted, &sent), None);
    granted.insert(super::filter::Filter::ModuleAll, 1);
    let (topic, qos) = hub::message(&id("d/m"), granted, &sent).unwrap();
    let expected = "devices/d/modules/m/inputs/in/%24.mid=a%2Fb%3Dc%26d%2Be%20f&k=%2B";
    assert_eq!((topic.as_str(), qos), (expected, 1));
    let hub::HubTopic::Message(read) = hub::parse(&id("d/m"), &topic).unwrap() else { panic!() };
    assert_eq!(read.system, sent.system);
}

#[test]
fn user_names_are_read_as_sdks_and_bare_clients_write_them() {
    let check = |text: &str, host: &str, who: &str| {
        let user = UserName::parse(text).unwrap();
        assert_eq!((&*user.host, user.identity.as_str()), (host, who), "{text}");
    };
    check("hub.x/d/?api-version=2021-04-12&DeviceClientType=py%2F2", "hub.x", "d");
    check("Hub.x:8883/d/m/?api-version=2019-10-01", "Hub.x:8883", "d/m");
    check("hub/d", "hub", "d");
    check("hub/d/", "hub", "d");
    check("hub/?d/?api-version=1", "hub", "?d");
    check("hub/d/?m/?api-version=1", "hub", "d/?m");
    check("hub/d/?", "hub", "d");
    check("hub/d/?DeviceClientType=%ff", "hub", "d");
    assert_eq!(UserName::parse("d"), Err(InvalidTopic::UserName));
    assert_eq!(UserName::parse("hub/d/m/x/?api-version=1"), Err(InvalidTopic::UserName));
    assert_eq!(UserName::parse("hub/d/m/x"), Err(InvalidTopic::UserName));
    assert_eq!(UserName::parse("/d"), Err(InvalidTopic::UserName));
}

#[test]
fn user_names_of_2016_to_2018_carry_their_query_without_a_question_mark() {
    let check = |text: &str, who: &str, version: &str, client: Option<&str>| {
        let user = UserName::parse(text).unwrap();
        let read = (user.identity.as_str(), user.api_version.as_deref());
        assert_eq!(read, (who, Some(version)), "{text}");
        assert_eq!(user.client_type.as_deref(), client, "{text}");
    };
    check("localhost/plain-1/api-version=2016-11-14", "plain-1", "2016-11-14", None);
    check("localhost/plain-1/api-version=2018-06-30", "plain-1", "2018-06-30", None);
    check("localhost/d/m/api-version=2018-06-30", "d/m", "2018-06-30", None);
    check(
        "localhost/plain-1/api-version=2016-11-14&DeviceClientType=iothubclient%2f1.2.1%20(native%3b%20Linux%3b%20x86_64)",
        "plain-1",
        "2016-11-14",
        Some("iothubclient/1.2.1 (native; Linux; x86_64)"),
    );
    check(
        "localhost/plain-1/api-version=2016-11-14/DeviceClientType=Microsoft.Azure.Devices.Client/1.2.2",
        "plain-1",
        "2016-11-14",
        Some("Microsoft.Azure.Devices.Client/1.2.2"),
    );
    check("h/d/DeviceClientType=x&api-version=1", "d", "1", Some("x"));
    // With a question mark behind it, the same text is the name of a module.
    check("h/d/api-version=1/?api-version=2", "d/api-version=1", "2", None);
    let user = UserName::parse("h/d/?Api-Version=1&MODEL-ID=dtmi%3Ax%3B1").unwrap();
    assert_eq!(user.model_id.as_deref(), Some("dtmi:x;1"));
}

#[test]
fn every_filter_belongs_to_one_kind_of_identity_and_reads_back() {
    use super::filter::Filter;
    let check = |who: &str, filter: Filter, text: Option<&str>| {
        let who = id(who);
        assert_eq!(filter.text(&who).as_deref(), text);
        if let Some(text) = text {
            assert_eq!(Filter::parse(&who, text), Some(filter));
            assert_eq!(Filter::parse(&id("other"), text).is_some(), text.starts_with('$'));
        }
    };
    check("d", Filter::CloudToDevice, Some("devices/d/messages/devicebound/#"));
    check("d/m", Filter::CloudToDevice, None);
    check("d", Filter::Inputs, None);
    check("d/m", Filter::Inputs, Some("devices/d/modules/m/inputs/#"));
    check("d/m", Filter::ModuleAll, Some("devices/d/modules/m/#"));
    check("d/m", Filter::ModuleBound, Some("devices/d/modules/m/messages/devicebound/#"));
    for who in ["d", "d/m"] {
        check(who, Filter::Methods, Some("$iothub/methods/POST/#"));
        check(who, Filter::TwinAnswers, Some("$iothub/twin/res/#"));
        check(who, Filter::DesiredChanges, Some("$iothub/twin/PATCH/properties/desired/#"));
    }
    for foreign in ["#", "+", "devices/d/#", "$iothub/#", "$iothub/methods/POST/+", ""] {
        assert_eq!(Filter::parse(&id("d"), foreign), None, "{foreign}");
    }
}

#[test]
fn grants_are_kept_apart_and_the_last_quality_wins() {
    use super::filter::{Filter, Granted};
    let mut granted = Granted::default();
    for (at, filter) in Filter::ALL.into_iter().enumerate() {
        granted.insert(filter, u8::from(at % 2 == 0));
    }
    for (at, filter) in Filter::ALL.into_iter().enumerate() {
        assert_eq!(granted.qos(filter), Some(u8::from(at % 2 == 0)), "{filter:?}");
    }
    granted.insert(Filter::Methods, 1);
    granted.insert(Filter::Methods, 0);
    granted.remove(Filter::Inputs);
    assert_eq!((granted.qos(Filter::Methods), granted.qos(Filter::Inputs)), (Some(0), None));
    assert!(granted.has(Filter::ModuleAll.feature()));
}

#[test]
fn statuses_and_error_numbers_belong_together() {
    use model::refusal::RefusalKind as K;

    use super::status;
    for kind in K::ALL {
        let (status, number) = status::status(kind);
        let code = kind.code();
        assert_eq!((status, number), (code.status(), code.number), "{kind:?}");
        assert_eq!(status::status(status::kind(status)).0, status, "{kind:?}");
        assert_eq!(status::connack_code(kind), code.connack, "{kind:?}");
    }
    let refusal = status::read_error(429, b"not JSON");
    assert_eq!((refusal.kind, &*refusal.reason), (K::Throttled, "the hub answered 429"));
    assert_eq!(status::read_error(418, b"{\"message\":\"tea\"}").reason, "tea");
}

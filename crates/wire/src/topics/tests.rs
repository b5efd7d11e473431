use bytes::Bytes;
use model::id::IdentityId;
use model::message::Message;

use super::device::{self, DeviceTopic};
use super::user::UserName;
use super::{InvalidTopic, hub};

fn id(text: &str) -> IdentityId {
    text.parse().unwrap()
}

#[test]
fn telemetry_topics_of_every_sdk_are_read() {
    let check = |who: &str, topic: &str, expected: Option<(&str, Option<&str>)>| {
        let read = match device::parse(&id(who), topic) {
            Ok(DeviceTopic::Telemetry(message)) => {
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
    check("d", "devices/d/messages/events/a=%zz", None);
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
    assert_eq!(UserName::parse("d"), Err(InvalidTopic::UserName));
    assert_eq!(UserName::parse("/d"), Err(InvalidTopic::UserName));
}

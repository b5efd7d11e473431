//! Messages as readers see them, against the table that wire and router are held against.

use model::message::{MESSAGE_BYTES_MAX, Message};
use model::refusal::RefusalKind;
use model::time::Tick;
use model::waist::{Batch, DeviceRequest, LinkKind};
use serde_json::Value;
use testkit::cases::message_properties;
use testkit::messages::message_of;

use super::Machine;

#[tokio::test(start_paused = true)]
async fn readers_see_every_property_as_the_table_says() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d1").await;
    let link = LinkKind::Mqtt { clean: true };
    let session = r.api.open(claim, link, Tick::NEVER).await.unwrap().session;
    let cases = message_properties();
    for case in &cases {
        let request = DeviceRequest::SendTelemetry(Box::new(message_of(case)));
        session.submit(Batch(vec![request]), Tick::NEVER).unwrap().only().await.unwrap();
    }
    let (_, page) = r.call("GET", "/api/v1/telemetry?device=d1&max=1000", Value::Null).await;
    let seen = page["messages"].as_array().unwrap();
    assert_eq!(seen.len(), cases.len());
    for (message, case) in seen.iter().zip(&cases) {
        assert_eq!(message["properties"], Value::Object(case.properties.clone()), "{}", case.bag);
        let stamped = [
            "connectionDeviceId",
            "connectionDeviceGenerationId",
            "connectionAuthMethod",
            "enqueuedTime",
        ];
        let mut system = message["systemProperties"].as_object().unwrap().clone();
        system.retain(|name, _| !stamped.contains(&name.as_str()));
        assert_eq!(system, case.system, "{}", case.bag);
    }
}

#[tokio::test(start_paused = true)]
async fn system_properties_count_towards_the_most_that_a_message_may_have() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d1").await;
    let link = LinkKind::Mqtt { clean: true };
    let session = r.api.open(claim, link, Tick::NEVER).await.unwrap().session;
    let send = async |message: &Message| {
        let request = DeviceRequest::SendTelemetry(Box::new(message.clone()));
        session.submit(Batch(vec![request]), Tick::NEVER).unwrap().only().await
    };
    let mut message = Message { body: vec![0; MESSAGE_BYTES_MAX].into(), ..Message::default() };
    assert!(send(&message).await.is_ok());
    message.system.correlation_id = Some("x".into());
    let refused = send(&message).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::TooLarge);
    assert_eq!(Err(refused), message.check_size());
}

//! Messages for an identity: handed out on credit, locked until settled.

use model::feature::Feature;
use model::waist::{Answer, Credit, Delivery, DeviceEvent, DeviceRequest, DeviceSession, Outcome};

use super::{Ability, Bench};

/// Without credit nothing comes; with it messages come in order; what was not settled comes
/// again in the next session, what was completed does not.
pub(super) async fn messages_are_handed_out_until_they_are_settled(bench: &Bench) {
    if !bench.has(Ability::Messages) {
        return;
    }
    let identity = bench.identity("messages").await;
    let first = bench.open(&identity, false).await;
    bench.subscribe(&*first.session, &[Feature::Inputs]).await;
    for body in ["0", "1", "2"] {
        bench.cloud.send(identity.clone(), body).await;
    }
    bench.quiet_with(&*first.session, Credit::of_messages(0), "no credit, no message").await;
    let mut taken = Vec::new();
    for body in ["0", "1", "2"] {
        taken.push(delivery(bench, &*first.session, body).await);
    }
    let done = taken.first().expect("three were taken");
    settle(bench, &*first.session, done, Outcome::Complete).await;
    settle(bench, &*first.session, done, Outcome::Complete).await;

    bench.quiet(&*first.session, "nothing is handed out twice to one session").await;

    let second = bench.open(&identity, false).await;
    let last = if bench.has(Ability::Outcomes) { Outcome::Reject } else { Outcome::Complete };
    for (body, outcome) in [("1", Outcome::Complete), ("2", last)] {
        let again = delivery(bench, &*second.session, body).await;
        settle(bench, &*second.session, &again, outcome).await;
    }
    bench.quiet(&*second.session, "all messages are settled").await;
    if !bench.has(Ability::Outcomes) {
        return;
    }
    bench.cloud.send(identity.clone(), "3").await;
    let abandoned = delivery(bench, &*second.session, "3").await;
    settle(bench, &*second.session, &abandoned, Outcome::Abandon).await;
    let again = delivery(bench, &*second.session, "3").await;
    settle(bench, &*second.session, &again, Outcome::Complete).await;
    bench.quiet(&*second.session, "nothing is left").await;
}

async fn delivery(bench: &Bench, session: &dyn DeviceSession, body: &str) -> Delivery {
    match bench.event(session).await {
        DeviceEvent::Message(delivery) => {
            assert_eq!(delivery.message.body, body.as_bytes());
            *delivery
        }
        other => unreachable!("only messages are subscribed, not {other:?}"),
    }
}

async fn settle(bench: &Bench, session: &dyn DeviceSession, delivery: &Delivery, outcome: Outcome) {
    let request = DeviceRequest::Settle { token: delivery.token, outcome };
    assert_eq!(bench.ask(session, request).await, Ok(Answer::Accepted));
}

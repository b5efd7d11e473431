//! A kept session of the client, while the connections beneath it are cut.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use model::id::IdentityId;
use model::message::Message;
use model::refusal::Refusal;
use model::time::Tick;
use model::waist::{Answer, Batch, ClaimSource, DeviceRequest, FreshClaim};
use model::world::World;
use testkit::conformance::Cloud as _;

use super::house::{Hub, HubCloud};

/// Claims that hold a minute.
struct Minutes {
    cloud: HubCloud,
    identity: IdentityId,
    world: World,
}

impl ClaimSource for Minutes {
    fn claim(
        &self,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<FreshClaim, Refusal>> + Send + '_>> {
        Box::pin(async {
            let life = Duration::from_mins(1);
            let claim = self.cloud.claim(self.identity.clone(), life).await;
            Ok(FreshClaim { claim, valid_until: self.world.now().wall.after(life) })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_loses_nothing_while_its_connections_are_cut() {
    const NUMBERS: usize = 4000;
    let house = Hub::start(11).await;
    let client = house.client();
    let (identity, world) = ("kept".parse::<IdentityId>().unwrap(), house.field.world());
    house.cloud.create(identity.clone()).await;
    let (cloud, name) = (house.cloud.clone(), identity.clone());
    let claims = Arc::new(Minutes { cloud, identity: name, world: world.clone() });
    let kept = client.keep(identity.clone(), claims);
    let sending = async {
        let mut waiting = VecDeque::new();
        for number in 0..NUMBERS {
            let body = number.to_string().into();
            let message = Message { body, ..Message::default() };
            let mut batch = Batch::from(DeviceRequest::SendTelemetry(Box::new(message)));
            let completion = loop {
                match kept.session.submit(batch, Tick::NEVER) {
                    Ok(completion) => break completion,
                    Err(full) => batch = full.0,
                }
                poll_fn(|cx| kept.session.poll_ready(cx)).await;
            };
            waiting.push_back(completion);
            if waiting.len() == 16 {
                let answer = waiting.pop_front().unwrap().only().await;
                assert_eq!(answer, Ok(Answer::Accepted), "number {number}");
            }
        }
        for completion in waiting {
            assert_eq!(completion.only().await, Ok(Answer::Accepted));
        }
    };
    let cutting = async {
        loop {
            tokio::time::sleep(Duration::from_millis(150)).await;
            house.pipes.cut_one();
        }
    };
    tokio::select! {
        biased;
        () = sending => {}
        () = cutting => {}
    }
    let cuts = house.pipes.cuts();
    assert!(cuts >= 20, "only {cuts} cuts; the test shows nothing");
    let read = house.cloud.telemetry(identity).await;
    let numbers = read.iter().map(|message| String::from_utf8_lossy(&message.body).parse());
    let mut next = 0;
    let mut copies = 0;
    for number in numbers {
        let number: usize = number.unwrap();
        assert!(number <= next, "{number} came before {next}");
        copies += usize::from(number < next);
        next = next.max(number + 1);
    }
    assert_eq!(next, NUMBERS, "what was acknowledged is there");
    let copies_max = usize::try_from(cuts).unwrap() * 16;
    assert!(copies <= copies_max, "{copies} repeats in {cuts} cuts");
    drop(kept);
    house.stop().await;
}

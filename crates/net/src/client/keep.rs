//! Keeps a session alive over many connections.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use model::refusal::Refusal;
use model::time::Tick;
use model::waist::{ClaimSource, CloseReason};
use wire::mqtt::client::Ending;

use super::backoff::{Backoff, renewal};
use super::driver::{Driver, Ended};
use super::session::Shared;
use super::{MqttClient, login_of, unreachable_server};

/// Dials, drives, and dials again, until the owner leaves.
pub(super) async fn run(client: MqttClient, shared: Arc<Shared>, claims: Arc<dyn ClaimSource>) {
    let mut backoff = Backoff::default();
    while shared.lock().left().is_none() {
        let outcome = until_left(&shared, connect(&client, &shared, &*claims)).await;
        let driver = match outcome {
            None => break,
            Some(Ok(driver)) => driver,
            Some(Err(refusal)) => {
                shared.lock().down(refusal);
                pause(&shared, &mut backoff).await;
                continue;
            }
        };
        let ended = driver.await;
        let (now, stood) = (shared.world.now().tick, shared.lock().accepted().is_some());
        shared.lock().handle_disconnected(now);
        if stood {
            backoff.reset();
        }
        // A renewal is our own doing and no reason to wait.
        if !matches!(ended, Ended::Told(Ending::Asked)) {
            shared.lock().down(ended.refusal());
            pause(&shared, &mut backoff).await;
        }
    }
    shared.lock().finish(CloseReason::Disconnected);
}

async fn connect(
    client: &MqttClient,
    shared: &Arc<Shared>,
    claims: &dyn ClaimSource,
) -> Result<Driver, Refusal> {
    let fresh = claims.claim().await?;
    let (_, login) = login_of(&fresh.claim)?;
    if let Some(modules) = &shared.modules {
        modules.use_claim(&fresh.claim);
    }
    let stream = client.dial().await.map_err(|error| unreachable_server(&error))?;
    let now = shared.world.now();
    let renew = renewal(now, fresh.valid_until, shared.world.random.number());
    shared.lock().connect(now.tick, &login)?;
    Ok(Driver::new(stream, Arc::clone(shared), renew))
}

async fn pause(shared: &Shared, backoff: &mut Backoff) {
    let mut left = backoff.next(shared.world.random.number());
    // Deadlines pass while there is no connection, too.
    while !left.is_zero() && shared.lock().left().is_none() {
        let slice = left.min(Duration::from_secs(1));
        let slept = until_left(shared, tokio::time::sleep(slice)).await;
        left = left.saturating_sub(slice);
        let now: Tick = shared.world.now().tick;
        let ending = shared.lock().work(now);
        if slept.is_none() || ending.is_some() {
            return;
        }
    }
}

/// The outcome of `work`; none if the owner leaves first.
async fn until_left<T>(shared: &Shared, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        {
            let mut core = shared.lock();
            core.set_driver(cx);
            if core.left().is_some() {
                return Poll::Ready(None);
            }
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

//! What a module owes the edge hub beside its work: subscriptions, the copy of the desired
//! properties, and reports that may wait.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use model::feature::{Feature, FeatureSet, Subscription};
use model::id::IdentityId;
use model::refusal::Refusal;
use model::twin::TwinPatch;
use model::waist::{Answer, DeviceRequest};
use net::client::Link;
use tokio::sync::watch;

use crate::desired::join;
use crate::pump::Shared;

/// Pause after a refusal.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Our quality of service: at least once.
const QOS: u8 = 1;

/// Runs until the session is closed.
pub(crate) async fn run(shared: Arc<Shared>, mut link: watch::Receiver<Link>) {
    let mut subscribed = Vec::new();
    while !shared.state().closed {
        let worked = work(&shared, &mut subscribed).await;
        if let Err(refusal) = &worked {
            tracing::warn!(kind = ?refusal.kind, reason = %refusal, "not done; will try again");
        }
        // After a refusal only time and a new connection help; a wake-up waits for them.
        let due = async {
            match worked {
                Ok(()) => shared.upkeep.notified().await,
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        tokio::select! {
            biased;
            () = next_link(&mut link) => handle_link(&shared, &link),
            () = due => {}
        }
    }
}

/// The next news of the connection; never, once nobody tells.
async fn next_link(link: &mut watch::Receiver<Link>) {
    if link.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// After a new connection nobody knows what was missed.
fn handle_link(shared: &Shared, link: &watch::Receiver<Link>) {
    match &*link.borrow() {
        Link::Connecting => {}
        Link::Up { resumed } => {
            tracing::info!(resumed, "connected");
            shared.state().read = true;
        }
        Link::Down(refusal) => {
            tracing::warn!(kind = ?refusal.kind, reason = %refusal, "not connected");
        }
    }
}

async fn work(shared: &Shared, subscribed: &mut Vec<Feature>) -> Result<(), Refusal> {
    let missing: Vec<Feature> = {
        let state = shared.state();
        state.wanted.iter().filter(|feature| !subscribed.contains(*feature)).copied().collect()
    };
    if !missing.is_empty() {
        let set = subscriptions(shared.session.identity(), &missing);
        shared.ask(DeviceRequest::Subscribe(set)).await?;
        if missing.contains(&Feature::DesiredChanges) {
            shared.state().read = true;
        }
        subscribed.extend(missing);
    }
    // A read that fails is due again; a change that comes meanwhile makes another due.
    while subscribed.contains(&Feature::DesiredChanges) && std::mem::take(&mut shared.state().read)
    {
        read(shared).await.inspect_err(|_| shared.state().read = true)?;
    }
    let report = shared.state().report.take();
    match report {
        None => Ok(()),
        Some(patch) => report_now(shared, patch).await,
    }
}

async fn read(shared: &Shared) -> Result<(), Refusal> {
    if let Answer::Twin(twin) = shared.ask(DeviceRequest::ReadTwin).await? {
        let mut state = shared.state();
        let need = state.copy.handle_twin(*twin);
        shared.follow(&mut state, need);
    }
    Ok(())
}

/// Reports; what could not be reported stays due beneath what became due meanwhile. What is
/// wrong in itself is given up.
async fn report_now(shared: &Shared, patch: TwinPatch) -> Result<(), Refusal> {
    use model::refusal::RefusalKind::{InvalidRequest, TooLarge};
    let request = DeviceRequest::PatchReported { patch: patch.clone(), if_version: None };
    let refused = shared.ask(request).await.map(drop);
    if let Err(refusal) = &refused
        && !matches!(refusal.kind, InvalidRequest | TooLarge)
    {
        let mut state = shared.state();
        let mut due = patch;
        if let Some(later) = state.report.take() {
            join(&mut due.0, later.0);
        }
        state.report = Some(due);
    }
    refused
}

/// What is sent to switch `features` on. The filters are those of Azure's SDKs, because a
/// runtime grants by text.
fn subscriptions(identity: &IdentityId, features: &[Feature]) -> FeatureSet {
    let device = identity.device_str();
    let module = identity.module_str().unwrap_or_default();
    let filter = |feature: Feature| match feature {
        Feature::Inputs => format!("devices/{device}/modules/{module}/inputs/#"),
        Feature::Methods => "$iothub/methods/POST/#".to_owned(),
        Feature::TwinAnswers => "$iothub/twin/res/#".to_owned(),
        Feature::DesiredChanges => "$iothub/twin/PATCH/properties/desired/#".to_owned(),
        Feature::CloudToDevice => format!("devices/{device}/messages/devicebound/#"),
    };
    let subscription =
        |feature| Subscription { feature, qos: QOS, filter: filter(feature).into_boxed_str() };
    features.iter().copied().map(subscription).collect()
}

//! What must be true of a run: while it settles, and when it is over.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use engine::runtime::ModuleStatus;
use serde_json::Value;

use crate::cloud::{Logged, Service};
use crate::device::lock;
use crate::edge_site::EdgeSite;
use crate::operator::{Expected, Operator};
use crate::owed::Owed;
use crate::program::{PASSED_ON, SINK, SOURCE};
use crate::sentence::Sentence;

/// Why a device is not yet as it is to be in the end.
///
/// # Errors
/// What is still missing.
pub async fn settled(
    site: &EdgeSite,
    operator: &Operator,
    service: &Service,
    count: u64,
) -> Result<()> {
    Sentence::Operator.check(operator.is_done(), || "the operator is not done".to_owned())?;
    let expected = operator.expected();
    engine_runs(site, &expected).context(Sentence::Running)?;
    let acknowledged = lock(&site.processes.source).acknowledged;
    let words = || format!("the source has {acknowledged} of {count} acknowledged");
    Sentence::Sent.check(acknowledged == count, words)?;
    let highest = lock(&site.processes.sink).highest;
    let words = || format!("the sink has got {highest} of {count}");
    Sentence::Received.check(highest == count, words)?;
    let status = site.status().await?;
    for queue in &status.router.queues {
        let words = || format!("{} messages wait for {}", queue.depth, queue.endpoint);
        Sentence::Drained.check(queue.depth == 0, words)?;
    }
    let agent = service.twin(&site.name, "$edgeAgent").await?;
    let hub = service.twin(&site.name, "$edgeHub").await?;
    told(&agent, &hub, &site.name, &expected).context(Sentence::Told)?;
    for module in [SOURCE, SINK] {
        let twin = service.twin(&site.name, module).await?;
        let seen = number(&twin, "/properties/reported/seen");
        let words = || format!("{module} saw {seen:?}, not {}", expected.value);
        Sentence::Heard.check(seen == Some(expected.value), words)?;
    }
    let twin = service.twin(&site.name, SOURCE).await?;
    lock(&site.processes.source).reports.judge(SOURCE, &twin)
}

/// What a device reports of itself is true.
fn told(agent: &Value, hub: &Value, device: &str, expected: &Expected) -> Result<()> {
    agent_tells_the_truth(agent, expected)?;
    was_seen(hub, 200).context("$edgeHub")?;
    for module in [SOURCE, SINK] {
        let name = format!("/properties/reported/clients/{device}~1{module}/status");
        let status = hub.pointer(&name).and_then(Value::as_str);
        ensure!(status == Some("Connected"), "{module} is reported {status:?} at the router");
    }
    Ok(())
}

fn engine_runs(site: &EdgeSite, expected: &Expected) -> Result<()> {
    let there: BTreeMap<_, _> =
        site.engine.modules().into_iter().map(|it| (it.name.clone(), it)).collect();
    for (name, image) in &expected.modules {
        let module = there.get(*name).with_context(|| format!("{name} is missing"))?;
        ensure!(module.image == *image, "{name} runs {}, not {image}", module.image);
        ensure!(module.status == ModuleStatus::Running, "{name} is {:?}", module.status);
    }
    let more = there.keys().find(|name| !expected.modules.contains_key(name.as_str()));
    ensure!(more.is_none(), "{more:?} is no longer desired");
    Ok(())
}

fn agent_tells_the_truth(twin: &Value, expected: &Expected) -> Result<()> {
    was_seen(twin, expected.code).context("$edgeAgent")?;
    let modules = twin.pointer("/properties/reported/modules").and_then(Value::as_object);
    let modules = modules.context("no modules are reported")?;
    ensure!(
        modules.len() == expected.modules.len(),
        "{:?} are reported",
        modules.keys().collect::<Vec<_>>()
    );
    for (name, image) in &expected.modules {
        let module = modules.get(*name).with_context(|| format!("{name} is not reported"))?;
        let says = |path: &str| module.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (status, said) = (says("/runtimeStatus"), says("/settings/image"));
        ensure!(status == "running", "{name} is reported {status:?}");
        ensure!(said == image, "{name} is reported to be {said:?}, it is {image}");
    }
    Ok(())
}

fn was_seen(twin: &Value, expected: u64) -> Result<()> {
    let version = number(twin, "/properties/desired/$version").context("no version")?;
    let seen = number(twin, "/properties/reported/lastDesiredVersion");
    ensure!(seen == Some(version), "version {version} is desired, {seen:?} was seen");
    let code = number(twin, "/properties/reported/lastDesiredStatus/code");
    ensure!(code == Some(expected), "the code is {code:?}, not {expected}");
    Ok(())
}

fn number(twin: &Value, path: &str) -> Option<u64> {
    twin.pointer(path).and_then(Value::as_u64)
}

/// Whoever sent something, and what the log must have of it.
#[derive(Debug)]
pub struct Sender {
    /// As the log names it.
    pub name: String,
    /// The numbers that were acknowledged, ascending.
    pub numbers: Vec<u64>,
    /// How often each may have come again.
    pub owed: Owed,
}

impl Sender {
    /// What a sink passed on of the numbers from 1 to `count`.
    pub fn passed_on(name: String, count: u64, owed: Owed) -> Self {
        let numbers = (1..=count).filter(|number| number % PASSED_ON == 0).collect();
        Self { name, numbers, owed }
    }
}

/// First copies complete and ascending, and of each number no more copies than deaths at which
/// it was not acknowledged; gives the count of all copies.
///
/// # Errors
/// The promise that was broken.
pub fn judge(sender: &Sender, arrived: impl Iterator<Item = u64>) -> Result<u64> {
    let name = &sender.name;
    let mut next = 0;
    let mut copies: BTreeMap<u64, u64> = BTreeMap::new();
    let all: Vec<u64> = arrived.collect();
    for (at, &number) in all.iter().enumerate() {
        let expected = sender.numbers.get(next).copied();
        if expected == Some(number) {
            next += 1;
            continue;
        }
        let around = || all.get(at.saturating_sub(4)..all.len().min(at + 4));
        let Ok(place) = sender.numbers.binary_search(&number) else {
            let words = format!("{name}: nobody sent {number}; around it {:?}", around());
            return Err(Sentence::Invented.broken(words));
        };
        if place < next {
            *copies.entry(number).or_default() += 1;
            continue;
        }
        let comes_later = all.iter().skip(at).any(|it| Some(*it) == expected);
        let sentence = if comes_later { Sentence::Ordered } else { Sentence::Kept };
        let words =
            format!("{name}: {number} stands where {expected:?} was to come: {:?}", around());
        return Err(sentence.broken(words));
    }
    if let Some(missing) = sender.numbers.get(next) {
        let words = format!("{name}: {missing} was acknowledged and is not there");
        return Err(Sentence::Kept.broken(words));
    }
    for (number, copies) in &copies {
        let deaths = sender.owed.of(*number);
        let words = || {
            format!(
                "{name}: {number} came {copies} times again; it was on its way at {deaths} deaths"
            )
        };
        Sentence::Copies.check(*copies <= deaths, words)?;
    }
    Ok(copies.values().sum())
}

/// The numbers of `sender` in the hub's log.
pub fn numbers_of<'a>(log: &'a [Logged], sender: &'a str) -> impl Iterator<Item = u64> + 'a {
    log.iter().filter(move |logged| logged.sender == sender).map(|logged| logged.number)
}

/// Once a newer connection of a sender is open, nothing comes over an older one.
///
/// # Errors
/// What came late.
pub fn lives_in_order(log: &[Logged], sender: &str) -> Result<()> {
    let mut newest = 0;
    for logged in log.iter().filter(|logged| logged.sender == sender) {
        let life = logged.life.with_context(|| format!("{sender}: a message of no connection"))?;
        let number = logged.number;
        let words =
            || format!("{sender}: {number} of connection {life} was taken after {newest} was open");
        Sentence::Lives.check(life >= newest, words)?;
        newest = life;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_connection_brings_late_is_noticed() {
        let check = |lives: &[u64], expected: bool| {
            let log: Vec<_> = lives
                .iter()
                .map(|&life| Logged {
                    sender: "s".into(),
                    number: 1,
                    life: Some(life),
                    enqueued: model::time::WallTime(0),
                    fault: None,
                })
                .collect();
            assert_eq!(lives_in_order(&log, "s").is_ok(), expected, "{lives:?}");
            assert!(lives_in_order(&log, "other").is_ok());
        };
        check(&[], true);
        check(&[1, 1, 3, 3], true);
        check(&[1, 2, 1], false);
    }

    #[test]
    fn the_log_of_a_sender_is_complete_in_order_and_copies_have_their_deaths() {
        let mut owed = Owed::default();
        owed.add([2, 2, 4]);
        let sender = Sender { name: "s".into(), numbers: vec![2, 4, 6], owed };
        let check = |arrived: &[u64], expected: Result<u64, Sentence>| {
            let judged = judge(&sender, arrived.iter().copied());
            let judged = judged.map_err(|error| Sentence::of(&error).unwrap());
            assert_eq!(judged, expected, "{arrived:?}");
        };
        check(&[2, 4, 6], Ok(0));
        check(&[2, 4, 2, 4, 6], Ok(2));
        check(&[2, 4, 2, 2, 4, 6], Ok(3));
        check(&[2, 4], Err(Sentence::Kept));
        check(&[2, 6, 4], Err(Sentence::Ordered));
        check(&[2, 6], Err(Sentence::Kept));
        check(&[2, 4, 6, 8], Err(Sentence::Invented));
        check(&[3, 2, 4, 6], Err(Sentence::Invented));
        // As many copies in all as there were deaths, but not of what was on its way then.
        check(&[2, 4, 4, 4, 6], Err(Sentence::Copies));
        check(&[2, 4, 6, 6], Err(Sentence::Copies));
        check(&[2, 2, 2, 2, 4, 6], Err(Sentence::Copies));
    }
}

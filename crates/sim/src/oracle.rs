//! What must be true of a run: while it settles, and when it is over.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use engine::runtime::ModuleStatus;
use serde_json::Value;

use crate::cloud::{Logged, Service};
use crate::device::lock;
use crate::edge_site::EdgeSite;
use crate::operator::{Expected, Operator};
use crate::program::{PASSED_ON, SINK, SOURCE};

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
    ensure!(operator.is_done(), "the operator is not done");
    let expected = operator.expected();
    engine_runs(site, &expected)?;
    let acknowledged = lock(&site.processes.source).acknowledged;
    ensure!(acknowledged == count, "the source has {acknowledged} of {count} acknowledged");
    let highest = lock(&site.processes.sink).highest;
    ensure!(highest == count, "the sink has got {highest} of {count}");
    let status = site.status().await?;
    for queue in &status.router.queues {
        ensure!(queue.depth == 0, "{} messages wait for {}", queue.depth, queue.endpoint);
    }
    agent_tells_the_truth(&service.twin(&site.name, "$edgeAgent").await?, &expected)?;
    let hub = service.twin(&site.name, "$edgeHub").await?;
    was_seen(&hub, 200).context("$edgeHub")?;
    for module in [SOURCE, SINK] {
        let name = format!("/properties/reported/clients/{}~1{module}/status", site.name);
        let status = hub.pointer(&name).and_then(Value::as_str);
        ensure!(status == Some("Connected"), "{module} is reported {status:?} at the router");
    }
    for module in [SOURCE, SINK] {
        let twin = service.twin(&site.name, module).await?;
        let seen = number(&twin, "/properties/reported/seen");
        ensure!(seen == Some(expected.value), "{module} saw {seen:?}, not {}", expected.value);
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
    /// The most copies that faults can explain.
    pub copies_max: u64,
}

impl Sender {
    /// What a sink passed on of the numbers from 1 to `count`.
    pub fn passed_on(name: String, count: u64, copies_max: u64) -> Self {
        let numbers = (1..=count).filter(|number| number % PASSED_ON == 0).collect();
        Self { name, numbers, copies_max }
    }
}

/// First copies complete and ascending, no more copies than faults explain; gives their count.
///
/// # Errors
/// The promise that was broken.
pub fn judge(sender: &Sender, arrived: impl Iterator<Item = u64>) -> Result<u64> {
    let name = &sender.name;
    let mut next = 0;
    let mut copies = 0;
    let all: Vec<u64> = arrived.collect();
    for (at, &number) in all.iter().enumerate() {
        match sender.numbers.get(next) {
            Some(expected) if *expected == number => next += 1,
            _ if sender
                .numbers
                .get(..next)
                .is_some_and(|had| had.binary_search(&number).is_ok()) =>
            {
                copies += 1;
            }
            expected => {
                let around = all.get(at.saturating_sub(4)..all.len().min(at + 4));
                let later =
                    expected.is_some_and(|expected| all.iter().skip(at).any(|it| it == expected));
                bail!(
                    "{name}: {number} stands where {expected:?} was to come, which comes later: \
                     {later}; around it {around:?}"
                )
            }
        }
    }
    if let Some(missing) = sender.numbers.get(next) {
        bail!("{name}: {missing} was acknowledged and is not there");
    }
    let most = sender.copies_max;
    ensure!(copies <= most, "{name}: {copies} copies; faults explain {most}");
    Ok(copies)
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
        ensure!(
            life >= newest,
            "{sender}: {number} of connection {life} was taken after connection {newest} was open"
        );
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
    fn the_log_of_a_sender_is_complete_in_order_and_has_few_copies() {
        let sender = Sender { name: "s".into(), numbers: vec![2, 4, 6], copies_max: 2 };
        let check = |arrived: &[u64], expected: Result<u64, &str>| {
            let judged = judge(&sender, arrived.iter().copied());
            match expected {
                Ok(copies) => assert_eq!(judged.unwrap(), copies),
                Err(words) => assert!(judged.unwrap_err().to_string().contains(words)),
            }
        };
        check(&[2, 4, 6], Ok(0));
        check(&[2, 4, 2, 4, 6], Ok(2));
        check(&[2, 4], Err("6 was acknowledged"));
        check(&[2, 6, 4], Err("6 stands where Some(4)"));
        check(&[2, 4, 6, 8], Err("8 stands where None"));
        check(&[2, 2, 2, 2, 4, 6], Err("3 copies"));
    }
}

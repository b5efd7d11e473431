//! What a run must have left behind, and what it exercised.

use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context as _, Result};
use model::world::Clock as _;

use super::{LISTENER, Town};
use crate::cloud::Logged;
use crate::device::{Wrong, lock};
use crate::edge_site::EdgeSite;
use crate::hub_site::PARTITIONS;
use crate::oracle::{self, Sender};
use crate::owed::Owed;
use crate::program::{SINK, SOURCE};
use crate::sentence::Sentence;
use crate::totals::Totals;

impl Town {
    /// Nothing fails any more, and all is as it is to be: was it so on the way?
    pub(super) async fn judge(mut self) -> Result<Totals> {
        let log = self.hub.service()?.telemetry(PARTITIONS).await?;
        self.judge_log(&log)?;
        if let Some(filler) = &self.filler {
            filler.judge(&self.hub.service()?).await.context("quotas")?;
        }
        let all: Vec<u64> = (1..=self.size.numbers).collect();
        for (id, record) in &self.devices {
            let record = lock(record);
            right(id, &record.wrong)?;
            let sender =
                Sender { name: id.clone(), numbers: all.clone(), owed: record.owed.clone() };
            self.totals.duplicates += oracle::judge(&sender, oracle::numbers_of(&log, id))?;
            oracle::lives_in_order(&log, id)?;
            self.totals.acknowledged += record.acknowledged;
        }
        right(LISTENER, &lock(&self.heard).wrong)?;
        right(LISTENER, &self.caller.wrong)?;
        for (site, _) in &self.edges {
            let (copies, acknowledged) = judge_edge(site, &log, &all)?;
            self.totals.duplicates += copies;
            self.totals.acknowledged += acknowledged;
        }
        // Its clock was always right.
        let hasty = self.edges.last().map_or(0, |(site, _)| site.engine.hasty());
        let words = || format!("modules were started again too soon, {hasty} times");
        Sentence::Paused.check(hasty == 0, words)?;
        self.count();
        self.totals.transcript = self.transcript(&log);
        self.field.kill();
        self.field.gone().await;
        for (site, _) in &mut self.edges {
            site.close().await?;
        }
        self.hub.close().await;
        Ok(self.totals)
    }

    fn judge_log(&self, log: &[Logged]) -> Result<()> {
        if let Some(invented) = log.iter().find(|it| !self.hub.clock.has_shown(it.enqueued)) {
            let words = format!("the hub's clock never showed the time of {invented:?}");
            return Err(Sentence::Times.broken(words));
        }
        if let Some((sender, fault)) =
            log.iter().find_map(|it| Some((&it.sender, it.fault.as_ref()?)))
        {
            return Err(Sentence::Properties.broken(format!("{sender}: {fault}")));
        }
        Ok(())
    }

    /// What was exercised, and what was planned and hit nothing.
    fn count(&mut self) {
        let totals = &mut self.totals;
        totals.calls = self.caller.answered();
        let hub = (&self.hub.disk, &self.hub.strikes);
        let edges = self.edges.iter().map(|(site, _)| (&site.disk, &site.strikes));
        for (disk, strikes) in edges.chain([hub]) {
            let disk = disk.exercised();
            totals.disk_errors += disk.no_space + disk.io_errors;
            totals.table_errors += strikes.failed();
            totals.missed.tables += strikes.missed();
        }
        for (site, operator) in &self.edges {
            totals.engine_failures += site.engine.failed();
            totals.reports += lock(&site.processes.source).reports.count();
            totals.deployments += operator.deployed;
            totals.broken_manifests += operator.broken;
            totals.missed.manifests += operator.spared;
            totals.tellings += operator.told;
        }
        totals.cuts = self.pipes.cuts();
        totals.silences = self.pipes.silences();
        let hit = totals.cuts + totals.silences;
        totals.missed.connections = self.planned.connections.saturating_sub(hit);
        totals.missed.engines = self.planned.engines.saturating_sub(totals.engine_failures);
    }

    fn transcript(&self, log: &[Logged]) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.clock.now().tick.0.hash(&mut hasher);
        for logged in log {
            (&logged.sender, logged.number, logged.enqueued).hash(&mut hasher);
        }
        for (site, _) in &self.edges {
            lock(&site.processes.sink).numbers.hash(&mut hasher);
            site.engine.calls().hash(&mut hasher);
            site.disk.exercised().operations.hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn right(name: &str, wrong: &Wrong) -> Result<()> {
    match wrong {
        Some((sentence, words)) => Err(sentence.broken(format!("{name}: {words}"))),
        None => Ok(()),
    }
}

/// What one edge device's modules sent and got; gives copies and acknowledged messages.
fn judge_edge(site: &EdgeSite, log: &[Logged], all: &[u64]) -> Result<(u64, u64)> {
    let (source, sink) = (lock(&site.processes.source), lock(&site.processes.sink));
    let (name, ledger) = (&site.name, lock(&site.processes.ledger));
    right(name, &source.wrong)?;
    right(name, &sink.wrong)?;
    right(name, &lock(&site.processes.misheard))?;
    let whole = |name: String, owed| Sender { name, numbers: all.to_vec(), owed };
    let inputs = whole(format!("{name}/{SINK} in"), source.owed.clone().and(&sink.owed));
    let mut copies = oracle::judge(&inputs, sink.numbers.iter().copied())?;
    let own = format!("{name}/{SOURCE}");
    let sent = whole(own.clone(), source.owed.clone().and(&ledger.owed(SOURCE)));
    copies += oracle::judge(&sent, oracle::numbers_of(log, &own))?;
    let own = format!("{name}/{SINK}");
    let count = u64::try_from(all.len()).unwrap_or(u64::MAX);
    let passed = passed_on(&own, count, &sink.passed, &ledger.owed(SINK));
    copies += oracle::judge(&passed, oracle::numbers_of(log, &own))?;
    let passed = u64::try_from(passed.numbers.len()).unwrap_or(u64::MAX);
    Ok((copies, source.acknowledged + passed))
}

/// A sink passes a number on again whenever it does not know that it did: once is no copy.
fn passed_on(name: &str, count: u64, tries: &Owed, upstream: &Owed) -> Sender {
    let mut sender = Sender::passed_on(name.to_owned(), count, Owed::default());
    for number in &sender.numbers {
        let times = tries.of(*number).saturating_sub(1);
        sender.owed.add((0..times).map(|_| *number));
    }
    sender.owed = sender.owed.and(upstream);
    sender
}

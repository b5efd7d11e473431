//! The module `host-sensor`: samples `/proc`, sends readings by the output `readings`.
//!
//! `HOST_PROC` says where the host's `/proc` is mounted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use host_sensor::counters::{
    Counters, parse_diskstats, parse_loadavg, parse_meminfo, parse_net_dev, parse_stat,
};
use host_sensor::reading::{Reading, Sample};
use host_sensor::settings::Settings;
use sdk::process::{self, Stop};
use sdk::{Message, Module, RefusalKind};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The output that readings leave by.
const OUTPUT: &str = "readings";
/// Most bytes of one file of `/proc`; `stat` has some 10 KiB on a machine of 64 cores.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Readings that wait while the edge hub is away; past that, new ones are dropped.
const READINGS_WAITING_MAX: usize = 600;
/// Pause before a reading is sent again.
const RESEND_PAUSE: Duration = Duration::from_secs(1);
/// How long waiting readings may still be sent when the module stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    process::run("host-sensor", env!("CARGO_PKG_VERSION"), sense)
}

async fn sense(mut stop: Stop) -> Result<()> {
    let root = std::env::var_os("HOST_PROC").unwrap_or_else(|| "/proc".into());
    let root = PathBuf::from(root);
    // A wrong mount is found now and not by a stream of empty readings.
    read_counters(&root).await?;
    let module = Module::from_environment().await?;
    let (waiting, readings) = mpsc::channel(READINGS_WAITING_MAX);
    let sending = send_all(&module, readings);
    tokio::pin!(sending);
    tokio::select! {
        biased;
        () = stop.requested() => {}
        outcome = sample_all(&module, &root, waiting) => outcome?,
        () = &mut sending => {}
    }
    // The sampling has ended and with it the queue; what is in it may still go.
    tokio::time::timeout(DRAIN_TIMEOUT, sending).await.ok();
    module.close().await;
    Ok(())
}

async fn sample_all(module: &Module, root: &Path, waiting: mpsc::Sender<Reading>) -> Result<()> {
    let run = format!("{:016x}", module.world().random.number());
    let mut settings = Settings::default();
    let mut desired = module.desired();
    let mut ticks = ticks(settings);
    let mut before: Option<Sample> = None;
    let mut seq = 0;
    loop {
        tokio::select! {
            biased;
            news = desired.next() => {
                let Some(news) = news else { return Ok(()) };
                let old = settings;
                let applied = settings.apply(&news.properties, news.version);
                for (property, reason) in &applied.refused {
                    tracing::warn!(property, reason, "desired property refused");
                }
                module.report_soon(applied.patch);
                if settings != old {
                    tracing::info!(interval = ?settings.interval(), "interval changed");
                    ticks = self::ticks(settings);
                }
            }
            _ = ticks.tick() => {
                let counters = read_counters(root).await?;
                let now = module.world().now();
                let after = Sample { tick: now.tick, wall: now.wall, counters };
                if let Some(before) = before.replace(after.clone()) {
                    seq += 1;
                    let reading = Reading::between(&before, &after, &run, seq);
                    if waiting.try_send(reading).is_err() {
                        tracing::warn!(seq, "reading dropped, too many wait");
                    }
                }
            }
        }
    }
}

fn ticks(settings: Settings) -> Interval {
    let mut ticks = interval(settings.interval());
    // After a standstill one late sample says all there is to say.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Sends in order, each until it is accepted. Receivers know a repeat by run and number.
async fn send_all(module: &Module, mut readings: mpsc::Receiver<Reading>) {
    while let Some(reading) = readings.recv().await {
        let message = match message(&reading) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(seq = reading.seq, %error, "reading has no JSON");
                continue;
            }
        };
        while let Err(refusal) = module.send(OUTPUT, message.clone()).await {
            tracing::warn!(seq = reading.seq, reason = %refusal, "reading not accepted");
            if matches!(refusal.kind, RefusalKind::InvalidRequest | RefusalKind::TooLarge) {
                break;
            }
            tokio::time::sleep(RESEND_PAUSE).await;
        }
    }
}

fn message(reading: &Reading) -> serde_json::Result<Message> {
    let mut message = sdk::json_message(reading)?;
    message.system.message_id = Some(format!("{}-{}", reading.run, reading.seq).into());
    Ok(message)
}

async fn read_counters(root: &Path) -> Result<Counters> {
    Ok(Counters {
        cpu: parse_stat(&read(&root.join("stat")).await?)?,
        memory: parse_meminfo(&read(&root.join("meminfo")).await?)?,
        disks: parse_diskstats(&read(&root.join("diskstats")).await?)?,
        interfaces: parse_net_dev(&read_net_dev(root).await?)?,
        load: parse_loadavg(&read(&root.join("loadavg")).await?)?,
    })
}

/// `net` is a link to the reader's own network, which in a container is not the host's; the
/// first process of the mounted tree lives in the host's.
async fn read_net_dev(root: &Path) -> Result<String> {
    match read(&root.join("1/net/dev")).await {
        Ok(text) => Ok(text),
        Err(_) => read(&root.join("net/dev")).await,
    }
}

async fn read(path: &Path) -> Result<String> {
    let read = async {
        let file = tokio::fs::File::open(path).await?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    read.await.with_context(|| format!("reading {}", path.display()))
}

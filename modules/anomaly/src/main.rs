//! The module `anomaly`: readings from any input, windows by the output `windows`, outliers by
//! the output `anomalies`.

use std::process::ExitCode;
use std::time::Duration;

use anomaly::detector::{Detector, Output};
use anomaly::reading::parse;
use anyhow::Result;
use sdk::desired::DesiredProperties;
use sdk::input::Input;
use sdk::process::{self, Stop};
use sdk::{Module, RefusalKind, WallTime};

/// Pause before a message is sent again.
const RESEND_PAUSE: Duration = Duration::from_secs(1);
/// How long the last window may still be sent when the module stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    process::run("anomaly", env!("CARGO_PKG_VERSION"), detect)
}

async fn detect(mut stop: Stop) -> Result<()> {
    let module = Module::from_environment().await?;
    let mut detector = Detector::default();
    tokio::select! {
        biased;
        // An input at work is not completed then and comes again after the start.
        () = stop.requested() => {}
        () = work(&module, &mut detector) => {}
    }
    if let Some(last) = detector.finish() {
        tokio::time::timeout(DRAIN_TIMEOUT, emit(&module, vec![last])).await.ok();
    }
    module.close().await;
    Ok(())
}

async fn work(module: &Module, detector: &mut Detector) {
    let mut desired = module.desired();
    let mut inputs = module.inputs();
    loop {
        tokio::select! {
            biased;
            news = desired.next() => match news {
                Some(news) => handle_desired(module, detector, &news).await,
                None => return,
            },
            input = inputs.next() => match input {
                Some(input) => handle_input(module, detector, input).await,
                None => return,
            },
            () = until(module, detector.due()) => {
                let ended = detector.poll(module.world().now().wall);
                emit(module, ended.into_iter().collect()).await;
            }
        }
    }
}

/// Waits for the moment `due`; forever without one.
async fn until(module: &Module, due: Option<WallTime>) {
    match due {
        Some(due) => tokio::time::sleep(due.since(module.world().now().wall)).await,
        None => std::future::pending().await,
    }
}

async fn handle_desired(module: &Module, detector: &mut Detector, news: &DesiredProperties) {
    let (applied, outputs) = detector.handle_desired(&news.properties, news.version);
    for (property, reason) in &applied.refused {
        tracing::warn!(property, reason, "desired property refused");
    }
    tracing::info!(version = news.version.0, "desired properties applied");
    module.report_soon(applied.patch);
    emit(module, outputs).await;
}

/// The input is completed only when all that follows from it is on disk.
async fn handle_input(module: &Module, detector: &mut Detector, input: Input) {
    let settled = match parse(&input.message().body) {
        Ok(reading) => {
            if reading.dropped > 0 {
                tracing::warn!(seq = reading.seq, dropped = reading.dropped, "numbers dropped");
            }
            emit(module, detector.handle_reading(&reading)).await;
            input.complete().await
        }
        Err(error) => {
            tracing::warn!(input = input.name(), %error, "message is no reading");
            input.reject().await
        }
    };
    if let Err(refusal) = settled {
        tracing::debug!(reason = %refusal, "input not settled, it may come again");
    }
}

/// Sends in order, each until it is accepted.
async fn emit(module: &Module, outputs: Vec<Output>) {
    for output in outputs {
        let message = match sdk::json_message(&output.to_json()) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(%error, "output has no JSON");
                continue;
            }
        };
        while let Err(refusal) = module.send(output.name(), message.clone()).await {
            tracing::warn!(output = output.name(), reason = %refusal, "output not accepted");
            if matches!(refusal.kind, RefusalKind::InvalidRequest | RefusalKind::TooLarge) {
                break;
            }
            tokio::time::sleep(RESEND_PAUSE).await;
        }
    }
}

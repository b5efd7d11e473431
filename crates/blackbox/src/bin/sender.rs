//! A module that sends numbered messages, many at a time, and passes on what was acknowledged.
//!
//! It remembers nothing: `SENDER_ORACLE` names a Unix socket whose owner tells it the first
//! number, how far it may count, and takes down every acknowledgement. Numbers are 8 bytes,
//! little-endian; an acknowledgement is a number and the nanoseconds since 1970 when it came.

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use sdk::process::{self, Stop};
use sdk::{Message, Module, Receipt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// The output that messages leave by.
const OUTPUT: &str = "numbers";

fn main() -> ExitCode {
    process::run("sender", env!("CARGO_PKG_VERSION"), work)
}

/// A message on its way, and its place among those that may be.
struct Flying {
    number: u64,
    receipt: Receipt,
    _place: OwnedSemaphorePermit,
}

async fn work(mut stop: Stop) -> Result<()> {
    let oracle: String = variable("SENDER_ORACLE")?;
    let window: usize = variable("SENDER_WINDOW")?;
    let pad = ".".repeat(variable("SENDER_PAD")?);
    let module = Module::from_environment().await?;
    let stream = UnixStream::connect(&oracle).await;
    let (mut told, acks) = stream.with_context(|| oracle)?.into_split();
    let first = told.read_u64_le().await.context("the first number")?;
    let (limit, limits) = watch::channel(0);
    let room = Arc::new(Semaphore::new(window));
    let (sent, waiting) = mpsc::channel(window);
    tokio::select! {
        biased;
        () = stop.requested() => {}
        read = listen(told, limit) => read?,
        done = send(&module, first, &pad, limits, room, sent) => done?,
        done = pass_on(acks, waiting) => done?,
    }
    module.close().await;
    Ok(())
}

fn variable<T: FromStr>(name: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = std::env::var(name).with_context(|| name.to_owned())?;
    text.parse().with_context(|| format!("{name}={text}"))
}

/// Learns how far to count.
async fn listen(mut told: OwnedReadHalf, limit: watch::Sender<u64>) -> Result<()> {
    loop {
        limit.send_replace(told.read_u64_le().await.context("the next limit")?);
    }
}

async fn send(
    module: &Module,
    first: u64,
    pad: &str,
    mut limits: watch::Receiver<u64>,
    room: Arc<Semaphore>,
    sent: mpsc::Sender<Flying>,
) -> Result<()> {
    for number in first.. {
        limits.wait_for(|limit| number <= *limit).await?;
        let place = Arc::clone(&room).acquire_owned().await?;
        let message = Message { body: format!("{number} {pad}").into(), ..Message::default() };
        let receipt = module.hand_over(OUTPUT, message).await?;
        let flying = Flying { number, receipt, _place: place };
        // As large as there are places; without a reader there is nothing to do.
        if sent.send(flying).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Passes every acknowledgement on before it looks at the next.
async fn pass_on(mut acks: OwnedWriteHalf, mut waiting: mpsc::Receiver<Flying>) -> Result<()> {
    while let Some(Flying { number, receipt, _place }) = waiting.recv().await {
        receipt.await.with_context(|| format!("message {number}"))?;
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let mut record = number.to_le_bytes().to_vec();
        record.extend(u64::try_from(nanos)?.to_le_bytes());
        acks.write_all(&record).await.context("passing on an acknowledgement")?;
    }
    Ok(())
}

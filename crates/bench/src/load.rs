//! The load: devices that publish with a window, and devices that only stay connected.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use net::network::{ByteStream, Network, SystemNetwork};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::figures::to_f64;
use crate::server::Server;
use crate::{clock, process};

/// Connections that are being opened at once.
const OPENING_MAX: usize = 32;
/// An acknowledgement that takes longer is a broken server.
const ACK_PATIENCE: Duration = Duration::from_secs(30);
/// Seconds that idle devices allow between pings: the most the protocol can say.
const KEEP_ALIVE: u16 = u16::MAX;

/// One load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
    pub(crate) payload: usize,
    pub(crate) span: Duration,
}

/// What one load did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_us: f64,
    /// Bytes that the server's process sent to the block device, per payload byte.
    pub(crate) written: f64,
    /// Bytes that reached the disk from the whole machine, its file system's own included, per
    /// payload byte; no number where there is no such disk.
    pub(crate) disk: f64,
}

/// A connection and the number of the device that it is logged in as.
type Stream = (usize, Box<dyn ByteStream>);

/// Opens all connections, then publishes for the span.
pub(crate) async fn run(server: &Server, load: Load) -> Result<Outcome> {
    let streams = hold(server, load.connections).await?;
    let pid = server.pid()?;
    let (cpu, written) = (process::cpu_seconds(pid)?, process::bytes_written(pid)?);
    let disk = process::disk_written(server.folder());
    let start = clock::now();
    let mut tasks = JoinSet::new();
    for (number, stream) in streams {
        tasks.spawn(publish(stream, server.topic(number), load, start));
    }
    let mut latencies: Vec<u32> = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.append(&mut done??);
    }
    let took = start.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(pid)? - cpu;
    let written = process::bytes_written(pid)?.saturating_sub(written);
    let disk = process::disk_written(server.folder()).zip(disk);
    let disk = disk.map(|(now, then)| to_f64(now.saturating_sub(then)));
    ensure!(!latencies.is_empty(), "{} acknowledged nothing", server.name);
    latencies.sort_unstable();
    let count = to_f64(u64::try_from(latencies.len())?);
    let at = |percent: usize| {
        let micros = latencies.get((latencies.len() - 1) * percent / 100).copied();
        f64::from(micros.unwrap_or_default()) / 1000.0
    };
    let payload = count * to_f64(u64::try_from(load.payload)?);
    Ok(Outcome {
        rate: count / took,
        p50_ms: at(50),
        p99_ms: at(99),
        cpu_us: cpu * 1e6 / count,
        written: to_f64(written) / payload,
        disk: disk.map_or(f64::NAN, |bytes| bytes / payload),
    })
}

/// Opens connections and logs in as one device each.
pub(crate) async fn hold(server: &Server, connections: usize) -> Result<Vec<Stream>> {
    let places = Arc::new(Semaphore::new(OPENING_MAX));
    let opening = (0..connections).map(|number| {
        let places = Arc::clone(&places);
        async move {
            let _place = places.acquire().await?;
            let opened = tokio::time::timeout(ACK_PATIENCE, open(server, number)).await;
            opened.context("the server did not answer in time")?
        }
    });
    let mut streams = Vec::with_capacity(connections);
    let mut waiting: VecDeque<_> = VecDeque::new();
    for one in opening {
        waiting.push_back(Box::pin(one));
        if waiting.len() >= OPENING_MAX {
            streams.extend(join(&mut waiting).await?);
        }
    }
    streams.extend(join(&mut waiting).await?);
    Ok(streams)
}

/// Runs all of `waiting` side by side.
async fn join<F: Future<Output = Result<Stream>> + Unpin>(
    waiting: &mut VecDeque<F>,
) -> Result<Vec<Stream>> {
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        let mut left = VecDeque::new();
        while let Some(mut one) = waiting.pop_front() {
            match std::pin::Pin::new(&mut one).poll(cx) {
                std::task::Poll::Ready(result) => done.push(result),
                std::task::Poll::Pending => left.push_back(one),
            }
        }
        *waiting = left;
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().collect()
}

async fn open(server: &Server, number: usize) -> Result<Stream> {
    let login = server.login(number)?;
    let tcp = SystemNetwork.dial(&server.address).await?.stream;
    let mut stream = server.tls.connect(&server.host, tcp).await?;
    stream.write_all(&connect_packet(&login.client, &login.user, login.password)?).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    ensure!(answer[0] == 0x20 && answer[3] == 0, "{}: CONNACK {answer:?}", server.name);
    Ok((number, stream))
}

async fn publish(
    mut stream: Box<dyn ByteStream>,
    topic: String,
    load: Load,
    start: Instant,
) -> Result<Vec<u32>> {
    let mut sent: VecDeque<(u16, Instant)> = VecDeque::new();
    let mut latencies = Vec::new();
    let (mut next, mut input, mut output) = (1_u16, BytesMut::new(), BytesMut::new());
    loop {
        let over = start.elapsed() >= load.span;
        while !over && sent.len() < load.in_flight {
            publish_packet(&mut output, &topic, next, load.payload)?;
            sent.push_back((next, clock::now()));
            next = next.checked_add(1).unwrap_or(1);
        }
        if over && sent.is_empty() {
            return Ok(latencies);
        }
        stream.write_all_buf(&mut output).await?;
        stream.flush().await?;
        let read = tokio::time::timeout(ACK_PATIENCE, stream.read_buf(&mut input)).await;
        ensure!(read.context("no PUBACK in time")?? > 0, "the server closed the connection");
        while input.len() >= 4 {
            let head = input.get_u16();
            let id = input.get_u16();
            let Some((expected, at)) = sent.pop_front() else { bail!("a PUBACK too many") };
            ensure!(head == 0x4002 && id == expected, "PUBACK {id} came for {expected}");
            latencies.push(u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
}

fn connect_packet(client: &str, user: &str, password: Option<&[u8]>) -> Result<BytesMut> {
    let mut body = BytesMut::new();
    text(&mut body, b"MQTT")?;
    let password_flag = if password.is_some() { 0x40 } else { 0 };
    body.extend_from_slice(&[4, 0x80 | password_flag | 0x02]);
    body.extend_from_slice(&KEEP_ALIVE.to_be_bytes());
    text(&mut body, client.as_bytes())?;
    text(&mut body, user.as_bytes())?;
    if let Some(password) = password {
        text(&mut body, password)?;
    }
    let mut packet = BytesMut::new();
    head(&mut packet, 0x10, body.len());
    packet.extend_from_slice(&body);
    Ok(packet)
}

fn publish_packet(output: &mut BytesMut, topic: &str, id: u16, payload: usize) -> Result<()> {
    head(output, 0x32, 2 + topic.len() + 2 + payload);
    text(output, topic.as_bytes())?;
    output.extend_from_slice(&id.to_be_bytes());
    output.resize(output.len() + payload, b'x');
    Ok(())
}

fn text(output: &mut BytesMut, bytes: &[u8]) -> Result<()> {
    output.extend_from_slice(&u16::try_from(bytes.len())?.to_be_bytes());
    output.extend_from_slice(bytes);
    Ok(())
}

fn head(output: &mut BytesMut, first: u8, mut len: usize) {
    output.extend_from_slice(&[first]);
    loop {
        let seven = u8::try_from(len % 128).unwrap_or_default();
        len /= 128;
        output.extend_from_slice(&[if len > 0 { seven | 0x80 } else { seven }]);
        if len == 0 {
            return;
        }
    }
}

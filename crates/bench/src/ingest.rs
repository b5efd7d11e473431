//! Durable QoS 1 ingest of hub and router beside mosquitto.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::figures::Rounds;
use crate::load::{self, Load, Outcome};
use crate::report::{line, progress};
use crate::server::{ROUTE, Server, mosquitto_settings};
use crate::{peers, targets};

/// The largest load of devices: connections × messages in flight on each.
const FLEET: (usize, usize) = (200, 16);
/// As many messages in flight from as many modules as Azure allows on one device.
const MODULES: (usize, usize) = (50, 64);

/// One load and who bears it.
struct Shape {
    connections: usize,
    in_flight: usize,
    /// Places in the list of servers; the peer is the last.
    servers: &'static [usize],
}

const HUB: usize = 0;
const ROUTER: usize = 1;
const PEER: usize = 2;

const SHAPES: [Shape; 4] = [
    Shape { connections: 1, in_flight: 1, servers: &[HUB, ROUTER, PEER] },
    Shape { connections: 1, in_flight: 16, servers: &[HUB, ROUTER, PEER] },
    Shape { connections: FLEET.0, in_flight: FLEET.1, servers: &[HUB, PEER] },
    Shape { connections: MODULES.0, in_flight: MODULES.1, servers: &[ROUTER, PEER] },
];

/// Measures and tells.
pub(crate) async fn section(rounds: usize, span: Duration, payload: usize) -> Result<()> {
    ensure!(rounds > 0, "at least one round");
    progress("ingest: starting hub, device and mosquitto");
    let servers =
        [Server::hub(FLEET.0).await?, Server::router(MODULES.0).await?, Server::mosquitto()?];
    line(
        "| load | server | msg/s | of mosquitto | p50 ms | p99 ms | server CPU µs/msg | bytes written/payload byte | of the whole disk |",
    );
    line("|---|---|---|---|---|---|---|---|---|");
    for shape in &SHAPES {
        let Shape { connections, in_flight, .. } = *shape;
        let load = Load { connections, in_flight, payload, span };
        let mut all: [Vec<Outcome>; 3] = Default::default();
        for round in 1..=rounds {
            for (place, server) in servers.iter().enumerate() {
                if shape.servers.contains(&place) {
                    progress(&format!(
                        "ingest: {connections} × {in_flight}, round {round} of {rounds}, {}",
                        server.name
                    ));
                    let outcome = load::run(server, load).await?;
                    all.iter_mut().skip(place).take(1).for_each(|it| it.push(outcome));
                }
            }
        }
        tell(shape, &servers, &all);
    }
    method(rounds, span, payload);
    verdicts_told();
    Ok(())
}

/// What is found at the largest load is kept for the end of the section.
static VERDICTS: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn tell(shape: &Shape, servers: &[Server; 3], all: &[Vec<Outcome>; 3]) {
    let figures = |outcomes: &[Outcome], value: fn(&Outcome) -> f64| -> Rounds {
        outcomes.iter().map(value).collect()
    };
    let peer = all.last().map(|outcomes| figures(outcomes, |o| o.rate)).unwrap_or_default();
    for (place, (server, outcomes)) in servers.iter().zip(all).enumerate() {
        if outcomes.is_empty() {
            continue;
        }
        let of = |value| figures(outcomes, value);
        let ratio = of(|o| o.rate).over(&peer);
        line(&format!(
            "| {} × {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            shape.connections,
            shape.in_flight,
            server.name,
            of(|o| o.rate).text(0),
            if place == PEER { "1".to_owned() } else { ratio.text(2) },
            of(|o| o.p50_ms).text(2),
            of(|o| o.p99_ms).text(2),
            of(|o| o.cpu_us).text(1),
            of(|o| o.written).text(2),
            of(|o| o.disk).text(2),
        ));
        let (speed, written) = match place {
            HUB if shape.connections == FLEET.0 => (targets::HUB_INGEST, targets::HUB_WRITTEN),
            ROUTER if shape.connections == MODULES.0 => {
                (targets::ROUTER_INGEST, targets::ROUTER_WRITTEN)
            }
            _ => continue,
        };
        let lines = [speed.verdict(ratio.median()), written.verdict(of(|o| o.written).median())];
        VERDICTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(lines);
    }
}

fn verdicts_told() {
    line("");
    for verdict in VERDICTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
        line(&verdict);
    }
}

fn method(rounds: usize, span: Duration, payload: usize) {
    line(&format!(
        "\nLoad: connections × messages in flight on each; {payload} B payload, QoS 1, TLS 1.3, \
         {rounds} interleaved rounds of {} s each; `of mosquitto` is taken round by round. \
         Hub and router sync before each PUBACK; mosquitto keeps its state in memory, writes it \
         at its autosave (30 minutes) and at its end, syncs nothing, and has no subscriber, so it \
         keeps no message. That is why a single sender that waits for each answer (1 × 1), or \
         for each sixteenth, pays for the disk with us and not with mosquitto: there is no target \
         for these loads. \
         Router: a whole `selvedge-edge run` with the process engine (one process); the senders \
         log in as modules with tokens of their own keys; a device has at most {} modules, so the \
         load of as many messages in flight as 200 × 16 is {} × {}. Its one route is `{ROUTE}`: \
         each message is stored for a module that asks for nothing, and stays; nothing goes to \
         the hub. \
         Bytes written: `write_bytes` of the server's process, pages that it dirtied, in whole \
         pages; whole disk: sectors written by everybody, journal of the file system and other \
         processes included. \
         Client, hub, device and mosquitto share {} cores; those not under load are idle.",
        span.as_secs(),
        MODULES.0,
        MODULES.0,
        MODULES.1,
        std::thread::available_parallelism().map_or(0, usize::from),
    ));
    line(&format!("\nPeer: {}; its configuration:\n\n```", peers::mosquitto()));
    line(mosquitto_settings(8883, "DIR").trim());
    line("```");
}

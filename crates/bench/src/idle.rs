//! Memory of a TLS connection that does nothing.

use anyhow::Result;

use crate::figures::{Rounds, to_f64};
use crate::report::{line, progress};
use crate::server::Server;
use crate::{load, peers, process, targets};

/// Measures and tells.
pub(crate) async fn section(connections: usize) -> Result<()> {
    line("| server | connections | KiB per connection (RSS) | KiB per connection (PSS) |");
    line("|---|---|---|---|");
    let mut ours = f64::NAN;
    for name in ["hub", "mosquitto"] {
        progress(&format!("idle: starting {name}, {connections} connections"));
        let server = match name {
            "hub" => Server::hub(connections).await?,
            _ => Server::mosquitto()?,
        };
        progress("idle: connecting");
        let before = process::memory(server.pid()?)?;
        let held = load::hold(&server, connections).await?;
        let after = process::memory(server.pid()?)?;
        let each = |now: u64, then: u64| {
            to_f64(now.saturating_sub(then)) / 1024.0 / to_f64(connections as u64)
        };
        let (rss, pss) = (each(after.rss, before.rss), each(after.pss, before.pss));
        line(&format!("| {} | {connections} | {rss:.2} | {pss:.2} |", server.name));
        if server.service.is_some() {
            ours = rss;
        }
        drop(held);
    }
    line(&format!(
        "\nUser memory only, what the process has more than before the first connection; each \
         connection is a device that connected over TLS 1.3 with a token and idles. \
         Peer: {}, configured as in the section on ingest.\n",
        peers::mosquitto()
    ));
    line(&targets::IDLE_CONNECTION.verdict([ours].into_iter().collect::<Rounds>().median()));
    Ok(())
}

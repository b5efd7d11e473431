//! The accept loop of every protocol. It only accepts: whatever can fail for one peer happens
//! in that peer's task, and only a shortage of descriptors or memory makes it wait.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use model::world::World;
use nix::errno::Errno;
use tracing::{debug, warn};

use crate::gate::{Full, Gate, Seat};
use crate::network::{Arrival, Connected, Incoming};
use crate::unproven::Origin;

/// Wait after an accept that failed for want of descriptors or memory.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After so many failures in a row it is not the peers: then it waits as if for want of memory.
pub(crate) const FAILURES_IN_A_ROW_MAX: u32 = 4096;

/// Accepts until the listener ends, and gives everybody who finds a seat a task of their own.
pub(crate) async fn accept_all<T>(
    mut incoming: Box<dyn Incoming>,
    gate: Arc<Gate>,
    world: World,
    serve: impl Fn(Arrival, Seat) -> T,
) where
    T: Future<Output = ()> + Send + 'static,
{
    let mut failures = 0;
    while let Some(accepted) = gate.while_open(incoming.accept()).await {
        let error = match accepted {
            Ok(arrival) => {
                failures = 0;
                if let Some(seat) = seat(&gate, arrival.origin()).await {
                    world.spawn(serve(arrival, seat));
                }
                continue;
            }
            Err(error) => error,
        };
        failures += 1;
        if is_shortage(&error) || failures > FAILURES_IN_A_ROW_MAX {
            warn!(%error, "accepting waits");
            gate.counts.pauses.add();
            tokio::time::sleep(ACCEPT_PAUSE).await;
        } else {
            debug!(%error, "a connection was gone before it was accepted");
            gate.counts.lost.add();
        }
    }
}

/// A seat for a peer of `from`, if there is one.
async fn seat(gate: &Arc<Gate>, from: Option<Origin>) -> Option<Seat> {
    loop {
        match Gate::seat(gate, from) {
            Ok(seat) => return Some(seat),
            Err(Full::House) => return None,
            Err(Full::ForNow) => gate.while_open(gate.some_left()).await?,
        }
    }
}

/// Whether the machine, and not one peer, is at fault. Linux hands a peer's own network errors
/// to whoever accepts it. Source: accept(2), "Error handling".
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    // The last is the limit of what epoll watches.
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::ENOSPC];
    errno.is_some_and(|errno| shortages.contains(&errno))
}

/// The connection behind `arrival`, unless its peer is gone already.
pub(crate) fn open(arrival: Arrival, seat: &Seat) -> Option<Connected> {
    match arrival.open() {
        Ok(connected) => Some(connected),
        Err(error) => {
            debug!(%error, "a connection was gone before it was served");
            seat.counts().lost.add();
            None
        }
    }
}

#[cfg(test)]
mod tests;

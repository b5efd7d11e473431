//! The queue of those at a listener who have proven nothing yet, and who of them gives way.

use std::collections::VecDeque;
use std::net::IpAddr;

/// How far from its oldest end the queue is searched for a seat of the newcomer's own origin.
pub(crate) const OWN_SEARCH_MAX: usize = 256;

/// Whom a peer belongs to, as far as it matters for who gives way to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A network: a household has one address of IPv4 and 2⁶⁴ of IPv6.
    Network(IpAddr),
    /// A process of this machine.
    Process(i32),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Self::Network(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(long) => match long.to_ipv4_mapped() {
                Some(short) => IpAddr::V4(short),
                None => IpAddr::V6((u128::from(long) >> 64 << 64).into()),
            },
        })
    }
}

/// A place in the queue; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    from: Option<Origin>,
    /// The seat; none once it has left the queue.
    at: Option<usize>,
}

/// Oldest first. Those who left from its middle are passed over and swept out in time.
#[derive(Debug, Default)]
pub(crate) struct Unproven {
    queue: VecDeque<Waiting>,
    len: usize,
    last: u64,
}

impl Unproven {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Seat `at` enters for a peer of `from`.
    pub(crate) fn enter(&mut self, at: usize, from: Option<Origin>) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.queue.push_back(Waiting { ticket, from, at: Some(at) });
        self.len += 1;
        ticket
    }

    /// Whether `ticket` is still in the queue.
    pub(crate) fn holds(&self, ticket: Ticket) -> bool {
        let found = self.queue.binary_search_by_key(&ticket, |waiting| waiting.ticket);
        found.is_ok_and(|at| self.queue.get(at).is_some_and(|waiting| waiting.at.is_some()))
    }

    /// `ticket` leaves by itself; false if it was made to before.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> bool {
        let Ok(at) = self.queue.binary_search_by_key(&ticket, |waiting| waiting.ticket) else {
            return false;
        };
        self.remove(at).is_some()
    }

    /// Makes somebody leave for a newcomer of `from`: of the oldest the first of the same
    /// origin, for who brings many pays himself; else the oldest of all.
    pub(crate) fn give_way(&mut self, from: Option<Origin>) -> Option<usize> {
        let own = |waiting: &Waiting| waiting.at.is_some() && waiting.from == from;
        let at = self.queue.iter().take(OWN_SEARCH_MAX).position(own);
        let at = at.or_else(|| self.queue.iter().position(|waiting| waiting.at.is_some()))?;
        self.remove(at)
    }

    fn remove(&mut self, at: usize) -> Option<usize> {
        let seat = self.queue.get_mut(at)?.at.take()?;
        self.len -= 1;
        while self.queue.front().is_some_and(|waiting| waiting.at.is_none()) {
            self.queue.pop_front();
        }
        // Few holes, and no memory after a rush.
        if self.queue.len() > 2 * self.len + OWN_SEARCH_MAX {
            self.queue.retain(|waiting| waiting.at.is_some());
            self.queue.shrink_to(2 * self.len);
        }
        Some(seat)
    }
}

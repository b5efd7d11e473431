//! Routes of the edge router: which messages go to which endpoint, how urgently, for how long.
//!
//! `[SELECT *] FROM <source> [WHERE <condition>] INTO <sink>`, as in Azure IoT Edge.

mod parse;

use std::fmt;
use std::time::Duration;

use crate::id::ModuleName;
use crate::message::Message;
use crate::query::message::MessageFields;
use crate::query::{Expression, QueryError};

/// The sink that leads to the hub or the parent.
const UPSTREAM: &str = "$upstream";
/// The only segment of the source of twin changes.
const TWIN_CHANGES: &str = "twinChangeNotifications";

/// The priority of a route that names none: the least urgent.
pub const ROUTE_PRIORITY_DEFAULT: u32 = 2_000_000_000;

/// Where a route leads. `Display` gives the sink as written in routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// `$upstream`: the hub or the parent.
    Upstream,
    /// `BrokeredEndpoint("/modules/<module>/inputs/<input>")`.
    ModuleInput {
        /// The module that reads it.
        module: ModuleName,
        /// The name of its input.
        input: Box<str>,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream => f.write_str(UPSTREAM),
            Self::ModuleInput { module, input } => {
                write!(f, "BrokeredEndpoint(\"/modules/{module}/inputs/{input}\")")
            }
        }
    }
}

/// Where a message comes from, as the `FROM` of routes sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageSource<'a> {
    /// Telemetry of a leaf device: `/messages`.
    Device,
    /// Telemetry of a module of this device: `/messages/modules/<module>[/outputs/<output>]`.
    Module {
        /// Its name.
        module: &'a str,
        /// The output it was sent to, if any.
        output: Option<&'a str>,
    },
    /// A change of reported properties: `/twinChangeNotifications`.
    TwinChange,
}

/// The `FROM` of a route: a prefix of path segments, compared without case.
/// Kept without the `*` and `/` at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePattern(Box<str>);

impl SourcePattern {
    /// Whether messages from `source` are meant.
    pub fn matches(&self, source: MessageSource<'_>) -> bool {
        let fixed = ["messages", "modules", "outputs"];
        let (path, len) = match source {
            MessageSource::Device => ([fixed[0], "", "", "", ""], 1),
            MessageSource::TwinChange => ([TWIN_CHANGES, "", "", "", ""], 1),
            MessageSource::Module { module, output: None } => {
                ([fixed[0], fixed[1], module, "", ""], 3)
            }
            MessageSource::Module { module, output: Some(output) } => {
                ([fixed[0], fixed[1], module, fixed[2], output], 5)
            }
        };
        let mut path = path.into_iter().take(len);
        let mut wanted = self.0.split('/').filter(|segment| !segment.is_empty());
        wanted.all(|segment| path.next().is_some_and(|next| next.eq_ignore_ascii_case(segment)))
    }

    /// Whether only changes of twins are meant.
    fn is_twin_change(&self) -> bool {
        self.0.trim_matches('/').eq_ignore_ascii_case(TWIN_CHANGES)
    }
}

impl fmt::Display for SourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_twin_change() { "" } else { "/*" };
        write!(f, "{}{star}", self.0)
    }
}

/// A rule from source to endpoint. `Display` gives its text, without priority and life time.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which messages, by where they come from.
    pub source: SourcePattern,
    /// Which of them, by what they carry.
    pub condition: Expression,
    /// Where they go.
    pub endpoint: Endpoint,
    /// Smaller is more urgent.
    pub priority: u32,
    /// How long a message may wait; `None` is the router's own setting.
    pub time_to_live: Option<Duration>,
}

impl Route {
    /// Parses the text of a route, with [`ROUTE_PRIORITY_DEFAULT`] and no own life time.
    ///
    /// # Errors
    /// [`QueryError`] with the position of the first fault.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        parse::route(text).map(|(route, _)| route)
    }

    /// The same, with notices: what is taken here and Azure's own router would refuse, each with
    /// its position.
    ///
    /// # Errors
    /// [`QueryError`] with the position of the first fault.
    pub fn parse_told(text: &str) -> Result<(Self, Vec<QueryError>), QueryError> {
        parse::route(text)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FROM {}", self.source)?;
        if !self.condition.always_holds() {
            write!(f, " WHERE {}", self.condition)?;
        }
        write!(f, " INTO {}", self.endpoint)
    }
}

/// One endpoint a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination<'a> {
    /// Where to.
    pub endpoint: &'a Endpoint,
    /// Of the most urgent route that leads there.
    pub priority: u32,
    /// Of that same route.
    pub time_to_live: Option<Duration>,
}

/// Where `message` from `source` goes: each endpoint once, by its most urgent matching route.
/// The first of equally urgent routes wins. In the order in which endpoints are first named.
pub fn endpoints_for<'a>(
    routes: impl IntoIterator<Item = &'a Route>,
    source: MessageSource<'_>,
    message: &Message,
) -> Vec<Destination<'a>> {
    let fields = MessageFields::new(message);
    let mut destinations: Vec<Destination<'a>> = Vec::new();
    for route in routes {
        if !route.source.matches(source) || !route.condition.holds(&fields) {
            continue;
        }
        let found = Destination {
            endpoint: &route.endpoint,
            priority: route.priority,
            time_to_live: route.time_to_live,
        };
        match destinations.iter_mut().find(|known| known.endpoint == found.endpoint) {
            Some(known) if found.priority < known.priority => *known = found,
            Some(_) => {}
            None => destinations.push(found),
        }
    }
    destinations
}

#[cfg(test)]
mod tests;

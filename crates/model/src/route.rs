//! Routes of the edge router: which messages go to which endpoint, how urgently, for how long.
//!
//! `[SELECT *] FROM <source> [WHERE <condition>] INTO <sink>`, as in Azure IoT Edge.

use std::fmt;
use std::time::Duration;

use crate::id::ModuleName;
use crate::message::Message;
use crate::query::{Expression, QueryError};

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
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePattern(Box<str>);

impl SourcePattern {
    /// Whether messages from `source` are meant.
    pub fn matches(&self, _source: MessageSource<'_>) -> bool {
        todo!()
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
    pub fn parse(_text: &str) -> Result<Self, QueryError> {
        todo!()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
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
    _routes: impl IntoIterator<Item = &'a Route>,
    _source: MessageSource<'_>,
    _message: &Message,
) -> Vec<Destination<'a>> {
    todo!()
}

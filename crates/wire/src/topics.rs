//! Text of topics, property bags and user names ⇄ requests and events of the waist.
//!
//! [`device`] holds what devices publish, [`hub`] what hubs publish, each in both directions:
//! the server parses the one and writes the other, the client the reverse. Ids are compared
//! literally: `+` and `#` may be part of them.

pub mod bag;
pub mod device;
pub mod filter;
pub mod hub;
pub mod status;
pub mod user;

use thiserror::Error;

/// Why a topic or user name is not one of Azure's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidTopic {
    /// Not in the table of topics, or of another identity.
    #[error("this identity has no such topic")]
    Foreign,
    /// The part after `?` lacks `$rid` or has a `$version` that is no number.
    #[error("the topic's $rid or $version is missing or malformed")]
    Query,
    /// The status of a method answer or twin answer is no number.
    #[error("the topic's status is not a number")]
    Status,
    /// The body is not what the topic promises.
    #[error("the body is not a JSON object with a $version")]
    Body,
    /// The user name is not `{host}/{device}[/{module}]/?…`.
    #[error("the user name is not host/device[/module]/?api-version=…")]
    UserName,
}

#[cfg(test)]
mod tests;

/// `text` after `prefix/`, where an absent slash at the very end is forgiven.
fn after<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let rest = text.strip_prefix(prefix)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

/// What follows `?` in topics of twins and methods.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query<'t> {
    rid: Option<&'t str>,
    version: Option<model::twin::Version>,
}

fn query(text: &str) -> Result<Query<'_>, InvalidTopic> {
    let text = text.strip_prefix('?').ok_or(InvalidTopic::Query)?;
    let mut query = Query::default();
    for entry in text.split('&') {
        if let Some(rid) = entry.strip_prefix("$rid=") {
            query.rid = Some(rid);
        } else if let Some(version) = entry.strip_prefix("$version=") {
            let version = version.parse().map_err(|_| InvalidTopic::Query)?;
            query.version = Some(model::twin::Version(version));
        }
    }
    Ok(query)
}

//! The text of a route to a [`Route`].

use super::{Endpoint, ROUTE_PRIORITY_DEFAULT, Route, SourcePattern, UPSTREAM};
use crate::id::ModuleName;
use crate::query::lexer::{self, Kind};
use crate::query::parse::Parser;
use crate::query::{Expression, QueryError, check_len};

/// The route, and what in it is not portable.
pub(super) fn route(text: &str) -> Result<(Route, Vec<QueryError>), QueryError> {
    check_len(text)?;
    let (source, end) = source(text)?;
    let tokens = lexer::tokens(text, end)?;
    let mut parser = Parser::new(&tokens, source.is_twin_change());
    let condition = if parser.take_word("where") {
        let empty = matches!(parser.peek(), Kind::Name(name) if name.eq_ignore_ascii_case("into"));
        if empty {
            // Whoever writes WHERE means to choose; to route everything would surprise them.
            return Err(parser.expected("a condition; without one, leave WHERE out"));
        }
        Expression::from_node(parser.condition()?)
    } else {
        Expression::default()
    };
    if !parser.take_word("into") {
        return Err(parser.expected("INTO"));
    }
    let endpoint = sink(&mut parser)?;
    if *parser.peek() != Kind::End {
        return Err(parser.expected("the end"));
    }
    let priority = ROUTE_PRIORITY_DEFAULT;
    let route = Route { source, condition, endpoint, priority, time_to_live: None };
    Ok((route, parser.into_notices()))
}

/// `[SELECT *] FROM <source>` and the byte behind it.
///
/// Read by words, not by tokens: in a source, `/*` is no comment.
fn source(text: &str) -> Result<(SourcePattern, usize), QueryError> {
    let (mut word, mut start) = word(text, 0);
    if word.eq_ignore_ascii_case("select") {
        let (star, at) = self::word(text, start + word.len());
        if star != "*" {
            return Err(QueryError::new(at, "expected `*` after SELECT"));
        }
        (word, start) = self::word(text, at + 1);
    }
    if !word.eq_ignore_ascii_case("from") {
        return Err(QueryError::new(start, "expected FROM"));
    }
    let (path, at) = self::word(text, start + word.len());
    if !path.starts_with('/') {
        let hint = "expected a source that starts with `/`, like /messages/*";
        return Err(QueryError::new(at, hint));
    }
    let pattern = path.trim_end_matches(['*', '/']);
    if let Some(star) = pattern.find('*') {
        // Taken for a name it would never match anything: no module is called so.
        let hint = "`*` stands at the end of a source only; name the module, or take the \
                    messages of all modules by /messages/modules/* and choose in WHERE";
        return Err(QueryError::new(at + star, hint));
    }
    Ok((SourcePattern(pattern.into()), at + path.len()))
}

/// The next run of characters that are not white space, and where it starts.
fn word(text: &str, from: usize) -> (&str, usize) {
    let rest = text.get(from..).unwrap_or_default();
    let trimmed = rest.trim_start();
    let word = trimmed.split(char::is_whitespace).next().unwrap_or_default();
    (word, from + rest.len() - trimmed.len())
}

fn sink(parser: &mut Parser<'_>) -> Result<Endpoint, QueryError> {
    const SINKS: &str = "$upstream or BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")";
    if parser.take_word(UPSTREAM) {
        return Ok(Endpoint::Upstream);
    }
    if !parser.take_word("BrokeredEndpoint") {
        return Err(parser.expected(SINKS));
    }
    if !parser.take_sign("(") {
        return Err(parser.expected("`(`"));
    }
    let Kind::Text(path) = parser.peek() else {
        return Err(parser.expected("\"/modules/<module>/inputs/<input>\""));
    };
    let at = parser.position();
    let endpoint = input(path).map_err(|message| QueryError::new(at, message))?;
    parser.advance();
    if parser.take_sign(")") { Ok(endpoint) } else { Err(parser.expected("`)`")) }
}

fn input(path: &str) -> Result<Endpoint, String> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let [modules, module, inputs, input] = *parts else {
        return Err("expected exactly /modules/<module>/inputs/<input>".to_owned());
    };
    if !modules.eq_ignore_ascii_case("modules") || !inputs.eq_ignore_ascii_case("inputs") {
        return Err("expected exactly /modules/<module>/inputs/<input>".to_owned());
    }
    let module: ModuleName = module.parse().map_err(|why| format!("the module's name: {why}"))?;
    // Inputs are addressed like modules are, so the same characters are safe in topics.
    if let Err(why) = input.parse::<ModuleName>() {
        return Err(format!("the name of the input: {why}"));
    }
    Ok(Endpoint::ModuleInput { module, input: input.into() })
}

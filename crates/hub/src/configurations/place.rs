//! Where in a JSON text something stands. Pure.
//!
//! The text was accepted by `serde_json` before it comes here; this parser only remembers
//! where keys and values begin and end. It is used after a fault, never on the way of good
//! content.

use api::configuration::Place;

/// Deepest nesting; `serde_json` refuses more.
const DEPTH_MAX: usize = 128;

/// From where to where, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// A value with its place.
#[derive(Debug)]
pub(crate) struct Node {
    span: Span,
    /// Of an object: key, place of the key with its quotes, value.
    fields: Vec<(String, Span, Self)>,
}

impl Node {
    /// Reads `text`; `None` if it is no JSON.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Parser { text, at: 0 }.value(0)
    }

    /// The field `name`; of equal ones the last, as `serde_json` takes it.
    fn field(&self, name: &str) -> Option<&(String, Span, Self)> {
        self.fields.iter().rev().find(|(key, ..)| key == name)
    }

    /// The value of the field `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        self.field(name).map(|(_, _, value)| value)
    }

    /// Where `keys` and then the dotted `path` lead. Where something is missing, the key of the
    /// innermost thing that is there.
    pub(crate) fn find(&self, keys: &[&str], path: &str) -> Span {
        let mut node = self;
        let mut place = Span { from: self.span.from, to: (self.span.from + 1).min(self.span.to) };
        for key in keys {
            let Some((_, at, value)) = node.field(key) else { return place };
            (node, place) = (value, *at);
        }
        let mut rest = path;
        while !rest.is_empty() {
            // Keys may have dots: the longest one that fits is meant.
            let fits = |key: &&(String, Span, Self)| {
                rest.strip_prefix(key.0.as_str())
                    .is_some_and(|more| more.is_empty() || more.starts_with('.'))
            };
            let found = node.fields.iter().filter(fits).max_by_key(|(key, ..)| key.len());
            let Some((key, at, value)) = found else { return place };
            rest = rest.strip_prefix(key.as_str()).unwrap_or_default().trim_start_matches('.');
            (node, place) =
                (value, if rest.is_empty() && value.is_small() { value.span } else { *at });
        }
        place
    }

    /// A value that is shown itself instead of its key.
    fn is_small(&self) -> bool {
        self.fields.is_empty()
    }
}

/// The place in `text` of the byte `offset` of the string whose literal stands at `span`.
pub(crate) fn inside(text: &str, span: Span, offset: usize) -> Span {
    let literal = text.get(span.from..span.to).unwrap_or_default();
    let mut decoded = 0;
    let mut chars = literal.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        let here = span.from + at;
        if decoded >= offset || c == '"' {
            let rest = text.get(here..span.to).unwrap_or_default();
            let len = rest.find([' ', '"']).unwrap_or(rest.len()).max(1);
            return Span { from: here, to: (here + len).min(span.to) };
        }
        if c != '\\' {
            decoded += c.len_utf8();
            continue;
        }
        match chars.next() {
            Some((_, 'u')) => {
                let hex: String = chars.by_ref().take(4).map(|(_, digit)| digit).collect();
                let code = u32::from_str_radix(&hex, 16).unwrap_or(0);
                // Each half of a surrogate pair stands for half of a four-byte character.
                decoded += char::from_u32(code).map_or(2, char::len_utf8);
            }
            _ => decoded += 1,
        }
    }
    span
}

/// Lines, columns and UTF-16 offsets of `span`.
pub(crate) fn place(text: &str, span: Span) -> Place {
    let (line, column) = line_column(text, span.from);
    let (end_line, end_column) = line_column(text, span.to);
    Place {
        line,
        column,
        end_line,
        end_column,
        from: utf16(text, span.from),
        to: utf16(text, span.to),
    }
}

/// The place of a fault of syntax that `serde_json` tells by line and column of bytes.
pub(crate) fn of_syntax(text: &str, line: usize, column: usize) -> Place {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut from = (before + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    let to = from + text.get(from..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
    place(text, Span { from, to })
}

fn line_column(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (number(line), number(column))
}

fn utf16(text: &str, at: usize) -> u32 {
    number(text.get(..at).unwrap_or(text).chars().map(char::len_utf16).sum())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn take(&mut self, sign: u8) -> bool {
        self.blank();
        let found = self.peek() == Some(sign);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.blank();
        let from = self.at;
        let mut fields = Vec::new();
        match self.peek()? {
            b'{' => fields = self.object(depth)?,
            b'[' => self.array(depth)?,
            b'"' => drop(self.string()?),
            _ => {
                while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
                {
                    self.at += 1;
                }
            }
        }
        (self.at > from).then_some(Node { span: Span { from, to: self.at }, fields })
    }

    fn object(&mut self, depth: usize) -> Option<Vec<(String, Span, Node)>> {
        let mut fields = Vec::new();
        self.at += 1;
        if self.take(b'}') {
            return Some(fields);
        }
        loop {
            self.blank();
            let (key, span) = self.string()?;
            if !self.take(b':') {
                return None;
            }
            fields.push((key, span, self.value(depth + 1)?));
            if self.take(b'}') {
                return Some(fields);
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        if self.take(b']') {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            if self.take(b']') {
                return Some(());
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    fn string(&mut self) -> Option<(String, Span)> {
        let from = self.at;
        if self.peek()? != b'"' {
            return None;
        }
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        let span = Span { from, to: self.at };
        let text = serde_json::from_str(self.text.get(from..self.at)?).ok()?;
        Some((text, span))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str, keys: &[&str], path: &str) -> String {
        let span = Node::parse(text).unwrap().find(keys, path);
        text.get(span.from..span.to).unwrap().to_owned()
    }

    #[test]
    fn a_path_leads_to_its_value_or_to_what_is_there_of_it() {
        let text =
            r#"{ "a": { "x.y": { "z": 7 }, "x": 1, "list": [ {"k": 2}, "s" ] }, "a2": "t" }"#;
        let check = |keys: &[&str], path: &str, expected: &str| {
            assert_eq!(at(text, keys, path), expected, "{keys:?} {path}");
        };
        check(&["a2"], "", "\"a2\"");
        check(&[], "a2", "\"t\"");
        check(&["a"], "x", "1");
        check(&["a"], "x.y.z", "7");
        check(&["a"], "x.y", "\"x.y\"");
        check(&["a"], "x.y.missing", "\"x.y\"");
        check(&["a", "absent"], "q", "\"a\"");
        check(&["none"], "", "{");
        check(&["a"], "list", r#"[ {"k": 2}, "s" ]"#);
        assert_eq!(at(r#"{"d":1,"d":2}"#, &[], "d"), "2", "the last of equal keys counts");
    }

    #[test]
    fn a_position_inside_a_string_survives_escapes() {
        let text = r#"{"r": "a\"b\u00e9\ud83d\ude00c\nd e"}"#;
        let span = Node::parse(text).unwrap().find(&[], "r");
        let decoded: serde_json::Value = serde_json::from_str(text).unwrap();
        let decoded = decoded["r"].as_str().unwrap();
        let check = |word: &str, expected: &str| {
            let found = inside(text, span, decoded.find(word).unwrap());
            let rest = text.get(found.from..).unwrap();
            assert!(rest.starts_with(expected), "{word}: {rest}");
        };
        check("a", "a\\\"");
        check("b", "b\\u00e9");
        check("c", "c\\n");
        check("d", "d e");
        check("e", "e\"");
        assert_eq!(inside(text, span, 1000).from, span.to - 1);
    }

    #[test]
    fn lines_and_columns_count_characters_and_offsets_count_utf16() {
        let text = "{\n  \"\u{e9}\u{1f600}\": x\n}";
        let from = text.find('x').unwrap();
        let place = place(text, Span { from, to: from + 1 });
        assert_eq!((place.line, place.column), (2, 9));
        assert_eq!((place.end_line, place.end_column), (2, 10));
        assert_eq!((place.from, place.to), (11, 12));
    }

    #[test]
    fn a_fault_of_syntax_is_placed_where_serde_says() {
        let check = |text: &str, expected: (u32, u32)| {
            let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
            let place = of_syntax(text, error.line(), error.column());
            assert_eq!((place.line, place.column), expected, "{text:?}: {error}");
        };
        check("{\n  \"a\": 1,\n}", (3, 1));
        check("{\"a\" 1}", (1, 6));
        check("{\n\"\u{e9}\": tru\u{e9}\n}", (2, 9));
        check("{", (1, 1));
        check("", (1, 1));
    }

    proptest! {
        #[test]
        fn whatever_serde_accepts_is_read_and_its_leaves_are_found(
            numbers in prop::collection::btree_map("[a-z]{1,4}", any::<i32>(), 1..6),
            pretty in any::<bool>(),
        ) {
            let value = serde_json::json!({ "top": { "inner": numbers } });
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            for (name, number) in &numbers {
                prop_assert_eq!(at(&text, &["top", "inner"], name), number.to_string());
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            Node::parse(&text);
            of_syntax(&text, 1, 7);
        }
    }

    #[test]
    fn a_text_is_read_to_the_depth_of_the_limit_and_no_deeper() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Node::parse(&nested(DEPTH_MAX)).is_some());
        assert!(Node::parse(&nested(DEPTH_MAX + 1)).is_none());
    }
}

//! Text to tokens, with the reference's generous idea of a name.
//!
//! A name is any run of characters that are not white space or one of
//! `( ) < > @ , ; : \ " / [ ] ? = { }`. So `a-b`, `a+b` and `a!` are single names, and blanks are
//! needed around `+ - * % || !=`. A name that starts with `$` may also hold `[` and `]`.

use super::QueryError;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind<'t> {
    /// A name or a keyword; without case only where the grammar says so.
    Name(&'t str),
    /// A literal text, unescaped.
    Text(String),
    /// A literal number.
    Number(f64),
    /// An operator or bracket.
    Sign(&'static str),
    /// After the last token.
    End,
}

/// A token and where it starts, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token<'t> {
    pub(crate) kind: Kind<'t>,
    pub(crate) start: usize,
}

/// Longer signs first, so that the first match is the longest.
const SIGNS: [&str; 18] = [
    "==", "!=", "<>", "<=", ">=", "??", "||", "&&", "<", ">", "=", "(", ")", ",", "/", "{", "}",
    "?",
];

/// The tokens of `text` from byte `from` on, ended by [`Kind::End`].
pub(crate) fn tokens(text: &str, from: usize) -> Result<Vec<Token<'_>>, QueryError> {
    let mut lexer = Lexer { text, at: from };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks()?;
        let start = lexer.at;
        let kind = lexer.next()?;
        let ended = kind == Kind::End;
        tokens.push(Token { kind, start });
        if ended {
            return Ok(tokens);
        }
    }
}

fn is_name(sign: char) -> bool {
    !sign.is_whitespace() && !"()<>@,;:\\\"/[]?={}".contains(sign)
}

fn name_len(rest: &str, first: char) -> usize {
    let path = first == '$';
    rest.find(|c| !(is_name(c) || path && (c == '[' || c == ']'))).unwrap_or(rest.len())
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) -> Result<(), QueryError> {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            let Some(comment) = self.rest().strip_prefix("/*") else { return Ok(()) };
            let Some(len) = comment.find("*/") else {
                return Err(QueryError::new(self.at, "this comment has no end; expected `*/`"));
            };
            self.at += len + 4;
        }
    }

    fn next(&mut self) -> Result<Kind<'t>, QueryError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Kind::End) };
        if first == '"' || first == '\'' {
            return self.literal(first);
        }
        let len = name_len(rest, first);
        let word = rest.get(..len).unwrap_or_default();
        if let Some(number) = number(word) {
            self.at += len;
            return Ok(Kind::Number(number));
        }
        if let Some(sign) = ["+", "-", "*", "%", "||", "&&"].into_iter().find(|s| *s == word) {
            self.at += len;
            return Ok(Kind::Sign(sign));
        }
        // `!=` is longer than the name `!`, so it wins; `a!=b` stays the name `a!`.
        let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
        if let Some(sign) = sign.filter(|sign| sign.len() > len) {
            self.at += sign.len();
            return Ok(Kind::Sign(sign));
        }
        if len == 0 {
            let message = format!("{first:?} means nothing here");
            return Err(QueryError::new(self.at, message));
        }
        self.at += len;
        Ok(Kind::Name(word))
    }

    fn literal(&mut self, quote: char) -> Result<Kind<'t>, QueryError> {
        let start = self.at;
        let mut text = String::new();
        let mut signs = self.rest().char_indices().skip(1);
        while let Some((offset, sign)) = signs.next() {
            if sign == quote {
                self.at += offset + 1;
                return Ok(Kind::Text(text));
            }
            if sign != '\\' {
                text.push(sign);
                continue;
            }
            let bad = || {
                let hint = "expected \\\\, \\', \\\" or \\u with four hexadecimal digits";
                QueryError::new(start + offset, hint)
            };
            match signs.next() {
                Some((_, escaped @ ('\\' | '\'' | '"'))) => text.push(escaped),
                Some((_, 'u')) => {
                    let digits: String = signs.by_ref().take(4).map(|(_, digit)| digit).collect();
                    let code = hexadecimal(&digits).filter(|_| digits.len() == 4);
                    text.push(code.and_then(char::from_u32).ok_or_else(bad)?);
                }
                _ => return Err(bad()),
            }
        }
        Err(QueryError::new(start, format!("this text has no end; expected {quote}")))
    }
}

fn hexadecimal(digits: &str) -> Option<u32> {
    let all = digits.chars().all(|digit| digit.is_ascii_hexdigit());
    u32::from_str_radix(digits, 16).ok().filter(|_| all)
}

/// The number that `word` spells: `-12`, `0x1F`, `-1.5e-3`, `.5`; infinite if too large.
pub(crate) fn number(word: &str) -> Option<f64> {
    if let Some(digits) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        let known = !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_hexdigit());
        let digits = digits.chars().filter_map(|digit| digit.to_digit(16));
        return known.then(|| digits.fold(0.0, |sum, digit| sum * 16.0 + f64::from(digit)));
    }
    let unsigned = word.strip_prefix('-').unwrap_or(word);
    // `f64::from_str` also takes `inf`, `nan` and a leading plus, which are names here.
    let starts = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let ends = word.ends_with(|c: char| c.is_ascii_digit());
    word.parse().ok().filter(|_| starts && ends)
}

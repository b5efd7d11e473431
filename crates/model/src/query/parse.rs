//! Tokens to a checked tree: precedence climbing with types.
//!
//! From loosest to tightest: `??`, `OR`, `AND`, `= != <>`, `< <= > >=`, `+ - ||`, `* / %`, unary.

use super::ast::{Node, Operator, Root, Step};
use super::function::{Function, Takes, Type};
use super::lexer::{Kind, Token};
use super::{QUERY_DEPTH_MAX, QueryError};

/// How deep parentheses may nest; redundant ones cost no height of the tree.
pub(super) const PARENTHESES_MAX: usize = 2 * QUERY_DEPTH_MAX;

/// Most notices of one expression; more of them say nothing new.
pub(crate) const NOTICES_MAX: usize = 8;

const COALESCE: u8 = 1;
const OR: u8 = 2;
const AND: u8 = 3;
const UNARY: u8 = 8;

/// A node with what the checks need to know of it.
struct Checked {
    node: Node,
    kind: Type,
    height: usize,
    start: usize,
}

impl Checked {
    fn leaf(node: Node, kind: Type, start: usize) -> Self {
        Self { node, kind, height: 1, start }
    }
}

enum Infix {
    Chain(u8),
    Plain(u8, Operator),
}

/// Reads an expression from tokens.
pub(crate) struct Parser<'t> {
    tokens: &'t [Token<'t>],
    at: usize,
    depth: usize,
    /// Whether `twin_change_includes` makes sense.
    twin_changes: bool,
    /// What is taken here and would be refused elsewhere.
    notices: Vec<QueryError>,
}

impl<'t> Parser<'t> {
    pub(crate) fn new(tokens: &'t [Token<'t>], twin_changes: bool) -> Self {
        Self { tokens, at: 0, depth: 0, twin_changes, notices: Vec::new() }
    }

    /// What was taken and Azure's own hub and router would refuse, in the order of the text.
    pub(crate) fn into_notices(self) -> Vec<QueryError> {
        self.notices
    }

    pub(crate) fn peek(&self) -> &'t Kind<'t> {
        self.tokens.get(self.at).map_or(&Kind::End, |token| &token.kind)
    }

    pub(crate) fn position(&self) -> usize {
        self.tokens.get(self.at).or_else(|| self.tokens.last()).map_or(0, |token| token.start)
    }

    pub(crate) fn advance(&mut self) {
        self.at += 1;
    }

    /// Takes the keyword `word`, in any case, if it is next.
    pub(crate) fn take_word(&mut self, word: &str) -> bool {
        let next = matches!(self.peek(), Kind::Name(name) if name.eq_ignore_ascii_case(word));
        self.at += usize::from(next);
        next
    }

    /// Takes `sign` if it is next.
    pub(crate) fn take_sign(&mut self, sign: &str) -> bool {
        let next = matches!(self.peek(), Kind::Sign(found) if *found == sign);
        self.at += usize::from(next);
        next
    }

    /// The error that `what` was expected at the next token.
    pub(crate) fn expected(&self, what: &str) -> QueryError {
        let found = match self.peek() {
            Kind::Name(name) => format!("`{name}`"),
            Kind::Text(_) => "a text".to_owned(),
            Kind::Number(number) => format!("the number {number}"),
            Kind::Sign(sign) => format!("`{sign}`"),
            Kind::End => "the end".to_owned(),
        };
        QueryError::new(self.position(), format!("expected {what}, found {found}"))
    }

    /// A condition: an expression that can be true or false.
    pub(crate) fn condition(&mut self) -> Result<Node, QueryError> {
        let checked = self.expression(COALESCE)?;
        expect_bool(&checked, "a condition")?;
        self.tell_truth_of_property(&checked);
        Ok(checked.node)
    }

    fn expression(&mut self, tightest: u8) -> Result<Checked, QueryError> {
        let mut left = self.unary()?;
        while let Some(infix) = self.infix()? {
            let at = self.position();
            left = match infix {
                Infix::Chain(level) if level >= tightest => self.chain(level, left)?,
                Infix::Plain(level, operator) if level >= tightest => {
                    self.advance();
                    let right = self.expression(level + 1)?;
                    self.tell_property_beside_number(&left, &right);
                    binary(operator, left, right, at)?
                }
                _ => break,
            };
        }
        Ok(left)
    }

    fn infix(&self) -> Result<Option<Infix>, QueryError> {
        let sign = match self.peek() {
            Kind::Name(name) if name.eq_ignore_ascii_case("and") => {
                return Ok(Some(Infix::Chain(AND)));
            }
            Kind::Name(name) if name.eq_ignore_ascii_case("or") => {
                return Ok(Some(Infix::Chain(OR)));
            }
            Kind::Sign("??") => return Ok(Some(Infix::Chain(COALESCE))),
            Kind::Sign("==") => {
                return Err(QueryError::new(self.position(), "`==` is not an operator; write `=`"));
            }
            Kind::Sign("&&") => {
                return Err(QueryError::new(self.position(), "`&&` is not an operator; write AND"));
            }
            Kind::Sign(sign) => sign,
            _ => return Ok(None),
        };
        let Some(operator) = Operator::of_sign(sign) else { return Ok(None) };
        let level = match operator {
            Operator::Equal | Operator::NotEqual => 4,
            Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual => 5,
            Operator::Add | Operator::Subtract | Operator::Concat => 6,
            Operator::Multiply | Operator::Divide | Operator::Modulo => 7,
        };
        Ok(Some(Infix::Plain(level, operator)))
    }

    /// `left AND b AND c …` as one node.
    fn chain(&mut self, level: u8, left: Checked) -> Result<Checked, QueryError> {
        let (start, mut height, mut kind) = (left.start, left.height, left.kind);
        let mut members = vec![left];
        while matches!(self.infix()?, Some(Infix::Chain(next)) if next == level) {
            self.advance();
            let next = self.expression(level + 1)?;
            height = height.max(next.height);
            if level == COALESCE {
                kind = agree(kind, &next, "??")?;
            }
            members.push(next);
        }
        if level != COALESCE {
            let word = if level == AND { "AND" } else { "OR" };
            members.iter().try_for_each(|member| expect_bool(member, word))?;
            for member in &members {
                self.tell_truth_of_property(member);
            }
            kind = Type::Bool;
        }
        let nodes = members.into_iter().map(|member| member.node).collect();
        let node = match level {
            AND => Node::And(nodes),
            OR => Node::Or(nodes),
            _ => Node::Coalesce(nodes),
        };
        grown(Checked { node, kind, height, start })
    }

    fn unary(&mut self) -> Result<Checked, QueryError> {
        let start = self.position();
        let not = self.take_word("not");
        if !not && !self.take_sign("-") {
            return self.primary();
        }
        self.enter()?;
        let of = self.expression(UNARY)?;
        self.depth -= 1;
        if not {
            expect_bool(&of, "NOT")?;
            self.tell_truth_of_property(&of);
            let node = Node::Not(Box::new(of.node));
            return grown(Checked { node, kind: Type::Bool, height: of.height, start });
        }
        expect_number(&of, "-")?;
        let node = Node::Negate(Box::new(of.node));
        grown(Checked { node, kind: Type::Number, height: of.height, start })
    }

    /// A property is a text. Azure compiles no comparison of one with a number.
    fn tell_property_beside_number(&mut self, left: &Checked, right: &Checked) {
        let property = match (left.kind, right.kind) {
            (Type::Property, Type::Number) => left,
            (Type::Number, Type::Property) => right,
            _ => return,
        };
        let words = "a property is a text: here it is compared as the number it spells; Azure \
                     refuses this, so write as_number(…) to be understood by both";
        self.tell(property.start, words);
    }

    /// A property is a text, which is never true.
    fn tell_truth_of_property(&mut self, checked: &Checked) {
        if checked.kind == Type::Property {
            let words = "a property is a text, which is neither true nor false, so this never \
                         holds; Azure refuses it: compare it, as in name = 'true'";
            self.tell(checked.start, words);
        }
    }

    fn tell(&mut self, position: usize, words: &str) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(QueryError::new(position, words));
        }
    }

    fn enter(&mut self) -> Result<(), QueryError> {
        self.depth += 1;
        if self.depth > PARENTHESES_MAX {
            let message = format!("this is nested deeper than {PARENTHESES_MAX}");
            return Err(QueryError::new(self.position(), message));
        }
        Ok(())
    }

    fn primary(&mut self) -> Result<Checked, QueryError> {
        let start = self.position();
        match self.peek() {
            Kind::Number(number) => {
                self.advance();
                Ok(Checked::leaf(Node::Number(*number), Type::Number, start))
            }
            Kind::Text(text) => {
                self.advance();
                Ok(Checked::leaf(Node::Text(text.as_str().into()), Type::Text, start))
            }
            Kind::Sign("(") => {
                self.enter()?;
                self.advance();
                let inner = self.expression(COALESCE)?;
                self.close()?;
                self.depth -= 1;
                Ok(inner)
            }
            Kind::Sign("{") => {
                self.advance();
                self.forced()
            }
            Kind::Name(name) => self.named(name, start),
            _ => Err(self.expected("a value")),
        }
    }

    fn close(&mut self) -> Result<(), QueryError> {
        if self.take_sign(")") { Ok(()) } else { Err(self.expected("`)`")) }
    }

    /// The rest of `{$name}`.
    fn forced(&mut self) -> Result<Checked, QueryError> {
        let start = self.position();
        let Kind::Name(word) = self.peek() else { return Err(self.expected("`$name`")) };
        if !word.starts_with('$') || word.len() == 1 {
            return Err(self.expected("`$name`"));
        }
        self.advance();
        if !self.take_sign("}") {
            return Err(self.expected("`}`"));
        }
        let (node, kind) = dollar(word, start)?;
        Ok(Checked::leaf(node, kind, start))
    }

    fn named(&mut self, word: &'t str, start: usize) -> Result<Checked, QueryError> {
        const RESERVED: [&str; 6] = ["and", "or", "select", "from", "where", "into"];
        if RESERVED.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) {
            return Err(self.expected("a value"));
        }
        self.advance();
        if matches!(self.peek(), Kind::Sign("(")) {
            return self.call(word, start);
        }
        if word.starts_with('$') {
            let (node, kind) = dollar(word, start)?;
            // No property's name holds brackets.
            let node =
                if word.contains('[') { node } else { Node::Hidden(word.into(), node.into()) };
            return Ok(Checked::leaf(node, kind, start));
        }
        let (node, kind) = match word {
            "true" => (Node::Bool(true), Type::Bool),
            "false" => (Node::Bool(false), Type::Bool),
            "null" => (Node::Null, Type::Null),
            "undefined" => (Node::Undefined, Type::Undefined),
            name => (Node::Property(name.into()), Type::Property),
        };
        Ok(Checked::leaf(node, kind, start))
    }

    fn call(&mut self, word: &str, start: usize) -> Result<Checked, QueryError> {
        self.enter()?;
        self.advance();
        if word.eq_ignore_ascii_case("twin_change_includes") {
            let node = self.changed(start)?;
            self.depth -= 1;
            return Ok(Checked::leaf(node, Type::Bool, start));
        }
        let Some(function) = Function::named(word) else {
            return Err(QueryError::new(start, format!("there is no function `{word}`")));
        };
        let mut arguments = Vec::new();
        while !matches!(self.peek(), Kind::Sign(")")) {
            arguments.push(self.expression(COALESCE)?);
            if !self.take_sign(",") {
                break;
            }
        }
        self.close()?;
        self.depth -= 1;
        check_arguments(function, &arguments, start)?;
        let height = arguments.iter().map(|argument| argument.height).max().unwrap_or(0);
        let nodes = arguments.into_iter().map(|argument| argument.node).collect();
        let kind = function.signature().gives;
        grown(Checked { node: Node::Call(function, nodes), kind, height, start })
    }

    /// The argument of `twin_change_includes`: a dotted path, not evaluated.
    fn changed(&mut self, start: usize) -> Result<Node, QueryError> {
        if !self.twin_changes {
            let hint = "twin_change_includes needs the source /twinChangeNotifications";
            return Err(QueryError::new(start, hint));
        }
        let wanted = "a path like properties.reported.name";
        let Kind::Name(word) = self.peek() else { return Err(self.expected(wanted)) };
        let keys: Vec<&str> = word.split('.').collect();
        let rooted = matches!(*keys, ["properties", "reported" | "desired", ..] | ["tags", ..]);
        if !rooted || keys.iter().any(|key| key.is_empty()) {
            return Err(self.expected(wanted));
        }
        self.advance();
        self.close()?;
        Ok(Node::Changed(keys.into_iter().map(|key| Step::Key(key.into())).collect()))
    }
}

/// One level higher, if the tree may be that high.
fn grown(checked: Checked) -> Result<Checked, QueryError> {
    let height = checked.height + 1;
    if height > QUERY_DEPTH_MAX {
        let message = format!("this is nested deeper than {QUERY_DEPTH_MAX}");
        return Err(QueryError::new(checked.start, message));
    }
    Ok(Checked { height, ..checked })
}

/// `$name`: a path into body or twin, or a system property.
fn dollar(word: &str, start: usize) -> Result<(Node, Type), QueryError> {
    let root_len = word.find(['.', '[']).unwrap_or(word.len());
    let (root, path) = word.split_at(root_len);
    let document = Root::ALL.into_iter().find(|one| root.eq_ignore_ascii_case(one.name()));
    if let Some(document) = document {
        // Positions are bytes of the whole text.
        return Ok((Node::Path(document, steps(path, start + root_len)?), Type::Any));
    }
    if word == "$" || word.contains(['[', ']']) {
        return Err(QueryError::new(start, "expected a system property, $body or $twin"));
    }
    Ok((Node::System(word.into()), Type::Property))
}

/// `.a.b[0]` as steps; at least one, the first a key.
fn steps(path: &str, start: usize) -> Result<Vec<Step>, QueryError> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() || steps.is_empty() {
        let at = start + path.len() - rest.len();
        if let Some(after) = rest.strip_prefix('.') {
            let len = after.find(['.', '[', ']']).unwrap_or(after.len());
            let (key, tail) = after.split_at(len);
            if key.is_empty() {
                return Err(QueryError::new(at, "expected a name after the dot"));
            }
            steps.push(Step::Key(key.into()));
            rest = tail;
        } else if let (Some(after), false) = (rest.strip_prefix('['), steps.is_empty()) {
            let index = after.split_once(']').and_then(|(digits, tail)| {
                let plain = digits.chars().all(|digit| digit.is_ascii_digit());
                Some((digits.parse().ok().filter(|_| plain)?, tail))
            });
            let Some((index, tail)) = index else {
                return Err(QueryError::new(at, "expected an index from 0 up, like [0]"));
            };
            steps.push(Step::Index(index));
            rest = tail;
        } else {
            let hint = "expected a dot and a name; the whole document cannot be queried";
            return Err(QueryError::new(at, hint));
        }
    }
    Ok(steps)
}

fn mismatch(checked: &Checked, who: &str, wants: &str) -> QueryError {
    let found = checked.kind.words();
    QueryError::new(checked.start, format!("{who} wants {wants}, this is {found}"))
}

fn expect_bool(checked: &Checked, who: &str) -> Result<(), QueryError> {
    match checked.kind {
        Type::Bool | Type::Any | Type::Property | Type::Null | Type::Undefined => Ok(()),
        Type::Number | Type::Text => Err(mismatch(checked, who, "true or false")),
    }
}

fn expect_number(checked: &Checked, who: &str) -> Result<(), QueryError> {
    match checked.kind {
        Type::Number | Type::Any | Type::Null => Ok(()),
        Type::Property => Err(mismatch(checked, who, "a number (as_number makes one)")),
        Type::Bool | Type::Text | Type::Undefined => Err(mismatch(checked, who, "a number")),
    }
}

fn expect_text(checked: &Checked, who: &str) -> Result<(), QueryError> {
    match checked.kind {
        Type::Text | Type::Property | Type::Any => Ok(()),
        Type::Bool | Type::Number | Type::Null | Type::Undefined => {
            Err(mismatch(checked, who, "a text"))
        }
    }
}

/// The type of values that are either `left` or `right`.
fn agree(left: Type, right: &Checked, who: &str) -> Result<Type, QueryError> {
    match (left, right.kind) {
        (Type::Any | Type::Null | Type::Undefined, other) => Ok(other),
        (known, Type::Any | Type::Null | Type::Undefined) => Ok(known),
        (Type::Property | Type::Text, Type::Property | Type::Text) => Ok(Type::Text),
        (left, right) if left == right => Ok(left),
        (left, _) => {
            Err(mismatch(right, who, &format!("the same on both sides, {}", left.words())))
        }
    }
}

fn binary(
    operator: Operator,
    left: Checked,
    right: Checked,
    at: usize,
) -> Result<Checked, QueryError> {
    let sign = operator.sign();
    let kind = match operator {
        Operator::Multiply
        | Operator::Divide
        | Operator::Modulo
        | Operator::Add
        | Operator::Subtract => {
            expect_number(&left, sign)?;
            expect_number(&right, sign)?;
            Type::Number
        }
        Operator::Concat => {
            expect_text(&left, sign)?;
            expect_text(&right, sign)?;
            Type::Text
        }
        Operator::Equal | Operator::NotEqual => {
            comparable(&left, &right, sign)?;
            Type::Bool
        }
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
            if left.kind == Type::Bool || right.kind == Type::Bool {
                return Err(QueryError::new(at, format!("`{sign}` cannot order true and false")));
            }
            comparable(&left, &right, sign)?;
            Type::Bool
        }
    };
    let height = left.height.max(right.height);
    let start = left.start;
    let node = Node::Binary(operator, Box::new(left.node), Box::new(right.node));
    grown(Checked { node, kind, height, start })
}

fn comparable(left: &Checked, right: &Checked, sign: &str) -> Result<(), QueryError> {
    match (left.kind, right.kind) {
        (Type::Property, Type::Number) | (Type::Number, Type::Property) => Ok(()),
        (kind, _) => agree(kind, right, sign).map(|_| ()),
    }
}

fn check_arguments(
    function: Function,
    arguments: &[Checked],
    start: usize,
) -> Result<(), QueryError> {
    let signature = function.signature();
    let (least, most) = signature.arguments;
    let name = signature.name;
    if !(least..=most).contains(&arguments.len()) {
        let wants = if least == most { format!("{least}") } else { format!("{least} to {most}") };
        let message = format!("{name} takes {wants} arguments, not {}", arguments.len());
        return Err(QueryError::new(start, message));
    }
    for (index, argument) in arguments.iter().enumerate() {
        match (signature.takes, index) {
            (Takes::Anything, _) => Ok(()),
            (Takes::Numbers, _) | (Takes::TextThenNumbers, 1..) => expect_number(argument, name),
            (Takes::Texts, _) | (Takes::TextThenNumbers, 0) => expect_text(argument, name),
            (Takes::TextOrNumber, _) => {
                expect_number(argument, name).or_else(|_| expect_text(argument, name))
            }
        }?;
    }
    Ok(())
}

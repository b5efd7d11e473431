use bytes::Bytes;
use proptest::prelude::*;

use super::message::MessageFields;
use super::*;
use crate::message::{Message, PropertyBag, SystemProperties};

fn message() -> Message {
    let body = r#"{"t":21.5,"on":true,"name":"pump","none":null,"list":[1,{"x":"y"}],"o":{"k":1},"hidden":"body"}"#;
    Message {
        body: Bytes::from_static(body.as_bytes()),
        properties: PropertyBag::from_pairs([
            ("key1", "value1"),
            ("level", "3"),
            ("a-b", "dash"),
            ("$own", "mine"),
            ("$messageId", "hidden"),
            ("neg", "-2.5"),
            ("$body.hidden", "property"),
        ]),
        system: SystemProperties {
            message_id: Some("m1".into()),
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            connection_device_id: Some("d1".into()),
            sequence_number: Some(7),
            ..SystemProperties::default()
        },
    }
}

#[test]
fn expressions_hold_as_documented() {
    let message = message();
    let fields = MessageFields::new(&message);
    for line in TRUE.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert_eq!(value(line, &fields), Value::Bool(true), "{line}");
    }
    for line in FALSE.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert_eq!(value(line, &fields), Value::Bool(false), "{line}");
    }
    for line in UNDEFINED.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert_eq!(value(line, &fields), Value::Undefined, "{line}");
    }
}

fn value<'a>(text: &str, fields: &'a MessageFields<'_>) -> Value<'a> {
    let parsed = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    match parsed.evaluate(fields) {
        Value::Bool(value) => Value::Bool(value),
        Value::Undefined => Value::Undefined,
        other => panic!("{text} gave {other:?}"),
    }
}

const TRUE: &str = r#"
    true
    TRUE = 'x' ?? true
    key1 = 'value1'
    KEY1 = "value1"
    a-b = 'dash'
    level = 3
    level > 2.5 AND level <= 3
    3 = level
    neg = -2.5
    neg < 0
    as_number(level) + 1 = 4
    $connectionDeviceId = 'd1'
    $connectiondeviceid = 'd1'
    $sequenceNumber >= 7
    $own = 'mine'
    $messageId = 'hidden'
    {$messageId} = 'm1'
    $body.t = 21.5
    $body.on
    $body.on = true
    $body.name = 'pump'
    $body.list[0] = 1
    $body.list[1].x = 'y'
    $body.none = null
    is_null($body.none)
    $body.t != null
    $body.name <> null
    $body.missing = null
    $body.none.deeper = null
    NOT ($body.missing != null)
    $body.t <> '100'
    $body.missing <> '100'
    $body.missing != 5
    $body.none != 1
    'pump' <> $body.missing
    NOT ($body.t = 'pump')
    $body.missing = $body.none
    $body.name != key1
    $body.list[0] != level
    $body.list[9] = null
    ($body.missing ?? 'x') = 'x'
    {$body.hidden} = 'body'
    $body.hidden = 'property'
    $BODY.hidden = 'property'
    {$body.t} > 21
    (null AND true) = null
    (null AND false) = null
    (false AND null) = null
    (null AND null) = null
    (null OR null) = null
    null OR true
    (true AND $body.none) = null
    is_defined(3 / 0)
    is_defined(10e1000)
    as_number('10e1000') = 10e1000
    as_number('10e1000') = 1 / 0
    - 1e1000 < 0
    NOT is_number(3 / 0)
    NOT is_defined(3 % 0)
    (3 % 0 ?? 12.34) = 12.34
    NOT is_defined(sqrt(-4))
    NOT is_defined(abs(3 % 0))
    NOT is_null(3 % 0)
    power(10, 4000) = 3 / 0
    null = null
    null <= null
    NOT null
    not false
    NOT (true AND false)
    null + 5 = 5
    5 - null = 5
    5 != 4
    5 <> 4
    1 + 2 * 3 = 7
    (1 + 2) * 3 = 9
    10 - 2 - 3 = 5
    12 / 2 / 3 = 2
    7 % 4 = 3
    -5 + 10 = 5
    - 5 = -5
    - (2 + 3) = -5
    0x1F = 31
    1e3 = 1000
    .5 = 0.5
    'a' || 'b' || 'c' = 'abc'
    1 < 2 = true
    true OR false AND false
    undefined OR true
    missing = 'x' ?? true
    'a\'b' = "a'b"
    '\u0041' = 'A'
    /* a comment */ true /* another */
    ABS(-3) = 3
    exp(0) = 1
    power(2, 10) = 1024
    square(3) = 9
    ceiling(1.2) = 2
    floor(-1.2) = -2
    sign(-7) = -1
    sign(0) = 0
    sqrt(16) = 4
    as_number('0x10') = 16
    as_number(' 5 ') = 5
    is_bool($body.on)
    is_defined(key1)
    NOT is_defined(missing)
    NOT is_defined(undefined)
    is_number($body.t)
    is_string(level)
    is_array($body.list)
    is_object($body.o)
    is_primitive($body.t)
    concat('a', key1, 'c') = 'avalue1c'
    length('größe') = 5
    lower('ABC') = 'abc'
    UPPER(key1) = 'VALUE1'
    substring('hello', 1) = 'ello'
    substring('hello', 1, 3) = 'ell'
    index_of('hello', 'l') = 2
    index_of('hello', 'z') = -1
    starts_with(key1, 'val')
    ends_with(key1, '1')
    contains(key1, 'alu')
    'a' < 'b'
"#;

const FALSE: &str = r"
    false
    null OR false
    null != null
    $body.nothing.deeper = 1
    $body.list[9] = 1
    $body.t = 'pump'
    $body.t = '21.5'
    $body.none = 1
    $body.t = null
    $body.missing != null
    $body.list[0] = level
    is_defined($body.missing)
    key1 = 'VALUE1'
    level = 4
    level != 3
    true AND false OR false
    undefined AND false
    is_null(missing)
    is_number(level)
    is_string(undefined)
    is_primitive($body.o)
    starts_with('a', 'ab')
    $body.t > 30
";

const UNDEFINED: &str = r"
    undefined
    missing
    missing = 'x'
    missing != 'x'
    NOT missing
    NOT undefined
    undefined AND true
    undefined OR false
    key1 = 5
    key1 > 5
    $body.name > 5
    0 / 0 = 0 / 0
    3 % 0 != 3
    sqrt(-4) = -2
    $body.o = 1
    $body.o <> null
    $body.list != 1
    missing <> $body.t
    missing <> $body.missing
    $body.t < '3'
    $body.missing < 5
    $body.t = 3 % 0
    $body.t + $body.name = 1
    null = 5
    null != 5
    $body.on > $body.on
    $twin.tags.x = 1
    $nothing = 'x'
    a-c = 'dash'
    as_number(key1) = 1
    substring('hello', 9) = 'x'
    substring('hello', -1) = 'x'
    lower($body.t) = 'x'
    missing ?? undefined
";

#[test]
fn a_body_is_queried_only_if_it_says_it_is_json_in_a_known_encoding() {
    let check = |kind: Option<&str>, encoding: Option<&str>, body: &[u8], expected: bool| {
        let mut message = message();
        message.body = Bytes::copy_from_slice(body);
        message.system.content_type = kind.map(Into::into);
        message.system.content_encoding = encoding.map(Into::into);
        let holds = Expression::parse("$body.a = 1").unwrap().holds(&MessageFields::new(&message));
        assert_eq!(holds, expected, "{kind:?} {encoding:?}");
    };
    let json = Some("application/json");
    let utf16: Vec<u8> = r#"{"a":1}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf32: Vec<u8> =
        r#"{"a":1}"#.chars().flat_map(|sign| u32::from(sign).to_le_bytes()).collect();
    check(json, Some("UTF-8"), br#"{"a":1}"#, true);
    check(Some("Application/JSON; charset=x"), Some("utf-8"), br#"{"a":1}"#, true);
    check(json, Some("utf-16"), &utf16, true);
    check(json, Some("utf-32"), &utf32, true);
    check(json, Some("utf-16"), br#"{"a":1}"#, false);
    check(json, None, br#"{"a":1}"#, false);
    check(None, Some("utf-8"), br#"{"a":1}"#, false);
    check(json, Some("latin-1"), br#"{"a":1}"#, false);
    check(json, Some("utf-8"), br#"{"a":1"#, false);
}

#[test]
fn a_body_that_nobody_can_read_equals_nothing_and_differs_from_nothing() {
    let mut message = message();
    message.system.content_type = None;
    let fields = MessageFields::new(&message);
    for text in ["$body.t <> '100'", "$body.missing = null", "$body.t != null", "$body.on"] {
        assert_eq!(value(text, &fields), Value::Undefined, "{text}");
    }
}

#[test]
fn what_azure_would_refuse_is_taken_and_told_with_its_position() {
    let check = |text: &str, expected: &[(usize, &str)]| {
        let (_, told) = Expression::parse_told(text).unwrap();
        assert_eq!(told.len(), expected.len(), "{text}: {told:?}");
        for (notice, (position, words)) in told.iter().zip(expected) {
            assert_eq!(notice.position, *position, "{text}: {notice}");
            assert!(notice.message.contains(words), "{text}: {notice}");
        }
    };
    check("level > 3", &[(0, "as_number")]);
    check("3 = level", &[(4, "as_number")]);
    check("true AND $sequenceNumber >= 7", &[(9, "as_number")]);
    check("{$messageId} != 0x1F", &[(1, "as_number")]);
    check("level", &[(0, "never")]);
    check("NOT level", &[(4, "never")]);
    check("a OR b = 'x' OR c", &[(0, "never"), (16, "never")]);
    check("as_number(level) > 3 AND level = '3' AND $body.t > 3", &[]);
    check("$body.level > 3 OR $body.on", &[]);
    check("is_defined(level)", &[]);
    let many = "a > 1 AND ".repeat(2 * parse::NOTICES_MAX);
    let (_, told) = Expression::parse_told(&format!("{many}true")).unwrap();
    assert_eq!(told.len(), parse::NOTICES_MAX);
}

#[test]
fn faults_are_told_with_their_position() {
    let check = |text: &str, position: usize, words: &str| {
        let error = Expression::parse(text).expect_err(text);
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.message.contains(words), "{text}: {error}");
    };
    check("a == 1", 2, "write `=`");
    check("a = 1 && b = 2", 6, "write AND");
    check("1 +", 3, "expected a value, found the end");
    check("(1 = 1", 6, "expected `)`, found the end");
    check("a = 1 b", 6, "expected an operator or the end, found `b`");
    check("'abc", 0, "no end");
    check(r"'a\q'", 2, "hexadecimal");
    check("'\\u12", 1, "hexadecimal");
    check("/* x", 0, "no end");
    check("a = ;", 4, "means nothing");
    check("5", 0, "true or false");
    check("'x'", 0, "true or false");
    check("1 AND true", 0, "AND wants true or false");
    check("NOT 1", 4, "NOT wants true or false");
    check("level + 1 = 2", 0, "as_number");
    check("1 + true = 2", 4, "a number");
    check("1 + undefined = 2", 4, "a number");
    check("'a' + 'b' = 'ab'", 0, "a number");
    check("1 = 'x'", 4, "the same on both sides");
    check("true = 'x'", 7, "the same on both sides");
    check("true < false", 5, "order");
    check("'a' || 5 = 'x'", 7, "a text");
    check("nope(1)", 0, "no function `nope`");
    check("abs()", 0, "takes 1 arguments, not 0");
    check("substring('a')", 0, "takes 2 to 3 arguments, not 1");
    check("abs('x') = 1", 4, "abs wants a number");
    check("length(5) = 1", 7, "length wants a text");
    check("is_defined(", 11, "expected a value, found the end");
    check("$body = 1", 5, "whole document");
    check("$body[0] = 1", 5, "whole document");
    check("$body.a[*] = 1", 7, "index");
    check("$body.a[-1] = 1", 7, "index");
    check("$body..a = 1", 5, "name after the dot");
    check("{name} = 1", 1, "expected `$name`");
    check("{$name = 1", 7, "expected `}`");
    check("twin_change_includes(tags.a)", 0, "needs the source");
    check("key1 ?? 5 = 5", 8, "the same on both sides");
    check(&"x".repeat(QUERY_BYTES_MAX + 1), QUERY_BYTES_MAX, "at most 8192");
}

#[test]
fn hostile_nesting_is_refused_and_long_chains_are_not() {
    let deep = |open: &str, close: &str, times: usize| {
        Expression::parse(&format!("{}true{}", open.repeat(times), close.repeat(times)))
    };
    assert!(deep("(", ")", parse::PARENTHESES_MAX).is_ok());
    assert!(deep("(", ")", parse::PARENTHESES_MAX + 1).is_err());
    assert!(deep("(", ")", 3000).is_err());
    assert!(deep("NOT ", "", QUERY_DEPTH_MAX - 1).is_ok());
    assert!(deep("NOT ", "", QUERY_DEPTH_MAX).is_err());
    assert!(deep("is_null(", ")", 900).is_err());
    assert!(Expression::parse(&format!("1{} = 1", " + 1".repeat(2000))).is_err());
    assert!(Expression::parse(&format!("a{}", " OR a".repeat(1500))).is_ok());
}

#[test]
fn precedence_shows_in_the_printed_form() {
    let check = |text: &str, printed: &str| {
        assert_eq!(Expression::parse(text).unwrap().to_string(), printed);
    };
    check("a OR b AND NOT c", "a OR (b AND (NOT c))");
    check("1 + 2 * 3 = 7 AND x", "((1 + (2 * 3)) = 7) AND x");
    check("1 < 2 = 3 > 4", "(1 < 2) = (3 > 4)");
    check("true ?? $body.b OR c", "true ?? ($body.b OR c)");
    check("- 5 * 2 = 1", "((- 5) * 2) = 1");
    check("'a' || 'b' <> \"it's\"", "('a' || 'b') != 'it\\'s'");
    check("{$to} = $Body.a[0].b", "{$to} = $body.a[0].b");
    check("{$Body.a} = $Body.a", "{$body.a} = $Body.a");
    check("10e1000 = -1e1000", "1e999 = -1e999");
    check("", "true");
}

fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("undefined".to_owned()),
        "[a-z][a-z0-9.+-]{0,5}".prop_map(|name| format!("p{name}")),
        Just("$body.a[3].b".to_owned()),
        Just("$Body.a.b".to_owned()),
        Just("{$body.a.b}".to_owned()),
        Just("10e1000 = $twin.tags.x".to_owned()),
        Just("{$messageId}".to_owned()),
        (any::<i32>(), 1..9u8).prop_map(|(n, d)| format!("pp = {}", f64::from(n) / f64::from(d))),
        "[ -~]{0,6}".prop_map(|text| {
            format!("pt != '{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
        }),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) AND {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} OR ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) ?? ({b})")),
            inner.clone().prop_map(|a| format!("NOT ({a})")),
            inner.clone().prop_map(|a| format!("is_defined({a})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("({a}) = ({b})")),
        ]
    })
}

proptest! {
    #[test]
    fn parsing_never_panics(text in r"([ -~äß\n]|AND |NOT |\$body\.|\(|'|\\u00){0,60}") {
        if let Err(error) = Expression::parse(&text) {
            prop_assert!(error.position <= text.len());
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same(text in expressions()) {
        if let Ok(parsed) = Expression::parse(&text) {
            prop_assert_eq!(Expression::parse(&parsed.to_string()), Ok(parsed));
        }
    }
}

use proptest::prelude::*;

use super::*;
use crate::message::PropertyBag;

fn source(text: &str) -> MessageSource<'_> {
    match text.split(' ').collect::<Vec<_>>()[..] {
        ["device"] => MessageSource::Device,
        ["twin"] => MessageSource::TwinChange,
        ["module", module] => MessageSource::Module { module, output: None },
        ["module", module, output] => MessageSource::Module { module, output: Some(output) },
        _ => panic!("{text}"),
    }
}

#[test]
fn sources_match_by_whole_segments_without_case() {
    let check = |pattern: &str, expected: &[&str]| {
        let route = Route::parse(&format!("FROM {pattern} INTO $upstream")).unwrap();
        let all = ["device", "twin", "module m", "module m o", "module mm o"];
        let matched: Vec<_> =
            all.into_iter().filter(|text| route.source.matches(source(text))).collect();
        assert_eq!(matched, expected, "{pattern}");
    };
    check("/*", &["device", "twin", "module m", "module m o", "module mm o"]);
    check("/messages/*", &["device", "module m", "module m o", "module mm o"]);
    check("/messages/modules/*", &["module m", "module m o", "module mm o"]);
    check("/Messages/Modules/M/*", &["module m", "module m o"]);
    check("/messages/modules/m", &["module m", "module m o"]);
    check("/messages/modules/m/outputs/*", &["module m o"]);
    check("/messages/modules/m/outputs/o", &["module m o"]);
    check("/messages/modules/m/outputs/x", &[]);
    check("/twinChangeNotifications", &["twin"]);
    check("/twinChangeNotifications/*", &["twin"]);
}

#[test]
fn routes_parse_and_print() {
    let check = |text: &str, printed: &str| {
        let route = Route::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(route.to_string(), printed);
        assert_eq!(Route::parse(printed), Ok(route));
    };
    check("FROM /messages/* INTO $upstream", "FROM /messages/* INTO $upstream");
    check("select * from /* INTO $UPSTREAM", "FROM /* INTO $upstream");
    check(
        "FROM /messages/modules/a/outputs/o WHERE NOT IS_DEFINED($connectionModuleId) INTO \
         BrokeredEndpoint('/modules/b/inputs/in1')",
        "FROM /messages/modules/a/outputs/o/* WHERE NOT is_defined($connectionModuleId) INTO \
         BrokeredEndpoint(\"/modules/b/inputs/in1\")",
    );
    check(
        "FROM /twinChangeNotifications WHERE twin_change_includes(properties.reported.a) \
         INTO $upstream",
        "FROM /twinChangeNotifications WHERE twin_change_includes(properties.reported.a) \
         INTO $upstream",
    );
}

#[test]
fn faults_of_routes_are_told_with_their_position() {
    let check = |text: &str, position: usize, words: &str| {
        let error = Route::parse(text).expect_err(text);
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.message.contains(words), "{text}: {error}");
    };
    check("", 0, "expected FROM");
    check("FORM /* INTO $upstream", 0, "expected FROM");
    check("SELECT x FROM /*", 7, "expected `*`");
    check("FROM", 4, "starts with `/`");
    check("FROM messages INTO $upstream", 5, "starts with `/`");
    check("FROM /*", 7, "expected INTO, found the end");
    check("FROM /messages/modules/*/outputs/x INTO $upstream", 23, "`*` stands at the end");
    check("FROM /messages/modules/m*/outputs/* INTO $upstream", 24, "`*` stands at the end");
    check("SELECT * FROM /*/modules INTO $upstream", 15, "`*` stands at the end");
    check("FROM /* WHERE a == 1 INTO $upstream", 16, "write `=`");
    check("FROM /* WHERE 5 INTO $upstream", 14, "true or false");
    check("FROM /* WHERE INTO $upstream", 14, "expected a condition");
    check("select * from /* where into $UPSTREAM", 23, "leave WHERE out");
    check("FROM /* WHERE", 13, "expected a value, found the end");
    check("FROM /* INTO", 12, "expected $upstream or Brokered");
    check("FROM /* INTO $cloud", 13, "expected $upstream or Brokered");
    check("FROM /* INTO $upstream x", 23, "expected the end");
    check("FROM /* INTO BrokeredEndpoint", 29, "expected `(`");
    check("FROM /* INTO BrokeredEndpoint(x)", 30, "inputs");
    check("FROM /* INTO BrokeredEndpoint('/modules/m/inputs')", 30, "exactly");
    check("FROM /* INTO BrokeredEndpoint('/modules/m/outputs/o')", 30, "exactly");
    check("FROM /* INTO BrokeredEndpoint('/modules/ m/inputs/o')", 30, "module's name");
    check("FROM /* INTO BrokeredEndpoint('/modules/m/inputs/o'", 51, "expected `)`");
    check("FROM /messages/* WHERE twin_change_includes(tags.a) INTO $upstream", 23, "source");
}

#[test]
fn each_endpoint_gets_a_message_once_by_its_most_urgent_route() {
    let to = |text: &str, priority: u32| Route {
        priority,
        time_to_live: Some(Duration::from_secs(priority.into())),
        ..Route::parse(text).unwrap()
    };
    let routes = [
        to("FROM /messages/* INTO $upstream", 9),
        to("FROM /messages/* WHERE level > 3 INTO BrokeredEndpoint('/modules/b/inputs/i')", 1),
        to("FROM /messages/* WHERE level > 3 INTO $upstream", 2),
        to("FROM /twinChangeNotifications INTO $upstream", 0),
    ];
    let check = |level: &str, expected: &[(&str, u32)]| {
        let properties = PropertyBag::from_pairs([("level", level)]);
        let message = Message { properties, ..Message::default() };
        let found = endpoints_for(&routes, MessageSource::Device, &message);
        let found: Vec<_> = found
            .iter()
            .inspect(|to| {
                assert_eq!(to.time_to_live, Some(Duration::from_secs(to.priority.into())));
            })
            .map(|to| (to.endpoint.to_string(), to.priority))
            .collect();
        let expected: Vec<_> = expected.iter().map(|(to, p)| ((*to).to_owned(), *p)).collect();
        assert_eq!(found, expected, "{level}");
    };
    check("1", &[("$upstream", 9)]);
    check("4", &[("$upstream", 2), ("BrokeredEndpoint(\"/modules/b/inputs/i\")", 1)]);
}

proptest! {
    #[test]
    fn parsing_a_route_never_panics(
        text in r"(FROM |SELECT \* )?(/\*|/messages/\*|[ -~ä])[ -~ä]{0,20}( WHERE )?[ -~ä]{0,20}( INTO )?[ -~ä]{0,30}"
    ) {
        if let Err(error) = Route::parse(&text) {
            prop_assert!(error.position <= text.len());
        }
    }
}

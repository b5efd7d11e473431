//! Host names as people and SDKs write them: with a port or without, in any case, and addresses
//! of version 6 in brackets or bare. Pure.

/// The name and the port in `text`: `name`, `name:port`, `[v6]:port`, `[v6]` or a bare v6.
pub fn split(text: &str) -> (&str, Option<&str>) {
    if let Some((name, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (name, rest.strip_prefix(':').filter(|port| is_port(port)));
    }
    match text.split_once(':') {
        Some((name, port)) if port.is_empty() || is_port(port) => {
            (name, Some(port).filter(|port| !port.is_empty()))
        }
        _ => (text, None),
    }
}

/// Whether `one` and `other` name the same host, whatever their ports and case.
pub fn is_same(one: &str, other: &str) -> bool {
    split(one).0.eq_ignore_ascii_case(split(other).0)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_from_its_port() {
        let check = |text: &str, name: &str, port: Option<&str>| {
            assert_eq!(split(text), (name, port), "{text}");
        };
        check("hub.test", "hub.test", None);
        check("hub.test:8883", "hub.test", Some("8883"));
        check("hub.test:", "hub.test", None);
        check("10.0.0.1:443", "10.0.0.1", Some("443"));
        check("[::1]:8883", "::1", Some("8883"));
        check("[::1]", "::1", None);
        check("::1", "::1", None);
        check("fe80::1:2", "fe80::1:2", None);
        check("hub:name", "hub:name", None);
        check("", "", None);
    }

    #[test]
    fn hosts_are_compared_without_case_and_port_but_wholly() {
        assert!(is_same("HUB.test:8883", "hub.test"));
        assert!(is_same("[::1]:443", "::1"));
        assert!(!is_same("[::1]:443", "[fe80::1]:443"), "addresses of version 6 differ");
        assert!(!is_same("hub.test.evil", "hub.test"));
    }
}

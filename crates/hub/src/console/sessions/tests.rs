use std::net::Ipv4Addr;

use testkit::chance::Chance;

use super::*;

fn at(minutes: u64) -> Now {
    let span = Duration::from_mins(minutes);
    Now { tick: Tick(0).after(span), wall: WallTime(0).after(span) }
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

const OWNER: PolicyIndex = PolicyIndex(0);

struct Bench {
    door: SignIn,
    random: Chance,
}

impl Bench {
    fn new() -> Self {
        Self { door: SignIn::default(), random: Chance::new(1) }
    }

    fn token(&mut self, now: Now) -> Secret {
        self.door.issue(OWNER, now, &self.random).0
    }

    fn exchange(&mut self, token: &Secret, now: Now) -> Result<(Session, Secret), ExchangeFault> {
        self.door.exchange(token, (Some(address(1)), Some("browser")), now, &self.random)
    }

    fn session(&mut self, now: Now) -> (Session, Secret) {
        let token = self.token(now);
        self.exchange(&token, now).unwrap()
    }
}

fn text(secret: &Secret) -> &str {
    secret.expose_str().unwrap()
}

#[test]
fn a_token_opens_one_session_and_no_second() {
    let mut bench = Bench::new();
    let token = bench.token(at(0));
    assert_eq!(text(&token).len(), 43);
    let (session, cookie) = bench.exchange(&token, at(1)).unwrap();
    assert_eq!(session.policy, OWNER);
    assert_eq!(bench.exchange(&token, at(1)).unwrap_err(), ExchangeFault::Unknown);
    assert_eq!(bench.door.check(text(&cookie), at(2)).unwrap().id, session.id);
}

#[test]
fn a_token_works_until_its_life_is_over() {
    for (minutes, works) in [(14, true), (15, false)] {
        let mut bench = Bench::new();
        let token = bench.token(at(0));
        assert_eq!(bench.exchange(&token, at(minutes)).is_ok(), works, "{minutes}");
    }
}

#[test]
fn neither_token_nor_cookie_is_kept_in_readable_form() {
    let mut bench = Bench::new();
    let token = bench.token(at(0));
    assert!(bench.door.tokens.iter().all(|kept| kept.hash.expose() != token.expose()));
    let (session, cookie) = bench.exchange(&token, at(0)).unwrap();
    let secret = text(&cookie).split_once('.').unwrap().1;
    assert_ne!(session.hash.expose(), secret.as_bytes());
}

#[test]
fn a_cookie_with_one_wrong_sign_opens_nothing() {
    let mut bench = Bench::new();
    let (session, cookie) = bench.session(at(0));
    let good = text(&cookie);
    for bad in [
        String::new(),
        session.id.text(),
        format!("{}.", session.id.text()),
        format!("{good}x"),
        good.replacen('.', ".A", 1),
        format!("+{}", good.get(1..).unwrap()),
    ] {
        assert!(bench.door.check(&bad, at(0)).is_none(), "{bad}");
    }
    assert!(bench.door.check(good, at(0)).is_some());
}

#[test]
fn a_session_ends_unused_after_an_hour_and_used_after_twelve() {
    let mut bench = Bench::new();
    let (_, unused) = bench.session(at(0));
    assert!(bench.door.check(text(&unused), at(60)).is_none());
    let (session, used) = bench.session(at(0));
    for minutes in (30..720).step_by(30) {
        assert!(bench.door.touch(session.id, at(minutes)), "{minutes}");
    }
    assert!(bench.door.check(text(&used), at(719)).is_some());
    assert!(!bench.door.touch(session.id, at(720)));
    assert!(bench.door.check(text(&used), at(720)).is_none());
    assert!(bench.door.list(at(720)).is_empty());
}

#[test]
fn an_ended_session_is_gone_at_once() {
    let mut bench = Bench::new();
    let (session, cookie) = bench.session(at(0));
    assert!(bench.door.end(session.id, at(1)));
    assert!(!bench.door.end(session.id, at(1)));
    assert!(bench.door.check(text(&cookie), at(1)).is_none());
}

#[test]
fn failures_of_one_address_lock_out_it_alone_and_not_for_long() {
    let mut bench = Bench::new();
    let good = bench.token(at(0));
    let wrong = Secret::from("wrong");
    for _ in 0..FAILURES_MAX {
        assert_eq!(bench.exchange(&wrong, at(0)).unwrap_err(), ExchangeFault::Unknown);
    }
    assert_eq!(bench.exchange(&good, at(0)).unwrap_err(), ExchangeFault::TooMany);
    assert_eq!(bench.door.counts.limited, 1);
    let other = bench.door.exchange(&good, (Some(address(2)), None), at(0), &bench.random);
    assert!(other.is_ok(), "another address is not held up");
    let late = bench.token(at(1));
    assert!(bench.exchange(&late, at(1)).is_ok(), "the window is over");
}

#[test]
fn addresses_beyond_the_limit_share_one_count() {
    let mut bench = Bench::new();
    let wrong = Secret::from("wrong");
    let from = |n: u32| (Some(IpAddr::from(Ipv4Addr::from_bits(n))), None);
    let many = u32::try_from(ADDRESSES_MAX).unwrap() + FAILURES_MAX + 5;
    for n in 0..many {
        bench.door.exchange(&wrong, from(n), at(0), &bench.random).unwrap_err();
    }
    assert!(bench.door.failures.len() <= ADDRESSES_MAX + 1);
    assert!(bench.door.counts.limited > 0);
}

#[test]
fn tokens_and_sessions_are_bounded_and_the_oldest_goes() {
    let mut bench = Bench::new();
    let first = bench.token(at(0));
    let rest: Vec<_> = (0..TOKENS_MAX).map(|_| bench.token(at(0))).collect();
    assert!(bench.exchange(&first, at(0)).is_err());
    assert!(bench.exchange(&rest[0], at(0)).is_ok());
    let mut bench = Bench::new();
    let (_, oldest) = bench.session(at(0));
    let (kept, _) = bench.session(at(0));
    assert!(bench.door.touch(kept.id, at(1)));
    for _ in 2..=SESSIONS_MAX {
        bench.session(at(1));
    }
    assert_eq!(bench.door.counts.crowded_out, 1);
    assert_eq!(bench.door.list(at(1)).len(), SESSIONS_MAX);
    assert!(bench.door.check(text(&oldest), at(1)).is_none());
}

#[test]
fn of_what_a_browser_calls_itself_so_much_is_kept() {
    let mut bench = Bench::new();
    let token = bench.token(at(0));
    let name = "ü".repeat(USER_AGENT_CHARS_MAX + 7);
    let from = (Some(address(1)), Some(name.as_str()));
    let (session, _) = bench.door.exchange(&token, from, at(0), &bench.random).unwrap();
    assert_eq!(session.user_agent.unwrap().chars().count(), USER_AGENT_CHARS_MAX);
}

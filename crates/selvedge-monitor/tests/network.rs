//! The sub-command `network`, as root, each test in a machine of its own: network and mounts of
//! the thread that tests are private and go with it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "black-box tests outside a test module, against real processes"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::mount::{MsFlags, mount};
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Does `work` on a machine without any network, with an empty `/run`.
fn apart(work: impl FnOnce() + Send) {
    let none: Option<&str> = None;
    let thread = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        for owner in ["e", "f", "e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7"] {
            fs::create_dir(Path::new("/run").join(owner)).unwrap();
        }
        work();
    };
    std::thread::scope(|scope| scope.spawn(thread).join()).unwrap();
}

/// Does `work` in the namespace pinned at `path`, on a thread of its own.
fn inside<T: Send>(path: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(path).unwrap();
    let thread = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(thread).join()).unwrap()
}

fn begin(request: &Value) -> Child {
    let mut request = request.clone();
    request["version"] = json!(1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-monitor"));
    command.arg("network").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    write!(child.stdin.take().unwrap(), "{request}").unwrap();
    child
}

fn ask(request: &Value) -> Value {
    let done = begin(request).wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done.status.success(), answer["ok"] == true, "{answer}");
    answer
}

fn done(request: &Value) -> Value {
    let answer = ask(request);
    assert_eq!(answer["ok"], true, "{request}: {answer}");
    answer
}

fn refused(request: &Value, words: &str) {
    let answer = ask(request);
    assert!(answer["error"].as_str().is_some_and(|said| said.contains(words)), "{answer}");
}

fn bridge(owner: &str, candidates: &[(&str, &str)]) -> Value {
    let candidates: Vec<Value> = candidates
        .iter()
        .map(|(bridge, address)| json!({"bridge": bridge, "address": address}))
        .collect();
    json!({"op": "bridge", "owner": owner, "candidates": candidates})
}

fn attach(name: &str, last: u8) -> Value {
    json!({
        "op": "attach", "owner": "/run/e", "bridge": "selvedge1", "netns": netns(name),
        "host_interface": format!("veth{name}"), "address": format!("172.29.7.{last}/24"),
        "gateway": "172.29.7.1",
    })
}

fn netns(name: &str) -> String {
    format!("/run/selvedge/netns/{name}")
}

/// Interfaces and their IPv4 addresses; only names of those that are up.
fn addresses() -> Vec<(String, Option<Ipv4Addr>)> {
    let up = getifaddrs().unwrap().filter(|one| one.flags.contains(InterfaceFlags::IFF_UP));
    let mut all: Vec<_> = up
        .map(|one| {
            let ip = one
                .address
                .and_then(|it| it.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip));
            (one.interface_name, ip)
        })
        .filter(|(_, ip)| ip.is_some())
        .collect();
    all.sort();
    all.dedup();
    all
}

fn exists(interface: &str) -> bool {
    nix::net::if_::if_nametoindex(interface).is_ok()
}

/// Says a word from here to `address`.
fn greet(address: std::net::SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.write_all(b"hello").unwrap();
}

fn heard(listener: &TcpListener) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn containers_reach_each_other_and_the_host_over_the_bridge() {
    apart(|| {
        done(&bridge("/run/e", &[("selvedge1", "172.29.7.1/24")]));
        done(&attach("a", 2));
        done(&attach("b", 3));
        let loopback = ("lo".to_owned(), Some(Ipv4Addr::LOCALHOST));
        let own = ("eth0".to_owned(), Some(Ipv4Addr::new(172, 29, 7, 2)));
        assert_eq!(inside(&netns("a"), addresses), [own, loopback]);
        let host = TcpListener::bind("172.29.7.1:0").unwrap();
        let at = host.local_addr().unwrap();
        inside(&netns("a"), || greet(at));
        assert_eq!(heard(&host), "hello");
        let neighbour = inside(&netns("b"), || TcpListener::bind("172.29.7.3:0").unwrap());
        let at = neighbour.local_addr().unwrap();
        inside(&netns("a"), || greet(at));
        assert_eq!(heard(&neighbour), "hello");
        greet(at);
        assert_eq!(heard(&neighbour), "hello");
    });
}

#[test]
fn every_operation_may_be_repeated_and_makes_whole_what_is_half_there() {
    apart(|| {
        let make = bridge("/run/e", &[("selvedge1", "172.29.7.1/24")]);
        let first = done(&make);
        assert_eq!(first, done(&make));
        done(&attach("a", 2));
        let number = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        let before = number("vetha");
        done(&attach("a", 2));
        assert_eq!(number("vetha"), before, "what is whole is left alone");
        // Another address is another place: nothing of the earlier one stays.
        done(&attach("a", 9));
        let inner = inside(&netns("a"), addresses);
        assert_eq!(inner[0].1, Some(Ipv4Addr::new(172, 29, 7, 9)), "{inner:?}");
        assert_eq!(inner.len(), 2, "{inner:?}");
        let detach = json!({"op": "detach", "netns": netns("a"), "host_interface": "vetha"});
        // The namespace of a killed container, without its wire.
        done(&json!({"op": "detach", "netns": "/run/selvedge/netns/x", "host_interface": "vetha"}));
        assert!(Path::new(&netns("a")).exists() && !exists("vetha"));
        done(&attach("a", 9));
        assert_eq!(inside(&netns("a"), addresses).len(), 2);
        done(&detach);
        assert!(!Path::new(&netns("a")).exists() && !exists("vetha"));
        done(&detach);
        done(&attach("a", 2));
        done(&detach);
    });
}

#[test]
fn a_private_namespace_has_only_a_loopback() {
    apart(|| {
        let private = json!({"op": "private", "netns": netns("p")});
        done(&private);
        done(&private);
        let inner = inside(&netns("p"), addresses);
        assert_eq!(inner, [("lo".to_owned(), Some(Ipv4Addr::LOCALHOST))]);
        done(&json!({"op": "detach", "netns": netns("p")}));
        assert!(!Path::new(&netns("p")).exists());
    });
}

#[test]
fn a_bridge_in_use_stays_and_an_unused_one_goes_when_its_owner_says_so() {
    apart(|| {
        let release = json!({"op": "release", "owner": "/run/e", "bridge": "selvedge1"});
        assert_eq!(done(&release)["in_use"], false);
        done(&bridge("/run/e", &[("selvedge1", "172.29.7.1/24")]));
        done(&attach("a", 2));
        assert_eq!(done(&release)["in_use"], true);
        assert!(exists("selvedge1"));
        done(&json!({"op": "detach", "netns": netns("a"), "host_interface": "vetha"}));
        refused(
            &json!({"op": "release", "owner": "/run/f", "bridge": "selvedge1"}),
            "somebody else",
        );
        assert_eq!(done(&release)["in_use"], false);
        assert!(!exists("selvedge1"));
        done(&attach("a", 2));
        assert!(exists("selvedge1"), "who is attached gets a bridge");
        let mut foreign = attach("b", 3);
        foreign["owner"] = json!("/run/f");
        refused(&foreign, "selvedge1 belongs to /run/e");
    });
}

#[test]
fn an_unused_bridge_of_a_folder_that_is_gone_is_swept_away() {
    apart(|| {
        done(&bridge("/run/e", &[("selvedge1", "172.29.7.1/24")]));
        done(&attach("a", 2));
        fs::remove_dir("/run/e").unwrap();
        let wanted = bridge("/run/f", &[("selvedge2", "172.29.7.1/24")]);
        refused(&wanted, "used by selvedge1");
        done(&json!({"op": "detach", "netns": netns("a"), "host_interface": "vetha"}));
        done(&wanted);
        assert!(!exists("selvedge1") && exists("selvedge2"));
    });
}

#[test]
fn what_others_use_is_passed_over_and_named() {
    apart(|| {
        done(&bridge("/run/e", &[("selvedge1", "172.29.7.1/24")]));
        refused(
            &bridge("/run/f", &[("selvedge1", "172.29.8.1/24")]),
            "selvedge1 belongs to /run/e",
        );
        refused(&bridge("/run/f", &[("selvedge2", "172.29.0.1/16")]), "used by selvedge1");
        refused(&bridge("/run/f", &[("lo", "172.29.8.1/24")]), "lo is there and no bridge");
        refused(&bridge("/run/f", &[]), "no candidates");
        let both = [("selvedge1", "172.29.7.1/24"), ("selvedge2", "172.29.8.1/24")];
        assert_eq!(done(&bridge("/run/f", &both))["bridge"], "selvedge2");
        // Also when the first one has become free: one engine, one bridge.
        done(&json!({"op": "release", "owner": "/run/e", "bridge": "selvedge1"}));
        assert_eq!(done(&bridge("/run/f", &both))["bridge"], "selvedge2");
    });
}

#[test]
fn owners_that_look_at_the_same_time_find_different_networks() {
    apart(|| {
        let names: Vec<String> = (0..8).map(|number| format!("selvedge{number}")).collect();
        let nets: Vec<String> = (0..8).map(|number| format!("172.29.{number}.1/24")).collect();
        let all = names.iter().map(String::as_str).zip(nets.iter().map(String::as_str));
        let all: Vec<(&str, &str)> = all.collect();
        let asked: Vec<Child> =
            (0..8).map(|owner| begin(&bridge(&format!("/run/e{owner}"), &all))).collect();
        let mut found: Vec<String> = asked
            .into_iter()
            .map(|child| {
                let text = child.wait_with_output().unwrap().stdout;
                let answer: Value = serde_json::from_slice(&text).unwrap();
                answer["address"].as_str().unwrap().to_owned()
            })
            .collect();
        found.sort();
        assert_eq!(found, nets);
    });
}

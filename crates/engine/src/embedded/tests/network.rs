//! The bridge, with real containers on it.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command};

use nix::net::if_::if_nametoindex;

use super::*;
use crate::embedded::network::{host_interface, namespace};

/// Where a killed process finds the engine's folder; see [`a_churn_of_modules_leaves_nothing`].
const CHURN: &str = "SELVEDGE_TEST_CHURN";

fn on_bridge(name: &str, words: &[&str]) -> ModuleSpec {
    let options = json!({
        "Cmd": words,
        "NetworkingConfig": {"EndpointsConfig": {"azure-iot-edge": {
            "Aliases": [format!("{name}-alias")],
        }}},
    });
    ModuleSpec {
        create_options: options.to_string(),
        aliases: vec![format!("{name}-second")],
        extra_hosts: [("edge1".to_owned(), "host-gateway".to_owned())].into(),
        ..spec(name, words, json!({}))
    }
}

fn run(engine: &EmbeddedEngine, spec: &ModuleSpec) {
    engine.create(spec).unwrap();
    engine.start(&spec.name).unwrap();
}

/// The first line that a module says.
fn says(engine: &EmbeddedEngine, name: &str) -> String {
    for _ in 0..1000 {
        if let Some(line) = lines(engine, name).into_iter().next() {
            return line;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} says nothing");
}

fn address(engine: &EmbeddedEngine, name: &str) -> Ipv4Addr {
    engine.network.leases().unwrap().unwrap().address(name).unwrap()
}

/// What a running module sees as its hosts file.
fn hosts_inside(engine: &EmbeddedEngine, name: &str) -> String {
    let pid = engine.observe(name).unwrap().pid.unwrap();
    fs::read_to_string(format!("/proc/{pid}/root/etc/hosts")).unwrap()
}

#[test]
fn modules_reach_each_other_by_name_and_keep_their_addresses() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    // A port below 1024, as an ordinary user.
    run(&engine, &on_bridge("server", &["listen", "80"]));
    assert_eq!(says(&engine, "server"), "listening");
    let (server, gateway) = (address(&engine, "server"), engine.info().unwrap().gateway.unwrap());
    assert_eq!((gateway.octets()[3], server.octets()[3]), (1, 2));
    assert!(!hosts_inside(&engine, "server").contains("client"));
    run(&engine, &on_bridge("client", &["dial", "server", "80"]));
    assert_eq!(end(&engine, "client").exit_code, Some(0), "{:?}", lines(&engine, "client"));
    let client = address(&engine, "client");
    assert_eq!(lines(&engine, "client"), [format!("hello {client}")]);
    // The file that is bound into the running module was rewritten in place.
    let seen = hosts_inside(&engine, "server");
    let mine = format!("{server}\tserver server-second server-alias\n");
    let other = format!("{client}\tclient client-second client-alias\n");
    assert!(seen.contains(&mine) && seen.contains(&other), "{seen}");
    assert!(seen.contains(&format!("{gateway}\tedge1\n")), "{seen}");

    engine.stop("server", Duration::ZERO).unwrap();
    engine.start("server").unwrap();
    run(&engine, &on_bridge("by-alias", &["dial", "server-alias", "80"]));
    assert_eq!(end(&engine, "by-alias").exit_code, Some(0));

    // Another engine on the same folder, which adopts; another container of the same name.
    drop(engine);
    let engine = open(folder.path());
    engine.start("client").unwrap();
    assert_eq!(end(&engine, "client").exit_code, Some(0));
    engine.remove("client").unwrap();
    assert!(!hosts_inside(&engine, "server").contains("client"));
    engine.create(&on_bridge("client", &["dial", "server", "80"])).unwrap();
    assert_eq!((address(&engine, "server"), address(&engine, "client")), (server, client));
}

#[test]
fn a_module_finds_the_machine_by_its_name() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    let gateway = engine.info().unwrap().gateway.unwrap();
    let listener = TcpListener::bind((gateway, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    run(&engine, &on_bridge("m", &["dial", "edge1", &port]));
    let (mut stream, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), address(&engine, "m"));
    stream.write_all(b"welcome\n").unwrap();
    drop(stream);
    assert_eq!(end(&engine, "m").exit_code, Some(0));
    assert_eq!(lines(&engine, "m"), ["welcome"]);
    // A module on the host's network finds it there, too.
    let hosts = [("edge1".to_owned(), "host-gateway".to_owned())].into();
    let on_host = spec("h", &["cat", "/etc/hosts"], json!({}));
    run(&engine, &ModuleSpec { extra_hosts: hosts, ..on_host });
    assert_eq!(end(&engine, "h").exit_code, Some(0));
    assert!(lines(&engine, "h").contains(&format!("{gateway}\tedge1")));
}

#[test]
fn a_running_module_is_joined_again_when_somebody_took_the_bridge() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    run(&engine, &on_bridge("server", &["listen", "80"]));
    assert_eq!(says(&engine, "server"), "listening");
    let bridge = engine.network.leases().unwrap().unwrap().bridge;
    // The operation that deletes a wire deletes any interface.
    let netns = folder.path().join("none");
    let request = json!({"op": "detach", "netns": netns, "host_interface": bridge});
    engine.network.ask(request).unwrap();
    assert!(if_nametoindex(bridge.as_str()).is_err());
    let engine = open(folder.path());
    run(&engine, &on_bridge("client", &["dial", "server", "80"]));
    assert_eq!(end(&engine, "client").exit_code, Some(0), "{:?}", lines(&engine, "client"));
}

#[test]
fn each_mode_has_the_interfaces_it_promises() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    run(&engine, &spec("apart", &["interfaces"], json!({"NetworkMode": "none"})));
    run(&engine, &on_bridge("joined", &["interfaces"]));
    assert_eq!(end(&engine, "apart").exit_code, Some(0));
    assert_eq!(end(&engine, "joined").exit_code, Some(0));
    assert_eq!(lines(&engine, "apart"), ["lo 127.0.0.1"]);
    let own = format!("eth0 {}", address(&engine, "joined"));
    assert_eq!(lines(&engine, "joined"), ["lo 127.0.0.1", &own]);
}

#[test]
fn what_ends_leaves_nothing_and_the_bridge_goes_with_the_last() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    run(&engine, &on_bridge("m", &["sleep"]));
    let bridge = engine.network.leases().unwrap().unwrap().bridge;
    let id = container::id(&engine.settings.root.join("containers/m"));
    let there = || {
        let pinned = namespace(&id).exists();
        assert_eq!(pinned, if_nametoindex(host_interface(&id).as_str()).is_ok());
        assert_eq!(pinned, mount::is_mounted(&folder.container("m").join("rootfs")));
        (pinned, if_nametoindex(bridge.as_str()).is_ok())
    };
    assert_eq!(there(), (true, true));
    engine.leave();
    assert_eq!(there(), (true, true), "a module runs on it");
    engine.stop("m", Duration::ZERO).unwrap();
    assert_eq!(there(), (false, true));
    // Another engine has begun meanwhile: it may count on the bridge.
    let next = open(folder.path());
    engine.leave();
    assert_eq!(there(), (false, true));
    drop(next);
    engine.leave();
    assert_eq!(there(), (false, false));
    engine.start("m").unwrap();
    assert_eq!(there(), (true, true));
    // Its monitor is killed: the engine buries what the monitor would have.
    let pid = engine.observe("m").unwrap().pid.unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
    let parent = nix::unistd::Pid::from_raw(parent.parse().unwrap());
    nix::sys::signal::kill(parent, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(end(&engine, "m").status, ModuleStatus::Dead);
    assert_eq!(there(), (false, true));
}

#[test]
fn a_damaged_file_of_leases_is_named_and_other_networks_go_on() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    engine.create(&on_bridge("m", &["sleep"])).unwrap();
    let path = folder.path().join("e/network/leases.json");
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    let check = |said: String| {
        assert!(said.contains(path.to_str().unwrap()) && said.contains("damaged"), "{said}");
        assert!(said.contains("remove the file"), "{said}");
    };
    check(engine.start("m").unwrap_err().to_string());
    check(engine.create(&on_bridge("n", &["sleep"])).unwrap_err().to_string());
    let info = engine.info().unwrap();
    check(info.warnings.last().unwrap().clone());
    assert_eq!(info.gateway, None);
    run(&engine, &spec("h", &["exit", "0"], json!({})));
    assert_eq!(end(&engine, "h").exit_code, Some(0));
    fs::write(&path, &good).unwrap();
    engine.start("m").unwrap();
}

#[test]
fn engines_on_one_machine_keep_apart_and_the_operator_may_choose() {
    let (one, first) = bench();
    let (_two, second) = bench();
    let networks = [&first, &second].map(|engine| engine.network.ensure().unwrap());
    assert_ne!(networks[0].bridge, networks[1].bridge);
    assert_ne!(networks[0].network, networks[1].network);
    import(one.path(), &first);
    run(&first, &on_bridge("m", &["sleep"]));
    // Its own, which nobody else has: the other engine's would be refused.
    let wanted: Subnet = "10.213.117.0/29".parse().unwrap();
    let reopened = |network: Subnet| {
        let settings = EmbeddedSettings { network: Some(network), ..first.settings.clone() };
        EmbeddedEngine::open(settings).unwrap()
    };
    let said = reopened(wanted).start("m").map(|()| reopened(wanted).info().unwrap()).unwrap();
    let words = said.warnings.last().unwrap();
    assert!(words.contains("stop them before it becomes 10.213.117.0/29"), "{words}");
    first.stop("m", Duration::ZERO).unwrap();
    let taken = reopened(networks[1].network).info().unwrap();
    let words = taken.warnings.last().unwrap();
    let other = format!("is used by {}", networks[1].bridge);
    assert!(words.contains(&other) && words.contains("[selvedge] network"), "{words}");
    let chosen = reopened(wanted);
    assert_eq!(chosen.info().unwrap().gateway, Some(Ipv4Addr::new(10, 213, 117, 1)));
    // What was made before gets a new address with its next start.
    chosen.start("m").unwrap();
    assert_eq!(address(&chosen, "m"), Ipv4Addr::new(10, 213, 117, 2));
    let pid = chosen.observe("m").unwrap().pid.unwrap();
    let table = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap();
    assert!(table.contains("|-- 10.213.117.2\n") && !table.contains("172.29"), "{table}");
    // Five addresses, all in use.
    for number in 0..4 {
        chosen.create(&on_bridge(&format!("n{number}"), &["sleep"])).unwrap();
    }
    let said = chosen.create(&on_bridge("n4", &["sleep"])).unwrap_err().to_string();
    assert!(said.contains("no address is free in 10.213.117.0/29"), "{said}");
}

/// Makes, starts, stops and removes modules; for ever in a process that is to be killed.
#[test]
fn a_churn_of_modules_leaves_nothing() {
    let own = std::env::var_os(CHURN).map(PathBuf::from);
    let (_folder, engine) = if let Some(folder) = &own {
        (None, open(folder))
    } else {
        let (folder, engine) = bench();
        import(folder.path(), &engine);
        (Some(folder), engine)
    };
    for round in 0_u32.. {
        let name = format!("m{}", round % 5);
        engine.remove(&name).unwrap();
        run(&engine, &on_bridge(&name, &["sleep"]));
        if own.is_none() && round == 2 {
            break;
        }
    }
    for name in engine.names().unwrap() {
        engine.remove(&name).unwrap();
    }
    engine.leave();
    let leases = engine.network.leases().unwrap().unwrap();
    assert!(if_nametoindex(leases.bridge.as_str()).is_err());
}

/// A process of its own that churns in `folder`.
fn churn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::tests::network::a_churn_of_modules_leaves_nothing"])
        .env(CHURN, folder)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until folders of containers were made or removed so often.
fn wait_for_changes(folder: &Folder, count: u32) {
    let look = || fs::metadata(folder.path().join("e/containers")).unwrap().modified().unwrap();
    let (mut seen, mut changes) = (look(), 0);
    for _ in 0..60_000 {
        std::thread::sleep(Duration::from_millis(1));
        let now = look();
        changes += u32::from(now != seen);
        seen = now;
        if changes >= count {
            return;
        }
    }
    panic!("the churn does not move");
}

#[test]
fn an_engine_that_is_killed_at_any_moment_gives_no_address_twice() {
    let (folder, engine) = bench();
    import(folder.path(), &engine);
    drop(engine);
    let mut known: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
    for kill in 0..10 {
        let mut helper = churn(folder.path());
        // Every other one when a second module is there (the first was removed and made again),
        // however slow the machine is; each a little later than the last.
        wait_for_changes(&folder, 1 + 2 * (kill % 2));
        std::thread::sleep(Duration::from_millis(7 * u64::from(kill)));
        helper.kill().unwrap();
        helper.wait().unwrap();
        let engine = open(folder.path());
        let mut addresses = BTreeSet::new();
        for state in engine.list().unwrap() {
            let own = address(&engine, &state.name);
            assert!(addresses.insert(own), "{} has an address twice", state.name);
            assert_eq!(*known.entry(state.name.clone()).or_insert(own), own, "{}", state.name);
            if let Some(pid) = state.pid {
                let table = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap();
                assert!(table.contains(&format!("|-- {own}\n")), "{table}");
            }
        }
    }
    assert!(known.len() > 1, "too few modules were made to say anything");
}

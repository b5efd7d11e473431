//! The sub-command `network`: one change of the machine's network, asked for in one JSON object
//! on standard input and answered in one on standard output.
//!
//! | `op` | fields | what is there afterwards |
//! |---|---|---|
//! | `bridge` | `owner`, `candidates` of `bridge` and `address` | the first candidate that is free or the owner's, up |
//! | `attach` | `owner`, `bridge`, `netns`, `host_interface`, `address`, `gateway` | the owner's bridge, a pinned namespace with `lo`, `eth0` on the bridge, a default route |
//! | `private` | `netns` | a pinned namespace with `lo` only |
//! | `detach` | `netns`, `host_interface` if it has one | neither |
//! | `release` | `owner`, `bridge` | no such bridge, unless something is attached to it: `in_use` |
//! | `tidy` | | no folder of the machine for locks and namespaces, unless somebody has one there |
//!
//! Every request has `"version": 1`, says `{"ok": true, …}` or `{"ok": false, "error": "…"}`, and
//! may be repeated: what is there already is left alone, what is half there is made whole.
//! An unused bridge of an owner whose folder is gone is swept away by the next `bridge`.
//! Requests of all engines of a machine wait for each other, so two engines that look for a free
//! network at the same time find different ones.

mod link;
mod namespace;
mod survey;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::net::if_::if_nameindex;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::start::{one_thread, say};
use crate::{clock, files};
use link::Route;

/// Longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// Held while the network is changed.
const LOCK: &str = "/run/selvedge/network.lock";
/// How long others may hold it.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(20);
/// How often it is tried.
const LOCK_TRY_EVERY: Duration = Duration::from_millis(5);
/// Longest name of an interface, in bytes; the kernel's.
const INTERFACE_BYTES_MAX: usize = 15;
/// Longest name of an owner, in bytes; the kernel keeps one less than 256.
const OWNER_BYTES_MAX: usize = 255;
/// How every engine's bridges are called.
const BRIDGE_PREFIX: &str = "selvedge";
/// What a container calls its interface.
const INSIDE: &str = "eth0";

// Unknown fields are refused here and below: the engine that asks and this program, which is root,
// are of one version, and half a wish about the machine's network is none.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Bridge { owner: Owner, candidates: Vec<Candidate> },
    Attach(Attachment),
    Private { netns: PathBuf },
    Detach { netns: PathBuf, host_interface: Option<Interface> },
    Release { owner: Owner, bridge: Interface },
    Tidy {},
}

/// A bridge that could be made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Candidate {
    bridge: Interface,
    /// The bridge's own, as `172.29.7.1/24`.
    address: Address,
}

/// A container's place on a bridge.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attachment {
    owner: Owner,
    bridge: Interface,
    netns: PathBuf,
    host_interface: Interface,
    address: Address,
    /// The bridge's address.
    gateway: Ipv4Addr,
}

/// The name of an interface that the kernel takes and that is nobody's path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interface(String);

/// Who a bridge belongs to: the folder of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner(String);

/// An IPv4 address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    ip: Ipv4Addr,
    prefix: u8,
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let fits = (1..=INTERFACE_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(good) && !text.starts_with('.') {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("{text:?} is no name of an interface"))
    }
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (1..=OWNER_BYTES_MAX).contains(&text.len());
        if fits && !text.contains(char::is_control) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("an owner has 1 to {OWNER_BYTES_MAX} bytes, not {}", text.len()))
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(ip, prefix)| {
            let address = Self { ip: ip.parse().ok()?, prefix: prefix.parse().ok()? };
            (8..=30).contains(&address.prefix).then_some(address)
        });
        parsed.ok_or_else(|| format!("{text:?} is not an address as 172.29.7.1/24"))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl Address {
    /// First and last address of its network.
    fn range(self) -> (u32, u32) {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        let base = u32::from(self.ip) & mask;
        (base, base | !mask)
    }
}

macro_rules! from_text {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
from_text!(Interface, Owner, Address);

/// Reads a request, does it, and says how it went.
pub(crate) fn run() -> ExitCode {
    let (answer, code) = match read().and_then(|request| serve(&request)) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (json!({"ok": false, "error": error}), ExitCode::FAILURE),
    };
    say(&answer.to_string());
    code
}

fn read() -> Result<Request, String> {
    let mut text = String::new();
    let input = std::io::stdin().lock();
    input
        .take(REQUEST_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| format!("the request cannot be read: {error}"))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Request, String> {
    let wrong = |error: serde_json::Error| format!("the request is not understood: {error}");
    let mut value: Value = serde_json::from_str(text).map_err(wrong)?;
    let version = value.as_object_mut().and_then(|fields| fields.remove("version"));
    if version != Some(json!(files::VERSION)) {
        return Err(format!("the request is not of version {}", files::VERSION));
    }
    let request: Request = serde_json::from_value(value).map_err(wrong)?;
    let netns = match &request {
        Request::Attach(Attachment { netns, .. })
        | Request::Private { netns }
        | Request::Detach { netns, .. } => netns,
        Request::Bridge { .. } | Request::Release { .. } | Request::Tidy {} => return Ok(request),
    };
    if netns.is_absolute() {
        return Ok(request);
    }
    Err(format!("{} is not an absolute path", netns.display()))
}

fn serve(request: &Request) -> Result<Value, String> {
    assert!(one_thread(), "the monitor has one thread");
    let _turn = turn()?;
    match request {
        Request::Bridge { owner, candidates } => bridge(owner, candidates),
        Request::Attach(attachment) => attach(attachment),
        Request::Private { netns } => {
            let namespace = namespace::pin(netns)?;
            namespace::inside(&namespace, || Route::open()?.set_up("lo"))?;
            Ok(json!({"ok": true}))
        }
        Request::Detach { netns, host_interface } => {
            let host_interface = host_interface.as_ref().map(|name| name.0.as_str());
            detach_now(netns, host_interface)?;
            Ok(json!({"ok": true}))
        }
        Request::Release { owner, bridge } => release(owner, bridge),
        Request::Tidy {} => {
            tidy(Path::new(LOCK));
            Ok(json!({"ok": true}))
        }
    }
}

/// One change at a time on the whole machine.
fn turn() -> Result<Flock<File>, String> {
    let deadline = clock::deadline(LOCK_WAIT_MAX);
    loop {
        let tried = try_turn(Path::new(LOCK)).map_err(|error| format!("{LOCK}: {error}"))?;
        match tried {
            Some(held) => return Ok(held),
            None if clock::until(deadline).is_zero() => {
                return Err(format!("{LOCK}: another change of the network does not end"));
            }
            None => std::thread::sleep(LOCK_TRY_EVERY),
        }
    }
}

fn try_turn(path: &Path) -> std::io::Result<Option<Flock<File>>> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let file = match OpenOptions::new().create(true).truncate(false).write(true).open(path) {
        // The folder went in between.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let Ok(held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
    // Whoever tidied up took the file away; a lock on that one keeps nobody out.
    let own = held.metadata()?;
    let is_there =
        fs::metadata(path).is_ok_and(|it| (it.dev(), it.ino()) == (own.dev(), own.ino()));
    Ok(is_there.then_some(held))
}

/// Takes away what is the whole machine's, if nobody has a namespace there: the folder with the
/// lock, which the caller holds.
fn tidy(lock: &Path) {
    let gone = |removed: std::io::Result<()>| match removed {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(()) => true,
    };
    // Somebody else's container, or a folder that somebody looks into, keeps it all.
    if gone(fs::remove_dir(lock.with_file_name("netns"))) && gone(fs::remove_file(lock)) {
        fs::remove_dir(lock.parent().unwrap_or(lock)).ok();
    }
}

/// Takes away a container's place; nothing there is fine. For a monitor whose container ended.
pub(crate) fn detach(netns: &Path, host_interface: Option<&str>) -> Result<(), String> {
    let _turn = turn()?;
    detach_now(netns, host_interface)
}

fn detach_now(netns: &Path, host_interface: Option<&str>) -> Result<(), String> {
    // The interface first: a namespace that something still uses would keep it alive.
    if let Some(name) = host_interface {
        Route::open()?.delete(name)?;
    }
    namespace::unpin(netns)
}

fn bridge(owner: &Owner, candidates: &[Candidate]) -> Result<Value, String> {
    let mut route = Route::open()?;
    sweep(&mut route)?;
    let mut ordered = Vec::new();
    for candidate in candidates {
        let found = route.found(&candidate.bridge.0)?;
        let is_ours = found.is_some_and(|found| found.owner.as_ref() == Some(owner));
        // One that was made before a crash comes first, or it would stay for ever.
        ordered.insert(if is_ours { 0 } else { ordered.len() }, candidate);
    }
    let mut refusals = Vec::new();
    for Candidate { bridge: Interface(name), address } in ordered {
        match route.ensure_bridge(name, owner, *address)? {
            None => return Ok(json!({"ok": true, "bridge": name, "address": address.to_string()})),
            Some(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() {
        return Err("there are no candidates".to_owned());
    }
    refusals.dedup();
    Err(refusals.join("; "))
}

/// Deletes unused bridges of engines whose folders are gone: nobody else ever would.
fn sweep(route: &mut Route) -> Result<(), String> {
    let all = if_nameindex().map_err(|error| format!("reading the interfaces: {error}"))?;
    let names = all.into_iter().filter_map(|it| it.name().to_str().ok());
    for name in names.filter(|name| name.starts_with(BRIDGE_PREFIX)) {
        let Some(found) = route.found(name)? else { continue };
        let is_orphan = found.owner.as_ref().is_some_and(|Owner(folder)| {
            let folder = Path::new(folder);
            folder.is_absolute() && folder.try_exists().is_ok_and(|exists| !exists)
        });
        if is_orphan && !route.has_ports(found.index)? {
            route.delete(name)?;
        }
    }
    Ok(())
}

fn attach(wanted: &Attachment) -> Result<Value, String> {
    let Attachment { owner, bridge, netns, host_interface, address, gateway } = wanted;
    let (Interface(bridge), Interface(host_interface)) = (bridge, host_interface);
    let mut route = Route::open()?;
    // One that somebody took away is made again.
    let bridge_address = Address { ip: *gateway, prefix: address.prefix };
    if let Some(refusal) = route.ensure_bridge(bridge, owner, bridge_address)? {
        return Err(refusal);
    }
    let bridge = route.index(bridge)?.ok_or_else(|| format!("there is no bridge {bridge}"))?;
    let namespace = namespace::pin(netns)?;
    let on_bridge = route.controller(host_interface)? == Some(bridge);
    let whole = on_bridge
        && namespace::inside(&namespace, || {
            Ok(survey::has_address(INSIDE, *address)? && survey::has_default(*gateway)?)
        })?;
    if whole {
        return Ok(json!({"ok": true}));
    }
    // What an earlier attempt left is not trusted.
    route.delete(host_interface)?;
    namespace::inside(&namespace, || Route::open()?.delete(INSIDE))?;
    route.add_pair(host_interface, bridge, &namespace, address.ip)?;
    namespace::inside(&namespace, || {
        let mut inner = Route::open()?;
        inner.set_up("lo")?;
        inner.add_address(INSIDE, *address)?;
        inner.set_up(INSIDE)?;
        inner.add_default(INSIDE, *gateway)
    })?;
    Ok(json!({"ok": true}))
}

fn release(owner: &Owner, bridge: &Interface) -> Result<Value, String> {
    let mut route = Route::open()?;
    let in_use = match route.found(&bridge.0)? {
        Some(found) if found.owner.as_ref() != Some(owner) => {
            return Err(format!("{} belongs to somebody else", bridge.0));
        }
        Some(found) if route.has_ports(found.index)? => true,
        _ => {
            route.delete(&bridge.0)?;
            false
        }
    };
    Ok(json!({"ok": true, "in_use": in_use}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_whole_or_refused_with_the_reason() {
        let check = |text: &str, expected: &str| {
            let said = parse(text).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        };
        let good = r#"{"version":1,"op":"detach","netns":"/run/n","host_interface":"vethx"}"#;
        assert!(matches!(parse(good), Ok(Request::Detach { .. })));
        check(&good.replace("\"version\":1", "\"version\":2"), "version 1");
        check(&good.replace("detach", "dance"), "unknown variant `dance`");
        check(&good.replace("netns", "namespace"), "unknown field `namespace`");
        check(&good.replace("/run/n", "run/n"), "absolute");
        check(&good.replace("vethx", "../x"), "no name of an interface");
        check(&good.replace("vethx", "sixteen-bytes-16"), "no name of an interface");
        check("[]", "version 1");
        check("{", "not understood");
        let bridge = r#"{"version":1,"op":"bridge","owner":"/e",
            "candidates":[{"bridge":"b","address":"172.29.7.1/24"}]}"#;
        assert!(matches!(parse(bridge), Ok(Request::Bridge { .. })));
        check(&bridge.replace("/24", "/31"), "is not an address");
        check(&bridge.replace("172.29.7.1/24", "172.29.7.1"), "is not an address");
        check(&bridge.replace("/e", ""), "an owner has 1 to 255 bytes");
    }

    #[test]
    fn a_range_is_what_the_prefix_spans() {
        let check = |text: &str, first: [u8; 4], last: [u8; 4]| {
            let (low, high) = text.parse::<Address>().unwrap().range();
            assert_eq!((low.to_be_bytes(), high.to_be_bytes()), (first, last), "{text}");
        };
        check("172.29.7.1/24", [172, 29, 7, 0], [172, 29, 7, 255]);
        check("10.1.2.3/8", [10, 0, 0, 0], [10, 255, 255, 255]);
        check("10.1.2.3/30", [10, 1, 2, 0], [10, 1, 2, 3]);
    }

    #[test]
    fn the_folder_of_the_machine_goes_with_its_last_namespace_and_a_lock_on_it_is_none() {
        let root = tempfile::tempdir().unwrap();
        let lock = root.path().join("selvedge/network.lock");
        let held = try_turn(&lock).unwrap().expect("nobody else has it");
        assert!(try_turn(&lock).unwrap().is_none(), "one change at a time");
        let pinned = lock.with_file_name("netns").join("one");
        fs::create_dir_all(&pinned).unwrap();
        tidy(&lock);
        assert!(pinned.exists() && lock.exists(), "somebody has a namespace");
        fs::remove_dir(&pinned).unwrap();
        tidy(&lock);
        assert!(!root.path().join("selvedge").exists());
        // Whoever comes now makes a new file, whose lock does not wait for the old one's.
        let again = try_turn(&lock).unwrap().expect("the file is a new one");
        drop((held, again));
    }

    #[test]
    fn names_may_be_as_long_as_the_kernel_allows() {
        let check = |good: usize, parse: &dyn Fn(&str) -> bool| {
            assert!(parse(&"x".repeat(good)) && !parse(&"x".repeat(good + 1)), "{good}");
        };
        check(INTERFACE_BYTES_MAX, &|text| text.parse::<Interface>().is_ok());
        check(OWNER_BYTES_MAX, &|text| text.parse::<Owner>().is_ok());
    }
}

//! `/etc/hosts` of a module: where names of this device lead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::create_options::{NetworkMode, host_name_is_good};

/// Docker's word for the machine itself, in place of an address.
pub const HOST_GATEWAY: &str = "host-gateway";

/// A module's place in the network of this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Which network.
    pub mode: NetworkMode,
    /// What the module sees as the machine's name.
    pub hostname: String,
    /// What others call it: its own name first, then its aliases.
    pub names: Vec<String>,
    /// Further entries, name to address or [`HOST_GATEWAY`].
    pub extra_hosts: BTreeMap<String, String>,
}

/// The modules on the bridge, by address.
pub type Peers<'a> = BTreeMap<Ipv4Addr, &'a Place>;

/// The text of a module's hosts file.
///
/// A name that the module's own entries define is theirs: no other module can take the
/// machine's name away by calling itself so. `gateway` is the bridge's address, absent where
/// there is no bridge; `own` is the module's on it.
pub fn text(
    place: &Place,
    own: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
    peers: &Peers<'_>,
) -> String {
    let mut lines = String::from(
        "# Written by Selvedge; changes are lost.\n\
         127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    );
    let mut settled: BTreeSet<String> = BTreeSet::from(["localhost".to_owned()]);
    for (name, address) in &place.extra_hosts {
        let address = match (address.as_str(), place.mode) {
            (HOST_GATEWAY, NetworkMode::None) => continue,
            (HOST_GATEWAY, NetworkMode::Host) => gateway.unwrap_or(Ipv4Addr::LOCALHOST).to_string(),
            (HOST_GATEWAY, NetworkMode::Bridge) => match gateway {
                Some(gateway) => gateway.to_string(),
                None => continue,
            },
            (address, _) => address.to_owned(),
        };
        settled.insert(name.to_ascii_lowercase());
        lines.extend([&address, "\t", name, "\n"]);
    }
    if place.mode != NetworkMode::Bridge {
        return lines;
    }
    let own = own.map(|address| (address, place));
    let others = peers.iter().map(|(address, peer)| (*address, *peer));
    let others = others.filter(|(address, _)| own.is_none_or(|(own, _)| own != *address));
    for (address, peer) in own.into_iter().chain(others) {
        let mut words: Vec<&str> = Vec::new();
        for name in std::iter::once(&peer.hostname).chain(&peer.names) {
            let is_free = !settled.contains(&name.to_ascii_lowercase());
            if is_free && host_name_is_good(name) && !words.contains(&name.as_str()) {
                words.push(name);
            }
        }
        if !words.is_empty() {
            lines.extend([&address.to_string(), "\t", &words.join(" "), "\n"]);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(mode: NetworkMode, name: &str, aliases: &[&str], extra: &[(&str, &str)]) -> Place {
        let names = std::iter::once(&name).chain(aliases).map(|name| (*name).to_owned());
        let extra = extra.iter().map(|(name, at)| ((*name).to_owned(), (*at).to_owned()));
        Place {
            mode,
            hostname: name.to_owned(),
            names: names.collect(),
            extra_hosts: extra.collect(),
        }
    }

    #[test]
    fn each_network_has_its_own_names() {
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let to_host = [("edge1", HOST_GATEWAY), ("printer", "192.0.2.9")];
        let check = |mode, expected: &[&str]| {
            let own = place(mode, "a", &["first"], &to_host);
            // It calls itself as the machine is called, and by a name that no file can hold.
            let other = place(NetworkMode::Bridge, "b", &["EDGE1", "b2", "$b"], &[]);
            let at = Ipv4Addr::new(10, 0, 0, 2);
            let peers = Peers::from([(at, &own), (Ipv4Addr::new(10, 0, 0, 3), &other)]);
            let on_bridge = (mode == NetworkMode::Bridge).then_some(at);
            let said = text(&own, on_bridge, Some(gateway), &peers);
            let lines: Vec<&str> = said.lines().skip(3).collect();
            assert_eq!(lines, expected, "{mode:?}");
        };
        check(
            NetworkMode::Bridge,
            &["10.0.0.1\tedge1", "192.0.2.9\tprinter", "10.0.0.2\ta first", "10.0.0.3\tb b2"],
        );
        check(NetworkMode::Host, &["10.0.0.1\tedge1", "192.0.2.9\tprinter"]);
        check(NetworkMode::None, &["192.0.2.9\tprinter"]);
    }
}

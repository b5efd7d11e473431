//! Addresses and names of modules on the engine's bridge. Pure: the embedded engine reads and
//! writes the files, `selvedge-monitor network` talks to the kernel.

pub mod hosts;
pub mod leases;

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::image::digest::Digest;

/// How every bridge's name begins; `host-sensor` counts no such interface as the machine's own.
pub const BRIDGE_PREFIX: &str = "selvedge";
/// Longest name of an interface, in bytes; the kernel's.
const INTERFACE_BYTES_MAX: usize = 15;
/// The networks that an engine picks from, as the first two bytes of `172.29.x.0/24`.
const PICKED: [u8; 2] = [172, 29];

/// An IPv4 network that an engine gives addresses from: the first one is the bridge's, the rest
/// are the modules'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

/// Why a text names no network for modules.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidSubnet {
    /// Not of the form `a.b.c.d/n`.
    #[error("{0:?} is not a network as 172.29.7.0/24")]
    Form(String),
    /// Too large to look through or too small to hold modules.
    #[error("a network of modules has a prefix of 16 to 29 bits, not {0}")]
    Prefix(u8),
    /// The address has bits that belong to a host.
    #[error("{0} is an address in the network {1}; write the network")]
    HostBits(Ipv4Addr, Ipv4Addr),
    /// Loopback, multicast, or otherwise no network between machines.
    #[error("{0} is not for networks of machines")]
    Reserved(Ipv4Addr),
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let form = || InvalidSubnet::Form(text.to_owned());
        let (ip, prefix) = text.split_once('/').ok_or_else(form)?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| form())?;
        let prefix: u8 = prefix.parse().map_err(|_| form())?;
        if !(16..=29).contains(&prefix) {
            return Err(InvalidSubnet::Prefix(prefix));
        }
        if ip.is_loopback() || ip.is_multicast() || ip.is_link_local() || ip.octets()[0] == 0 {
            return Err(InvalidSubnet::Reserved(ip));
        }
        let subnet = Self { base: u32::from(ip) & mask(prefix), prefix };
        if subnet.base != u32::from(ip) {
            return Err(InvalidSubnet::HostBits(ip, Ipv4Addr::from(subnet.base)));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = InvalidSubnet;

    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl Subnet {
    /// The bridge's own address, where modules find the machine.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// The addresses that modules may have, in order.
    pub fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let last = self.base | !mask(self.prefix);
        (self.base + 2..last).map(Ipv4Addr::from)
    }

    /// Whether a module may have `address`.
    pub fn holds(self, address: Ipv4Addr) -> bool {
        let last = self.base | !mask(self.prefix);
        (self.base + 2..last).contains(&u32::from(address))
    }

    /// An address of this network as interfaces get it, `172.29.7.2/24`.
    pub fn with_prefix(self, address: Ipv4Addr) -> String {
        format!("{address}/{}", self.prefix)
    }
}

/// A bridge that an engine could have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the interface.
    pub bridge: String,
    /// Its network.
    pub network: Subnet,
}

/// The bridges that the engine in the folder `owner` tries, best first: always the same ones,
/// and others than those of most other folders, so that engines keep out of each other's way.
/// With `wanted`, only that network.
pub fn candidates(owner: &str, wanted: Option<Subnet>) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    for byte in Sha256::digest(owner) {
        let [first, second] = PICKED;
        let picked = Subnet { base: u32::from(Ipv4Addr::new(first, second, byte, 0)), prefix: 24 };
        let network = wanted.unwrap_or(picked);
        let name = Digest::of(format!("{owner}\n{byte}").as_bytes());
        let rest = INTERFACE_BYTES_MAX - BRIDGE_PREFIX.len();
        let name = name.hex().get(..rest).unwrap_or_default().to_owned();
        let candidate = Candidate { bridge: format!("{BRIDGE_PREFIX}{name}"), network };
        if !all.contains(&candidate) {
            all.push(candidate);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_or_refused_with_the_reason() {
        let check = |text: &str, expected: &str| {
            let said = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(said.contains(expected), "{text}: {said}");
        };
        check("172.29.7.0", "is not a network as");
        check("172.29.7/24", "is not a network as");
        check("172.29.7.0/30", "16 to 29 bits, not 30");
        check("10.0.0.0/8", "16 to 29 bits, not 8");
        check("172.29.7.1/24", "in the network 172.29.7.0; write the network");
        check("127.0.0.0/24", "not for networks of machines");
        check("224.0.0.0/24", "not for networks of machines");
        let small: Subnet = "10.1.2.8/29".parse().unwrap();
        assert_eq!(small.to_string(), "10.1.2.8/29");
        assert_eq!(small.gateway(), Ipv4Addr::new(10, 1, 2, 9));
        let all: Vec<_> = small.addresses().map(|address| address.octets()[3]).collect();
        assert_eq!(all, [10, 11, 12, 13, 14]);
        assert!(small.addresses().all(|address| small.holds(address)));
        assert!(!small.holds(small.gateway()) && !small.holds(Ipv4Addr::new(10, 1, 2, 15)));
    }

    #[test]
    fn a_folder_has_always_the_same_candidates_and_another_folder_others() {
        let one = candidates("/var/lib/selvedge/engine", None);
        assert_eq!(one, candidates("/var/lib/selvedge/engine", None));
        assert!(one.len() > 16);
        assert_ne!(one.first(), candidates("/tmp/x/engine", None).first());
        for candidate in &one {
            assert!(
                candidate.bridge.len() == INTERFACE_BYTES_MAX
                    && candidate.bridge.starts_with("selvedge")
            );
            assert!(candidate.network.to_string().starts_with("172.29."));
        }
        let wanted: Subnet = "10.9.0.0/24".parse().unwrap();
        let own = candidates("/e", Some(wanted));
        assert!(own.len() > 16 && own.iter().all(|candidate| candidate.network == wanted));
    }
}

//! Which module has which address: `network/leases.json`.
//!
//! A name keeps its address over restarts and also when its module is removed, so that a new
//! version of a module is found where the old one was. Only when no address is free does the
//! name that was made longest ago lose its own, and never one whose module is there.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Subnet;

/// The version of the file.
const VERSION: u32 = 1;

/// The file, understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    version: u32,
    /// Name of the bridge.
    pub bridge: String,
    /// Its network.
    pub network: Subnet,
    /// In the order in which modules were made.
    #[serde(rename = "leases")]
    given: Vec<Lease>,
}

/// One name's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lease {
    name: String,
    address: Ipv4Addr,
}

/// Why a file of leases is not to be trusted.
#[derive(Debug, Error)]
pub enum InvalidLeases {
    /// Not JSON of the right shape.
    #[error("damaged: {0}")]
    Shape(#[from] serde_json::Error),
    /// Written by another version.
    #[error("has version {0}, not {VERSION}")]
    Version(u32),
    /// An address that no module of the network may have.
    #[error("damaged: {name} has {address}, which is no address for modules in {network}")]
    Outside {
        /// The module.
        name: String,
        /// Its address.
        address: Ipv4Addr,
        /// The network.
        network: Subnet,
    },
    /// An address or a name that is there twice.
    #[error("damaged: {0} is there twice")]
    Twice(String),
}

impl Leases {
    /// No leases yet.
    pub fn new(bridge: String, network: Subnet) -> Self {
        Self { version: VERSION, bridge, network, given: Vec::new() }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`InvalidLeases`] when two modules could get one address by it.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidLeases> {
        let read: Self = serde_json::from_slice(text)?;
        if read.version != VERSION {
            return Err(InvalidLeases::Version(read.version));
        }
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for Lease { name, address } in &read.given {
            if !read.network.holds(*address) {
                let (name, address, network) = (name.clone(), *address, read.network);
                return Err(InvalidLeases::Outside { name, address, network });
            }
            if !names.insert(name) {
                return Err(InvalidLeases::Twice(name.clone()));
            }
            if !addresses.insert(address) {
                return Err(InvalidLeases::Twice(address.to_string()));
            }
        }
        Ok(read)
    }

    /// The address of `name`, if it ever got one.
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        self.given.iter().find(|lease| lease.name == name).map(|lease| lease.address)
    }

    /// Gives `name` its address, the old one if it has one. `present` are the names that keep
    /// theirs whatever happens; nothing is left when they have them all.
    pub fn take(&mut self, name: &str, present: &BTreeSet<String>) -> Option<Ipv4Addr> {
        let taken: BTreeSet<_> = self.given.iter().map(|lease| lease.address).collect();
        let address = if let Some(old) = self.given.iter().position(|lease| lease.name == name) {
            self.given.remove(old).address
        } else if let Some(free) = self.network.addresses().find(|it| !taken.contains(it)) {
            free
        } else {
            let gone = self.given.iter().position(|lease| !present.contains(&lease.name))?;
            self.given.remove(gone).address
        };
        self.given.push(Lease { name: name.to_owned(), address });
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn fresh(network: &str) -> Leases {
        Leases::new("selvedge0".to_owned(), network.parse().unwrap())
    }

    #[test]
    fn a_name_keeps_its_address_until_all_are_given_out() {
        let mut leases = fresh("10.0.0.0/29");
        let none = BTreeSet::new();
        let first = leases.take("a", &none).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 0, 0, 2));
        for name in ["b", "c", "d", "e"] {
            assert_ne!(leases.take(name, &none), Some(first));
        }
        assert_eq!(leases.take("a", &none), Some(first));
        // All five are out; b was made longest ago, but is there.
        let present = BTreeSet::from(["b".to_owned()]);
        let taken = leases.take("f", &present).unwrap();
        assert_eq!(taken, Ipv4Addr::new(10, 0, 0, 4));
        assert_eq!((leases.address("c"), leases.address("f")), (None, Some(taken)));
        let all = ["a", "b", "d", "e", "f"].map(str::to_owned).into();
        assert_eq!(leases.take("g", &all), None);
    }

    #[test]
    fn a_damaged_file_is_refused_with_what_is_wrong() {
        let good = r#"{"version":1,"bridge":"selvedge0","network":"10.0.0.0/29",
            "leases":[{"name":"a","address":"10.0.0.2"},{"name":"b","address":"10.0.0.3"}]}"#;
        assert_eq!(Leases::parse(good.as_bytes()).unwrap().address("b").unwrap().octets()[3], 3);
        let check = |from: &str, to: &str, expected: &str| {
            let said = Leases::parse(good.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(said.contains(expected), "{to}: {said}");
        };
        check("10.0.0.3", "10.0.0.2", "10.0.0.2 is there twice");
        check("\"b\"", "\"a\"", "a is there twice");
        check("10.0.0.3", "10.0.0.1", "b has 10.0.0.1, which is no address");
        check("10.0.0.3", "10.0.1.3", "which is no address for modules in 10.0.0.0/29");
        check("\"version\":1", "\"version\":2", "has version 2, not 1");
        check("\"bridge\"", "\"fridge\"", "unknown field `fridge`");
        check("}]}", "", "damaged: EOF");
    }

    proptest! {
        /// Against the plain statement of it: no two names that are there share an address.
        #[test]
        fn names_that_are_there_never_share_an_address(
            steps in prop::collection::vec((0..12_u8, any::<bool>()), 1..200)
        ) {
            let mut leases = fresh("10.0.0.0/28");
            let mut there: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
            for (number, is_made) in steps {
                let name = format!("m{number}");
                if !is_made {
                    there.remove(&name);
                    continue;
                }
                let present = there.keys().cloned().collect();
                let address = leases.take(&name, &present).unwrap();
                prop_assert_eq!(*there.entry(name).or_insert(address), address);
                let different: BTreeSet<_> = there.values().collect();
                prop_assert_eq!(different.len(), there.len());
                let text = serde_json::to_vec(&leases).unwrap();
                prop_assert_eq!(&Leases::parse(&text).unwrap(), &leases);
            }
        }
    }
}

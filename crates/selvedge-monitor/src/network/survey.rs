//! Which addresses and routes there are, in the namespace this process is in.

use std::fs;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;

use super::Address;

/// Whether `interface` has exactly `wanted`.
pub(super) fn has_address(interface: &str, wanted: Address) -> Result<bool, String> {
    Ok(addresses()?.iter().any(|(name, address)| name == interface && *address == wanted))
}

/// Whether there is a default route by `gateway`.
pub(super) fn has_default(gateway: Ipv4Addr) -> Result<bool, String> {
    Ok(routes()?.iter().any(|route| route.mask == 0 && route.gateway == gateway))
}

/// Which interface other than `own` uses a part of `wanted`'s network, if one does.
pub(super) fn user_of(wanted: Address, own: &str) -> Result<Option<String>, String> {
    let (first, last) = wanted.range();
    let meets = |(low, high): (u32, u32)| low <= last && high >= first;
    for (name, address) in addresses()? {
        if name != own && meets(address.range()) {
            return Ok(Some(name));
        }
    }
    for route in routes()? {
        // The default route goes everywhere and stands in nobody's way.
        let range = (route.destination, route.destination | !route.mask);
        if route.mask != 0 && route.interface != own && meets(range) {
            return Ok(Some(route.interface));
        }
    }
    Ok(None)
}

fn addresses() -> Result<Vec<(String, Address)>, String> {
    let all = getifaddrs().map_err(|error| format!("reading the machine's addresses: {error}"))?;
    let each = all.filter_map(|entry| {
        let ip = entry.address?.as_sockaddr_in()?.ip();
        let mask = u32::from(entry.netmask?.as_sockaddr_in()?.ip());
        let prefix = u8::try_from(mask.count_ones()).ok()?;
        Some((entry.interface_name, Address { ip, prefix }))
    });
    Ok(each.collect())
}

/// A line of the kernel's main table.
#[derive(Debug, PartialEq, Eq)]
struct KernelRoute {
    interface: String,
    destination: u32,
    gateway: Ipv4Addr,
    mask: u32,
}

fn routes() -> Result<Vec<KernelRoute>, String> {
    const TABLE: &str = "/proc/self/net/route";
    let text = fs::read_to_string(TABLE).map_err(|error| format!("{TABLE}: {error}"))?;
    Ok(text.lines().skip(1).filter_map(route).collect())
}

fn route(line: &str) -> Option<KernelRoute> {
    let mut words = line.split_whitespace();
    let interface = words.next()?.to_owned();
    // The kernel prints the bytes of the network as a number of the machine.
    let number = |word: &str| u32::from_str_radix(word, 16).ok().map(u32::from_be);
    let destination = number(words.next()?)?;
    let gateway = Ipv4Addr::from(number(words.next()?)?);
    let mask = number(words.nth(4)?)?;
    Some(KernelRoute { interface, destination, gateway, mask })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        let line = "eth0\t00071DAC\t01071DAC\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        let read = route(line).unwrap();
        assert_eq!(Ipv4Addr::from(read.destination), Ipv4Addr::new(172, 29, 7, 0));
        assert_eq!(read.gateway, Ipv4Addr::new(172, 29, 7, 1));
        assert_eq!((read.mask, read.interface.as_str()), (0xffff_ff00, "eth0"));
        assert_eq!(route("eth0 xyz"), None);
    }
}

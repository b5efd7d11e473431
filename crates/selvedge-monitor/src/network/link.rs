//! Interfaces, addresses and routes, through the kernel's rtnetlink.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::{Address, INSIDE, Owner, survey};

/// A conversation with the kernel about the namespace it was opened in.
pub(super) struct Route {
    socket: Socket,
    sequence: u32,
}

/// An interface that is there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) index: u32,
    is_bridge: bool,
    controller: Option<u32>,
    /// Nobody for an interface that nobody marked.
    pub(super) owner: Option<Owner>,
}

impl Route {
    pub(super) fn open() -> Result<Self, String> {
        let opened = Socket::new(NETLINK_ROUTE).and_then(|socket| {
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        });
        let socket = opened.map_err(|error| format!("the kernel's network interface: {error}"))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The number of the interface `name`, if there is one.
    #[expect(clippy::unused_self, reason = "a name belongs to the namespace of the socket")]
    pub(super) fn index(&self, name: &str) -> Result<Option<u32>, String> {
        match if_nametoindex(name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::ENODEV | Errno::ENXIO) => Ok(None),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }

    /// What is known of the interface `name`, if there is one.
    pub(super) fn found(&mut self, name: &str) -> Result<Option<Found>, String> {
        let Some(index) = self.index(name)? else { return Ok(None) };
        let mut message = LinkMessage::default();
        message.header.index = index;
        let message = RouteNetlinkMessage::GetLink(message);
        let answers = self.ask(message, 0).map_err(|error| format!("{name}: {error}"))?;
        let mut found = Found { index, is_bridge: false, controller: None, owner: None };
        let attributes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.attributes),
            _ => None,
        });
        for attribute in attributes.flatten() {
            match attribute {
                LinkAttribute::IfAlias(alias) => found.owner = alias.parse().ok(),
                LinkAttribute::Controller(index) => found.controller = Some(index),
                LinkAttribute::LinkInfo(all) => {
                    found.is_bridge |= all.contains(&LinkInfo::Kind(InfoKind::Bridge));
                }
                _ => {}
            }
        }
        Ok(Some(found))
    }

    /// The bridge that the interface `name` is attached to.
    pub(super) fn controller(&mut self, name: &str) -> Result<Option<u32>, String> {
        Ok(self.found(name)?.and_then(|found| found.controller))
    }

    /// Whether something is attached to the bridge.
    pub(super) fn has_ports(&mut self, bridge: u32) -> Result<bool, String> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Controller(bridge));
        let message = RouteNetlinkMessage::GetLink(message);
        let answers = self.ask(message, NLM_F_DUMP).map_err(|error| format!("ports: {error}"))?;
        // A kernel that does not filter tells of all interfaces.
        Ok(answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => {
                link.attributes.contains(&LinkAttribute::Controller(bridge))
            }
            _ => false,
        }))
    }

    /// Makes the bridge, or makes it whole; says who is in the way instead.
    pub(super) fn ensure_bridge(
        &mut self,
        name: &str,
        owner: &Owner,
        address: Address,
    ) -> Result<Option<String>, String> {
        let found = self.found(name)?;
        let ours = match &found {
            None => false,
            Some(found) if !found.is_bridge => {
                return Ok(Some(format!("{name} is there and no bridge")));
            }
            Some(Found { owner: Some(other), .. }) if other != owner => {
                return Ok(Some(format!("{name} belongs to {}", other.0)));
            }
            // Without an owner it was left half made: the mark comes right after the birth.
            Some(found) => found.owner.is_some(),
        };
        if !ours && let Some(user) = survey::user_of(address, name)? {
            return Ok(Some(format!("the network of {address} is used by {user}")));
        }
        let failed = |error: io::Error| format!("making bridge {name}: {error}");
        if found.is_none() {
            self.ask(made(bridge(name, address.ip)), NLM_F_CREATE | NLM_F_EXCL).map_err(failed)?;
        }
        let index = self.index(name)?.ok_or_else(|| format!("{name} went away"))?;
        if !ours {
            let mut mark = LinkMessage::default();
            mark.header.index = index;
            mark.attributes.push(LinkAttribute::IfAlias(owner.0.clone()));
            self.ask(RouteNetlinkMessage::SetLink(mark), 0).map_err(failed)?;
        }
        self.add_address(name, address)?;
        self.set_up(name)?;
        Ok(None)
    }

    /// Makes the two ends of a container's wire: `outside` on the bridge, the other inside.
    pub(super) fn add_pair(
        &mut self,
        outside: &str,
        bridge: u32,
        namespace: &File,
        inside_ip: Ipv4Addr,
    ) -> Result<(), String> {
        let mut inner = LinkMessage::default();
        inner.attributes.extend([
            LinkAttribute::IfName(INSIDE.to_owned()),
            LinkAttribute::Address(hardware_address(inside_ip)),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ]);
        let mut outer = LinkMessage::default();
        outer.header.flags = LinkFlags::Up;
        outer.header.change_mask = LinkFlags::Up;
        outer.attributes.extend([
            LinkAttribute::IfName(outside.to_owned()),
            LinkAttribute::Controller(bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inner))),
            ]),
        ]);
        self.ask(made(outer), NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .map_err(|error| format!("making {outside}: {error}"))
    }

    pub(super) fn set_up(&mut self, name: &str) -> Result<(), String> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?.ok_or_else(|| format!("there is no {name}"))?;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(message), 0)
            .map(drop)
            .map_err(|error| format!("switching {name} on: {error}"))
    }

    /// Deletes an interface; nothing of that name is fine.
    pub(super) fn delete(&mut self, name: &str) -> Result<(), String> {
        let Some(index) = self.index(name)? else { return Ok(()) };
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.ask(RouteNetlinkMessage::DelLink(message), 0) {
            // It may have gone with its namespace meanwhile.
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                Err(format!("deleting {name}: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// Gives `name` an address; one that it has already is fine.
    pub(super) fn add_address(&mut self, name: &str, address: Address) -> Result<(), String> {
        let (_, broadcast) = address.range();
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix;
        message.header.index = self.index(name)?.ok_or_else(|| format!("there is no {name}"))?;
        message.attributes.extend([
            AddressAttribute::Local(IpAddr::V4(address.ip)),
            AddressAttribute::Address(IpAddr::V4(address.ip)),
            AddressAttribute::Broadcast(Ipv4Addr::from(broadcast)),
        ]);
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|error| format!("giving {name} the address {address}: {error}"))
    }

    /// Sends everything that has no other way through `gateway`.
    pub(super) fn add_default(&mut self, name: &str, gateway: Ipv4Addr) -> Result<(), String> {
        let index = self.index(name)?.ok_or_else(|| format!("there is no {name}"))?;
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes.extend([
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
            RouteAttribute::Oif(index),
        ]);
        self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|error| format!("a route by {gateway}: {error}"))
    }

    /// Sends one message and reads to the kernel's last word on it.
    fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        // A dump ends by itself; everything else by the acknowledgement.
        header.flags = NLM_F_REQUEST | flags;
        if flags & NLM_F_DUMP != NLM_F_DUMP {
            header.flags |= NLM_F_ACK;
        }
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if read(&datagram, self.sequence, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Takes the answers of one datagram; whether they are complete.
fn read(
    datagram: &[u8],
    sequence: u32,
    answers: &mut Vec<RouteNetlinkMessage>,
) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        // Messages begin at multiples of four bytes.
        let len = usize::try_from(message.header.length).unwrap_or(rest.len());
        rest = rest.get(len.next_multiple_of(4).max(4)..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            continue;
        }
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(message) => answers.push(message),
            _ => {}
        }
    }
    Ok(false)
}

fn made(link: LinkMessage) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(link)
}

fn bridge(name: &str, ip: Ipv4Addr) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.extend([
        LinkAttribute::IfName(name.to_owned()),
        // Its own, or it would change with the first container and neighbours would forget it.
        LinkAttribute::Address(hardware_address(ip)),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ]);
    link
}

/// Locally administered, and the same whenever the address is.
fn hardware_address(ip: Ipv4Addr) -> Vec<u8> {
    let mut address = vec![0x02, 0x53];
    address.extend(ip.octets());
    address
}

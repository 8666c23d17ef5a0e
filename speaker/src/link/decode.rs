//! rtnetlink datagrams as facts about interfaces and addresses (rtnetlink(7)). Reads only the attributes that
//! matter, so that a kernel with newer ones, or a device with odd ones, never hides an interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use landfall_core::name::Iface;
use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, NetlinkBuffer, NlasIterator};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressHeader;
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkLayerType};

use super::{Link, Mac};

// Message types and attributes of linux/rtnetlink.h, linux/if_link.h and linux/if_addr.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// The dump was inconsistent: something changed while the kernel wrote it.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// One thing the kernel said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// An interface exists and looks like this; its addresses come separately.
    Link(Link),
    /// An interface is gone.
    LinkGone(u32),
    /// An interface has an address.
    Address(u32, Address),
    /// An interface has lost an address.
    AddressGone(u32, Address),
    /// A dump is complete; `false` when it has to be repeated.
    Done {
        /// Whether nothing changed while the kernel wrote it.
        consistent: bool,
    },
    /// The kernel refused a request with this error number.
    Refused(i32),
    /// The kernel dropped messages.
    Overrun,
}

/// An address of an interface: its own and the subnet it comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    /// The address itself.
    pub(super) local: IpAddr,
    /// Prefix of the subnet; on a point-to-point link that of the other end.
    pub(super) net: IpNet,
}

/// All facts in one datagram. Damaged messages and those of no interest are left out.
pub(super) fn facts(mut datagram: &[u8]) -> Vec<Fact> {
    let mut found = Vec::new();
    while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
        found.extend(fact(&message));
        // Messages are padded to four bytes (NLMSG_ALIGN).
        let length = (message.length() as usize).next_multiple_of(4);
        let Some(rest) = datagram.get(length..) else { break };
        datagram = rest;
    }
    found
}

fn fact(message: &NetlinkBuffer<&[u8]>) -> Option<Fact> {
    let body = message.payload();
    match message.message_type() {
        RTM_NEWLINK => link(body).map(Fact::Link),
        RTM_DELLINK => plain_link(body).map(|header| Fact::LinkGone(header.index)),
        RTM_NEWADDR => address(body).map(|(index, address)| Fact::Address(index, address)),
        RTM_DELADDR => address(body).map(|(index, address)| Fact::AddressGone(index, address)),
        NLMSG_DONE => Some(Fact::Done { consistent: message.flags() & NLM_F_DUMP_INTR == 0 }),
        NLMSG_ERROR => match i32::from_ne_bytes(*body.first_chunk()?) {
            0 => None,
            code => Some(Fact::Refused(-code)),
        },
        NLMSG_OVERRUN => Some(Fact::Overrun),
        _ => None,
    }
}

/// The header of a message about the interface itself. A bridge also reports its ports as links, of family
/// `AF_BRIDGE`, and a port that leaves a bridge as a deleted one: these say nothing about the interface.
fn plain_link(body: &[u8]) -> Option<LinkHeader> {
    LinkHeader::parse(body).ok().filter(|header| header.interface_family == AddressFamily::Unspec)
}

fn link(body: &[u8]) -> Option<Link> {
    /// Size of `struct ifinfomsg`.
    const HEADER: usize = 16;
    let header = plain_link(body)?;
    let (mut name, mut mac, mut kind) = (None, None, None);
    for (attribute, value) in attributes(body.get(HEADER..)?) {
        match attribute {
            IFLA_IFNAME => name = text(value),
            IFLA_ADDRESS => mac = <[u8; 6]>::try_from(value).ok().filter(|mac| *mac != [0; 6]).map(Mac),
            IFLA_LINKINFO => {
                kind = attributes(value).find(|(a, _)| *a == IFLA_INFO_KIND).and_then(|(_, v)| text(v));
            }
            _ => {}
        }
    }
    Some(Link {
        index: header.index,
        name: Iface::new(name?),
        mac,
        up: header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        resolves: header.link_layer_type == LinkLayerType::Ether
            && !header.flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback),
        kind,
        addresses: Vec::new(),
    })
}

fn address(body: &[u8]) -> Option<(u32, Address)> {
    /// Size of `struct ifaddrmsg`.
    const HEADER: usize = 8;
    let header = AddressHeader::parse(body).ok()?;
    let (mut local, mut peer) = (None, None);
    for (attribute, value) in attributes(body.get(HEADER..)?) {
        match attribute {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => peer = ip(value),
            _ => {}
        }
    }
    // Only point-to-point links have both and different; IPv6 often has IFA_ADDRESS alone.
    let local = local.or(peer)?;
    let net = IpNet::new(peer.unwrap_or(local), header.prefix_len).ok()?;
    Some((header.index, Address { local, net }))
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|attribute| {
        let kind = attribute.kind();
        attribute.into_inner().get(4..usize::from(attribute.length())).map(|value| (kind, value))
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next()?;
    String::from_utf8(bytes.to_vec()).ok()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(|v4| IpAddr::V4(Ipv4Addr::from(v4)))
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(|v6| IpAddr::V6(Ipv6Addr::from(v6))))
        .ok()
}

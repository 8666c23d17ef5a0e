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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A netlink message: length, type, flags, sequence, port, and the body.
    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// An interface with number 7: `struct ifinfomsg` and attributes.
    fn link_body(family: u8, layer: u16, flags: u32) -> Vec<u8> {
        let mut body = vec![family, 0];
        body.extend(layer.to_ne_bytes());
        body.extend(7u32.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attribute(IFLA_IFNAME, b"eth0\0"));
        // One that is not known here, and longer than any.
        body.extend(attribute(0x3fff, &[0xaa; 300]));
        body.extend(attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 0x11]));
        body.extend(attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"veth\0")));
        body
    }

    const UP: u32 = 0x1_0041; // IFF_UP, IFF_RUNNING, IFF_LOWER_UP
    const ETHER: u16 = 1;

    fn link() -> Link {
        Link {
            index: 7,
            name: Iface::new("eth0"),
            mac: Some(Mac([2, 0, 0, 0, 0, 0x11])),
            up: true,
            resolves: true,
            kind: Some("veth".to_owned()),
            addresses: Vec::new(),
        }
    }

    fn address_body(family: u8, prefix: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, prefix, 0, 0];
        body.extend(7u32.to_ne_bytes());
        body.extend(attributes.iter().flat_map(|(kind, value)| attribute(*kind, value)));
        body
    }

    #[test]
    fn an_interface_is_read_from_what_matters() {
        let read = |layer, flags| facts(&message(RTM_NEWLINK, 0, &link_body(0, layer, flags)));
        assert_eq!(read(ETHER, UP), [Fact::Link(link())]);
        assert_eq!(read(ETHER, UP & !0x1_0000), [Fact::Link(Link { up: false, ..link() })], "no carrier");
        assert_eq!(read(ETHER, UP & !1), [Fact::Link(Link { up: false, ..link() })], "down");
        for (layer, flags) in [(772, UP | 8), (65534, UP), (ETHER, UP | 0x80)] {
            assert_eq!(
                read(layer, flags),
                [Fact::Link(Link { resolves: false, ..link() })],
                "{layer} {flags:#x}"
            );
        }
    }

    #[test]
    fn what_a_bridge_says_about_its_ports_is_not_about_the_interface() {
        const AF_BRIDGE: u8 = 7;
        for kind in [RTM_NEWLINK, RTM_DELLINK] {
            assert_eq!(facts(&message(kind, 0, &link_body(AF_BRIDGE, ETHER, UP))), [], "{kind}");
        }
        assert_eq!(facts(&message(RTM_DELLINK, 0, &link_body(0, ETHER, 0))), [Fact::LinkGone(7)]);
    }

    #[test]
    fn addresses_of_both_families_name_their_subnet() {
        let v6: IpAddr = "2001:db8:50::11".parse().unwrap();
        let IpAddr::V6(octets) = v6 else { unreachable!() };
        let octets = octets.octets();
        for (body, local, net) in [
            (
                address_body(2, 24, &[(1, &[192, 0, 2, 11]), (2, &[192, 0, 2, 11])]),
                "192.0.2.11",
                "192.0.2.11/24",
            ),
            // Point to point: the subnet is the other end's.
            (address_body(2, 30, &[(1, &[192, 0, 2, 2]), (2, &[192, 0, 2, 1])]), "192.0.2.1", "192.0.2.2/30"),
            (address_body(10, 64, &[(1, &octets)]), "2001:db8:50::11", "2001:db8:50::11/64"),
        ] {
            let address = Address { local: local.parse().unwrap(), net: net.parse().unwrap() };
            assert_eq!(facts(&message(RTM_NEWADDR, 0, &body)), [Fact::Address(7, address)]);
            assert_eq!(facts(&message(RTM_DELADDR, 0, &body)), [Fact::AddressGone(7, address)]);
        }
        assert_eq!(facts(&message(RTM_NEWADDR, 0, &address_body(2, 33, &[(1, &[192, 0, 2, 11])]))), []);
    }

    #[test]
    fn several_messages_in_one_datagram_are_all_read() {
        let datagram = [
            message(RTM_NEWLINK, 0, &link_body(0, ETHER, UP)),
            message(24, 0, &[0; 12]),
            message(NLMSG_ERROR, 0, &0i32.to_ne_bytes()),
            message(NLMSG_ERROR, 0, &(-1i32).to_ne_bytes()),
            message(NLMSG_DONE, NLM_F_DUMP_INTR, &[0; 4]),
            message(NLMSG_DONE, 0, &[0; 4]),
        ]
        .concat();
        let done = |consistent| Fact::Done { consistent };
        assert_eq!(facts(&datagram), [Fact::Link(link()), Fact::Refused(1), done(false), done(true)]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            kind in prop_oneof![16u16..22, 0u16..8],
            body in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..220,
        ) {
            let mut datagram = message(kind, 0, &body);
            prop_assert!(facts(&datagram).len() <= 1);
            datagram.truncate(cut);
            prop_assert!(facts(&datagram).len() <= 1);
            prop_assert!(facts(&body).len() <= body.len() / 16);
        }
    }
}

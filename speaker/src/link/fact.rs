//! Messages of rtnetlink(7) as facts about interfaces and addresses: what of them matters here.

use std::net::IpAddr;

use ipnet::IpNet;
use landfall_core::name::Iface;
use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Link, Mac};

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
    /// A dump is complete.
    Done,
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

/// Whether these bytes are a message of rtnetlink that says something of interest; as the monitor reads it, for tests
/// that damage it.
#[must_use]
pub fn understands(bytes: &[u8]) -> bool {
    NetlinkMessage::deserialize(bytes).is_ok_and(|message| fact(message).is_some())
}

/// What a message says; `None` when it is of no interest.
pub(super) fn fact(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Fact> {
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(new)) => link(new).map(Fact::Link),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(gone)) => {
            is_plain(&gone).then_some(Fact::LinkGone(gone.header.index))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(new)) => {
            address(&new).map(|address| Fact::Address(new.header.index, address))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(gone)) => {
            address(&gone).map(|address| Fact::AddressGone(gone.header.index, address))
        }
        // A dump that fails on the way says so at its end.
        NetlinkPayload::Done(done) if done.code < 0 => Some(Fact::Refused(-done.code)),
        NetlinkPayload::Done(_) => Some(Fact::Done),
        NetlinkPayload::Error(error) => error.code.map(|code| Fact::Refused(-code.get())),
        NetlinkPayload::Overrun(_) => Some(Fact::Overrun),
        _ => None,
    }
}

/// Whether something changed before this message while the kernel wrote a dump, which may therefore lack something.
/// The kernel marks one message only, any of the dump (`nl_dump_check_consistent`).
pub(super) const fn interrupted(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    message.header.flags & NLM_F_DUMP_INTR != 0
}

/// Whether a message is about the interface itself. A bridge also reports its ports as links, of family `AF_BRIDGE`,
/// and a port that leaves a bridge as a deleted one: these say nothing about the interface.
fn is_plain(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

fn link(message: LinkMessage) -> Option<Link> {
    if !is_plain(&message) {
        return None;
    }
    let (mut name, mut mac, mut kind) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = Some(found),
            LinkAttribute::Address(bytes) => {
                mac = <[u8; 6]>::try_from(bytes).ok().filter(|mac| *mac != [0; 6]).map(Mac);
            }
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let header = message.header;
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

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => peer = Some(*addr),
            _ => {}
        }
    }
    // Only point-to-point links have both and different; IPv6 often has IFA_ADDRESS alone.
    let local = local.or(peer)?;
    let net = IpNet::new(peer.unwrap_or(local), message.header.prefix_len).ok()?;
    Some(Address { local, net })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN};
    use proptest::prelude::*;

    // Message types and attributes of linux/rtnetlink.h, linux/if_link.h and linux/if_addr.h.
    const RTM_NEWLINK: u16 = 16;
    const RTM_DELLINK: u16 = 17;
    const RTM_NEWADDR: u16 = 20;
    const RTM_DELADDR: u16 = 21;
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;

    fn parsed(bytes: &[u8]) -> Option<NetlinkMessage<RouteNetlinkMessage>> {
        NetlinkMessage::deserialize(bytes).ok()
    }

    /// What the bytes of a message say, if they are one.
    fn read(bytes: &[u8]) -> Option<Fact> {
        parsed(bytes).and_then(fact)
    }

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
        let link_like = |layer, flags| read(&message(RTM_NEWLINK, 0, &link_body(0, layer, flags)));
        assert_eq!(link_like(ETHER, UP), Some(Fact::Link(link())));
        assert_eq!(
            link_like(ETHER, UP & !0x1_0000),
            Some(Fact::Link(Link { up: false, ..link() })),
            "no carrier"
        );
        assert_eq!(link_like(ETHER, UP & !1), Some(Fact::Link(Link { up: false, ..link() })), "down");
        for (layer, flags) in [(772, UP | 8), (65534, UP), (ETHER, UP | 0x80)] {
            assert_eq!(
                link_like(layer, flags),
                Some(Fact::Link(Link { resolves: false, ..link() })),
                "{layer} {flags:#x}"
            );
        }
    }

    #[test]
    fn what_a_bridge_says_about_its_ports_is_not_about_the_interface() {
        const AF_BRIDGE: u8 = 7;
        for kind in [RTM_NEWLINK, RTM_DELLINK] {
            assert_eq!(read(&message(kind, 0, &link_body(AF_BRIDGE, ETHER, UP))), None, "{kind}");
        }
        assert_eq!(read(&message(RTM_DELLINK, 0, &link_body(0, ETHER, 0))), Some(Fact::LinkGone(7)));
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
            assert_eq!(read(&message(RTM_NEWADDR, 0, &body)), Some(Fact::Address(7, address)));
            assert_eq!(read(&message(RTM_DELADDR, 0, &body)), Some(Fact::AddressGone(7, address)));
        }
        assert_eq!(read(&message(RTM_NEWADDR, 0, &address_body(2, 33, &[(1, &[192, 0, 2, 11])]))), None);
    }

    #[test]
    fn the_course_of_a_dump_is_told_from_its_contents() {
        for (bytes, said) in [
            (message(24, 0, &[0; 12]), None),
            (message(NLMSG_ERROR, 0, &[0; 20]), None),
            (
                message(NLMSG_ERROR, 0, &[&(-1i32).to_ne_bytes()[..], &[0; 16]].concat()),
                Some(Fact::Refused(1)),
            ),
            (message(NLMSG_DONE, 0, &(-90i32).to_ne_bytes()), Some(Fact::Refused(90))),
            (message(NLMSG_DONE, 0, &[0; 4]), Some(Fact::Done)),
            (message(NLMSG_OVERRUN, 0, &[]), Some(Fact::Overrun)),
        ] {
            assert!(parsed(&bytes).is_some(), "{bytes:?}");
            assert_eq!(read(&bytes), said, "{bytes:?}");
        }
    }

    #[test]
    fn a_dump_that_was_overtaken_is_marked_on_any_of_its_messages() {
        for (kind, body) in [(NLMSG_DONE, vec![0; 4]), (RTM_NEWLINK, link_body(0, ETHER, UP))] {
            for (flags, marked) in [(0x2, false), (0x12, true)] {
                let message = parsed(&message(kind, flags, &body)).unwrap();
                assert_eq!(interrupted(&message), marked, "{kind} {flags:#x}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            kind in prop_oneof![16u16..22, 0u16..8],
            body in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..220,
        ) {
            let whole = message(kind, 0, &body);
            let part = &whole[..cut.min(whole.len())];
            for bytes in [&whole, part, &body] {
                prop_assert!(read(bytes).is_none() || bytes.len() >= 16);
            }
        }
    }
}

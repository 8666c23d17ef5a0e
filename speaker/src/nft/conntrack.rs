//! Deleting entries of the connection table.
//!
//! A UDP flow whose endpoint is gone would stay translated to it for as long as its client keeps sending, and a
//! connection whose source is no longer admitted would go on until it ends. The entries of some ports are listed, compared here with what is to go, and deleted one by one by their exact tuple.
//! The kernel can delete by a partial tuple in one request (`CTA_FILTER`), but must not be asked to: for IPv6 its
//! comparison of addresses is the wrong way round (`ctnetlink_filter_match_tuple`), and the request would delete
//! the flows of everybody else. A filter on protocol and ports is sound in both families and keeps the list short.
//!
//! Numbers: `linux/netfilter/nfnetlink_conntrack.h`; filter bits: `net/netfilter/nf_conntrack_netlink.c`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use landfall_core::addr::Family;
use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, FrontendKey};
use landfall_core::service::Protocol;

use super::encode::nfproto;
use super::wire::{Attrs, FAMILY_HEADER, Header, Messages, NLM_F_ACK, NLM_F_DUMP, Writer, array};

/// `NFNL_SUBSYS_CTNETLINK << 8` with `IPCTNL_MSG_CT_NEW`, `_GET` and `_DELETE`.
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const FILTER_ORIG: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// `CTA_FILTER_F_*`: which fields of a tuple count.
const F_PROTO_NUM: u32 = 1 << 3;
const F_PROTO_DST_PORT: u32 = 1 << 5;

/// Flows to which endpoints may stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Those to any.
    All,
    /// Those to these.
    Only(BTreeSet<Target>),
    /// Those to any other than these.
    AllBut(BTreeSet<Target>),
}

impl Kept {
    fn holds(&self, endpoint: Target) -> bool {
        match self {
            Self::All => true,
            Self::Only(these) => these.contains(&endpoint),
            Self::AllBut(these) => !these.contains(&endpoint),
        }
    }
}

/// Which flows of a front end may stay; its other ones go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Those that were sent to one of these endpoints.
    pub endpoints: Kept,
    /// Those that come from an admitted source.
    pub sources: Admission,
}

impl Stay {
    fn admits(&self, flow: &Flow) -> bool {
        self.sources.admits(flow.client) && self.endpoints.holds(flow.endpoint)
    }
}

/// Front ends of which flows have to go.
pub type Gone = BTreeMap<FrontendKey, Stay>;

/// An entry: who sent to which front end, and where it was translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    client: IpAddr,
    front: FrontendKey,
    endpoint: Target,
}

/// A list of entries that has to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listing {
    family: Family,
    protocol: Protocol,
    /// The port of all front ends, if they have the same.
    port: Option<NonZeroU16>,
}

/// The lists that hold all these flows: one pass over the table for each family and protocol, however many flows.
#[must_use]
pub fn listings(gone: &Gone) -> Vec<Listing> {
    let mut made: Vec<Listing> = Vec::new();
    for front in gone.keys() {
        let (family, protocol) = (front.family(), front.protocol);
        match made.iter_mut().find(|listing| listing.family == family && listing.protocol == protocol) {
            Some(listing) if listing.port != Some(front.port) => listing.port = None,
            Some(_) => {}
            None => made.push(Listing { family, protocol, port: Some(front.port) }),
        }
    }
    made
}

/// The request for a list.
#[must_use]
pub fn list(listing: &Listing) -> Vec<u8> {
    let number = listing.protocol.number();
    let mut writer = Writer::default();
    writer.message(header(CT_GET, NLM_F_DUMP, nfproto(listing.family)), |w| {
        w.nest(TUPLE_ORIG, |w| {
            w.nest(TUPLE_PROTO, |w| {
                w.attr(PROTO_NUM, &[number]);
                if let Some(port) = listing.port {
                    w.attr(PROTO_DST_PORT, &port.get().to_be_bytes());
                }
            });
        });
        w.nest(FILTER, |w| {
            let flags = F_PROTO_NUM | listing.port.map_or(0, |_| F_PROTO_DST_PORT);
            // The only numbers of this subsystem in host byte order.
            w.attr(FILTER_ORIG, &flags.to_ne_bytes());
            w.attr(FILTER_REPLY, &0_u32.to_ne_bytes());
        });
    });
    writer.into_bytes()
}

/// The requests that delete those entries in a part of a list that are to go. Each names the entry's tuple,
/// zone and number, so that another entry that has meanwhile taken its place is left alone.
#[must_use]
pub fn deletions(list: &[u8], gone: &Gone) -> Vec<Vec<u8>> {
    let entries = Messages::new(list).filter(|message| message.kind == CT_NEW);
    entries
        .filter_map(|message| {
            let family = *message.body.first()?;
            let attrs = Attrs::new(message.body.get(FAMILY_HEADER..)?);
            let flow = flow(&attrs)?;
            let stays = gone.get(&flow.front)?.admits(&flow);
            (!stays).then(|| delete(family, &attrs)).flatten()
        })
        .collect()
}

fn flow(attrs: &Attrs<'_>) -> Option<Flow> {
    let (orig, reply) = (attrs.nest(TUPLE_ORIG)?, attrs.nest(TUPLE_REPLY)?);
    let protocol = orig.nest(TUPLE_PROTO)?.find(PROTO_NUM)?.first().copied();
    Some(Flow {
        client: address(&orig, IP_V4_SRC, IP_V6_SRC)?,
        front: FrontendKey {
            addr: address(&orig, IP_V4_DST, IP_V6_DST)?,
            protocol: Protocol::from_number(protocol?)?,
            port: port(&orig, PROTO_DST_PORT)?,
        },
        endpoint: Target {
            addr: address(&reply, IP_V4_SRC, IP_V6_SRC)?,
            port: port(&reply, PROTO_SRC_PORT)?,
        },
    })
}

fn address(tuple: &Attrs<'_>, v4: u16, v6: u16) -> Option<IpAddr> {
    let ip = tuple.nest(TUPLE_IP)?;
    match (ip.find(v4), ip.find(v6)) {
        (Some(addr), _) => array::<4>(addr, 0).map(IpAddr::from),
        (None, Some(addr)) => array::<16>(addr, 0).map(IpAddr::from),
        (None, None) => None,
    }
}

fn port(tuple: &Attrs<'_>, kind: u16) -> Option<NonZeroU16> {
    let port = array(tuple.nest(TUPLE_PROTO)?.find(kind)?, 0)?;
    NonZeroU16::new(u16::from_be_bytes(port))
}

fn delete(family: u8, entry: &Attrs<'_>) -> Option<Vec<u8>> {
    let tuple = entry.find(TUPLE_ORIG)?;
    let mut writer = Writer::default();
    writer.message(header(CT_DELETE, NLM_F_ACK, family), |w| {
        w.nested(TUPLE_ORIG, tuple);
        for kind in [ZONE, ID] {
            if let Some(data) = entry.find(kind) {
                w.attr(kind, data);
            }
        }
    });
    Some(writer.into_bytes())
}

const fn header(kind: u16, flags: u16, family: u8) -> Header {
    Header { kind, flags, seq: 1, family, version: 0, resource: 0 }
}

#[cfg(test)]
mod tests {
    use landfall_core::addr::AddrRange;
    use proptest::prelude::*;

    use super::*;

    fn flow(client: &str, front: &str, front_port: u16, endpoint: &str, endpoint_port: u16) -> Flow {
        let port = |number| NonZeroU16::new(number).unwrap();
        Flow {
            client: client.parse().unwrap(),
            front: FrontendKey {
                addr: front.parse().unwrap(),
                protocol: Protocol::Udp,
                port: port(front_port),
            },
            endpoint: Target { addr: endpoint.parse().unwrap(), port: port(endpoint_port) },
        }
    }

    /// An entry as the kernel lists it: a client's flow to a front end, translated to an endpoint and masqueraded.
    fn entry(found: Flow, node: &str, id: u32) -> Vec<u8> {
        let tuple = |w: &mut Writer, kind, src: (IpAddr, u16), dst: (IpAddr, u16)| {
            w.nest(kind, |w| {
                w.nest(TUPLE_IP, |w| match (src.0, dst.0) {
                    (IpAddr::V4(src), IpAddr::V4(dst)) => {
                        w.attr(IP_V4_SRC, &src.octets());
                        w.attr(IP_V4_DST, &dst.octets());
                    }
                    (IpAddr::V6(src), IpAddr::V6(dst)) => {
                        w.attr(IP_V6_SRC, &src.octets());
                        w.attr(IP_V6_DST, &dst.octets());
                    }
                    _ => panic!("one family"),
                });
                w.nest(TUPLE_PROTO, |w| {
                    w.attr(PROTO_NUM, &[found.front.protocol.number()]);
                    w.attr(PROTO_SRC_PORT, &src.1.to_be_bytes());
                    w.attr(PROTO_DST_PORT, &dst.1.to_be_bytes());
                });
            });
        };
        let mut writer = Writer::default();
        writer.message(header(CT_NEW, 0, nfproto(found.front.family())), |w| {
            tuple(w, TUPLE_ORIG, (found.client, 40_000), (found.front.addr, found.front.port.get()));
            let endpoint = (found.endpoint.addr, found.endpoint.port.get());
            tuple(w, TUPLE_REPLY, endpoint, (node.parse().unwrap(), 50_000));
            w.be32(ID, id);
        });
        writer.into_bytes()
    }

    /// The numbers of the entries that are deleted.
    fn deleted(found: &[Flow], node: &str, gone: &Gone) -> Vec<u32> {
        let list: Vec<u8> = found.iter().zip(1..).flat_map(|(found, id)| entry(*found, node, id)).collect();
        let requests = deletions(&list, gone);
        let ids = requests.iter().map(|request| {
            let message = Messages::new(request).next().unwrap();
            let attrs = Attrs::new(&message.body[FAMILY_HEADER..]);
            assert_eq!(message.kind, CT_DELETE);
            assert!(address(&attrs.nest(TUPLE_ORIG).unwrap(), IP_V4_SRC, IP_V6_SRC).is_some());
            attrs.be32(ID).unwrap()
        });
        ids.collect()
    }

    const FAMILIES: [[&str; 7]; 2] = [
        [
            "192.0.2.100",
            "192.0.2.101",
            "10.244.1.2",
            "10.244.1.3",
            "192.0.2.200",
            "192.0.2.201",
            "192.0.2.11",
        ],
        [
            "2001:db8::100",
            "2001:db8::101",
            "fd00::2",
            "fd00::3",
            "2001:db8::200",
            "2001:db8::201",
            "2001:db8::11",
        ],
    ];

    #[test]
    fn only_flows_of_the_front_end_to_other_endpoints_are_deleted() {
        // S129: by exact tuple, so that nobody else's flow is meant.
        for [vip, other_vip, pod, other_pod, client, _, node] in FAMILIES {
            let stays = flow(client, vip, 53, pod, 5353);
            let found = [
                flow(client, other_vip, 53, other_pod, 5353),
                flow(client, vip, 54, other_pod, 5353),
                stays,
                flow(client, vip, 53, other_pod, 5353),
                flow(client, vip, 53, pod, 5354),
                // Made before there was an endpoint: not translated.
                flow(client, vip, 53, vip, 53),
            ];
            let endpoints = Kept::Only(BTreeSet::from([stays.endpoint]));
            let gone = Gone::from([(stays.front, Stay { endpoints, sources: Admission::Anyone })]);
            assert_eq!(deleted(&found, node, &gone), [4, 5, 6]);
            let none = Stay { endpoints: Kept::Only(BTreeSet::new()), sources: Admission::Anyone };
            assert_eq!(deleted(&found, node, &Gone::from([(stays.front, none)])), [3, 4, 5, 6]);
            let but = Kept::AllBut(BTreeSet::from([stays.endpoint]));
            let but = Stay { endpoints: but, sources: Admission::Anyone };
            assert_eq!(deleted(&found, node, &Gone::from([(stays.front, but)])), [3]);
        }
    }

    #[test]
    fn flows_from_sources_that_are_not_admitted_are_deleted() {
        // X8
        for [vip, _, pod, _, client, stranger, node] in FAMILIES {
            let found = [flow(client, vip, 53, pod, 5353), flow(stranger, vip, 53, pod, 5353)];
            let range = AddrRange::new(client.parse().unwrap(), client.parse().unwrap()).unwrap();
            let sources = Admission::Ranges([range].into());
            let gone = Gone::from([(found[0].front, Stay { endpoints: Kept::All, sources })]);
            assert_eq!(deleted(&found, node, &gone), [2]);
            let nobody = Stay { endpoints: Kept::All, sources: Admission::Nobody };
            assert_eq!(deleted(&found, node, &Gone::from([(found[0].front, nobody)])), [1, 2]);
        }
    }

    #[test]
    fn one_list_of_each_family_and_protocol_is_enough_for_any_number_of_services() {
        // S132
        let front = |index: u16, family, protocol| FrontendKey {
            addr: match family {
                Family::V4 => std::net::Ipv4Addr::from(0xc000_0200 + u32::from(index)).into(),
                Family::V6 => std::net::Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(index)).into(),
            },
            protocol,
            port: NonZeroU16::MIN.saturating_add(index),
        };
        let gone: Gone = (0..1000)
            .flat_map(|index| {
                [Family::V4, Family::V6].into_iter().flat_map(move |family| {
                    [Protocol::Udp, Protocol::Sctp].map(|protocol| front(index, family, protocol))
                })
            })
            .map(|front| (front, Stay { endpoints: Kept::All, sources: Admission::Nobody }))
            .collect();
        assert_eq!(listings(&gone).len(), 4);
        assert!(listings(&Gone::new()).is_empty(), "nothing is read when nothing is to go");
    }

    #[test]
    fn the_port_filters_only_while_it_is_the_same_for_all() {
        let v4 = flow("192.0.2.200", "192.0.2.100", 53, "10.244.1.2", 5353).front;
        let with = |addr: &str, port| FrontendKey {
            addr: addr.parse().unwrap(),
            port: NonZeroU16::new(port).unwrap(),
            ..v4
        };
        let ports = |fronts: &[FrontendKey]| -> Vec<bool> {
            let stay = Stay { endpoints: Kept::All, sources: Admission::Nobody };
            let gone = fronts.iter().map(|front| (*front, stay.clone())).collect();
            listings(&gone).iter().map(|listing| listing.port.is_some()).collect()
        };
        assert_eq!(ports(&[v4]), [true]);
        assert_eq!(ports(&[v4, with("192.0.2.101", 53)]), [true]);
        assert_eq!(ports(&[v4, with("192.0.2.101", 54)]), [false]);
        assert_eq!(ports(&[v4, with("2001:db8::1", 54)]), [true, true], "each family by itself");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let front = flow("192.0.2.200", "192.0.2.100", 53, "10.244.1.2", 5353).front;
            let gone = Gone::from([(front, Stay { endpoints: Kept::All, sources: Admission::Nobody })]);
            prop_assert!(deletions(&bytes, &gone).len() <= bytes.len() / 16);
        }
    }
}

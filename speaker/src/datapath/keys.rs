//! Keys and data of the maps as bytes in registers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::IpNet;
use landfall_core::addr::{AddrRange, Family, number};
use landfall_core::diff::Space;
use landfall_core::endpoints::Target;
use landfall_core::frontend::FrontendKey;
use landfall_core::service::Protocol;

use crate::nft::model::{Bytes, Element, Value};

/// Indexes of endpoints on this node begin here, so that both lists of a front end share one map. Far above any
/// number of endpoints (Kubernetes refuses more than some thousands).
pub(super) const LOCAL_OFFSET: u32 = 1 << 16;

/// address . protocol . port
pub(super) fn front(key: FrontendKey) -> Bytes {
    with_addr(Bytes::EMPTY, key.addr).with(&[key.protocol.number()]).with(&key.port.get().to_be_bytes())
}

/// address . protocol . port . index
pub(super) fn endpoint(key: FrontendKey, space: Space, index: u32) -> Bytes {
    let offset = match space {
        Space::Everywhere => 0,
        Space::Local => LOCAL_OFFSET,
    };
    // The hash leaves its result in host byte order.
    front(key).with(&(index + offset).to_ne_bytes())
}

/// address . port
pub(super) fn target(target: Target) -> Bytes {
    with_addr(Bytes::EMPTY, target.addr).with(&target.port.get().to_be_bytes())
}

/// The range of sources admitted to a front end: address . protocol . port . source.
pub(super) fn source(key: FrontendKey, range: AddrRange) -> Element {
    let first = with_addr(front(key), range.first());
    let last = with_addr(front(key), range.last());
    Element { last: Some(Box::new(last)), ..Element::of(first, Value::None) }
}

/// Where a client went, as the kernel has recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// What the client connected to.
    pub(super) front: FrontendKey,
    /// The client.
    pub(super) client: IpAddr,
    /// The endpoint it got.
    pub(super) target: Target,
}

/// The record in an element: address . protocol . port . client : address . port.
pub(super) fn record(family: Family, element: &Element) -> Option<Record> {
    let Value::Data(data) = &element.value else { return None };
    let (addr, rest) = split_addr(element.key.as_slice(), family)?;
    let (ports, rest) = rest.split_first_chunk::<8>()?;
    let [protocol, _, _, _, high, low, _, _] = *ports;
    let (client, _) = split_addr(rest, family)?;
    let (endpoint, port) = split_addr(data.as_slice(), family)?;
    Some(Record {
        front: FrontendKey {
            addr,
            protocol: Protocol::ALL.into_iter().find(|known| known.number() == protocol)?,
            port: NonZeroU16::new(u16::from_be_bytes([high, low]))?,
        },
        client,
        target: Target {
            addr: endpoint,
            port: NonZeroU16::new(u16::from_be_bytes(*port.first_chunk::<2>()?))?,
        },
    })
}

fn split_addr(bytes: &[u8], family: Family) -> Option<(IpAddr, &[u8])> {
    Some(match family {
        Family::V4 => {
            let (addr, rest) = bytes.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*addr).into(), rest)
        }
        Family::V6 => {
            let (addr, rest) = bytes.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*addr).into(), rest)
        }
    })
}

/// address
pub(super) fn address(addr: IpAddr) -> Bytes {
    with_addr(Bytes::EMPTY, addr)
}

/// source . destination of an endpoint that reaches itself.
pub(super) fn hairpin(addr: IpAddr) -> Bytes {
    with_addr(address(addr), addr)
}

/// A range of addresses in a set of one field: its first address, and the first one behind it, if there is one.
pub(super) fn range(range: AddrRange) -> Vec<Element> {
    let mut made = vec![Element::of(address(range.first()), Value::None)];
    let behind = number(range.last()).checked_add(1).and_then(|behind| range.family().address(behind));
    if let Some(behind) = behind {
        made.push(Element { range_end: true, ..Element::of(address(behind), Value::None) });
    }
    made
}

/// The addresses of some prefixes in one family, ready for a set of ranges.
pub(super) fn ranges(nets: &[IpNet], family: Family) -> Vec<Element> {
    landfall_core::frontend::merged(nets.iter().copied(), family).into_iter().flat_map(range).collect()
}

fn with_addr(bytes: Bytes, addr: IpAddr) -> Bytes {
    match addr {
        IpAddr::V4(addr) => bytes.with(&addr.octets()),
        IpAddr::V6(addr) => bytes.with(&addr.octets()),
    }
}

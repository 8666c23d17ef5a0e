//! The two packets that chains are judged by: what is known of them.

use std::fmt;
use std::net::IpAddr;

use landfall_core::addr::Family;
use landfall_core::name::Iface;

use super::super::Surroundings;
use super::super::proc;
use crate::nft::model::{ct_state, ct_status};

/// Bits of conntrack's state as nftables has them (`NF_CT_STATE_BIT`), and of its status (`IPS_*`).
const ESTABLISHED: u32 = 1 << 1;
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;
const DST_NAT_DONE: u32 = 1 << 8;

/// The fixed part of an IPv4 header without options, and an IPv6 header.
const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
const TCP: u8 = 6;

/// A forwarded packet, as far as it is known.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) family: Family,
    pub(super) reply: bool,
    pub(super) from: Option<Iface>,
    pub(super) to: Option<Iface>,
    /// The network header; `None` for a byte that may be anything.
    pub(super) header: Vec<Option<u8>>,
    pub(super) state: u32,
    pub(super) status: u32,
}

impl Packet {
    /// These bytes of the network header, if all of them are known.
    pub(super) fn bytes(&self, offset: usize, len: usize) -> Option<Vec<u8>> {
        self.header.get(offset..offset.checked_add(len)?)?.iter().copied().collect()
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.reply { "answers of pods" } else { "new connections to pods" };
        write!(f, "{what} that this node forwards, {}", self.family)
    }
}

/// A first packet and an answer in each family, for one pod of this node.
pub(super) fn packets(around: &Surroundings) -> Vec<Packet> {
    let both = |family: &Family| {
        let pod = around.pods.iter().find(|net| Family::of(net.addr()) == *family);
        // Some address in the middle of nowhere in particular: rules about pods are about their networks.
        let pod = pod.and_then(|net| net.hosts().nth(1)).map(|addr| (addr, proc::route(addr)));
        let lan = around.lan.get(family).and_then(|ifaces| ifaces.first()).cloned();
        [false, true].map(|reply| packet(*family, reply, pod.clone(), lan.clone()))
    };
    around.families.iter().flat_map(both).collect()
}

fn packet(family: Family, reply: bool, pod: Option<(IpAddr, Option<Iface>)>, lan: Option<Iface>) -> Packet {
    let (addr, behind) = pod.map_or((None, None), |(addr, behind)| (Some(addr), behind));
    let (from, to) = if reply { (behind, lan) } else { (lan, behind) };
    Packet {
        family,
        reply,
        from,
        to,
        header: header(family, reply, addr),
        state: if reply { ESTABLISHED } else { ct_state::NEW },
        status: ct_status::DESTINATION_NAT
            | DST_NAT_DONE
            | if reply { SEEN_REPLY | ASSURED | CONFIRMED } else { 0 },
    }
}

fn header(family: Family, reply: bool, pod: Option<IpAddr>) -> Vec<Option<u8>> {
    let (len, protocol, source, destination) = match family {
        Family::V4 => (HEADER_V4, 9, 12, 16),
        Family::V6 => (HEADER_V6, 6, 8, 24),
    };
    let mut header = vec![None; len];
    let mut put = |at: usize, bytes: &[u8]| {
        for (place, byte) in header.iter_mut().skip(at).zip(bytes) {
            *place = Some(*byte);
        }
    };
    put(protocol, &[TCP]);
    let at = if reply { source } else { destination };
    match pod {
        Some(IpAddr::V4(addr)) => put(at, &addr.octets()),
        Some(IpAddr::V6(addr)) => put(at, &addr.octets()),
        None => {}
    }
    header
}

//! Deleting entries of the connection table by exact tuple.
//!
//! A UDP flow whose endpoint is gone would stay translated to it for as long as its client keeps sending. The
//! kernel compares only the fields named by a filter (`CTA_FILTER`, Linux 5.8) and deletes all that match.
//! Numbers: `linux/netfilter/nfnetlink_conntrack.h`; filter bits: `net/netfilter/nf_conntrack_netlink.c`.

use std::net::IpAddr;
use std::num::NonZeroU16;

use landfall_core::addr::Family;
use landfall_core::endpoints::Target;
use landfall_core::frontend::FrontendKey;

use super::encode::nfproto;
use super::wire::{Header, NLM_F_ACK, Writer};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
const CT_DELETE: u16 = 1 << 8 | 2;
/// With this version the kernel honours the family in the message (`ctnetlink_del_conntrack`).
const HONOUR_FAMILY: u8 = 1;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const FILTER: u16 = 25;
const FILTER_ORIG: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// `CTA_FILTER_F_*`: which fields of a tuple count.
const F_IP_SRC: u32 = 1;
const F_IP_DST: u32 = 1 << 1;
const F_PROTO_NUM: u32 = 1 << 3;
const F_PROTO_SRC_PORT: u32 = 1 << 4;
const F_PROTO_DST_PORT: u32 = 1 << 5;

/// The flows of one front end that were sent to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flows {
    /// What the client sent to.
    pub front: FrontendKey,
    /// Where it was translated to.
    pub endpoint: Target,
}

/// The request that deletes them; it ends with "not found" when there are none.
#[must_use]
pub fn delete(flows: Flows) -> Vec<u8> {
    let header = Header {
        kind: CT_DELETE,
        flags: NLM_F_ACK,
        seq: 1,
        family: nfproto(Family::of(flows.front.addr)),
        version: HONOUR_FAMILY,
        resource: 0,
    };
    let protocol = flows.front.protocol.number();
    let mut writer = Writer::default();
    writer.message(header, |w| {
        w.nest(TUPLE_ORIG, |w| {
            w.nest(TUPLE_IP, |w| address(w, flows.front.addr, IP_V4_DST, IP_V6_DST));
            w.nest(TUPLE_PROTO, |w| port(w, protocol, PROTO_DST_PORT, flows.front.port));
        });
        w.nest(TUPLE_REPLY, |w| {
            w.nest(TUPLE_IP, |w| address(w, flows.endpoint.addr, IP_V4_SRC, IP_V6_SRC));
            w.nest(TUPLE_PROTO, |w| port(w, protocol, PROTO_SRC_PORT, flows.endpoint.port));
        });
        w.nest(FILTER, |w| {
            // The only numbers of this subsystem in host byte order.
            w.attr(FILTER_ORIG, &(F_IP_DST | F_PROTO_NUM | F_PROTO_DST_PORT).to_ne_bytes());
            w.attr(FILTER_REPLY, &(F_IP_SRC | F_PROTO_NUM | F_PROTO_SRC_PORT).to_ne_bytes());
        });
    });
    writer.into_bytes()
}

fn address(w: &mut Writer, addr: IpAddr, v4: u16, v6: u16) {
    match addr {
        IpAddr::V4(addr) => w.attr(v4, &addr.octets()),
        IpAddr::V6(addr) => w.attr(v6, &addr.octets()),
    }
}

fn port(w: &mut Writer, protocol: u8, kind: u16, port: NonZeroU16) {
    w.attr(PROTO_NUM, &[protocol]);
    w.attr(kind, &port.get().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::service::Protocol;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_deletion_names_both_tuples_and_what_counts() {
        let flows = |front: &str, endpoint: &str| Flows {
            front: FrontendKey {
                addr: front.parse().unwrap(),
                protocol: Protocol::Udp,
                port: NonZeroU16::new(80).unwrap(),
            },
            endpoint: Target { addr: endpoint.parse().unwrap(), port: NonZeroU16::new(8080).unwrap() },
        };
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(delete(flows("192.0.2.1", "10.244.1.2"))),
            "7000000002010500010000000000000002010000\
             240001800c000180080002"
                .to_owned()
                + "00c0000201140002800500010011000000060003000050000024000280\
                   0c000180080001000af401021400028005000100110000000600020\
                   01f9000001400198008000100\
                   2a0000000800020019000000"
        );
        let v6 = delete(flows("2001:db8::1", "fd00::2"));
        assert_eq!(v6.get(16), Some(&10), "the family is IPv6");
        assert_eq!(v6.len(), 0x70 + 2 * 12, "two addresses that are twelve bytes longer");
    }
}

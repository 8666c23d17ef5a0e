//! The network interfaces of this node as the kernel reports them: a snapshot first, then every change as it
//! happens, never by polling.

mod fact;
mod monitor;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use landfall_core::name::Iface;
use landfall_core::segment::{Segment, Segments};

pub use fact::understands;
pub use monitor::{LinkError, Monitor, open};

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address all stations listen to.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the address stands for more than one station.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it: a re-created interface of the same name has another one.
    pub index: u32,
    /// Its current name.
    pub name: Iface,
    /// Its current hardware address, when it has one of Ethernet's form.
    pub mac: Option<Mac>,
    /// Administratively up and with carrier (`IFF_UP` and `IFF_LOWER_UP`).
    pub up: bool,
    /// Resolves addresses by ARP and NDP on an Ethernet-like medium: not loopback, not `IFF_NOARP`.
    pub resolves: bool,
    /// What kind of virtual device it is (`bridge`, `veth`, `vlan`…); `None` for hardware.
    pub kind: Option<String>,
    /// The subnets its addresses put it in, host bits kept, in the order of the addresses.
    pub addresses: Vec<IpNet>,
}

impl Link {
    /// Whether addresses can be announced here at all.
    #[must_use]
    pub fn announces(&self) -> bool {
        self.up && self.resolves && self.mac.is_some()
    }
}

/// All interfaces of the node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    links: BTreeMap<u32, Link>,
}

impl Links {
    /// The interface that has this name now.
    #[must_use]
    pub fn named(&self, name: &Iface) -> Option<&Link> {
        self.links.values().find(|link| link.name == *name)
    }

    /// Every interface, by index.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The interface an address would be announced on: it is up, resolves addresses, and one of its subnets holds
    /// the address. The longest prefix wins, then the first name.
    #[must_use]
    pub fn holding(&self, addr: IpAddr) -> Option<&Link> {
        let segments = self.segments();
        segments.holding(addr, |_| true).and_then(|name| self.named(name))
    }

    /// The subnets in which this node can announce addresses. Left out: interfaces without carrier, without
    /// address resolution (loopback, tunnels), host routes (/32 and /128) and link-local IPv6.
    #[must_use]
    pub fn segments(&self) -> Segments {
        let shared = |net: &&IpNet| net.prefix_len() < net.max_prefix_len() && !is_link_local(net.addr());
        self.links
            .values()
            .filter(|link| link.announces())
            .flat_map(|link| {
                let segment = |net: &IpNet| Segment { iface: link.name.clone(), net: *net };
                link.addresses.iter().filter(shared).map(segment)
            })
            .collect()
    }
}

impl FromIterator<Link> for Links {
    fn from_iter<T: IntoIterator<Item = Link>>(links: T) -> Self {
        Self { links: links.into_iter().map(|link| (link.index, link)).collect() }
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, nets: &[&str]) -> Link {
        Link {
            index,
            name: Iface::new(name),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            up: true,
            resolves: true,
            kind: None,
            addresses: nets.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    fn holder(links: &Links, addr: &str) -> Option<String> {
        links.holding(addr.parse().unwrap()).map(|link| link.name.to_string())
    }

    const NETS: [&str; 2] = ["192.0.2.11/24", "2001:db8:50::11/64"];
    const VIPS: [&str; 2] = ["192.0.2.100", "2001:db8:50::100"];

    #[test]
    fn an_interface_that_cannot_announce_holds_nothing() {
        let good = link(2, "eth0", &NETS);
        for (bad, why) in [
            (Link { up: false, ..good.clone() }, "down"),
            (Link { resolves: false, ..good.clone() }, "loopback or tunnel"),
            (Link { mac: None, ..good.clone() }, "no hardware address"),
            (link(2, "eth0", &["192.0.2.100/32", "2001:db8:50::100/128"]), "host routes"),
            (link(2, "eth0", &["198.51.100.1/24", "fe80::1/64"]), "other subnets"),
        ] {
            let links: Links = [bad].into_iter().collect();
            assert_eq!(VIPS.map(|vip| holder(&links, vip)), [None, None], "{why}");
        }
        let links: Links = [good].into_iter().collect();
        assert_eq!(VIPS.map(|vip| holder(&links, vip)), [Some("eth0".to_owned()), Some("eth0".to_owned())]);
    }

    #[test]
    fn the_longest_prefix_wins_then_the_first_name() {
        let links: Links = [
            link(2, "lan1", &NETS),
            link(3, "lan0", &NETS),
            link(4, "wide", &["192.0.0.0/16", "2001:db8::/32"]),
        ]
        .into_iter()
        .collect();
        assert_eq!(VIPS.map(|vip| holder(&links, vip)), [Some("lan0".to_owned()), Some("lan0".to_owned())]);
        assert_eq!(holder(&links, "192.0.3.1").as_deref(), Some("wide"));
        assert_eq!(holder(&links, "2001:db8:51::1").as_deref(), Some("wide"));
    }

    #[test]
    fn link_local_subnets_are_no_segments() {
        let links: Links = [link(2, "eth0", &["fe80::1/64", "2001:db8:50::11/64"])].into_iter().collect();
        assert_eq!(links.segments().to_string(), "eth0=2001:db8:50::/64");
        assert_eq!(holder(&links, "fe80::77"), None);
    }
}

//! What the kernel says in `/proc`, of the network namespace of the thread that reads.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use landfall_core::name::Iface;

/// `RTF_ADDRCONF`: a route that a router advertisement has made (`linux/ipv6_route.h`).
const RTF_ADDRCONF: u32 = 0x0004_0000;

/// The kernel parameters below a folder such as `/proc/sys/net`.
#[derive(Clone, Debug)]
pub(super) struct Parameters(pub(super) PathBuf);

impl Parameters {
    /// Those of this thread's network namespace.
    pub(super) fn of_this_host() -> Self {
        Self(PathBuf::from("/proc/sys/net"))
    }

    /// The number a parameter has; `None` when there is no such parameter, since its module is not loaded.
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.0.join(name)).ok()?.trim().parse().ok()
    }

    /// Sets a parameter.
    pub(super) fn set(&self, name: &str, value: u64) -> io::Result<()> {
        fs::write(self.0.join(name), value.to_string())
    }
}

/// The interfaces with an IPv4 default route.
pub(super) fn default_routes_v4() -> BTreeSet<Iface> {
    read("/proc/thread-self/net/route").lines().filter_map(default_v4).collect()
}

/// Fields of the table: interface, destination, gateway, flags, references, use, metric, mask (`net/ipv4/fib_trie.c`).
fn default_v4(line: &str) -> Option<Iface> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let zero = |at: usize| words.get(at).is_some_and(|word| *word == "00000000");
    (zero(1) && zero(7)).then(|| words.first().map(|name| Iface::new(*name)))?
}

/// The interfaces whose IPv6 default route comes from a router advertisement.
pub(super) fn advertised_routes_v6() -> BTreeSet<Iface> {
    read("/proc/thread-self/net/ipv6_route").lines().filter_map(advertised_v6).collect()
}

/// Fields: destination, its prefix length, source, its length, next hop, metric, references, use, flags, interface
/// (`net/ipv6/route.c`).
fn advertised_v6(line: &str) -> Option<Iface> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let default = *words.first()? == "00000000000000000000000000000000" && *words.get(1)? == "00";
    let flags = u32::from_str_radix(words.get(8)?, 16).ok()?;
    (default && flags & RTF_ADDRCONF != 0).then(|| words.get(9).map(|name| Iface::new(*name)))?
}

/// The interface that packets to an address leave through, by the main table: the longest prefix, then the lowest
/// metric.
pub(super) fn route(addr: IpAddr) -> Option<Iface> {
    let (table, parse): (&str, fn(&str) -> Option<Route>) = match addr {
        IpAddr::V4(_) => ("/proc/thread-self/net/route", route_v4),
        IpAddr::V6(_) => ("/proc/thread-self/net/ipv6_route", route_v6),
    };
    let table = read(table);
    let holding = table.lines().filter_map(parse).filter(|route| route.to.contains(&addr));
    let best = holding.min_by_key(|route| (u8::MAX - route.to.prefix_len(), route.metric))?;
    best.iface
}

/// A route: `iface` is none for one that leads nowhere.
struct Route {
    to: IpNet,
    metric: u32,
    iface: Option<Iface>,
}

fn route_v4(line: &str) -> Option<Route> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // Written as numbers of the host's byte order.
    let addr = |at: usize| {
        let number = u32::from_str_radix(words.get(at)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let net = IpNet::with_netmask(addr(1)?.into(), addr(7)?.into()).ok()?;
    let name = *words.first()?;
    let iface = (name != "*").then(|| Iface::new(name));
    Some(Route { to: net, metric: words.get(6)?.parse().ok()?, iface })
}

fn route_v6(line: &str) -> Option<Route> {
    /// `RTF_REJECT`, and `RTF_LOCAL` of the node's own addresses.
    const NOWHERE: u32 = 0x0200;
    let words: Vec<&str> = line.split_whitespace().collect();
    let hex = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
    let addr = Ipv6Addr::from(u128::from_str_radix(words.first()?, 16).ok()?);
    let to = IpNet::new(addr.into(), u8::try_from(hex(1)?).ok()?).ok()?;
    let iface = (hex(8)? & NOWHERE == 0).then(|| words.get(9).map(|name| Iface::new(*name)))?;
    Some(Route { to, metric: hex(5)?, iface })
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found_in_the_kernels_tables() {
        for (line, found) in [
            ("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU", None),
            ("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0", Some("eth0")),
            ("eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0", None),
            ("eth1\t00000000\t010200C0\t0003\t0\t0\t0\t00000080\t0\t0\t0", None),
            ("eth1\t00000000", None),
        ] {
            assert_eq!(default_v4(line), found.map(Iface::new), "{line}");
        }
        let zero = "00000000000000000000000000000000";
        let gateway = "fe800000000000000000000000000001";
        let route = |length: &str, flags: &str| {
            format!("{zero} {length} {zero} 00 {gateway} 00000400 00000001 00000000 {flags}     eth0")
        };
        for (line, found) in [
            (route("00", "00450003"), Some("eth0")),
            (route("00", "00000003"), None),
            (route("40", "00450003"), None),
            ("nonsense".to_owned(), None),
        ] {
            assert_eq!(advertised_v6(&line), found.map(Iface::new), "{line}");
        }
    }
}

//! Front ends: what one (address, protocol, port) of a Service does with the traffic that reaches it.
//!
//! A front end is the whole decision about a Service port on one node, as a value without names: two Services with
//! equal endpoints have equal front ends. [`crate::diff`] turns it into entries of the kernel's tables.

use std::fmt;
use std::mem;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;

use crate::addr::{AddrRange, Family, number};
use crate::endpoints::{Selection, Target, select};
use crate::service::{Affinity, ExternalPolicy, Place, Protocol, Service, Slice, Sources};

/// Which front end: what a client connects to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The load-balancer address, an external IP, or an address of the node.
    pub addr: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port of the Service, or its `NodePort`.
    pub port: NonZeroU16,
}

impl FrontendKey {
    /// The family of its address.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.addr)
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            IpAddr::V4(addr) => write!(f, "{addr}:{}/{}", self.port, self.protocol),
            IpAddr::V6(addr) => write!(f, "[{addr}]:{}/{}", self.port, self.protocol),
        }
    }
}

impl fmt::Debug for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is hashed to choose an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spread {
    /// The client's address and port: the connections of a client spread.
    Flow,
    /// The client's address: all connections of a client go to one endpoint.
    Client,
}

/// Who may reach a front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Everybody; costs nothing per packet.
    Anyone,
    /// Nobody: the Service is restricted and names no range of this family.
    Nobody,
    /// Sources inside one of these ranges: sorted, disjoint and not adjacent.
    Ranges(Arc<[AddrRange]>),
}

impl Admission {
    /// Whether a source may reach the front end.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        match self {
            Self::Anyone => true,
            Self::Nobody => false,
            Self::Ranges(ranges) => {
                let behind = ranges.partition_point(|range| range.first() <= source);
                behind
                    .checked_sub(1)
                    .and_then(|at| ranges.get(at))
                    .is_some_and(|range| range.contains(source))
            }
        }
    }
}

/// Where the traffic of a front end goes. Lists are in canonical order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To any of these endpoints, with the node's own address as source.
    Cluster {
        /// The endpoints on all nodes; none: new connections are refused.
        targets: Box<[Target]>,
    },
    /// By origin: traffic from outside to endpoints on this node with its source kept, traffic from this node and
    /// its pods to all endpoints.
    Local {
        /// The endpoints on this node; none: traffic from outside is dropped without a word, so that the client's
        /// retry can meet a node that has one (unless there are none anywhere: then it is refused).
        local: Box<[Target]>,
        /// The endpoints on all nodes.
        everywhere: Box<[Target]>,
    },
}

/// What one front end does on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Whether its address is a load-balancer address, all of whose ports are ours; else the other ports of the
    /// address are the business of others.
    pub owned: bool,
    /// Who may reach it.
    pub admission: Admission,
    /// How an endpoint is chosen.
    pub spread: Spread,
    /// For how many seconds after its last new connection a client keeps its endpoint. `Some` goes with
    /// [`Spread::Client`], which decides where a client without an endpoint goes.
    pub affinity: Option<u32>,
    /// Where its traffic goes.
    pub route: Route,
    /// UDP and SCTP only: endpoints that get nothing new and keep the flows they have (see [`Selection::draining`]).
    /// Flows of TCP are left to their ends anyway.
    pub draining: Box<[Target]>,
    /// Endpoints on nodes known to be dead (see [`Selection::lost`]): their flows, of every protocol, go nowhere.
    pub lost: Box<[Target]>,
}

impl Frontend {
    /// Whether there is an endpoint for anybody, on any node.
    #[must_use]
    pub fn has_endpoints(&self) -> bool {
        match &self.route {
            Route::Cluster { targets } => !targets.is_empty(),
            Route::Local { local, everywhere } => !local.is_empty() || !everywhere.is_empty(),
        }
    }

    /// The endpoints that may have flows of this front end, new or old; one may come twice.
    pub fn held(&self) -> impl Iterator<Item = Target> + '_ {
        let (first, second): (&[Target], &[Target]) = match &self.route {
            Route::Cluster { targets } => (targets, &[]),
            Route::Local { local, everywhere } => (local, everywhere),
        };
        first.iter().chain(second).chain(&self.draining).copied()
    }

    /// Whether new connections of a client may go to that endpoint; `inside`: the client is this node or one of its
    /// pods.
    #[must_use]
    pub fn offers(&self, target: Target, inside: bool) -> bool {
        let offered: &[Target] = match &self.route {
            Route::Cluster { targets } => targets,
            Route::Local { everywhere, .. } if inside => everywhere,
            Route::Local { local, .. } => local,
        };
        offered.contains(&target)
    }

    /// Whether there is an endpoint on this node for traffic from outside; under the policy Cluster, anywhere.
    #[must_use]
    pub fn serves_external(&self) -> bool {
        match &self.route {
            Route::Cluster { targets } => !targets.is_empty(),
            Route::Local { local, .. } => !local.is_empty(),
        }
    }
}

/// All front ends of a Service on the node at `here`: one for each of its addresses and ports, endpoints or not, and
/// one for each of its `NodePort`s on each address of the node that serves them.
///
/// `slices` are the Service's own `EndpointSlice`s in any order. Families are independent: an IPv4 address gets
/// the IPv4 endpoints only.
#[must_use]
pub fn frontends(service: &Service, slices: &[&Slice], here: &Place) -> Vec<(FrontendKey, Frontend)> {
    let (spread, affinity) = match service.affinity {
        Affinity::None => (Spread::Flow, None),
        Affinity::ClientIp { timeout_s } => (Spread::Client, Some(timeout_s)),
    };
    let mut made = Vec::with_capacity(service.vips.len() * service.ports.len());
    for family in [Family::V4, Family::V6] {
        let of_family = |addrs: &[IpAddr]| -> Vec<IpAddr> {
            addrs.iter().copied().filter(|addr| Family::of(*addr) == family).collect()
        };
        let (vips, node_addrs) = (of_family(&service.vips), of_family(&here.node_addrs));
        let mut external = of_family(&service.external_ips);
        external.retain(|addr| !vips.contains(addr));
        let node_ports = !node_addrs.is_empty() && service.ports.iter().any(|port| port.node_port.is_some());
        if vips.is_empty() && external.is_empty() && !node_ports {
            continue;
        }
        let admission = admission(&service.sources, family);
        let on_vips = with_own(&admission, &vips, &node_addrs);
        let on_node_ports = if service.sources_on_node_ports { &admission } else { &Admission::Anyone };
        for port in &service.ports {
            let mut found = select(port, family, slices, here);
            let draining: Box<[Target]> = match port.protocol {
                Protocol::Udp | Protocol::Sctp => mem::take(&mut found.draining).into(),
                Protocol::Tcp => Box::default(),
            };
            let lost: Box<[Target]> = mem::take(&mut found.lost).into();
            let route = route(service.external_policy, found);
            let mut add = |addr: IpAddr, number: NonZeroU16, owned, admission: &Admission| {
                let key = FrontendKey { addr, protocol: port.protocol, port: number };
                let front = Frontend {
                    owned,
                    admission: admission.clone(),
                    spread,
                    affinity,
                    route: route.clone(),
                    draining: draining.clone(),
                    lost: lost.clone(),
                };
                made.push((key, front));
            };
            for addr in &vips {
                add(*addr, port.port, true, &on_vips);
            }
            for addr in &external {
                add(*addr, port.port, false, &admission);
            }
            // A load-balancer address that is the node's own is reached by its own ports alone.
            for addr in node_addrs.iter().filter(|addr| !vips.contains(addr)) {
                if let Some(number) = port.node_port {
                    add(*addr, number, false, on_node_ports);
                }
            }
        }
    }
    made
}

fn route(policy: ExternalPolicy, found: Selection) -> Route {
    match policy {
        ExternalPolicy::Cluster => Route::Cluster { targets: found.everywhere.into() },
        ExternalPolicy::Local => {
            Route::Local { local: found.local.into(), everywhere: found.everywhere.into() }
        }
    }
}

/// Where an address of this node is admitted, the Service's own addresses are too: should the node have one of them on
/// an interface, it speaks from it when it connects to it (kube-proxy: `pkg/proxy/nftables`, "allow traffic from this
/// node").
fn with_own(admission: &Admission, vips: &[IpAddr], node_addrs: &[IpAddr]) -> Admission {
    match admission {
        Admission::Ranges(ranges) if node_addrs.iter().any(|addr| admission.admits(*addr)) => {
            let own = vips.iter().map(|vip| AddrRange::from(IpNet::from(*vip)));
            Admission::Ranges(joined(ranges.iter().copied().chain(own).collect()).into())
        }
        _ => admission.clone(),
    }
}

/// What a Service's source ranges mean in one family.
#[must_use]
pub fn admission(sources: &Sources, family: Family) -> Admission {
    let Sources::Only(nets) = sources else { return Admission::Anyone };
    let ranges = merged(nets.iter().copied(), family);
    match ranges.as_slice() {
        [] => Admission::Nobody,
        [only] if covers_family(*only) => Admission::Anyone,
        _ => Admission::Ranges(ranges.into()),
    }
}

/// The prefixes of one family as sorted, disjoint ranges, neighbours joined: what an interval set of the kernel
/// accepts (it refuses overlaps).
#[must_use]
pub fn merged(nets: impl IntoIterator<Item = IpNet>, family: Family) -> Vec<AddrRange> {
    joined(nets.into_iter().map(AddrRange::from).filter(|range| range.family() == family).collect())
}

/// The same with ranges of one family.
fn joined(mut ranges: Vec<AddrRange>) -> Vec<AddrRange> {
    ranges.sort_unstable();
    let mut merged: Vec<AddrRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if let Some(last) = merged.last_mut()
            && number(range.first()) <= number(last.last()).saturating_add(1)
        {
            // Sorted by first address, so both ends are of one family and in order: this cannot fail.
            if let Ok(joined) = AddrRange::new(last.first(), last.last().max(range.last())) {
                *last = joined;
            }
            continue;
        }
        merged.push(range);
    }
    merged
}

/// Whether a range holds every address of its family.
fn covers_family(range: AddrRange) -> bool {
    let all = match range.family() {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    };
    number(range.first()) == 0 && number(range.last()) == all
}

#[cfg(test)]
#[path = "frontend_tests.rs"]
mod tests;

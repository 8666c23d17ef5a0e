//! Services and a data path for the tests.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use landfall_core::addr::Family;
use landfall_core::frontend::frontends;
use landfall_core::name::{NodeName, ServiceKey};
use landfall_core::service::{
    Affinity, ExternalPolicy, Place, Protocol, Service, ServicePort, Slice, SliceEndpoint, SlicePort, Sources,
};
use landfall_speaker::datapath::{DataPath, NodeNet};
use landfall_speaker::nft;

use crate::world::{Met, POD_PORT, World};

/// The seed of the choice of endpoints; any will do.
pub(crate) const SEED: u32 = 0x5eed;
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The node's own addresses.
pub(crate) const NODE: [&str; 2] = ["192.0.2.11", "2001:db8:50::11"];

/// A Service on port 80 of one address per family, TCP and UDP, in front of some pods.
pub(crate) struct Web {
    pub(crate) service: Service,
    pub(crate) pods: Vec<&'static str>,
    /// The node that carries it.
    here: &'static str,
    /// Nodes known to be dead.
    dead: Vec<&'static str>,
}

impl Web {
    pub(crate) fn new(last: u8, pods: &[&'static str]) -> Self {
        let port = |protocol| ServicePort { name: "web".into(), protocol, port: port(80), node_port: None };
        let service = Service {
            key: ServiceKey::new("default", format!("web{last}")),
            uid: "1".into(),
            created: 0,
            vips: vec![vip(Family::V4, last).ip(), vip(Family::V6, last).ip()],
            ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
            external_policy: ExternalPolicy::Cluster,
            sources: Sources::Any,
            sources_on_node_ports: true,
            external_ips: Vec::new(),
            affinity: Affinity::None,
        };
        Self { service, pods: pods.to_vec(), here: "node", dead: Vec::new() }
    }

    pub(crate) fn local(mut self) -> Self {
        self.service.external_policy = ExternalPolicy::Local;
        self
    }

    pub(crate) fn node_port(mut self, number: u16) -> Self {
        for found in &mut self.service.ports {
            found.node_port = Some(port(number));
        }
        self
    }

    pub(crate) fn external(mut self, addrs: &[&str]) -> Self {
        self.service.external_ips = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
        self
    }

    pub(crate) fn only(mut self, ranges: &[&str]) -> Self {
        let nets = ranges.iter().map(|range| range.parse::<IpNet>().unwrap());
        self.service.sources = Sources::Only(nets.collect());
        self
    }

    /// SCTP too, on the same port.
    pub(crate) fn sctp(mut self) -> Self {
        let port =
            ServicePort { name: "web".into(), protocol: Protocol::Sctp, port: port(80), node_port: None };
        self.service.ports.push(port);
        self
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        self.service.key = ServiceKey::new("default", name);
        self
    }

    pub(crate) fn port(mut self, number: u16) -> Self {
        for found in &mut self.service.ports {
            found.port = port(number);
        }
        self
    }

    pub(crate) fn pods(mut self, pods: &[&'static str]) -> Self {
        self.pods = pods.to_vec();
        self
    }

    /// As that node sees it.
    pub(crate) fn on(mut self, node: &'static str) -> Self {
        self.here = node;
        self
    }

    /// With that node known to be dead.
    pub(crate) fn without(mut self, node: &'static str) -> Self {
        self.dead.push(node);
        self
    }

    pub(crate) fn apply(&self, path: &mut DataPath<nft::Kernel>) {
        self.stage(path);
        path.commit().expect("the kernel takes it");
    }

    /// As [`Web::apply`], with endpoints at which nobody answers up to that number in all.
    pub(crate) fn apply_with(&self, path: &mut DataPath<nft::Kernel>, endpoints: usize) {
        self.stage_with(path, endpoints);
        path.commit().expect("the kernel takes it");
    }

    pub(crate) fn stage(&self, path: &mut DataPath<nft::Kernel>) {
        self.stage_with(path, self.pods.len());
    }

    fn stage_with(&self, path: &mut DataPath<nft::Kernel>, endpoints: usize) {
        let ports = self.service.ports.iter().map(|of| SlicePort {
            name: "web".into(),
            protocol: of.protocol,
            port: Some(port(POD_PORT)),
        });
        let ports: Vec<SlicePort> = ports.collect();
        let slices = FAMILIES.map(|family| Slice {
            family,
            ports: ports.clone(),
            endpoints: self
                .pods
                .iter()
                .map(|pod| endpoint(pod, family))
                .chain((self.pods.len()..endpoints).map(|number| nobody(number, family)))
                .collect(),
        });
        let here = Place {
            node_addrs: NODE.map(|addr| addr.parse().unwrap()).to_vec(),
            dead: Arc::new(self.dead.iter().copied().map(NodeName::new).collect()),
            ..Place::of(NodeName::new(self.here))
        };
        let fronts = frontends(&self.service, &slices.iter().collect::<Vec<_>>(), &here);
        path.set_service(&self.service.key, fronts);
    }
}

pub(crate) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub(crate) fn pod_addr(pod: &str, family: Family) -> IpAddr {
    match (pod, family) {
        ("node", _) => return node_addr(family),
        ("node2", Family::V4) => return "192.0.2.12".parse().unwrap(),
        ("node2", Family::V6) => return "2001:db8:50::12".parse().unwrap(),
        _ => {}
    }
    let (number, last) = match pod {
        "p1" => (1, 11),
        "p2" => (1, 12),
        _ => (2, 11),
    };
    match family {
        Family::V4 => format!("10.244.{number}.{last}").parse().unwrap(),
        Family::V6 => format!("fd00:244:{number}::{last}").parse().unwrap(),
    }
}

pub(crate) fn endpoint(pod: &str, family: Family) -> SliceEndpoint {
    let node = if pod == "p3" { "node2" } else { "node" };
    SliceEndpoint {
        addr: pod_addr(pod, family),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(NodeName::new(node)),
        hints: None,
    }
}

/// An endpoint at which nobody answers.
fn nobody(number: usize, family: Family) -> SliceEndpoint {
    let (high, low) = (number / 250, number % 250 + 1);
    let addr = match family {
        Family::V4 => format!("10.245.{high}.{low}"),
        Family::V6 => format!("fd00:245::{high:x}:{low:x}"),
    };
    SliceEndpoint { addr: addr.parse().unwrap(), node: None, ..endpoint("p3", family) }
}

/// Port 80 of a load-balancer address.
pub(crate) fn vip(family: Family, last: u8) -> SocketAddr {
    match family {
        Family::V4 => format!("192.0.2.{last}:80").parse().unwrap(),
        Family::V6 => format!("[2001:db8:50::1{:02x}]:80", last - 100).parse().unwrap(),
    }
}

pub(crate) fn node_addr(family: Family) -> IpAddr {
    match family {
        Family::V4 => NODE[0].parse().unwrap(),
        Family::V6 => NODE[1].parse().unwrap(),
    }
}

pub(crate) fn client_addr(family: Family) -> IpAddr {
    match family {
        Family::V4 => "192.0.2.200".parse().unwrap(),
        Family::V6 => "2001:db8:50::200".parse().unwrap(),
    }
}

pub(crate) fn data_path(world: &World) -> DataPath<nft::Kernel> {
    let kernel = world.inside("node", || nft::Kernel::open().expect("NETLINK_NETFILTER"));
    let mut path = DataPath::new(kernel, SEED);
    let pods = ["10.244.1.0/24", "fd00:244:1::/64"].map(|net| net.parse().unwrap());
    path.set_node(NodeNet { pod_cidrs: pods.to_vec() });
    path
}

/// A data path on each of the two nodes.
pub(crate) fn data_paths(world: &World) -> [DataPath<nft::Kernel>; 2] {
    ["node", "node2"].map(|node| {
        let kernel = world.inside(node, || nft::Kernel::open().expect("NETLINK_NETFILTER"));
        DataPath::new(kernel, SEED)
    })
}

/// One attempt with each protocol.
pub(crate) fn both(world: &World, host: &str, to: SocketAddr) -> [Met; 2] {
    [world.tcp(host, to), world.udp(host, to)]
}

pub(crate) fn names(met: &[Met]) -> BTreeSet<&str> {
    met.iter().map(Met::pod).collect()
}

/// Set when it is dropped, also by a failed assertion.
pub(crate) struct SetWhenDropped<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

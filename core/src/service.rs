//! A Service and its endpoints as the data path needs them: compact, typed, nothing of Kubernetes' wire form.
//!
//! A node holds all of the cluster's load-balanced Services in this form (10,000 Services with 10 endpoints each
//! is the size to plan for), so repeated texts are shared (`Arc<str>`) and lists are what the API sent, once.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;

use crate::addr::Family;
use crate::name::{NodeName, ServiceKey};

/// A transport protocol a Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol; multi-homing is not supported.
    Sctp,
}

impl Protocol {
    /// All protocols, in the order of their names.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocol number of the IP header (IANA "Assigned Internet Protocol Numbers").
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this number of the IP header.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name; empty for the single unnamed port. Endpoints are matched by name and protocol.
    pub name: Arc<str>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port clients connect to on the Service's address.
    pub port: NonZeroU16,
    /// The port on every node's own address, if one was allocated.
    pub node_port: Option<NonZeroU16>,
}

/// Which endpoints traffic from outside may reach (`spec.externalTrafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalPolicy {
    /// Endpoints on every node; the client's address is translated.
    Cluster,
    /// Endpoints on the node the traffic arrived at, only; the endpoint sees the client's address.
    Local,
}

/// From where a Service may be reached (`spec.loadBalancerSourceRanges`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// No restriction was asked for.
    Any,
    /// Only these prefixes. A family without a prefix is closed, and an empty list closes both: a restriction
    /// that cannot be read must not become an open door.
    Only(Vec<IpNet>),
}

/// Whether the connections of a client stick to an endpoint (`spec.sessionAffinity`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Every connection is placed on its own.
    None,
    /// All connections of one client address go to one endpoint.
    ClientIp {
        /// How long a client stays with its endpoint after its last new connection, in seconds.
        timeout_s: u32,
    },
}

/// A load-balanced Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub key: ServiceKey,
    /// Its `metadata.uid`: a Service deleted and made anew is another one.
    pub uid: Arc<str>,
    /// When it was created, in seconds since 1970-01-01 UTC; the older one wins where two claim the same.
    pub created: i64,
    /// The load-balancer addresses it has been given (`status.loadBalancer.ingress`).
    pub vips: Vec<IpAddr>,
    /// Addresses it answers to that somebody else routes to the nodes (`spec.externalIPs`).
    pub external_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Which endpoints traffic from outside may reach.
    pub external_policy: ExternalPolicy,
    /// From where it may be reached.
    pub sources: Sources,
    /// Whether that holds for its `NodePort`s as well.
    pub sources_on_node_ports: bool,
    /// Whether clients stick to an endpoint.
    pub affinity: Affinity,
}

/// A port of an `EndpointSlice`: where the Service port of the same name and protocol is found on its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name, equal to the Service port's name; empty when that has none.
    pub name: Arc<str>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port on the endpoint. `None` stands for "no port": the entry is skipped, it does not mean all ports.
    pub port: Option<NonZeroU16>,
}

/// An endpoint of an `EndpointSlice`. Conditions are as the API defines their absence: an unset `ready` or
/// `serving` is true, an unset `terminating` is false; the border fills that in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address: the first one listed, the only one the API gives a meaning to.
    pub addr: IpAddr,
    /// Ready for new connections.
    pub ready: bool,
    /// Able to serve, whether terminating or not.
    pub serving: bool,
    /// Shutting down.
    pub terminating: bool,
    /// The node it runs on, if the API says; an endpoint without a node is local nowhere.
    pub node: Option<NodeName>,
    /// From where it is to be used, if the API says (KEP-2433, KEP-3015).
    pub hints: Option<Arc<Hints>>,
}

/// From where an endpoint is to be used while others are nearer elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hints {
    /// The zones (`topology.kubernetes.io/zone` of nodes).
    pub zones: Vec<Arc<str>>,
    /// The nodes.
    pub nodes: Vec<NodeName>,
}

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node.
    pub node: NodeName,
    /// Its zone, if its label `topology.kubernetes.io/zone` says.
    pub zone: Option<Arc<str>>,
    /// The addresses of the node at which `NodePort`s are served.
    pub node_addrs: Vec<IpAddr>,
    /// The nodes that are known to be dead, not only unreachable from here: nothing runs on them any more.
    pub dead: Arc<BTreeSet<NodeName>>,
}

impl Place {
    /// A node whose zone is not known and which serves no `NodePort`s.
    #[must_use]
    pub fn of(node: NodeName) -> Self {
        Self { node, zone: None, node_addrs: Vec::new(), dead: Arc::default() }
    }
}

/// An `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The family of all its addresses; slices of host names have none and are not kept.
    pub family: Family,
    /// The ports every endpoint of the slice has.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_goes_through_its_number_and_back() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::from_number(protocol.number()), Some(protocol));
        }
        assert_eq!(Protocol::from_number(1), None);
    }
}

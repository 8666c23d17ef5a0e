//! Which endpoints carry the traffic of one Service port.
//!
//! The rules are those of Kubernetes (KEP-1669, KEP-1672 and kube-proxy's behaviour): ready endpoints; where there
//! is none, those that are terminating but still serve. "All endpoints" and "endpoints on this node" are decided
//! independently of each other. The result has one canonical order, so that the same hash of a flow picks the same
//! endpoint on every node, whatever the order in which the slices arrived.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::addr::Family;
use crate::name::NodeName;
use crate::service::{ServicePort, Slice};

/// Where a packet is sent: the address and the port of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The endpoint's address.
    pub addr: IpAddr,
    /// The endpoint's port.
    pub port: NonZeroU16,
}

/// The endpoints of one Service port and family, each list in canonical order (by address, then port) and without
/// duplicates. Every endpoint of `everywhere` that runs on this node is in `local` too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Endpoints on any node; the same list on every node.
    pub everywhere: Vec<Target>,
    /// Endpoints on this node.
    pub local: Vec<Target>,
    /// Endpoints that are in neither list and still serve what they began: terminating ones while there are ready
    /// ones.
    pub draining: Vec<Target>,
}

/// How far an endpoint can be used; the better one is the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    Draining,
    Ready,
}

/// What is known of one target after all slices have been read.
#[derive(Clone, Copy)]
struct Candidate {
    terminating: bool,
    fitness: Option<Fitness>,
    local: bool,
}

/// Selects the endpoints that carry the traffic of `port` in `family`, as seen from `node`.
///
/// The same target in two slices (an endpoint that moves between slices) is one target. When the two disagree, the
/// one that is not terminating wins: its address has been taken over by a new Pod.
#[must_use]
pub fn select(
    port: &ServicePort,
    family: Family,
    slices: &[&Slice],
    node: &NodeName,
    publish_not_ready: bool,
) -> Selection {
    let mut candidates: BTreeMap<Target, Candidate> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        for number in ports(port, slice) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.addr) == family) {
                let fitness = if endpoint.ready || publish_not_ready {
                    Some(Fitness::Ready)
                } else if endpoint.serving && endpoint.terminating {
                    Some(Fitness::Draining)
                } else {
                    None
                };
                let seen = Candidate {
                    terminating: endpoint.terminating,
                    fitness,
                    local: endpoint.node.as_ref() == Some(node),
                };
                candidates
                    .entry(Target { addr: endpoint.addr, port: number })
                    .and_modify(|known| *known = merge(*known, seen))
                    .or_insert(seen);
            }
        }
    }
    let everywhere = best(candidates.iter());
    let local = best(candidates.iter().filter(|(_, candidate)| candidate.local));
    let draining = candidates
        .iter()
        .filter(|(_, candidate)| candidate.fitness == Some(Fitness::Draining))
        .map(|(target, _)| *target)
        .filter(|target| everywhere.binary_search(target).is_err() && local.binary_search(target).is_err())
        .collect();
    Selection { everywhere, local, draining }
}

/// The port numbers behind a Service port in one slice: matched by name and protocol, never by number.
fn ports(port: &ServicePort, slice: &Slice) -> impl Iterator<Item = NonZeroU16> {
    slice
        .ports
        .iter()
        .filter(|found| found.name == port.name && found.protocol == port.protocol)
        .filter_map(|found| found.port)
}

/// One record of two for the same target; commutative, so that the order of slices cannot matter.
fn merge(a: Candidate, b: Candidate) -> Candidate {
    match (a.terminating, b.terminating) {
        (true, false) => b,
        (false, true) => a,
        (terminating, _) => {
            Candidate { terminating, fitness: a.fitness.max(b.fitness), local: a.local || b.local }
        }
    }
}

/// The targets of the best fitness there is; both lists of a [`Selection`] are made by it, each on its own.
fn best<'a>(candidates: impl Iterator<Item = (&'a Target, &'a Candidate)> + Clone) -> Vec<Target> {
    let Some(wanted) = candidates.clone().filter_map(|(_, candidate)| candidate.fitness).max() else {
        return Vec::new();
    };
    candidates.filter(|(_, candidate)| candidate.fitness == Some(wanted)).map(|(target, _)| *target).collect()
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;

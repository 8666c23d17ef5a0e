//! Which endpoints carry the traffic of one Service port.
//!
//! The rules are those of Kubernetes (KEP-1669, KEP-1672, KEP-2433, KEP-3015, and kube-proxy's `topology.go`): ready
//! endpoints, those hinted for this node or zone before others; where none is ready, those that are terminating
//! but still serve. "All endpoints" and "endpoints on this node" are decided independently of each other. The result
//! has one canonical order, so that the same hash of a flow picks the same endpoint on every node that has the
//! same list, whatever the order in which the slices arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::addr::Family;
use crate::service::{Hints, Place, ServicePort, Slice};

/// Where a packet is sent: the address and the port of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The endpoint's address.
    pub addr: IpAddr,
    /// The endpoint's port.
    pub port: NonZeroU16,
}

/// The endpoints of one Service port and family, each list in canonical order (by address, then port) and without
/// duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Endpoints on any node; the same list on every node, unless hints give each its own part.
    pub everywhere: Vec<Target>,
    /// Endpoints on this node.
    pub local: Vec<Target>,
    /// Endpoints that are in neither list and still serve what they began.
    pub draining: Vec<Target>,
    /// Endpoints on nodes known to be dead: they are in no other list, and what they began goes nowhere.
    pub lost: Vec<Target>,
}

/// How far an endpoint can be used; the better one is the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    /// Not at all.
    Dead,
    /// For what it began.
    Serving,
    /// For new connections too, while none is ready: it serves although it shuts down.
    Draining,
    /// For everything.
    Ready,
}

/// What is known of one target after all slices have been read.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    fitness: Fitness,
    terminating: bool,
    local: bool,
    hints: Option<&'a Hints>,
}

/// Selects the endpoints that carry the traffic of `port` in `family`, as seen from a node at `here`.
///
/// The same target in two slices (an endpoint that moves between slices) is one target. When the two disagree, the
/// one that is not terminating wins: its address has been taken over by a new Pod.
#[must_use]
pub fn select(port: &ServicePort, family: Family, slices: &[&Slice], here: &Place) -> Selection {
    let mut candidates: BTreeMap<Target, Candidate<'_>> = BTreeMap::new();
    let mut lost: BTreeSet<Target> = BTreeSet::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        for number in ports(port, slice) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.addr) == family) {
                if endpoint.node.as_ref().is_some_and(|node| here.dead.contains(node)) {
                    lost.insert(Target { addr: endpoint.addr, port: number });
                    continue;
                }
                let seen = Candidate {
                    fitness: match (endpoint.ready, endpoint.serving, endpoint.terminating) {
                        (true, _, _) => Fitness::Ready,
                        (false, true, true) => Fitness::Draining,
                        (false, true, false) => Fitness::Serving,
                        (false, false, _) => Fitness::Dead,
                    },
                    terminating: endpoint.terminating,
                    local: endpoint.node.as_ref() == Some(&here.node),
                    hints: endpoint.hints.as_deref(),
                };
                candidates
                    .entry(Target { addr: endpoint.addr, port: number })
                    .and_modify(|known| *known = merge(*known, seen))
                    .or_insert(seen);
            }
        }
    }
    let near = nearness(&candidates, here);
    let everywhere = best(&candidates, |_| true, |candidate| near.holds(candidate.hints, here));
    let local = best(&candidates, |candidate| candidate.local, |_| true);
    let draining = candidates
        .iter()
        .filter(|(_, candidate)| candidate.fitness > Fitness::Dead)
        .map(|(target, _)| *target)
        .filter(|target| everywhere.binary_search(target).is_err() && local.binary_search(target).is_err())
        .collect();
    // An address that a living node has taken over is not lost.
    lost.retain(|target| !candidates.contains_key(target));
    Selection { everywhere, local, draining, lost: lost.into_iter().collect() }
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
fn merge<'a>(a: Candidate<'a>, b: Candidate<'a>) -> Candidate<'a> {
    match (a.terminating, b.terminating) {
        (true, false) => b,
        (false, true) => a,
        (terminating, _) => Candidate {
            fitness: a.fitness.max(b.fitness),
            terminating,
            local: a.local || b.local,
            // Two records of one endpoint agree but for moments; which one is taken must not depend on the order.
            hints: a.hints.max(b.hints),
        },
    }
}

/// Which hints count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nearness {
    /// None: every endpoint is as good as any other.
    Any,
    /// Those that name this node's zone.
    Zone,
    /// Those that name this node.
    Node,
}

/// Hints count when every ready endpoint has some and one of them names this node, else its zone.
fn nearness(candidates: &BTreeMap<Target, Candidate<'_>>, here: &Place) -> Nearness {
    let ready = candidates.values().filter(|candidate| candidate.fitness == Fitness::Ready);
    let applies = |near: Nearness| {
        let hinted = |candidate: &Candidate<'_>| match near {
            Nearness::Any => true,
            Nearness::Zone => candidate.hints.is_some_and(|hints| !hints.zones.is_empty()),
            Nearness::Node => candidate.hints.is_some_and(|hints| !hints.nodes.is_empty()),
        };
        ready.clone().all(hinted) && ready.clone().any(|candidate| near.holds(candidate.hints, here))
    };
    [Nearness::Node, Nearness::Zone].into_iter().find(|near| applies(*near)).unwrap_or(Nearness::Any)
}

impl Nearness {
    fn holds(self, hints: Option<&Hints>, here: &Place) -> bool {
        match self {
            Self::Any => true,
            Self::Zone => hints.is_some_and(|hints| {
                here.zone.as_ref().is_some_and(|zone| hints.zones.iter().any(|hinted| hinted == zone))
            }),
            Self::Node => hints.is_some_and(|hints| hints.nodes.contains(&here.node)),
        }
    }
}

/// Of the candidates in `scope` the ready ones that are `near`; where none is ready, those that still serve.
fn best(
    candidates: &BTreeMap<Target, Candidate<'_>>,
    scope: impl Fn(&Candidate<'_>) -> bool,
    near: impl Fn(&Candidate<'_>) -> bool,
) -> Vec<Target> {
    let pick = |fit: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<Target> {
        let fitting = candidates.iter().filter(|(_, candidate)| scope(candidate) && fit(candidate));
        fitting.map(|(target, _)| *target).collect()
    };
    let ready = pick(&|candidate| candidate.fitness == Fitness::Ready && near(candidate));
    if ready.is_empty() { pick(&|candidate| candidate.fitness == Fitness::Draining) } else { ready }
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;

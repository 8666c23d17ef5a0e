//! Where each address may be announced: advertisements, pools, Nodes and endpoints folded into the input of
//! [`landfall_core::elect`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use landfall_core::addr::Family;
use landfall_core::elect::{AdRule, NodeSet, VipPlan, Wanted};
use landfall_core::name::{NodeName, PoolName};
use landfall_core::service::{ExternalPolicy, Service, Slice, SlicePort};

use super::View;
use crate::convert::ServiceFacts;

impl View {
    /// Everything that may be announced now, if anything about it could have changed since the last call: the
    /// addresses that their Services have and that this node's kernel serves.
    pub fn take_plans(&mut self) -> Option<Wanted> {
        std::mem::take(&mut self.plans_stale).then(|| self.plans())
    }

    /// Whether [`View::take_plans`] would give any.
    #[must_use]
    pub const fn plans_stale(&self) -> bool {
        self.plans_stale
    }

    pub(super) fn plans(&self) -> Wanted {
        let mut rules = Rules { view: self, by_pool: HashMap::new() };
        let mut vips = BTreeMap::new();
        for (key, programmed) in &self.programmed {
            let Some(facts) = self.services.get(key) else { continue };
            for (index, addr) in facts.service.vips.iter().enumerate() {
                if !programmed.contains(addr) {
                    continue;
                }
                let pool = self.pool_of(facts, index, *addr);
                let rules = rules.of(pool.as_ref());
                let endpoints = self.endpoint_nodes(facts, *addr);
                let plan = VipPlan { pool, rules, endpoints };
                vips.entry(*addr).and_modify(|shared: &mut VipPlan| join(shared, &plan)).or_insert(plan);
            }
        }
        let barred = self.nodes.iter().filter(|(_, node)| node.excluded() || node.leaving);
        let barred = barred.map(|(name, _)| name.clone()).collect();
        Wanted { vips, barred }
    }

    /// The pool of an address: the one the controller noted, else the first that holds it.
    fn pool_of(&self, facts: &ServiceFacts, index: usize, addr: IpAddr) -> Option<PoolName> {
        let holds = |name: &&PoolName| self.pools.get(name).is_some_and(|pool| pool.contains(addr));
        let noted = match facts.pools.as_slice() {
            [] => None,
            [only] => Some(only),
            several => several.iter().find(holds).or_else(|| several.get(index)),
        };
        noted.or_else(|| self.pools.keys().find(holds)).cloned()
    }

    /// The nodes that have an endpoint to offer, under `externalTrafficPolicy: Local`.
    fn endpoint_nodes(&self, facts: &ServiceFacts, addr: IpAddr) -> NodeSet {
        if facts.service.external_policy == ExternalPolicy::Cluster {
            return NodeSet::Any;
        }
        let slices: Vec<_> = self.slices_of(&facts.service.key).collect();
        NodeSet::Only(Arc::new(nodes_with_endpoints(&facts.service, Family::of(addr), &slices)))
    }
}

/// The nodes on which an endpoint of this family is ready; when none is on any node, those on which one still
/// serves while it shuts down.
fn nodes_with_endpoints(service: &Service, family: Family, slices: &[&Slice]) -> BTreeSet<NodeName> {
    let (mut ready, mut draining) = (BTreeSet::new(), BTreeSet::new());
    let reached = |port: &SlicePort| {
        port.port.is_some()
            && service.ports.iter().any(|p| p.name == port.name && p.protocol == port.protocol)
    };
    for slice in slices.iter().filter(|slice| slice.family == family && slice.ports.iter().any(reached)) {
        for endpoint in &slice.endpoints {
            let Some(node) = &endpoint.node else { continue };
            if endpoint.ready {
                ready.insert(node.clone());
            } else if endpoint.serving && endpoint.terminating {
                draining.insert(node.clone());
            }
        }
    }
    if ready.is_empty() { draining } else { ready }
}

/// An address that several Services share is announced where all of them have endpoints to offer, if there is such a
/// node: from anywhere else some of them could not be reached. Where there is none, any of their nodes is as good, and
/// those without endpoints have no say.
fn join(shared: &mut VipPlan, other: &VipPlan) {
    let (all, more) = match (&mut shared.endpoints, &other.endpoints) {
        (endpoints, NodeSet::Any) => {
            if matches!(endpoints, NodeSet::Only(all) if all.is_empty()) {
                *endpoints = NodeSet::Any;
            }
            return;
        }
        (endpoints @ NodeSet::Any, NodeSet::Only(more)) => {
            if !more.is_empty() {
                *endpoints = NodeSet::Only(Arc::clone(more));
            }
            return;
        }
        (NodeSet::Only(all), NodeSet::Only(more)) => (all, more),
    };
    let common: BTreeSet<NodeName> = all.intersection(more).cloned().collect();
    if common.is_empty() {
        Arc::make_mut(all).extend(more.iter().cloned());
    } else {
        *all = Arc::new(common);
    }
}

/// The rules of each pool, worked out once: all addresses of a pool share them.
struct Rules<'a> {
    view: &'a View,
    by_pool: HashMap<Option<PoolName>, Arc<[AdRule]>>,
}

impl Rules<'_> {
    fn of(&mut self, pool: Option<&PoolName>) -> Arc<[AdRule]> {
        if let Some(known) = self.by_pool.get(&pool.cloned()) {
            return Arc::clone(known);
        }
        let advertisements = &self.view.advertisements;
        let rules: Arc<[AdRule]> = if advertisements.is_empty() {
            Arc::from([AdRule::everywhere()])
        } else {
            let covering = advertisements.values().filter(|ad| ad.covers(pool));
            covering
                .map(|ad| {
                    let nodes = if ad.selects_nodes() {
                        let admitted = self.view.nodes.iter().filter(|(_, node)| ad.admits(&node.labels));
                        let names: BTreeSet<NodeName> = admitted.map(|(name, _)| name.clone()).collect();
                        NodeSet::Only(Arc::new(names))
                    } else {
                        NodeSet::Any
                    };
                    AdRule { nodes, interfaces: ad.interfaces.clone() }
                })
                .collect()
        };
        self.by_pool.insert(pool.cloned(), Arc::clone(&rules));
        rules
    }
}

//! What this node knows of the cluster, in compact form: an index that says which Services a change touches.
//!
//! Nothing in here waits, sends or looks at a clock. Changes go in through [`View::apply`], decisions come out as
//! values: which Services have to be computed anew, their front ends, and what may be announced where.

mod health;
mod plans;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use landfall_core::addr::Family;
use landfall_core::frontend::{self, Frontend, FrontendKey};
use landfall_core::name::{NodeName, PoolName, ServiceKey};
use landfall_core::service::{ExternalPolicy, Place, Service, Slice};

use crate::args::NodePortAddresses;
use crate::convert::{Advertisement, NodeFacts, Pool, ServiceFacts, SliceFacts, SliceKey};
use crate::metrics::Kind;

/// One thing that a watch reports about objects of one kind.
#[derive(Debug)]
pub enum Change<K, V> {
    /// The object exists and looks like this.
    Set(K, V),
    /// The object is gone, or is no concern of ours any more.
    Delete(K),
    /// A complete list has ended; whatever is not in this set is gone.
    Listed(HashSet<K>),
}

/// A report of one of the watches.
#[derive(Debug)]
pub enum Observed {
    /// A Service; with its resource version.
    Service(Change<ServiceKey, ServiceFacts>, u64),
    /// An `EndpointSlice`; with its resource version.
    Slice(Change<SliceKey, SliceFacts>, u64),
    /// A Node.
    Node(Change<NodeName, NodeFacts>),
    /// An `AddressPool`.
    Pool(Change<PoolName, Pool>),
    /// An `L2Advertisement`, by name.
    Advertisement(Change<Arc<str>, Advertisement>),
    /// The addresses of this node's interfaces, sorted.
    Local(Vec<IpAddr>),
}

/// What the user has decided about the data path of this node.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Where `NodePort`s are served.
    pub node_ports: NodePortAddresses,
    /// Whether external IPs are served.
    pub external_ips: bool,
}

impl Default for Choices {
    fn default() -> Self {
        Self { node_ports: NodePortAddresses::None, external_ips: false }
    }
}

/// How much of the API has been taken in: the highest resource versions seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    /// Of Services.
    pub services: u64,
    /// Of `EndpointSlice`s.
    pub slices: u64,
}

/// The index.
#[derive(Debug)]
pub struct View {
    node: NodeName,
    choices: Choices,
    /// The addresses of this node's interfaces.
    local: Vec<IpAddr>,
    services: HashMap<ServiceKey, ServiceFacts>,
    /// Mostly one or two each, hence a list: a map would reserve a kilobyte for them.
    slices: HashMap<ServiceKey, Vec<(SliceKey, Slice)>>,
    slice_owners: HashMap<SliceKey, ServiceKey>,
    nodes: BTreeMap<NodeName, NodeFacts>,
    /// Those of them that are known to be dead.
    dead: Arc<BTreeSet<NodeName>>,
    /// Addresses that the cluster itself lives by, and whose they are: no Service is ever served on one, since that
    /// would cut off what is there.
    vital: BTreeMap<IpAddr, Arc<str>>,
    left_out: BTreeMap<ServiceKey, String>,
    pools: BTreeMap<PoolName, Pool>,
    advertisements: BTreeMap<Arc<str>, Advertisement>,
    /// The addresses of each Service that this node's kernel serves by now.
    programmed: HashMap<ServiceKey, Arc<[IpAddr]>>,
    dirty: BTreeSet<ServiceKey>,
    plans_stale: bool,
    /// The kinds that have been listed completely at least once.
    listed: HashSet<Kind>,
    watermark: Watermark,
}

impl View {
    /// An empty view of the node with this name.
    #[must_use]
    pub fn new(node: NodeName, choices: Choices) -> Self {
        Self {
            node,
            choices,
            local: Vec::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            slice_owners: HashMap::new(),
            nodes: BTreeMap::new(),
            dead: Arc::default(),
            vital: BTreeMap::new(),
            left_out: BTreeMap::new(),
            pools: BTreeMap::new(),
            advertisements: BTreeMap::new(),
            programmed: HashMap::new(),
            dirty: BTreeSet::new(),
            plans_stale: true,
            listed: HashSet::new(),
            watermark: Watermark::default(),
        }
    }

    /// Takes in one report.
    pub fn apply(&mut self, observed: Observed) {
        match observed {
            Observed::Service(change, version) => {
                self.watermark.services = self.watermark.services.max(version);
                self.note_list(Kind::Service, &change);
                self.apply_service(change);
            }
            Observed::Slice(change, version) => {
                self.watermark.slices = self.watermark.slices.max(version);
                self.note_list(Kind::EndpointSlice, &change);
                self.apply_slice(change);
            }
            Observed::Node(change) => {
                self.note_list(Kind::Node, &change);
                let place = self.place();
                self.plans_stale |= apply_to_map(&mut self.nodes, change);
                self.note_dead();
                self.note_place(&place);
                self.weigh_vital();
            }
            Observed::Pool(change) => {
                self.note_list(Kind::AddressPool, &change);
                let open = self.open_pools();
                self.plans_stale |= apply_to_map(&mut self.pools, change);
                if self.open_pools() != open {
                    self.dirty.extend(self.services.keys().cloned());
                }
            }
            Observed::Advertisement(change) => {
                self.note_list(Kind::L2Advertisement, &change);
                self.plans_stale |= apply_to_map(&mut self.advertisements, change);
            }
            Observed::Local(addrs) => {
                let place = self.place();
                self.local = addrs;
                self.note_place(&place);
            }
        }
    }

    fn note_list<K, V>(&mut self, kind: Kind, change: &Change<K, V>) {
        if matches!(change, Change::Listed(_)) {
            self.listed.insert(kind);
        }
    }

    fn apply_service(&mut self, change: Change<ServiceKey, ServiceFacts>) {
        match change {
            Change::Set(key, facts) => {
                let old = self.services.get(&key);
                if old == Some(&facts) {
                    return;
                }
                let announced_alike = old.is_some_and(|old| {
                    old.service.vips == facts.service.vips
                        && old.service.external_policy == facts.service.external_policy
                        && old.service.external_policy == ExternalPolicy::Cluster
                        && old.pools == facts.pools
                });
                self.plans_stale |= !announced_alike;
                self.services.insert(key.clone(), facts);
                self.note_left_out(&key);
                self.dirty.insert(key);
            }
            Change::Delete(key) => self.forget_service(&key),
            Change::Listed(seen) => {
                let gone: Vec<_> = self.services.keys().filter(|key| !seen.contains(key)).cloned().collect();
                for key in gone {
                    self.forget_service(&key);
                }
            }
        }
    }

    fn forget_service(&mut self, key: &ServiceKey) {
        if self.services.remove(key).is_some() {
            self.plans_stale = true;
            self.left_out.remove(key);
            self.dirty.insert(key.clone());
        }
    }

    fn apply_slice(&mut self, change: Change<SliceKey, SliceFacts>) {
        match change {
            Change::Set(key, facts) => {
                // The label that names the Service can change: the slice then leaves one and joins another.
                if self.slice_owners.get(&key).is_some_and(|owner| *owner != facts.service) {
                    self.forget_slice(&key);
                }
                let slices =
                    self.slices.entry(facts.service.clone()).or_insert_with(|| Vec::with_capacity(1));
                match slices.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, slice)) if *slice == facts.slice => return,
                    Some((_, slice)) => *slice = facts.slice,
                    None => slices.push((key.clone(), facts.slice)),
                }
                self.touch_endpoints(&facts.service);
                self.slice_owners.insert(key, facts.service);
            }
            Change::Delete(key) => self.forget_slice(&key),
            Change::Listed(seen) => {
                let gone: Vec<_> =
                    self.slice_owners.keys().filter(|key| !seen.contains(key)).cloned().collect();
                for key in gone {
                    self.forget_slice(&key);
                }
            }
        }
    }

    fn forget_slice(&mut self, key: &SliceKey) {
        let Some(service) = self.slice_owners.remove(key) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.retain(|(known, _)| known != key);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.touch_endpoints(&service);
    }

    /// Works out which addresses the cluster lives by: those of its nodes and of its API servers. Services that gain or
    /// lose one by it are computed anew.
    fn weigh_vital(&mut self) {
        let mut vital: BTreeMap<IpAddr, Arc<str>> = BTreeMap::new();
        let api = ServiceKey::new("default", "kubernetes");
        for endpoint in self.slices_of(&api).flat_map(|slice| &slice.endpoints) {
            vital.insert(endpoint.addr, Arc::from("an API server"));
        }
        for (name, node) in &self.nodes {
            for addr in &node.addresses {
                vital.insert(*addr, Arc::from(format!("node {name}")));
            }
        }
        if vital == self.vital {
            return;
        }
        let old = std::mem::replace(&mut self.vital, vital);
        let turned = |addr: &IpAddr| old.contains_key(addr) != self.vital.contains_key(addr);
        let touched = self.services.iter().filter(|(_, facts)| facts.service.vips.iter().any(turned));
        let touched: Vec<ServiceKey> = touched.map(|(key, _)| key.clone()).collect();
        for key in &touched {
            self.note_left_out(key);
        }
        self.dirty.extend(touched);
    }

    /// Whose address this is, if a Service must not be served on it.
    fn forbidden(&self, addr: IpAddr) -> Option<&str> {
        if let Some(whose) = self.vital.get(&addr) {
            return Some(whose);
        }
        if addr.is_loopback() {
            return Some("every host (loopback)");
        }
        (addr.is_unspecified() || addr.is_multicast() || addr == IpAddr::V4(Ipv4Addr::BROADCAST))
            .then_some("no single host")
    }

    /// The addresses of a Service that may be served.
    #[must_use]
    pub fn vips(&self, key: &ServiceKey) -> Vec<IpAddr> {
        let vips = self.service(key).map_or(&[] as &[IpAddr], |service| &service.vips);
        vips.iter().copied().filter(|addr| self.forbidden(*addr).is_none()).collect()
    }

    /// The Services with an address that must not be served, and why.
    #[must_use]
    pub const fn left_out(&self) -> &BTreeMap<ServiceKey, String> {
        &self.left_out
    }

    fn note_left_out(&mut self, key: &ServiceKey) {
        let vips = self.service(key).map_or(&[] as &[IpAddr], |service| &service.vips);
        let found = vips.iter().find_map(|addr| Some((*addr, self.forbidden(*addr)?)));
        match found {
            Some((addr, whose)) => {
                let why = format!("{addr} is the address of {whose}: no Service can be served on it");
                tracing::warn!(service = %key, "{why}");
                self.left_out.insert(key.clone(), why);
            }
            None => {
                self.left_out.remove(key);
            }
        }
    }

    /// The endpoints of a Service have changed.
    fn touch_endpoints(&mut self, key: &ServiceKey) {
        if key.namespace.as_str() == "default" && &*key.name == "kubernetes" {
            self.weigh_vital();
        }
        let Some(facts) = self.services.get(key) else { return };
        // Only under `Local` do endpoints say who may announce.
        self.plans_stale |= facts.service.external_policy == ExternalPolicy::Local;
        self.dirty.insert(key.clone());
    }

    /// Whether everything that shapes the kernel's tables has been listed: before that, a commit could take away
    /// what another run of this program left in the kernel and what still is wanted.
    #[must_use]
    pub fn ready_to_program(&self) -> bool {
        [Kind::Service, Kind::EndpointSlice, Kind::Node].iter().all(|kind| self.listed.contains(kind))
    }

    /// Whether everything that says who announces what has been listed.
    #[must_use]
    pub fn ready_to_announce(&self) -> bool {
        self.ready_to_program()
            && [Kind::AddressPool, Kind::L2Advertisement].iter().all(|kind| self.listed.contains(kind))
    }

    /// The highest resource versions taken in.
    #[must_use]
    pub const fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// The Services that changed since they were last taken by [`View::take_dirty`].
    pub fn dirty(&self) -> impl Iterator<Item = &ServiceKey> {
        self.dirty.iter()
    }

    /// The changed Services except those in `held`, which stay marked.
    pub fn take_dirty(&mut self, held: impl Fn(&ServiceKey) -> bool) -> Vec<ServiceKey> {
        let (kept, taken): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.dirty).into_iter().partition(|key| held(key));
        self.dirty = kept;
        taken.into_iter().collect()
    }

    /// What is known of a Service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key).map(|facts| &facts.service)
    }

    /// The Service that has this address now; the first by name when several share it. Looks through all of them.
    #[must_use]
    pub fn holder(&self, addr: IpAddr) -> Option<&Service> {
        self.services
            .values()
            .map(|facts| &facts.service)
            .filter(|service| service.vips.contains(&addr))
            .min_by(|a, b| a.key.cmp(&b.key))
    }

    /// The front ends of a Service on this node; `None` when there is no such Service.
    #[must_use]
    pub fn frontends(&self, key: &ServiceKey) -> Option<Vec<(FrontendKey, Frontend)>> {
        let facts = self.services.get(key)?;
        let mut service = Cow::Borrowed(&facts.service);
        if service.vips.iter().any(|addr| self.forbidden(*addr).is_some()) {
            service.to_mut().vips = self.vips(key);
        }
        if !self.choices.external_ips && !service.external_ips.is_empty() {
            service.to_mut().external_ips = Vec::new();
        }
        if service.external_ips.iter().any(|addr| self.forbidden(*addr).is_some()) {
            let allowed = |addr: &IpAddr| self.forbidden(*addr).is_none();
            service.to_mut().external_ips.retain(allowed);
        }
        let open = |name| self.pools.get(name).is_some_and(|pool: &Pool| pool.open_node_ports);
        if facts.pools.iter().any(open) {
            service.to_mut().sources_on_node_ports = false;
        }
        let slices: Vec<&Slice> = self.slices_of(key).collect();
        Some(frontend::frontends(&service, &slices, &self.place()))
    }

    /// The addresses of this node at which `NodePort`s are served.
    fn node_addrs(&self) -> Vec<IpAddr> {
        let known = self.own_node().map_or(&[] as &[IpAddr], |node| &node.addresses);
        match &self.choices.node_ports {
            NodePortAddresses::None => Vec::new(),
            NodePortAddresses::Primary => {
                let first = |family| known.iter().copied().find(|addr| Family::of(*addr) == family);
                [Family::V4, Family::V6].into_iter().filter_map(first).collect()
            }
            NodePortAddresses::Within(nets) => {
                let chosen = |addr: &IpAddr| {
                    let mut of_family =
                        nets.iter().filter(|net| Family::of(net.addr()) == Family::of(*addr)).peekable();
                    of_family.peek().is_none() || of_family.any(|net| net.contains(addr))
                };
                // On loopback they would not be reached from anywhere else, and a load-balancer address is never there.
                let usable = |addr: &IpAddr| !addr.is_loopback() && chosen(addr);
                self.local.iter().copied().filter(usable).collect()
            }
        }
    }

    /// Remembers which nodes are dead. This one is not, whatever is said of it.
    fn note_dead(&mut self) {
        let dead = self.nodes.iter().filter(|(name, node)| node.dead && **name != self.node);
        let dead: BTreeSet<NodeName> = dead.map(|(name, _)| name.clone()).collect();
        if *self.dead != dead {
            self.dead = Arc::new(dead);
        }
    }

    /// What depends on where this node is and which addresses it has is computed anew when that changed.
    fn note_place(&mut self, before: &Place) {
        if self.place() != *before {
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// The pools whose Services have `NodePort`s without source ranges.
    fn open_pools(&self) -> Vec<PoolName> {
        self.pools.iter().filter(|(_, pool)| pool.open_node_ports).map(|(name, _)| name.clone()).collect()
    }

    /// Where this node is.
    fn place(&self) -> Place {
        Place {
            node: self.node.clone(),
            zone: self.own_node().and_then(NodeFacts::zone),
            node_addrs: self.node_addrs(),
            dead: Arc::clone(&self.dead),
        }
    }

    fn slices_of(&self, key: &ServiceKey) -> impl Iterator<Item = &Slice> {
        self.slices.get(key).into_iter().flatten().map(|(_, slice)| slice)
    }

    /// What is known of this node itself.
    #[must_use]
    pub fn own_node(&self) -> Option<&NodeFacts> {
        self.nodes.get(&self.node)
    }

    /// The networks of this node's pods.
    #[must_use]
    pub fn pod_cidrs(&self) -> &[IpNet] {
        self.own_node().map_or(&[], |node| &node.pod_cidrs)
    }

    /// Notes which addresses of a Service the kernel serves now; an empty list when none.
    pub fn set_programmed(&mut self, key: ServiceKey, vips: &[IpAddr]) {
        let old = self.programmed.get(&key).map_or(&[] as &[IpAddr], |vips| vips);
        if old == vips {
            return;
        }
        self.plans_stale = true;
        if vips.is_empty() {
            self.programmed.remove(&key);
        } else {
            self.programmed.insert(key, Arc::from(vips));
        }
    }

    /// The addresses that a change of this Service takes out of the kernel.
    pub fn leaving(&self, key: &ServiceKey) -> impl Iterator<Item = IpAddr> {
        let stays = self.vips(key);
        self.programmed
            .get(key)
            .into_iter()
            .flat_map(|vips| vips.iter().copied())
            .filter(move |addr| !stays.contains(addr))
    }
}

/// Applies a change to a plain map; whether anything is different now.
fn apply_to_map<K: Ord + Hash, V: PartialEq>(map: &mut BTreeMap<K, V>, change: Change<K, V>) -> bool {
    match change {
        Change::Set(key, value) => {
            if map.get(&key) == Some(&value) {
                return false;
            }
            map.insert(key, value);
            true
        }
        Change::Delete(key) => map.remove(&key).is_some(),
        Change::Listed(seen) => {
            let before = map.len();
            map.retain(|key, _| seen.contains(key));
            map.len() != before
        }
    }
}

#[cfg(test)]
mod tests;

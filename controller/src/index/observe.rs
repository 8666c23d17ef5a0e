//! What watches report, taken in: progress of their lists, and who is looked at because something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use landfall_core::name::ServiceKey;
use landfall_runtime::watch::Change;

use super::{Index, start};
use crate::seen::{SeenCidr, SeenNamespace, SeenNode, SeenPool, SeenReservation, SeenService, SeenSpeaker};

/// Progress of the lists of one watch.
#[derive(Debug)]
pub(super) struct Listing<K> {
    pub(super) complete_once: bool,
    /// What a list that is on its way has named so far.
    pub(super) running: Option<BTreeSet<K>>,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self { complete_once: false, running: None }
    }
}

/// A change of one kind of object, once the progress of its list is taken care of.
enum Step<K, V> {
    Set(V),
    Gone(V),
    /// The list is complete and has named these.
    Named(BTreeSet<K>),
    Nothing,
}

impl<K: Ord + Clone> Listing<K> {
    fn step<V>(&mut self, change: Change<V>, key: impl Fn(&V) -> &K) -> Step<K, V> {
        match change {
            Change::Listing => {
                self.running = Some(BTreeSet::new());
                Step::Nothing
            }
            Change::Set(value) => {
                if let Some(named) = &mut self.running {
                    named.insert(key(&value).clone());
                }
                Step::Set(value)
            }
            Change::Gone(value) => Step::Gone(value),
            Change::Listed => {
                self.complete_once = true;
                self.running.take().map_or(Step::Nothing, Step::Named)
            }
        }
    }
}

/// Keeps a map in step with a watch; whether anything is different now.
fn keep<K: Ord + Clone + Hash, V, T: PartialEq>(
    map: &mut BTreeMap<K, T>,
    step: Step<K, V>,
    split: impl Fn(V) -> (K, T),
) -> bool {
    match step {
        Step::Set(value) => {
            let (key, value) = split(value);
            if map.get(&key) == Some(&value) {
                return false;
            }
            map.insert(key, value);
            true
        }
        Step::Gone(value) => map.remove(&split(value).0).is_some(),
        Step::Named(named) => {
            let before = map.len();
            map.retain(|key, _| named.contains(key));
            map.len() != before
        }
        Step::Nothing => false,
    }
}

impl Index {
    /// A change of a Service.
    pub fn service(&mut self, change: Change<SeenService>) {
        match self.service_list.step(change, |seen| &seen.key) {
            Step::Set(seen) => self.set_service(seen),
            Step::Gone(seen) => {
                let known = self.services.get(&seen.key);
                if known.is_none_or(|entry| entry.seen.version.uid == seen.version.uid) {
                    self.forget(&seen.key);
                }
            }
            Step::Named(named) => {
                let gone: Vec<_> = self
                    .services
                    .keys()
                    .chain(self.ports_of.keys())
                    .filter(|key| !named.contains(*key))
                    .cloned()
                    .collect();
                for key in &gone {
                    self.forget(key);
                }
                self.start();
            }
            Step::Nothing => {}
        }
    }

    /// A change of a pool.
    pub fn pool(&mut self, change: Change<SeenPool>) {
        let listed = matches!(change, Change::Listed);
        let changed = match self.pool_list.step(change, |seen| &seen.name) {
            Step::Set(seen) => {
                let known = self.seen_pools.get(&seen.name);
                // Our own writes of the status come back as changes, too: they change no address.
                let same =
                    known.is_some_and(|old| old.pool == seen.pool && old.version.uid == seen.version.uid);
                self.seen_pools.insert(seen.name.clone(), seen);
                !same
            }
            Step::Gone(seen) => self.seen_pools.remove(&seen.name).is_some(),
            Step::Named(named) => {
                let before = self.seen_pools.len();
                self.seen_pools.retain(|name, _| named.contains(name));
                self.seen_pools.len() != before
            }
            Step::Nothing => false,
        };
        if changed {
            self.pools_changed();
        }
        if listed {
            self.start();
        }
    }

    /// A change of a reservation.
    pub fn reservation(&mut self, change: Change<SeenReservation>) {
        let listed = matches!(change, Change::Listed);
        let changed = match self.reservation_list.step(change, |seen| &seen.name) {
            Step::Set(seen) => {
                let known = self.reservations.get(&seen.name);
                let same = known.is_some_and(|old| {
                    old.reservation == seen.reservation && old.version.uid == seen.version.uid
                });
                self.reservations.insert(seen.name.clone(), seen);
                !same
            }
            Step::Gone(seen) => self.reservations.remove(&seen.name).is_some(),
            Step::Named(named) => {
                let before = self.reservations.len();
                self.reservations.retain(|name, _| named.contains(name));
                self.reservations.len() != before
            }
            Step::Nothing => false,
        };
        if changed && self.started {
            self.ledger.set_reservations(&self.pools, start::list(&self.reservations));
            self.all_due();
        }
        if listed {
            self.start();
        }
    }

    /// A change of a namespace.
    pub fn namespace(&mut self, change: Change<SeenNamespace>) {
        let listed = matches!(change, Change::Listed);
        match self.namespace_list.step(change, |seen| &seen.name) {
            Step::Set(seen) => {
                let known = self.namespaces.insert(seen.name.clone(), seen.labels.clone());
                if known.as_ref() != Some(&seen.labels) && self.started {
                    let of = |key: &ServiceKey| key.namespace == seen.name;
                    let touched = self.services.values().filter(|entry| of(&entry.seen.key));
                    let places = touched.map(|entry| entry.place());
                    self.due.extend(places);
                }
            }
            Step::Gone(seen) => {
                self.namespaces.remove(&seen.name);
            }
            Step::Named(named) => self.namespaces.retain(|name, _| named.contains(name)),
            Step::Nothing => {}
        }
        if listed {
            self.start();
        }
    }

    /// A change of a Node.
    pub fn node(&mut self, change: Change<SeenNode>) {
        let listed = matches!(change, Change::Listed);
        let before: Vec<Box<str>> = self.nodes.keys().cloned().collect();
        let step = self.node_list.step(change, |seen| &seen.name);
        if keep(&mut self.nodes, step, |seen| (seen.name, seen.taken)) {
            self.pools_changed();
            // A speaker counts as long as its node exists.
            if self.started && !before.iter().eq(self.nodes.keys()) {
                self.all_due();
            }
        }
        if listed {
            self.start();
        }
    }

    /// A change of a `ServiceCIDR`.
    pub fn cidr(&mut self, change: Change<SeenCidr>) {
        let listed = matches!(change, Change::Listed);
        let step = self.cidr_list.step(change, |seen| &seen.name);
        if keep(&mut self.cidrs, step, |seen| (seen.name, seen.taken)) {
            self.pools_changed();
        }
        if listed {
            self.start();
        }
    }

    /// A change of what a speaker says.
    pub fn speaker(&mut self, change: Change<SeenSpeaker>) {
        let first = matches!(change, Change::Listed) && !self.speaker_list.complete_once;
        match self.speaker_list.step(change, |seen| &seen.node) {
            Step::Set(seen) => self.hear(&seen.node.clone(), Some(seen)),
            Step::Gone(seen) => self.hear(&seen.node, None),
            Step::Named(named) => {
                let known: Vec<Box<str>> = self.speakers.nodes().map(Into::into).collect();
                for node in known.into_iter().filter(|node| !named.contains(node)) {
                    self.hear(&node, None);
                }
            }
            Step::Nothing => {}
        }
        if first {
            self.all_due();
        }
    }

    fn hear(&mut self, node: &str, said: Option<SeenSpeaker>) {
        let affected = self.speakers.set(node, said);
        let holders = affected.addresses.iter().flat_map(|addr| self.ledger.holders(*addr)).cloned();
        let named = affected.services.iter().filter_map(|name| name.split_once('/'));
        let named = named.map(|(namespace, name)| ServiceKey::new(namespace, name));
        let reached = self.unprogrammed.iter().filter(|key| {
            // One that is to be told anyway is told what holds then.
            let entry = self.services.get(*key).filter(|entry| entry.folds_at.is_none());
            entry.is_some_and(|entry| affected.reaches(entry.settled_at))
        });
        let keys: BTreeSet<ServiceKey> = holders.chain(named).chain(reached.cloned()).collect();
        for key in &keys {
            self.make_due(key);
        }
    }
}

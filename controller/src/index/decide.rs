//! Decisions about one Service: what it gets, what it gives back, and who is looked at because of that.

use std::net::IpAddr;

use jiff::Timestamp;
use landfall_core::addr::Family;
use landfall_core::allocate::{Claimant, Obstacle, allocate};
use landfall_core::ledger::Terms;
use landfall_core::name::{PoolName, ServiceKey};
use landfall_core::pool::OnRemoval;
use landfall_core::selector::Labels;

use super::fair::Place;
use super::{Entry, FOLD_EACH, Index};
use crate::decision::{self, Desired, Write};
use crate::seen::SeenService;

/// What is needed to ask on behalf of a Service.
pub(super) struct Asking {
    labels: Labels,
    namespace_labels: Labels,
    home: Vec<PoolName>,
    on_removal: Vec<OnRemoval>,
    granted: Vec<IpAddr>,
}

impl Index {
    pub(super) fn set_service(&mut self, seen: SeenService) {
        let key = seen.key.clone();
        if let Some(entry) = self.services.get(&key) {
            // The answer to a write arrives before the watch tells of the versions in between. What a list says is
            // taken as it is.
            let listing = self.service_list.running.is_some();
            if !listing && seen.version.is_older_than(&entry.seen.version) {
                return;
            }
            if entry.seen.version.uid != seen.version.uid {
                self.forget(&key);
            }
        }
        self.note_ports(&seen);
        if seen.demand.is_none() && !seen.has_trace() {
            self.release(&key);
            return;
        }
        let version = seen.version.number().unwrap_or(0);
        let stood = self.services.get(&key).is_some_and(|entry| !entry.granted.is_empty() && entry.stands());
        match self.services.get_mut(&key) {
            Some(entry) if entry.seen == seen => return,
            Some(entry) => {
                if entry.seen.content != seen.content {
                    entry.settled_at = version;
                }
                // Another wish for NodePorts is another chance.
                if entry.seen.ports != seen.ports {
                    entry.ports_outside = None;
                }
                entry.seen = seen;
            }
            None => {
                let entry = Entry {
                    seen,
                    born: version,
                    granted: Vec::new(),
                    denied: None,
                    obstacles: Vec::new(),
                    ports: std::collections::BTreeMap::new(),
                    ports_from: None,
                    ports_outside: None,
                    settled_at: version,
                    in_flight: false,
                    written_at: 0,
                    folds_at: None,
                    failures: 0,
                };
                self.services.insert(key.clone(), Box::new(entry));
            }
        }
        if self.started {
            self.adopt(&key);
            self.adopt_edit(&key, stood);
            self.settle(&key);
        }
        self.make_due(&key);
    }

    /// The Service does not exist any more.
    pub(super) fn forget(&mut self, key: &ServiceKey) {
        self.forget_ports(key);
        self.release(key);
    }

    /// Nothing is known of the Service and nothing is held for it any more.
    fn release(&mut self, key: &ServiceKey) {
        let Some(entry) = self.services.remove(key) else { return };
        let place = entry.place();
        self.due.remove(&place);
        self.ready.remove(&place);
        if let Some(at) = entry.folds_at {
            self.folds.remove(&(at, key.clone()));
        }
        self.unprogrammed.remove(key);
        self.waiting.set(&place, &entry.obstacles, &[]);
        for number in entry.ports.into_values() {
            self.ports.remove(number);
        }
        for addr in self.ledger.release_all(&self.pools, key, self.now) {
            self.since.remove(&(key.clone(), addr));
            self.freed(key, addr);
        }
    }

    /// Wakes those whom it may help that this Service has given up the address.
    fn freed(&mut self, key: &ServiceKey, addr: IpAddr) {
        self.wake_address(addr);
        self.waiting.wake(Obstacle::Namespace(key.namespace.clone()));
    }

    pub(super) fn wake_address(&mut self, addr: IpAddr) {
        if let Some(usable) = self.pools.of(addr) {
            let pool = usable.pool.name.clone();
            self.waiting.wake(Obstacle::Pool(pool, Family::of(addr)));
        }
        self.waiting.wake(Obstacle::Address(addr));
        self.wake_beneficiaries(addr);
    }

    /// Looks at those for whom the address is held: it does not count as free in its pool, for which they may wait.
    fn wake_beneficiaries(&mut self, addr: IpAddr) {
        let Some(reservation) = self.ledger.reservation_of(addr) else { return };
        let whom = reservation.whom.clone();
        if let (Some(namespace), Some(name), None) = (&whom.namespace, &whom.name, &whom.selector) {
            let key = ServiceKey { namespace: namespace.clone(), name: (**name).into() };
            self.make_due(&key);
            return;
        }
        let all = self.services.values().filter(|entry| entry.denied.is_some());
        let waiting = all.filter(|entry| whom.includes(&entry.seen.key, &entry.seen.labels));
        let places: Vec<Place> = waiting.map(|entry| entry.place()).collect();
        self.due.extend(places);
    }

    pub(super) fn asking(&self, entry: &Entry) -> Asking {
        let labels = self.namespaces.get(&entry.seen.key.namespace);
        Asking {
            labels: entry.seen.labels.clone(),
            namespace_labels: labels.cloned().unwrap_or_default(),
            home: entry.seen.home(),
            on_removal: entry.seen.recorded_removal(),
            granted: entry.granted.clone(),
        }
    }

    /// Frees what the Service neither should have nor has any more. An address that it gave up stays taken until
    /// its status says so: nobody else may get it before.
    fn settle(&mut self, key: &ServiceKey) {
        let Some(entry) = self.services.get(key) else { return };
        let keep = |addr: &IpAddr| entry.granted.contains(addr) || entry.seen.ingress.contains(addr);
        let stale: Vec<_> = self.ledger.held(key).iter().copied().filter(|addr| !keep(addr)).collect();
        for addr in stale {
            self.ledger.release(&self.pools, key, addr, self.now);
            self.since.remove(&(key.clone(), addr));
            self.freed(key, addr);
        }
    }

    /// Looks at everybody who is woken or due. Those who wait for what has become free go before those who have just
    /// come; among each the oldest goes first.
    pub(super) fn consider_all(&mut self, now: Timestamp) {
        loop {
            while let Some(obstacle) = self.waiting.pop_woken() {
                let mut last = None;
                while let Some(place) = self.waiting.after(&obstacle, last.as_ref()) {
                    // The oldest get what has become free; nobody is asked in vain behind them.
                    if let Obstacle::Pool(pool, family) = &obstacle
                        && self.ledger.lowest_free(pool, *family).is_none()
                    {
                        break;
                    }
                    self.consider(place.clone(), now);
                    last = Some(place);
                }
            }
            let Some(place) = self.due.pop_first() else { break };
            self.consider(place, now);
        }
    }

    fn consider(&mut self, place: Place, now: Timestamp) {
        let Some(write) = self.write_for(&place.1, now) else { return };
        if !self.put_off(&write) {
            self.ready.push(place);
        }
    }

    /// Whether a write can wait for its time: because it only tells what speakers report, or because the status of the
    /// Service was written within the last second. An address for one that has none never waits.
    pub(super) fn put_off(&mut self, write: &Write) -> bool {
        if !write.fold {
            let Some(entry) = self.services.get(&write.key) else { return false };
            let first = entry.seen.ingress.is_empty() && !entry.granted.is_empty();
            let at = entry.written_at + FOLD_EACH;
            let waits = write.status.is_some() && !first && self.now < at;
            if waits {
                self.later.insert((at, write.key.clone()));
            }
            return waits;
        }
        if let Some(entry) = self.services.get_mut(&write.key).filter(|entry| entry.folds_at.is_none()) {
            let at = entry.written_at + FOLD_EACH;
            entry.folds_at = Some(at);
            self.folds.insert((at, write.key.clone()));
        }
        true
    }

    /// Decides about a Service, enters what it gets, and returns the write that is needed.
    pub(super) fn write_for(&mut self, key: &ServiceKey, now: Timestamp) -> Option<Write> {
        let entry = self.services.get(key)?;
        if entry.in_flight {
            return None;
        }
        let place = entry.place();
        let leaving = entry.seen.deleting && entry.seen.finalizers.ours.is_some();
        if entry.seen.deleting && !leaving {
            // Somebody else's finalizer holds it; it keeps what it has until it goes.
            self.wait_for(&place, Vec::new());
            return None;
        }
        let Some(demand) = entry.seen.demand.clone().filter(|_| !leaving) else {
            let write = decision::clear(&entry.seen);
            self.wait_for(&place, Vec::new());
            if let Some(entry) = self.services.get_mut(key) {
                entry.granted.clear();
                entry.denied = None;
            }
            // What stands in its status stays taken until that is cleared: it may become ours again before.
            self.settle(key);
            return write;
        };
        let asking = self.asking(entry);
        let terms = Terms::from(&demand);
        let decided = allocate(&self.ledger, &self.pools, asking.claimant(key), &demand);
        let (mut desired, granted, mut obstacles, denied) = match decided {
            Ok(grant) => {
                let origin = grant.origin(&self.pools, asking.claimant(key));
                for addr in &grant.addresses {
                    self.enter(key, *addr, &terms);
                }
                let desired = Desired::granted(&grant, &self.pools, &origin);
                let obstacles = grant.obstacles();
                (desired, grant.addresses, obstacles, None)
            }
            Err(denied) => (Desired::denied(&denied), Vec::new(), denied.obstacles(), Some(denied)),
        };
        desired.finalizer &= self.choices.finalizer;
        // One refusal is told; an address of the other family, one of its own or room beside another Service would do
        // as well.
        let families = demand.families.list();
        if !obstacles.is_empty() && (families.len() > 1 || demand.sharing.is_some()) {
            for usable in self.pools.in_order() {
                let pool = &usable.pool.name;
                obstacles.extend(families.iter().map(|family| Obstacle::Pool(pool.clone(), *family)));
            }
            obstacles.extend(demand.sharing.iter().map(|sharing| Obstacle::Sharing(sharing.key.clone())));
            obstacles.sort();
            obstacles.dedup();
        }
        self.wait_for(&place, obstacles);
        let entry = self.services.get_mut(key)?;
        entry.granted = granted;
        entry.denied = denied;
        if let Some(entry) = self.services.get(key) {
            desired.fit(&entry.seen);
        }
        self.give_ports(key, &mut desired);
        self.fold(key, &mut desired);
        let write = desired.diff(&self.services.get(key)?.seen, now);
        self.settle(key);
        write
    }

    /// The Service has the address from now on, on these terms.
    fn enter(&mut self, key: &ServiceKey, addr: IpAddr, terms: &Terms) {
        let had = self.ledger.holders(addr).contains(key);
        // The decision was made on this very ledger: nobody is in the way but those with whom it clashes anyway.
        let changed = self.ledger.take(&self.pools, key, addr, terms).unwrap_or(false);
        if !had {
            self.since.insert((key.clone(), addr), self.now);
        } else if changed {
            self.waiting.wake(Obstacle::Address(addr));
        }
        if let Some(sharing) = terms.sharing.as_ref().filter(|_| changed || !had) {
            self.waiting.wake(Obstacle::Sharing(sharing.key.clone()));
        }
    }

    fn wait_for(&mut self, place: &Place, obstacles: Vec<Obstacle>) {
        if let Some(entry) = self.services.get_mut(&place.1) {
            let before = std::mem::replace(&mut entry.obstacles, obstacles);
            self.waiting.set(place, &before, &entry.obstacles);
        }
    }

    /// Adds what speakers report to what is to be told.
    fn fold(&mut self, key: &ServiceKey, desired: &mut Desired) {
        let Some(entry) = self.services.get(key) else { return };
        if desired.addresses.is_empty() {
            self.unprogrammed.remove(key);
            return;
        }
        if !self.speaker_list.complete_once {
            // Nothing is known of any speaker: what stands there is not touched.
            desired.others = None;
            self.unprogrammed.insert(key.clone());
            return;
        }
        let moved = entry.seen.ingress != desired.addresses;
        if moved {
            // That nobody has it yet goes without saying, and would cost a second write for everybody.
            self.unprogrammed.insert(key.clone());
            return;
        }
        let live = |node: &str| self.nodes.contains_key(node);
        let (version, restricted) = (entry.settled_at, entry.seen.restricted);
        let told = self.speakers.conditions(key, &desired.addresses, version, restricted, live);
        let waits = told.iter().any(|(_, told)| !told.is_true);
        desired.others = Some(told);
        if waits {
            self.unprogrammed.insert(key.clone());
        } else {
            self.unprogrammed.remove(key);
        }
    }
}

impl Asking {
    pub(super) fn claimant<'a>(&'a self, key: &'a ServiceKey) -> Claimant<'a> {
        Claimant {
            key,
            labels: &self.labels,
            namespace_labels: &self.namespace_labels,
            current: &self.granted,
            home: &self.home,
            on_removal: &self.on_removal,
        }
    }
}

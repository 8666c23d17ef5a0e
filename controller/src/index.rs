//! What the controller knows and what is to be done: a plain data structure. Watch events and results of writes
//! go in, writes come out; it reads no clock and does no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use landfall_core::addr::Family;
use landfall_core::allocate::{Claimant, Denied, allocate};
use landfall_core::ledger::{Claim, Ledger, Lost, Terms};
use landfall_core::name::{PoolName, ServiceKey};
use landfall_core::pool::Pools;
use landfall_core::selector::Labels;
use landfall_crds::AddressPoolStatus;
use landfall_runtime::watch::Change;

use crate::decision::{self, Desired, Write};
use crate::pool_status;
use crate::seen::{SeenPool, SeenService};

/// Waits after failed writes: the first, doubled each time, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The state of the controller.
#[derive(Debug, Default)]
pub struct Index {
    services: HashMap<ServiceKey, Entry>,
    seen_pools: BTreeMap<PoolName, SeenPool>,
    pools: Pools,
    ledger: Ledger,
    /// Services to look at, oldest first.
    due: BTreeSet<(i64, ServiceKey)>,
    /// Services that lack something which a freed address or another pool may give them.
    waiting: BTreeSet<(i64, ServiceKey)>,
    /// An address was freed or the pools changed since the waiting Services were last looked at.
    wake: bool,
    service_list: Listing<ServiceKey>,
    pool_list: Listing<PoolName>,
    /// Whether both lists have been complete once and the ledger stands.
    started: bool,
    lost: Vec<Lost>,
}

#[derive(Debug)]
struct Entry {
    seen: SeenService,
    /// The addresses it has been given, in order.
    granted: Vec<std::net::IpAddr>,
    /// Why it was refused the last time, for those who count.
    denied: Option<Denied>,
    /// A write for it is on its way.
    in_flight: bool,
    failures: u32,
}

/// Progress of the lists of one watch.
#[derive(Debug)]
struct Listing<K> {
    complete_once: bool,
    /// What a list that is on its way has named so far.
    running: Option<BTreeSet<K>>,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self { complete_once: false, running: None }
    }
}

/// How a write ended, if not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The object has changed since it was read.
    Conflict,
    /// The object is gone.
    Gone,
    /// Anything else; it may have been written all the same.
    Other,
}

impl Index {
    /// A change of a Service.
    pub fn service(&mut self, change: Change<SeenService>) {
        match change {
            Change::Listing => self.service_list.running = Some(BTreeSet::new()),
            Change::Set(seen) => {
                if let Some(named) = &mut self.service_list.running {
                    named.insert(seen.key.clone());
                }
                self.set_service(seen);
            }
            Change::Gone(seen) => {
                if self
                    .services
                    .get(&seen.key)
                    .is_some_and(|entry| entry.seen.version.uid == seen.version.uid)
                {
                    self.forget(&seen.key);
                }
            }
            Change::Listed => {
                if let Some(named) = self.service_list.running.take() {
                    let gone: Vec<_> =
                        self.services.keys().filter(|key| !named.contains(*key)).cloned().collect();
                    for key in &gone {
                        self.forget(key);
                    }
                }
                self.service_list.complete_once = true;
                self.start();
            }
        }
    }

    /// A change of a pool.
    pub fn pool(&mut self, change: Change<SeenPool>) {
        match change {
            Change::Listing => self.pool_list.running = Some(BTreeSet::new()),
            Change::Set(seen) => {
                if let Some(named) = &mut self.pool_list.running {
                    named.insert(seen.name.clone());
                }
                let known = self.seen_pools.get(&seen.name);
                // Our own writes of the status come back as changes, too: they change no address.
                let same =
                    known.is_some_and(|old| old.pool == seen.pool && old.version.uid == seen.version.uid);
                self.seen_pools.insert(seen.name.clone(), seen);
                if !same {
                    self.pools_changed();
                }
            }
            Change::Gone(seen) => {
                if self.seen_pools.remove(&seen.name).is_some() {
                    self.pools_changed();
                }
            }
            Change::Listed => {
                if let Some(named) = self.pool_list.running.take() {
                    let before = self.seen_pools.len();
                    self.seen_pools.retain(|name, _| named.contains(name));
                    if self.seen_pools.len() != before {
                        self.pools_changed();
                    }
                }
                self.pool_list.complete_once = true;
                self.start();
            }
        }
    }

    /// Whether everything that is there has been seen, so that decisions can be made.
    #[must_use]
    pub const fn started(&self) -> bool {
        self.started
    }

    /// Claims of Services that lost against an older one when the ledger was built, since the last call.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// The next write to be sent, oldest Service first. Each Service has at most one on its way; tell the result
    /// with [`Index::written`] or [`Index::failed`].
    pub fn next_write(&mut self, now: Timestamp) -> Option<Write> {
        if !self.started {
            return None;
        }
        if std::mem::take(&mut self.wake) {
            self.due.extend(self.waiting.iter().cloned());
        }
        while let Some((_, key)) = self.due.pop_first() {
            if let Some(write) = self.decide(&key, now) {
                if let Some(entry) = self.services.get_mut(&key) {
                    entry.in_flight = true;
                }
                return Some(write);
            }
            if std::mem::take(&mut self.wake) {
                self.due.extend(self.waiting.iter().cloned());
            }
        }
        None
    }

    /// A write was done; `seen` is the Service as the API server returned it.
    pub fn written(&mut self, seen: SeenService) {
        if let Some(entry) = self.services.get_mut(&seen.key) {
            entry.in_flight = false;
            entry.failures = 0;
        }
        let key = seen.key.clone();
        self.set_service(seen);
        self.make_due(&key);
    }

    /// A write failed. Returns how long to wait before [`Index::retry`], if it is worth it.
    pub fn failed(&mut self, key: &ServiceKey, failure: Failure) -> Option<Duration> {
        let entry = self.services.get_mut(key)?;
        entry.in_flight = false;
        let wait = FIRST_RETRY.saturating_mul(1 << entry.failures.min(10)).min(LONGEST_RETRY);
        entry.failures += 1;
        match failure {
            // The watch tells.
            Failure::Gone => None,
            Failure::Conflict | Failure::Other => Some(wait),
        }
    }

    /// Looks at the Service again.
    pub fn retry(&mut self, key: &ServiceKey) {
        self.make_due(key);
    }

    /// The pools whose status is not as it should be, with the status they should have.
    #[must_use]
    pub fn pool_writes(&self, now: Timestamp) -> Vec<(SeenPool, AddressPoolStatus)> {
        if !self.started {
            return Vec::new();
        }
        let differs = |seen: &SeenPool| {
            let desired = pool_status::desired(seen, &self.pools, &self.ledger, now);
            (desired != seen.status).then(|| (seen.clone(), desired))
        };
        self.seen_pools.values().filter_map(differs).collect()
    }

    /// Services that have an address, and Services that wait for one.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let allocated = self.services.values().filter(|entry| !entry.granted.is_empty()).count();
        let waiting =
            self.services.values().filter(|entry| entry.granted.is_empty() && entry.denied.is_some()).count();
        (allocated, waiting)
    }

    /// Capacity and assigned addresses of every usable pool, by family.
    pub fn usage(&self) -> impl Iterator<Item = (&PoolName, Family, landfall_core::ledger::Usage)> {
        self.pools.in_order().flat_map(|usable| {
            let name = &usable.pool.name;
            [Family::V4, Family::V6].map(|family| (name, family, self.ledger.usage(name, family)))
        })
    }

    fn make_due(&mut self, key: &ServiceKey) {
        if let Some(entry) = self.services.get(key) {
            self.due.insert((entry.seen.created, key.clone()));
        }
    }

    fn set_service(&mut self, seen: SeenService) {
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
        if seen.demand.is_none() && !seen.has_trace() {
            self.forget(&key);
            return;
        }
        match self.services.get_mut(&key) {
            Some(entry) if entry.seen == seen => return,
            Some(entry) => entry.seen = seen,
            None => {
                let entry = Entry { seen, granted: Vec::new(), denied: None, in_flight: false, failures: 0 };
                self.services.insert(key.clone(), entry);
            }
        }
        if self.started {
            self.adopt(&key);
            self.settle(&key);
        }
        self.make_due(&key);
    }

    fn forget(&mut self, key: &ServiceKey) {
        let Some(entry) = self.services.remove(key) else { return };
        self.due.remove(&(entry.seen.created, key.clone()));
        self.waiting.remove(&(entry.seen.created, key.clone()));
        if !self.ledger.release_all(&self.pools, key, 0).is_empty() {
            self.wake = true;
        }
    }

    fn pools_changed(&mut self) {
        let mut broken = BTreeMap::new();
        let mut valid = Vec::new();
        for seen in self.seen_pools.values() {
            match &seen.pool {
                Ok(pool) => valid.push(pool.clone()),
                Err(error) => {
                    broken.insert(seen.name.clone(), error.to_string());
                }
            }
        }
        let pools = Pools::new(valid, broken, &[]);
        if !self.started {
            self.pools = pools;
            return;
        }
        self.pools = pools;
        self.ledger.set_pools(&self.pools);
        // Messages and annotations name pools, so everybody is looked at; few of them change.
        self.due.extend(self.services.iter().map(|(key, entry)| (entry.seen.created, key.clone())));
    }

    /// Builds the ledger once everything has been seen: from then on decisions are made.
    fn start(&mut self) {
        if self.started || !self.service_list.complete_once || !self.pool_list.complete_once {
            return;
        }
        let mut claims = Vec::new();
        for (key, entry) in &self.services {
            let adoptable = adoptable(&entry.seen, &self.pools);
            claims.extend(adoptable.map(|addr| Claim {
                key: key.clone(),
                created: entry.seen.created,
                addr,
                terms: terms(&entry.seen),
                contested: false,
            }));
        }
        let (ledger, lost) = Ledger::rebuild(&self.pools, claims);
        self.ledger = ledger;
        self.lost = lost;
        for (key, entry) in &mut self.services {
            let held = self.ledger.held(key);
            entry.granted = adoptable(&entry.seen, &self.pools).filter(|addr| held.contains(addr)).collect();
            self.due.insert((entry.seen.created, key.clone()));
        }
        self.started = true;
        self.hold_the_rest();
    }

    /// Addresses that stand in a status and are to be taken out of it (of a family no longer wanted, of a Service
    /// no longer ours) are nobody else's until they are out.
    fn hold_the_rest(&mut self) {
        for (key, entry) in &self.services {
            for addr in &entry.seen.ingress {
                if entry.seen.has_trace() && self.ledger.holders(*addr).is_empty() {
                    // Nobody holds it: this cannot fail.
                    let _ = self.ledger.take(&self.pools, key, *addr, &Terms::default());
                }
            }
        }
    }

    /// Takes over addresses that stand in the status of a Service which was given none by us.
    fn adopt(&mut self, key: &ServiceKey) {
        let Some(entry) = self.services.get_mut(key) else { return };
        if !entry.granted.is_empty() {
            return;
        }
        for addr in adoptable(&entry.seen, &self.pools) {
            if self.ledger.take(&self.pools, key, addr, &terms(&entry.seen)).is_ok() {
                entry.granted.push(addr);
            }
        }
    }

    /// Frees what the Service neither should have nor has any more. An address that it gave up stays taken until
    /// its status says so: nobody else may get it before.
    fn settle(&mut self, key: &ServiceKey) {
        let Some(entry) = self.services.get(key) else { return };
        let keep =
            |addr: &std::net::IpAddr| entry.granted.contains(addr) || entry.seen.ingress.contains(addr);
        let stale: Vec<_> = self.ledger.held(key).iter().copied().filter(|addr| !keep(addr)).collect();
        for addr in stale {
            self.ledger.release(&self.pools, key, addr, 0);
            self.wake = true;
        }
    }

    fn decide(&mut self, key: &ServiceKey, now: Timestamp) -> Option<Write> {
        let entry = self.services.get_mut(key)?;
        let place = (entry.seen.created, key.clone());
        if entry.in_flight {
            return None;
        }
        let Some(demand) = entry.seen.demand.clone() else {
            entry.granted.clear();
            entry.denied = None;
            self.waiting.remove(&place);
            let write = decision::clear(&entry.seen);
            // What stands in its status stays taken until that is cleared: it may become ours again before.
            self.settle(key);
            return write;
        };
        if entry.seen.deleting {
            self.waiting.remove(&place);
            return None;
        }
        let from = entry.seen.allocated_from.as_deref().unwrap_or_default();
        let home: Vec<PoolName> =
            from.split(',').filter(|name| !name.is_empty()).map(PoolName::new).collect();
        let none = Labels::none();
        let who = Claimant {
            key,
            labels: &none,
            namespace_labels: &none,
            current: &entry.granted,
            home: &home,
            on_removal: &[],
        };
        let desired = match allocate(&self.ledger, &self.pools, who, &demand) {
            Ok(grant) => {
                for addr in &grant.addresses {
                    // The decision was made on this very ledger, so nobody else holds it.
                    let taken = self.ledger.take(&self.pools, key, *addr, &Terms::from(&demand));
                    debug_assert!(taken.is_ok(), "{taken:?}");
                }
                let desired = Desired::granted(&grant, &self.pools, &entry.seen);
                entry.granted = grant.addresses;
                if grant.lacking.is_empty() {
                    self.waiting.remove(&place);
                } else {
                    self.waiting.insert(place);
                }
                entry.denied = None;
                desired
            }
            Err(denied) => {
                entry.granted.clear();
                self.waiting.insert(place);
                let desired = Desired::denied(&denied);
                entry.denied = Some(denied);
                desired
            }
        };
        let write = desired.diff(&entry.seen, now);
        self.settle(key);
        write
    }
}

fn terms(seen: &SeenService) -> Terms {
    seen.demand.as_ref().map(Terms::from).unwrap_or_default()
}

/// The addresses in the status of a Service that it may keep when the ledger does not know them: those of a pool,
/// and any if our condition says that we gave them (users cannot write it), at most one of each family it wants.
fn adoptable(seen: &SeenService, pools: &Pools) -> impl Iterator<Item = std::net::IpAddr> {
    let ours = seen.condition.as_ref().is_some_and(|condition| condition.is_true);
    let mut families = seen.demand.as_ref().map_or(&[][..], |demand| demand.families.list()).to_vec();
    let mut adopted = Vec::with_capacity(2);
    for addr in &seen.ingress {
        let family = Family::of(*addr);
        if families.contains(&family) && (ours || pools.of(*addr).is_some()) {
            families.retain(|other| *other != family);
            adopted.push(*addr);
        }
    }
    adopted.into_iter()
}

#[cfg(test)]
mod tests;

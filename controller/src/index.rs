//! What the controller knows and what is to be done: a plain data structure. Watch events and results of writes
//! go in, writes come out; it reads no clock and does no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use landfall_core::addr::Family;
use landfall_core::allocate::{Denied, Obstacle};
use landfall_core::demand::Port;
use landfall_core::ledger::{Ledger, Lost, Usage};
use landfall_core::name::{Namespace, PoolName, ServiceKey};
use landfall_core::node_port::{PortRange, PortSet};
use landfall_core::pool::{Pools, Taken};
use landfall_core::selector::Labels;
use landfall_crds::{AddressPoolStatus, AddressReservationStatus};

use crate::decision::Write;
use crate::pool_status;
use crate::reservation_status;
use crate::seen::{SeenPool, SeenReservation, SeenService};

mod adopt;
mod decide;
mod fair;
mod fold;
mod observe;
mod ports;
mod start;
mod wait;

use fair::{Fair, Place};
use fold::Speakers;
use observe::Listing;
use ports::RefusedPorts;
use wait::Waiting;

/// Waits after failed writes: the first, doubled each time, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// The least time between two writes that only tell what speakers report: of one Service, and of all, in
/// milliseconds; the last holds while there are other writes, which go first.
const FOLD_EACH: i64 = 1_000;
const FOLD_ALL: i64 = 10;
const FOLD_BUSY: i64 = 200;

/// What the user has chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// Whether our finalizer is set on Services that have an address.
    pub finalizer: bool,
    /// Where `NodePort`s come from when the pool says nothing.
    pub node_ports: PortRange,
}

/// The state of the controller.
#[derive(Debug)]
pub struct Index {
    choices: Choices,
    /// Unix milliseconds, as last told.
    now: i64,
    /// Boxed: a table of this size is half empty most of the time.
    services: HashMap<ServiceKey, Box<Entry>>,
    seen_pools: BTreeMap<PoolName, SeenPool>,
    reservations: BTreeMap<Box<str>, SeenReservation>,
    namespaces: HashMap<Namespace, Labels>,
    nodes: BTreeMap<Box<str>, Vec<Taken>>,
    cidrs: BTreeMap<Box<str>, Vec<Taken>>,
    speakers: Speakers,
    pools: Pools,
    ledger: Ledger,
    /// Since when the holder of an address has it, where a reservation asks: Unix milliseconds.
    since: HashMap<(ServiceKey, IpAddr), i64>,
    /// `NodePort`s of all Services, and whose they are.
    ports: PortSet,
    ports_of: HashMap<ServiceKey, Box<[u16]>>,
    refused_ports: RefusedPorts,
    /// Services that lack `NodePort`s because there were none left.
    port_waiters: BTreeSet<ServiceKey>,
    /// Services to look at, oldest first.
    due: BTreeSet<Place>,
    waiting: Waiting,
    /// Services that need a write.
    ready: Fair,
    /// Services of which only what speakers report is to be told, by when that may be.
    folds: BTreeSet<(i64, ServiceKey)>,
    fold_opens: i64,
    /// Services whose status changes too often, by when it may be written again.
    later: BTreeSet<(i64, ServiceKey)>,
    /// Whether anything else was written since the last of these.
    busy: bool,
    /// Services that some speaker does not have yet.
    unprogrammed: BTreeSet<ServiceKey>,
    service_list: Listing<ServiceKey>,
    pool_list: Listing<PoolName>,
    reservation_list: Listing<Box<str>>,
    namespace_list: Listing<Namespace>,
    node_list: Listing<Box<str>>,
    cidr_list: Listing<Box<str>>,
    speaker_list: Listing<Box<str>>,
    /// Whether all lists have been complete once and the ledger stands.
    started: bool,
    lost: Vec<Lost>,
}

#[derive(Debug)]
struct Entry {
    seen: SeenService,
    /// The version in which it was seen first. Times of creation are in whole seconds: this tells the order within one.
    born: u64,
    /// The addresses it has been given, in order.
    granted: Vec<IpAddr>,
    /// Why it was refused the last time, for those who count.
    denied: Option<Denied>,
    /// What it waits for.
    obstacles: Vec<Obstacle>,
    /// `NodePort`s that we have given, also if somebody has wiped them since.
    ports: BTreeMap<Port, u16>,
    /// Where they were taken from the last time.
    ports_from: Option<PortRange>,
    /// The range that the API server does not accept.
    ports_outside: Option<PortRange>,
    /// The version since which it is as it is for speakers.
    settled_at: u64,
    /// A write for it is on its way.
    in_flight: bool,
    /// When its status was written last, in Unix milliseconds.
    written_at: i64,
    /// Where it stands in [`Index::folds`], if it does.
    folds_at: Option<i64>,
    failures: u32,
}

impl Entry {
    /// Its place wherever Services stand in line: the oldest goes first.
    fn place(&self) -> Place {
        ((self.seen.created, self.born), self.seen.key.clone())
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
    /// An index that has seen nothing yet.
    #[must_use]
    pub fn new(choices: Choices) -> Self {
        Self {
            choices,
            now: 0,
            services: HashMap::new(),
            seen_pools: BTreeMap::new(),
            reservations: BTreeMap::new(),
            namespaces: HashMap::new(),
            nodes: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            speakers: Speakers::default(),
            pools: Pools::default(),
            ledger: Ledger::default(),
            since: HashMap::new(),
            ports: PortSet::default(),
            ports_of: HashMap::new(),
            refused_ports: RefusedPorts::default(),
            port_waiters: BTreeSet::new(),
            due: BTreeSet::new(),
            waiting: Waiting::default(),
            ready: Fair::default(),
            folds: BTreeSet::new(),
            fold_opens: 0,
            later: BTreeSet::new(),
            busy: false,
            unprogrammed: BTreeSet::new(),
            service_list: Listing::default(),
            pool_list: Listing::default(),
            reservation_list: Listing::default(),
            namespace_list: Listing::default(),
            node_list: Listing::default(),
            cidr_list: Listing::default(),
            speaker_list: Listing::default(),
            started: false,
            lost: Vec::new(),
        }
    }

    /// Says what time it is. Addresses that have rested enough are free from then on.
    pub fn tick(&mut self, now: Timestamp) {
        self.now = now.as_millisecond();
        if self.started {
            for addr in self.ledger.expire(&self.pools, self.now) {
                self.wake_address(addr);
            }
            self.expire_refused_ports();
            while self.later.first().is_some_and(|(at, _)| *at <= self.now) {
                if let Some((_, key)) = self.later.pop_first() {
                    self.make_due(&key);
                }
            }
        }
    }

    /// When something is to be done although nothing happens, in Unix milliseconds.
    #[must_use]
    pub fn next_alarm(&self) -> Option<i64> {
        let fold = self.folds.first().map(|(at, _)| (*at).max(self.fold_opens));
        let later = self.later.first().map(|(at, _)| *at);
        let ports = self.refused_ports.next_expiry();
        self.ledger.next_expiry().into_iter().chain(ports).chain(fold).chain(later).min()
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

    /// The next write to be sent. Each Service has at most one on its way; tell the result with [`Index::written`]
    /// or [`Index::failed`].
    pub fn next_write(&mut self, now: Timestamp) -> Option<Write> {
        if !self.started {
            return None;
        }
        self.consider_all(now);
        while let Some((_, key)) = self.ready.pop() {
            if let Some(write) = self.write_for(&key, now).filter(|write| !self.put_off(write)) {
                self.busy = true;
                return Some(self.sent(write));
            }
        }
        while self.fold_opens <= self.now
            && let Some((_, key)) = self.folds.first().filter(|(at, _)| *at <= self.now).cloned()
        {
            self.folds.pop_first();
            if let Some(entry) = self.services.get_mut(&key) {
                entry.folds_at = None;
            }
            if let Some(write) = self.write_for(&key, now) {
                let pause = if std::mem::take(&mut self.busy) { FOLD_BUSY } else { FOLD_ALL };
                self.fold_opens = self.now + pause;
                return Some(self.sent(write));
            }
        }
        None
    }

    fn sent(&mut self, write: Write) -> Write {
        if let Some(entry) = self.services.get_mut(&write.key) {
            entry.in_flight = true;
            if write.status.is_some() {
                entry.written_at = self.now;
            }
        }
        write
    }

    /// A write was done; `seen` is the Service as the API server returned it.
    pub fn written(&mut self, seen: SeenService) {
        let key = seen.key.clone();
        // The watch may have told already that it is gone, or that there is another one.
        let Some(entry) = self.services.get_mut(&key).filter(|of| of.seen.version.uid == seen.version.uid)
        else {
            return;
        };
        entry.in_flight = false;
        entry.failures = 0;
        // With its last finalizer it went.
        if seen.deleting && seen.finalizers.count == 0 {
            self.forget(&key);
            return;
        }
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

    /// The reservations whose status is not as it should be, with the status they should have.
    #[must_use]
    pub fn reservation_writes(&self, now: Timestamp) -> Vec<(SeenReservation, AddressReservationStatus)> {
        if !self.started {
            return Vec::new();
        }
        let since = |key: &ServiceKey, addr: IpAddr| self.since.get(&(key.clone(), addr)).copied();
        let differs = |seen: &SeenReservation| {
            let desired = reservation_status::desired(seen, &self.pools, &self.ledger, since, now);
            (desired != seen.status).then(|| (seen.clone(), desired))
        };
        self.reservations.values().filter_map(differs).collect()
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
    pub fn usage(&self) -> impl Iterator<Item = (&PoolName, Family, Usage)> {
        self.pools.in_order().flat_map(|usable| {
            let name = &usable.pool.name;
            [Family::V4, Family::V6].map(|family| (name, family, self.ledger.usage(name, family)))
        })
    }

    fn make_due(&mut self, key: &ServiceKey) {
        if let Some(entry) = self.services.get(key) {
            self.due.insert(entry.place());
        }
    }

    /// Messages, annotations and conditions name pools, nodes and more, so everybody is looked at; few of them change.
    fn all_due(&mut self) {
        self.due.extend(self.services.values().map(|entry| entry.place()));
    }
}

#[cfg(test)]
mod tests;

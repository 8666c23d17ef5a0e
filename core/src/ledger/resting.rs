//! Addresses that rest: a client that still talks to the Service that had one must not reach another one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Ledger;
use crate::name::ServiceKey;
use crate::pool::Pools;
use crate::steps::Counted;

/// The addresses that rest. Times are Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resting {
    addresses: BTreeMap<Counted<IpAddr>, Rest>,
    queue: BTreeSet<(i64, IpAddr)>,
}

/// The rest of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rest {
    since: i64,
    until: i64,
    /// The Service that had it last, if that is known: it may have it again at once.
    last: Option<ServiceKey>,
}

impl Resting {
    pub(super) fn contains(&self, addr: IpAddr) -> bool {
        self.addresses.contains_key(&Counted(addr))
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().map(|addr| addr.0)
    }

    fn insert(&mut self, addr: IpAddr, rest: Rest) {
        self.remove(addr);
        self.queue.insert((rest.until, addr));
        self.addresses.insert(Counted(addr), rest);
    }

    pub(super) fn remove(&mut self, addr: IpAddr) {
        if let Some(rest) = self.addresses.remove(&Counted(addr)) {
            self.queue.remove(&(rest.until, addr));
        }
    }

    /// The pools are these now, each with a time of its own.
    pub(super) fn set_pools(&mut self, pools: &Pools) {
        let all: Vec<_> = self.addresses.iter().map(|(addr, rest)| (addr.0, rest.clone())).collect();
        for (addr, rest) in all {
            if let Some(usable) = pools.of(addr) {
                let until = rest.since.saturating_add(i64::from(usable.pool.quarantine_s) * 1000);
                self.insert(addr, Rest { until, ..rest });
            }
        }
    }
}

impl Ledger {
    /// Until when the address rests, in Unix milliseconds.
    #[must_use]
    pub fn rests_until(&self, addr: IpAddr) -> Option<i64> {
        self.resting.addresses.get(&Counted(addr)).map(|rest| rest.until)
    }

    /// Whether the address rests and that Service had it last.
    pub(crate) fn rests_of(&self, addr: IpAddr, key: &ServiceKey) -> bool {
        let rest = self.resting.addresses.get(&Counted(addr));
        rest.is_some_and(|rest| rest.last.as_ref() == Some(key))
    }

    /// Every address that rests, with the time it does so until, in Unix milliseconds; in order of the addresses.
    pub fn resting(&self) -> impl Iterator<Item = (IpAddr, i64)> {
        self.resting.addresses.iter().map(|(addr, rest)| (addr.0, rest.until))
    }

    /// An address rests until then (Unix milliseconds), as was written down before a restart. Nothing happens to
    /// one that is in use or in no pool.
    pub fn rest(&mut self, pools: &Pools, addr: IpAddr, until: i64) {
        let Some(usable) = pools.of(addr).filter(|_| self.holders(addr).is_empty()) else { return };
        let since = until.saturating_sub(i64::from(usable.pool.quarantine_s) * 1000);
        self.start_rest(pools, addr, Rest { since, until, last: None });
    }

    /// Nobody holds the address any more since `now`; it rests if its pool says so.
    pub(super) fn rest_after(&mut self, pools: &Pools, addr: IpAddr, last: &ServiceKey, now: i64) {
        let seconds = pools.of(addr).map_or(0, |usable| usable.pool.quarantine_s);
        if seconds > 0 {
            let until = now.saturating_add(i64::from(seconds) * 1000);
            self.start_rest(pools, addr, Rest { since: now, until, last: Some(last.clone()) });
        }
    }

    fn start_rest(&mut self, pools: &Pools, addr: IpAddr, rest: Rest) {
        let before = self.state(addr);
        self.resting.insert(addr, rest);
        self.shift(pools, addr, before);
    }

    /// Ends the rest of those whose time has come, and returns them.
    pub fn expire(&mut self, pools: &Pools, now: i64) -> Vec<IpAddr> {
        let mut over = Vec::new();
        while let Some((_, addr)) = self.resting.queue.first().copied().filter(|(until, _)| *until <= now) {
            let before = self.state(addr);
            self.resting.remove(addr);
            self.shift(pools, addr, before);
            over.push(addr);
        }
        if !over.is_empty() {
            self.fill_reservations(pools);
        }
        over
    }

    /// When the next address has rested enough, in Unix milliseconds.
    #[must_use]
    pub fn next_expiry(&self) -> Option<i64> {
        self.resting.queue.first().map(|(until, _)| *until)
    }
}

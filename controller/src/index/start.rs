//! The beginning: what stands in the status of Services is theirs before anybody is given anything.

use std::collections::BTreeMap;

use landfall_core::ledger::{Claim, Ledger, Terms};
use landfall_core::pool::{Pools, Taken};
use landfall_core::reservation::Reservation;
use landfall_crds::convert::resting;

use super::Index;
use super::adopt::proven;
use crate::seen::SeenReservation;

/// The reservations that can be read.
pub(super) fn list(seen: &BTreeMap<Box<str>, SeenReservation>) -> Vec<Reservation> {
    seen.values().filter_map(|seen| seen.reservation.clone().ok()).collect()
}

impl Index {
    pub(super) fn pools_changed(&mut self) {
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
        let taken: Vec<Taken> = self.nodes.values().chain(self.cidrs.values()).flatten().cloned().collect();
        let pools = Pools::new(valid, broken, &taken);
        if !self.started {
            self.pools = pools;
            return;
        }
        if self.pools == pools {
            return;
        }
        self.pools = pools;
        self.ledger.set_pools(&self.pools);
        self.all_due();
    }

    /// Builds the ledger once everything has been seen: from then on decisions are made.
    pub(super) fn start(&mut self) {
        let complete = self.service_list.complete_once
            && self.pool_list.complete_once
            && self.reservation_list.complete_once
            && self.namespace_list.complete_once
            && self.node_list.complete_once
            && self.cidr_list.complete_once;
        if self.started || !complete {
            return;
        }
        let mut claims = Vec::new();
        for (key, entry) in &self.services {
            let Some(demand) = &entry.seen.demand else { continue };
            let told = entry.seen.conditions.allocated.as_ref();
            claims.extend(proven(&entry.seen).into_iter().map(|addr| Claim {
                key: key.clone(),
                created: entry.seen.created,
                addr,
                terms: Terms::from(demand),
                contested: told.is_some_and(|told| &*told.reason == "SharingConflict"),
            }));
        }
        let (ledger, lost) = Ledger::rebuild(&self.pools, claims);
        self.ledger = ledger;
        self.lost = lost;
        for (key, entry) in &mut self.services {
            let held = self.ledger.held(key);
            entry.granted = proven(&entry.seen).into_iter().filter(|addr| held.contains(addr)).collect();
            let since = entry.seen.conditions.allocated.as_ref().map(|told| told.since.as_millisecond());
            for addr in &entry.granted {
                self.since.insert((key.clone(), *addr), since.unwrap_or(self.now));
            }
        }
        self.hold_the_rest();
        self.ledger.set_reservations(&self.pools, list(&self.reservations));
        for seen in self.seen_pools.values() {
            // A hand may have written there: nothing rests longer than what is freed now.
            let longest = seen.pool.as_ref().map_or(i64::MAX, |pool| i64::from(pool.quarantine_s) * 1_000);
            for (addr, until) in resting::read(&seen.status).filter(|(_, until)| *until > self.now) {
                self.ledger.rest(&self.pools, addr, until.min(self.now.saturating_add(longest)));
            }
        }
        self.started = true;
        let mut keys: Vec<_> = self.services.values().map(|entry| entry.place()).collect();
        keys.sort();
        for (_, key) in &keys {
            self.adopt(key);
        }
        self.due.extend(keys);
    }

    /// Addresses that stand in a status and are to be taken out of it (of a family no longer wanted, of a Service
    /// no longer ours) are nobody else's until they are out.
    fn hold_the_rest(&mut self) {
        for (key, entry) in &self.services {
            for addr in &entry.seen.ingress {
                if entry.seen.has_trace() && self.ledger.holders(*addr).is_empty() {
                    let terms = entry.seen.demand.as_ref().map(Terms::from).unwrap_or_default();
                    // Nobody holds it: this cannot fail.
                    let _ = self.ledger.take(&self.pools, key, *addr, &terms);
                }
            }
        }
    }
}

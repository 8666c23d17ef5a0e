//! What stands in the status of a Service when this process sees it: addresses that were given in an earlier life, and
//! what a hand has written.

use std::net::IpAddr;

use landfall_core::addr::Family;
use landfall_core::allocate::may_have;
use landfall_core::demand::Demand;
use landfall_core::ledger::Terms;
use landfall_core::name::ServiceKey;

use super::decide::Asking;
use super::{Entry, Index};
use crate::seen::SeenService;

/// The addresses in the status of a Service that it has from us, at most one of each family it wants: our condition
/// says so, and users cannot write that.
pub(super) fn proven(seen: &SeenService) -> Vec<IpAddr> {
    let ours = seen.conditions.allocated.as_ref().is_some_and(|told| told.is_true);
    if ours { wanted(seen) } else { Vec::new() }
}

/// The addresses in its status that a Service may have as far as families go: one of each it wants.
fn wanted(seen: &SeenService) -> Vec<IpAddr> {
    let mut families = seen.demand.as_ref().map_or(&[][..], |demand| demand.families.list()).to_vec();
    let mut found = Vec::with_capacity(2);
    for addr in &seen.ingress {
        let family = Family::of(*addr);
        if families.contains(&family) {
            families.retain(|other| *other != family);
            found.push(*addr);
        }
    }
    found
}

impl Entry {
    /// Whether its status says what it has from us, and nothing else.
    pub(super) fn stands(&self) -> bool {
        let SeenService { ingress, foreign_ingress, .. } = &self.seen;
        !foreign_ingress
            && ingress.len() == self.granted.len()
            && self.granted.iter().all(|addr| ingress.contains(addr))
    }
}

impl Index {
    /// Takes over addresses that stand in the status of a Service which was given none by us: those that we have given
    /// it in an earlier life, and those that it might have asked for.
    pub(super) fn adopt(&mut self, key: &ServiceKey) {
        let Some(entry) = self.services.get(key) else { return };
        let Some(demand) = entry.seen.demand.clone() else { return };
        if !entry.granted.is_empty() || entry.seen.deleting {
            return;
        }
        let ours = proven(&entry.seen);
        let (asking, addresses) = (self.asking(entry), wanted(&entry.seen));
        let take = |addr: &IpAddr| self.take_over(key, *addr, &asking, &demand, ours.contains(addr));
        let adopted = addresses.into_iter().filter(take).collect();
        if let Some(entry) = self.services.get_mut(key) {
            entry.granted = adopted;
        }
    }

    /// Somebody has written another address into the status of a Service that has one: it is taken over where the
    /// Service might have asked for it. `stood`: so far the status was as it should be.
    pub(super) fn adopt_edit(&mut self, key: &ServiceKey, stood: bool) {
        let Some(entry) = self.services.get(key) else { return };
        let Some(demand) = entry.seen.demand.clone() else { return };
        if entry.in_flight || entry.granted.is_empty() || entry.seen.deleting {
            return;
        }
        let held = self.ledger.held(key);
        let written: Vec<IpAddr> =
            wanted(&entry.seen).into_iter().filter(|addr| !held.contains(addr)).collect();
        if !written.is_empty() {
            let asking = self.asking(entry);
            for addr in written {
                if self.take_over(key, addr, &asking, &demand, false)
                    && let Some(entry) = self.services.get_mut(key)
                {
                    tracing::info!(service = %key, %addr, "taking over an address that somebody wrote into the status");
                    entry.granted.retain(|other| Family::of(*other) != Family::of(addr));
                    entry.granted.push(addr);
                }
            }
        }
        if stood && self.services.get(key).is_some_and(|entry| !entry.stands()) {
            tracing::info!(service = %key, "somebody wrote into the status of this Service; it is put right");
        }
    }
    /// Enters an address that stands in the status of a Service, if it is `proven` or the Service might have asked for
    /// it, and nobody is in the way.
    fn take_over(
        &mut self,
        key: &ServiceKey,
        addr: IpAddr,
        asking: &Asking,
        demand: &Demand,
        proven: bool,
    ) -> bool {
        let allowed =
            proven || may_have(&self.ledger, &self.pools, asking.claimant(key), demand, addr).is_ok();
        let taken = allowed && self.ledger.take(&self.pools, key, addr, &Terms::from(demand)).is_ok();
        if taken {
            self.since.insert((key.clone(), addr), self.now);
        }
        taken
    }
}

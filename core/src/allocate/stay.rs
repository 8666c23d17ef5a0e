//! Whether a Service stays on the address it has.

use std::net::IpAddr;

use super::search::{Chosen, Search};
use super::{Denied, Lacking, Outside};
use crate::addr::Family;
use crate::pool::OnRemoval;

impl Search<'_> {
    /// The address of that family: the one asked for, the one it has, or another one.
    pub(super) fn choose(&self, family: Family) -> Chosen {
        match self.who.address(family) {
            Some(current) => self.stay_or_move(family, current),
            None => match self.request.address(family) {
                Some(addr) => self.requested(addr).into(),
                None => self.any(family).into(),
            },
        }
    }

    fn stay_or_move(&self, family: Family, current: IpAddr) -> Chosen {
        let (outside, had) = match self.outside(current) {
            Some((_, OnRemoval::Reassign)) => (None, false),
            Some((why, OnRemoval::Keep)) => (Some(Lacking::OutsidePool { addr: current, why }), true),
            None => (None, true),
        };
        let asked = self.request.address(family);
        let content = asked.is_none_or(|addr| addr == current) && !self.asks_for_another_pool(current);
        let found = (!had || !content).then(|| match asked {
            Some(addr) => self.requested(addr),
            None => self.any(family),
        });
        let mut lacking: Vec<Lacking> = outside.into_iter().collect();
        match found {
            Some(Ok(addr)) => return Chosen { had, ..Chosen::addr(addr) },
            Some(Err(denied)) if !had => return Chosen::denied(denied),
            Some(Err(denied)) => {
                lacking.push(Lacking::Requested(denied));
                lacking.extend(self.conflict(current));
            }
            // It stays, also when it changed its key: an address in use moves only when that is asked for.
            None => lacking.extend(self.conflict(current)),
        }
        Chosen { lacking, had, ..Chosen::addr(current) }
    }

    fn asks_for_another_pool(&self, current: IpAddr) -> bool {
        let Some(wanted) = &self.request.pool else { return false };
        let home = self.pools.of(current).map(|usable| &usable.pool.name).or(self.who.home_of(current));
        home.is_some_and(|home| home != wanted)
    }

    /// What is wrong between it and the others on its address.
    fn conflict(&self, current: IpAddr) -> Option<Lacking> {
        let clash = self.ledger.conflict(self.who.key, &self.terms, current)?;
        Some(Lacking::SharingConflict { clash: Denied::clash(current, clash) })
    }

    /// How the address came to be in no usable pool, if it is in none, and what is to become of it.
    fn outside(&self, addr: IpAddr) -> Option<(Outside, OnRemoval)> {
        if self.pools.of(addr).is_some() {
            return None;
        }
        if let Some(by) = self.pools.taken_by(addr) {
            return Some((Outside::Taken { by: by.into() }, OnRemoval::Keep));
        }
        let recorded = self.who.recorded(addr);
        let Some(home) = self.who.home_of(addr) else { return Some((Outside::Gone(None), recorded)) };
        if let Some(why) = self.pools.broken(home) {
            // It has not been removed: nobody can say what it holds.
            let why = Outside::Broken { pool: home.clone(), why: why.to_owned() };
            return Some((why, OnRemoval::Keep));
        }
        Some(match self.pools.get(home) {
            Some(usable) => (Outside::Shrunk(home.clone()), usable.pool.on_removal),
            None => (Outside::Gone(Some(home.clone())), recorded),
        })
    }
}

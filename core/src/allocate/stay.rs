//! Whether a Service stays on the address it has.

use std::net::IpAddr;

use super::search::{Chosen, Search};
use super::{Denied, Lacking, Outside};
use crate::addr::Family;
use crate::ledger::Clash;
use crate::pool::OnRemoval;

impl Search<'_> {
    /// The address of that family: the one asked for, the one it has, or another one.
    pub(super) fn choose(&mut self, family: Family) -> Chosen {
        let chosen = match self.who.address(family) {
            Some(current) => self.stay_or_move(family, current),
            None => match self.request.address(family) {
                Some(addr) => self.requested(addr).into(),
                None => self.any(family).into(),
            },
        };
        self.given.extend(chosen.addr);
        chosen
    }

    fn stay_or_move(&self, family: Family, current: IpAddr) -> Chosen {
        let outside = self.outside(current);
        if let Some(addr) = self.request.address(family).filter(|addr| *addr != current) {
            return self.moves(self.requested(addr), current, outside);
        }
        if self.asks_for_another_pool(current) {
            return self.moves(self.any(family), current, outside);
        }
        match outside {
            Some((_, OnRemoval::Reassign)) if self.request.address(family).is_some() => {
                self.requested(current).into()
            }
            Some((_, OnRemoval::Reassign)) => self.any(family).into(),
            Some((why, OnRemoval::Keep)) => {
                let lacking = Lacking::OutsidePool { addr: current, why };
                Chosen { lacking: Some(lacking), ..self.beside_others(family, current) }
            }
            None => self.beside_others(family, current),
        }
    }

    /// It asks for something else than it has. What it has stays if that cannot be had.
    fn moves(
        &self,
        to: Result<IpAddr, Denied>,
        from: IpAddr,
        outside: Option<(Outside, OnRemoval)>,
    ) -> Chosen {
        match (to, outside) {
            (Ok(addr), _) => Chosen::addr(addr),
            (Err(denied), Some((_, OnRemoval::Reassign))) => Chosen::denied(denied),
            (Err(denied), _) => Chosen { lacking: Some(Lacking::Requested(denied)), ..Chosen::addr(from) },
        }
    }

    fn asks_for_another_pool(&self, current: IpAddr) -> bool {
        let Some(wanted) = &self.request.pool else { return false };
        let home = self.pools.of(current).map(|usable| &usable.pool.name).or(self.who.home_of(current));
        home.is_some_and(|home| home != wanted)
    }

    /// It stays, unless it changed its key: then it leaves those it does not share with any more, if it can.
    fn beside_others(&self, family: Family, current: IpAddr) -> Chosen {
        let Some(clash) = self.ledger.conflict(self.who.key, &self.terms, current) else {
            return Chosen::addr(current);
        };
        let key_changed = matches!(clash, Clash::InUse { .. } | Clash::Key { .. });
        let clash = Denied::clash(current, clash);
        let elsewhere = if key_changed && self.request.address(family).is_none() {
            match self.any(family) {
                Ok(addr) => return Chosen::addr(addr),
                Err(denied) => Some(denied),
            }
        } else {
            None
        };
        Chosen { lacking: Some(Lacking::SharingConflict { clash, elsewhere }), ..Chosen::addr(current) }
    }

    /// How the address came to be in no usable pool, if it is in none, and what is to become of it.
    fn outside(&self, addr: IpAddr) -> Option<(Outside, OnRemoval)> {
        if self.pools.of(addr).is_some() {
            return None;
        }
        if let Some(by) = self.pools.taken_by(addr) {
            return Some((Outside::Taken { by: by.into() }, OnRemoval::Keep));
        }
        let recorded = self.who.on_removal.unwrap_or_default();
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

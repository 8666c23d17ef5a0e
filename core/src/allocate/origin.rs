//! Where the addresses of a Service are from: what is recorded on it, so that an address whose pool is gone is still
//! known after a restart.

use std::net::IpAddr;

use super::{Claimant, Grant};
use crate::name::PoolName;
use crate::pool::{OnRemoval, Pools};

/// What is recorded on a Service with addresses. Where all are alike, one entry stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The pool of each address.
    pub pools: Vec<PoolName>,
    /// What is to become of each address when its pool goes.
    pub on_removal: Vec<OnRemoval>,
}

impl Grant {
    /// What to record. What is in no pool any more keeps what was recorded before.
    #[must_use]
    pub fn origin(&self, pools: &Pools, who: Claimant<'_>) -> Origin {
        let mut origin = Origin::default();
        for addr in &self.addresses {
            let home = pools.of(*addr).or_else(|| pools.get(who.home_of(*addr)?));
            origin.pools.extend(home.map(|usable| &usable.pool.name).or(who.home_of(*addr)).cloned());
            origin.on_removal.push(home.map_or_else(|| who.recorded(*addr), |usable| usable.pool.on_removal));
        }
        shorten(&mut origin.pools);
        shorten(&mut origin.on_removal);
        origin
    }
}

fn shorten<T: PartialEq>(list: &mut Vec<T>) {
    if list.windows(2).all(|pair| matches!(pair, [a, b] if a == b)) {
        list.truncate(1);
    }
}

impl Claimant<'_> {
    /// The entry of a recorded list for an address it has.
    fn entry<'a, T>(&self, list: &'a [T], addr: IpAddr) -> Option<&'a T> {
        let at = self.current.iter().position(|other| *other == addr)?;
        list.get(at).or(list.last())
    }

    /// The pool that is recorded for an address it has.
    pub(super) fn home_of(&self, addr: IpAddr) -> Option<&PoolName> {
        self.entry(self.home, addr)
    }

    /// What is recorded to become of an address it has.
    pub(super) fn recorded(&self, addr: IpAddr) -> OnRemoval {
        self.entry(self.on_removal, addr).copied().unwrap_or_default()
    }
}

//! The decision: which addresses a Service gets, or why it gets none.

use std::net::IpAddr;

use crate::addr::Family;
use crate::demand::{Demand, Families};
use crate::ledger::Ledger;
use crate::name::{Namespace, PoolName, ServiceKey};
use crate::pool::{OnRemoval, Pools};
use crate::selector::Labels;

mod denied;
mod grant;
mod search;
mod stay;

pub use denied::Denied;
pub use grant::{Grant, Lacking, Outside};
use search::Search;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// The Service.
    pub key: &'a ServiceKey,
    /// Its labels.
    pub labels: &'a Labels,
    /// The labels of its namespace.
    pub namespace_labels: &'a Labels,
    /// The addresses it has now. They are never taken from it, unless it asks for others and gets them, or their
    /// pool is gone and wanted them back.
    pub current: &'a [IpAddr],
    /// The pools of those addresses as recorded on the Service, in the order of the addresses; one alone stands for
    /// all.
    pub home: &'a [PoolName],
    /// What was to become of them when their pool goes, as recorded on the Service.
    pub on_removal: Option<OnRemoval>,
}

/// What would have to change for a Service that waits to get another answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// An address of that family of that pool becomes free.
    Pool(PoolName, Family),
    /// A pool is made, edited or removed, or what belongs to the cluster itself changes.
    AnyPool,
    /// A Service leaves the address or changes its terms there, or the address has rested enough.
    Address(IpAddr),
    /// A reservation is edited or removed.
    Reservations,
    /// The labels of the namespace change, or a Service there gives up an address.
    Namespace(Namespace),
    /// Nothing but the Service itself.
    Never,
}

/// Decides which addresses the Service gets. Changes nothing: the caller enters the grant into the ledger.
///
/// The same arguments give the same answer. The order of preference in each family: the address asked for; the
/// address that it has; one that is reserved for it; one that it may share by its key; else a free one: of the pool
/// asked for, or of the pools that assign by themselves and serve it by priority and name, one that can serve all
/// families before two that serve one each; in a pool the lowest.
pub fn allocate(ledger: &Ledger, pools: &Pools, who: Claimant<'_>, demand: &Demand) -> Result<Grant, Denied> {
    let wanted = demand.families.list();
    let request = match &demand.request {
        Ok(request) => request,
        Err(error) => {
            let kept: Vec<IpAddr> = wanted.iter().filter_map(|family| who.address(*family)).collect();
            let denied = Denied::InvalidRequest(error.clone());
            if kept.is_empty() {
                return Err(denied);
            }
            return Ok(Grant { addresses: kept, lacking: vec![Lacking::Requested(denied)] });
        }
    };
    let mut search = Search::new(ledger, pools, who, demand, request);
    let mut addresses = Vec::with_capacity(wanted.len());
    let mut lacking = Vec::new();
    let mut refused = None;
    let mut kept = false;
    for family in wanted {
        let chosen = search.choose(*family);
        kept |= chosen.addr.is_some() && chosen.addr == who.address(*family);
        addresses.extend(chosen.addr);
        lacking.extend(chosen.lacking);
        refused = refused.or(chosen.denied);
    }
    let Some(denied) = refused else { return Ok(Grant::new(addresses, lacking)) };
    // All or nothing is about a Service that has nothing yet: what one has is never taken away.
    let all_or_nothing = matches!(demand.families, Families::Require(_)) || request.addresses.len() > 1;
    if addresses.is_empty() || (all_or_nothing && !kept) {
        return Err(denied);
    }
    lacking.push(Lacking::SecondFamily(denied));
    Ok(Grant::new(addresses, lacking))
}

/// Whether the Service may have this very address, which it was not given: one that stands in its status without our
/// doing. It may where it could have asked for it.
pub fn may_have(
    ledger: &Ledger,
    pools: &Pools,
    who: Claimant<'_>,
    demand: &Demand,
    addr: IpAddr,
) -> Result<(), Denied> {
    let request = demand.request.as_ref().map_err(|error| Denied::InvalidRequest(error.clone()))?;
    if !demand.families.wants(Family::of(addr)) {
        return Err(Denied::AddressOutsidePools { addr });
    }
    Search::new(ledger, pools, who, demand, request).requested(addr).map(|_| ())
}

impl Claimant<'_> {
    fn address(&self, family: Family) -> Option<IpAddr> {
        self.current.iter().copied().find(|addr| Family::of(*addr) == family)
    }

    /// The pool that is recorded for an address it has.
    fn home_of(&self, addr: IpAddr) -> Option<&PoolName> {
        let at = self.current.iter().position(|other| *other == addr)?;
        self.home.get(at).or(self.home.last())
    }
}

#[cfg(test)]
mod tests;

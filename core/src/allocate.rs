//! The decision: which addresses a Service gets, or why it gets none.

use std::net::IpAddr;
use std::sync::Arc;

use crate::addr::Family;
use crate::demand::{Demand, Families};
use crate::ledger::Ledger;
use crate::name::{Namespace, PoolName, ServiceKey};
use crate::pool::{OnRemoval, Pools};
use crate::selector::Labels;

mod denied;
mod grant;
mod origin;
mod room;
mod search;
mod stay;

pub use denied::Denied;
pub use grant::{Grant, Lacking, Outside};
pub use origin::Origin;
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
    /// The addresses it has now, in the order in which they stand on it. They are never taken from it, unless it asks for others and gets them, or their
    /// pool is gone and wanted them back.
    pub current: &'a [IpAddr],
    /// The pools of those addresses as recorded on the Service ([`Origin::pools`]), in the order of the addresses; the
    /// last one stands for those that follow.
    pub home: &'a [PoolName],
    /// What is to become of them when their pool goes, recorded likewise ([`Origin::on_removal`]).
    pub on_removal: &'a [OnRemoval],
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
    /// A Service with this sharing key gets an address, or others may share one that it has.
    Sharing(Arc<str>),
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
    let search = |leaving| Search::new(ledger, pools, who, demand, request).all(leaving);
    let mut found = search(Vec::new());
    // What it gives up in one family may make room for the other, within the limit of a pool.
    let leaving: Vec<IpAddr> =
        who.current.iter().copied().filter(|addr| !found.addresses.contains(addr)).collect();
    if !leaving.is_empty() && (found.refused.is_some() || !found.lacking.is_empty()) {
        let again = search(leaving.clone());
        if leaving.iter().all(|addr| !again.addresses.contains(addr)) {
            found = again;
        }
    }
    let search::Found { addresses, mut lacking, refused, had } = found;
    let Some(denied) = refused else { return Ok(Grant::new(addresses, lacking)) };
    // All or nothing is about a Service that has nothing yet: what one has is never taken away.
    // So is an address that it asks for by name: another one in its place is not what was asked for.
    let missed = request.addresses.iter().any(|asked| !addresses.contains(asked));
    let all_or_nothing = missed || matches!(demand.families, Families::Require(_));
    if addresses.is_empty() || (all_or_nothing && !had) {
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
}

#[cfg(test)]
mod tests;

//! The decision: which addresses a Service gets, or why it gets none.

use std::fmt;
use std::net::IpAddr;

use crate::addr::Family;
use crate::demand::{Demand, Request, RequestError};
use crate::ledger::Ledger;
use crate::name::{PoolName, ServiceKey};
use crate::pool::{Pools, UsablePool};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// The Service.
    pub key: &'a ServiceKey,
    /// The addresses it has now. They are never taken from it, unless it asks for others and gets them.
    pub current: &'a [IpAddr],
}

/// Addresses given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// At least one address, in the order of the Service's families. Those that the ledger does not have under the
    /// Service's name are free.
    pub addresses: Vec<IpAddr>,
    /// What the Service asks for and does not get, beside what it gets: the second family, or another address than
    /// the one it has.
    pub lacking: Option<Denied>,
}

/// Why a Service gets no address, or not the one it asks for. Every variant names what is in the way.
///
/// [`Denied::reason`] is the reason of the condition, of the Event and of the metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no pool.
    NoPool,
    /// No pool that assigns by itself holds addresses of the family.
    NoPoolForFamily {
        /// The family.
        family: Family,
    },
    /// Every pool that could serve the family is full.
    PoolsFull {
        /// The family.
        family: Family,
        /// Those pools, each with how many addresses it has.
        pools: Vec<(PoolName, u128)>,
    },
    /// The pool asked for does not exist.
    UnknownPool {
        /// Its name.
        pool: PoolName,
    },
    /// The pool asked for cannot be used.
    PoolNotReady {
        /// Its name.
        pool: PoolName,
        /// The reason, as its condition says it.
        why: String,
    },
    /// The pool asked for holds no address of the family.
    PoolLacksFamily {
        /// Its name.
        pool: PoolName,
        /// The family.
        family: Family,
    },
    /// The address asked for lies in no pool.
    AddressOutsidePools {
        /// The address.
        addr: IpAddr,
    },
    /// The address asked for does not lie in the pool asked for.
    AddressNotInPool {
        /// The address.
        addr: IpAddr,
        /// The pool asked for.
        pool: PoolName,
    },
    /// The address asked for is left out by its pool.
    AddressLeftOut {
        /// The address.
        addr: IpAddr,
        /// The pool.
        pool: PoolName,
    },
    /// Another Service has the address asked for.
    AddressInUse {
        /// The address.
        addr: IpAddr,
        /// The Service that has it.
        holder: ServiceKey,
    },
    /// What the Service asks for makes no sense.
    InvalidRequest(RequestError),
}

impl Denied {
    /// Every reason there is, for those who list them (metrics, documentation).
    pub const REASONS: [&'static str; 11] = [
        "NoPool",
        "NoPoolForFamily",
        "PoolsFull",
        "UnknownPool",
        "PoolNotReady",
        "PoolLacksFamily",
        "AddressOutsidePools",
        "AddressNotInPool",
        "AddressLeftOut",
        "AddressInUse",
        "InvalidRequest",
    ];

    /// The reason in one word.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoPool => "NoPool",
            Self::NoPoolForFamily { .. } => "NoPoolForFamily",
            Self::PoolsFull { .. } => "PoolsFull",
            Self::UnknownPool { .. } => "UnknownPool",
            Self::PoolNotReady { .. } => "PoolNotReady",
            Self::PoolLacksFamily { .. } => "PoolLacksFamily",
            Self::AddressOutsidePools { .. } => "AddressOutsidePools",
            Self::AddressNotInPool { .. } => "AddressNotInPool",
            Self::AddressLeftOut { .. } => "AddressLeftOut",
            Self::AddressInUse { .. } => "AddressInUse",
            Self::InvalidRequest(_) => "InvalidRequest",
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => write!(f, "there is no AddressPool that can be used: create one"),
            Self::NoPoolForFamily { family } => {
                write!(
                    f,
                    "no AddressPool with autoAssign holds {family} addresses: add some to a pool or name a pool"
                )
            }
            Self::PoolsFull { family, pools } => {
                for (name, capacity) in pools {
                    write!(f, "pool {name} is full: {capacity} of {capacity} {family} addresses in use; ")?;
                }
                write!(f, "add addresses or delete a Service")
            }
            Self::UnknownPool { pool } => {
                write!(f, "there is no AddressPool {pool}: create it or ask for another")
            }
            Self::PoolNotReady { pool, why } => write!(f, "pool {pool} cannot be used: {why}"),
            Self::PoolLacksFamily { pool, family } => {
                write!(f, "pool {pool} holds no {family} addresses: add some or ask for another pool")
            }
            Self::AddressOutsidePools { addr } => {
                write!(f, "{addr} is in no AddressPool: add it to a pool or ask for another address")
            }
            Self::AddressNotInPool { addr, pool } => {
                write!(f, "{addr} is not in pool {pool}: ask for an address of that pool or for no pool")
            }
            Self::AddressLeftOut { addr, pool } => {
                write!(
                    f,
                    "{addr} is left out by exclude or avoidBuggyIPs of pool {pool}: ask for another address"
                )
            }
            Self::AddressInUse { addr, holder } => {
                write!(
                    f,
                    "{addr} is in use by Service {holder}: ask for another address or delete that Service"
                )
            }
            Self::InvalidRequest(error) => write!(f, "{error}"),
        }
    }
}

/// Decides which addresses the Service gets. Changes nothing: the caller enters the grant into the ledger.
///
/// The same arguments give the same answer. The order of preference: the address asked for; else an address of
/// the pool asked for; else the pools that assign by themselves by priority and name, one that can serve all
/// families before two that serve one each; in a pool the lowest free address.
pub fn allocate(ledger: &Ledger, pools: &Pools, who: Claimant<'_>, demand: &Demand) -> Result<Grant, Denied> {
    let wanted = demand.families.list();
    let kept: Vec<IpAddr> = wanted.iter().filter_map(|family| who.address(*family)).collect();
    let request = match &demand.request {
        Ok(request) => request,
        Err(error) if kept.is_empty() => return Err(Denied::InvalidRequest(error.clone())),
        Err(error) => {
            return Ok(Grant { addresses: kept, lacking: Some(Denied::InvalidRequest(error.clone())) });
        }
    };
    let search = Search { ledger, pools, who, request };
    let mut addresses = Vec::with_capacity(wanted.len());
    let mut lacking = None;
    let partner = search.common_pool(wanted);
    for family in wanted {
        let found = match (who.address(*family), search.find(*family, partner)) {
            (_, Ok(addr)) => addr,
            (Some(current), Err(denied)) => {
                lacking.get_or_insert(denied);
                current
            }
            (None, Err(denied)) => {
                lacking.get_or_insert(denied);
                continue;
            }
        };
        addresses.push(found);
    }
    // All or nothing is about a Service that has nothing yet: what one has is never taken away.
    let all_or_nothing =
        matches!(demand.families, crate::demand::Families::Require(_)) || request.addresses.len() > 1;
    match lacking {
        Some(denied) if addresses.is_empty() => Err(denied),
        Some(denied) if addresses.len() < wanted.len() && all_or_nothing && kept.is_empty() => Err(denied),
        lacking => Ok(Grant { addresses, lacking }),
    }
}

impl Claimant<'_> {
    fn address(&self, family: Family) -> Option<IpAddr> {
        self.current.iter().copied().find(|addr| Family::of(*addr) == family)
    }
}

struct Search<'a> {
    ledger: &'a Ledger,
    pools: &'a Pools,
    who: Claimant<'a>,
    request: &'a Request,
}

impl<'a> Search<'a> {
    /// The address of that family: the one asked for, the one it has, or a free one.
    fn find(&self, family: Family, partner: Option<&'a UsablePool>) -> Result<IpAddr, Denied> {
        let current = self.who.address(family);
        if let Some(addr) = self.request.address(family) {
            return if current == Some(addr) { Ok(addr) } else { self.requested(addr) };
        }
        let Some(current) = current else { return self.free(family, partner) };
        match (&self.request.pool, self.pools.of(current)) {
            // It asks for another pool than the one its address is from.
            (Some(wanted), Some(usable)) if *wanted != usable.pool.name => self.free(family, partner),
            _ => Ok(current),
        }
    }

    fn requested(&self, addr: IpAddr) -> Result<IpAddr, Denied> {
        let named = self.named_pool()?;
        let pool = match (named, self.pools.of(addr)) {
            (Some(named), _) if named.leaves_out(addr) => {
                Err(Denied::AddressLeftOut { addr, pool: named.pool.name.clone() })
            }
            (Some(named), _) if !named.contains(addr) => {
                Err(Denied::AddressNotInPool { addr, pool: named.pool.name.clone() })
            }
            (Some(_), _) | (None, Some(_)) => Ok(()),
            (None, None) => Err(match self.pools.in_order().find(|usable| usable.leaves_out(addr)) {
                Some(usable) => Denied::AddressLeftOut { addr, pool: usable.pool.name.clone() },
                None if self.pools.is_empty() => Denied::NoPool,
                None => Denied::AddressOutsidePools { addr },
            }),
        };
        pool?;
        match self.ledger.holder(addr) {
            Some(holder) if holder != self.who.key => {
                Err(Denied::AddressInUse { addr, holder: holder.clone() })
            }
            _ => Ok(addr),
        }
    }

    /// The pool asked for, if any.
    fn named_pool(&self) -> Result<Option<&'a UsablePool>, Denied> {
        let Some(name) = &self.request.pool else { return Ok(None) };
        if let Some(usable) = self.pools.get(name) {
            return Ok(Some(usable));
        }
        Err(match self.pools.broken(name) {
            Some(why) => Denied::PoolNotReady { pool: name.clone(), why: why.to_owned() },
            None => Denied::UnknownPool { pool: name.clone() },
        })
    }

    /// A free address: of the pool asked for, of the pool of the other family, or of the first that has one.
    fn free(&self, family: Family, partner: Option<&'a UsablePool>) -> Result<IpAddr, Denied> {
        let lowest = |usable: &UsablePool| self.ledger.lowest_free(&usable.pool.name, family);
        let full = |usable: &UsablePool| {
            (usable.pool.name.clone(), self.ledger.usage(&usable.pool.name, family).capacity)
        };
        if let Some(named) = self.named_pool()? {
            return match lowest(named) {
                Some(addr) => Ok(addr),
                None if named.serves(family) => Err(Denied::PoolsFull { family, pools: vec![full(named)] }),
                None => Err(Denied::PoolLacksFamily { pool: named.pool.name.clone(), family }),
            };
        }
        if self.pools.is_empty() {
            return Err(Denied::NoPool);
        }
        if let Some(addr) = partner.and_then(lowest) {
            return Ok(addr);
        }
        let mut candidates = self.candidates().filter(|usable| usable.serves(family)).peekable();
        if candidates.peek().is_none() {
            return Err(Denied::NoPoolForFamily { family });
        }
        let mut tried = Vec::new();
        for usable in candidates {
            match lowest(usable) {
                Some(addr) => return Ok(addr),
                None => tried.push(full(usable)),
            }
        }
        Err(Denied::PoolsFull { family, pools: tried })
    }

    fn candidates(&self) -> impl Iterator<Item = &'a UsablePool> {
        self.pools.in_order().filter(|usable| usable.pool.auto_assign)
    }

    /// The pool to prefer, so that both families come from one: that of an address which the Service has or asks
    /// for, else the first that can serve every family.
    fn common_pool(&self, wanted: &[Family]) -> Option<&'a UsablePool> {
        if wanted.len() < 2 {
            return None;
        }
        let fixed =
            wanted.iter().filter_map(|family| self.request.address(*family).or(self.who.address(*family)));
        let mut of_fixed = fixed.filter_map(|addr| self.pools.of(addr)).peekable();
        if of_fixed.peek().is_some() {
            return of_fixed.next().filter(|usable| usable.pool.auto_assign);
        }
        self.candidates().find(|usable| {
            wanted.iter().all(|family| self.ledger.lowest_free(&usable.pool.name, *family).is_some())
        })
    }
}

#[cfg(test)]
mod tests;

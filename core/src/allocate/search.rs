//! The search for an address.

use std::net::IpAddr;

use super::{Claimant, Denied, Lacking};
use crate::addr::Family;
use crate::demand::{Demand, Request};
use crate::ledger::{Ledger, Terms, Usage};
use crate::name::PoolName;
use crate::pool::{Pools, UsablePool};

/// What was found in one family.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) addr: Option<IpAddr>,
    /// What is wrong with it.
    pub(super) lacking: Vec<Lacking>,
    /// Why there is none.
    pub(super) denied: Option<Denied>,
    /// Whether the Service had one that nobody wanted back.
    pub(super) had: bool,
}

impl Chosen {
    pub(super) fn addr(addr: IpAddr) -> Self {
        Self { addr: Some(addr), ..Self::default() }
    }

    pub(super) fn denied(denied: Denied) -> Self {
        Self { denied: Some(denied), ..Self::default() }
    }
}

impl From<Result<IpAddr, Denied>> for Chosen {
    fn from(found: Result<IpAddr, Denied>) -> Self {
        found.map_or_else(Self::denied, Self::addr)
    }
}

pub(super) struct Search<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) pools: &'a Pools,
    pub(super) who: Claimant<'a>,
    pub(super) request: &'a Request,
    pub(super) terms: Terms,
    pub(super) wanted: &'static [Family],
    /// What has been chosen in the families before.
    pub(super) given: Vec<IpAddr>,
    /// What the Service has and is known to give up.
    pub(super) leaving: Vec<IpAddr>,
}

/// What was found in all families.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) lacking: Vec<Lacking>,
    pub(super) refused: Option<Denied>,
    /// Whether the Service had one of them, or one in its place, that nobody wanted back.
    pub(super) had: bool,
}

/// Why a pool that could serve gives no address.
enum Shut {
    Full(Usage),
    Quota { held: u32, limit: u32 },
}

impl<'a> Search<'a> {
    pub(super) fn new(
        ledger: &'a Ledger,
        pools: &'a Pools,
        who: Claimant<'a>,
        demand: &Demand,
        request: &'a Request,
    ) -> Self {
        let wanted = demand.families.list();
        let unwanted = who.current.iter().copied().filter(|addr| !wanted.contains(&Family::of(*addr)));
        let leaving = unwanted.collect();
        Self { ledger, pools, who, request, terms: demand.into(), wanted, given: Vec::new(), leaving }
    }

    /// Decides about every family; `leaving` is what the Service has and gives up, as far as that is known.
    pub(super) fn all(mut self, leaving: Vec<IpAddr>) -> Found {
        self.leaving.extend(leaving);
        let mut found = Found::default();
        for family in self.wanted {
            let chosen = self.choose(*family);
            let current = self.who.address(*family).filter(|current| chosen.addr != Some(*current));
            self.leaving.extend(current);
            self.given.extend(chosen.addr);
            found.had |= chosen.addr.is_some() && chosen.had;
            found.addresses.extend(chosen.addr);
            found.lacking.extend(chosen.lacking);
            found.refused = found.refused.or(chosen.denied);
        }
        found
    }

    /// This very address, if the Service may have it.
    pub(super) fn requested(&self, addr: IpAddr) -> Result<IpAddr, Denied> {
        let usable = self.pool_of_requested(addr)?;
        self.allowed(usable)?;
        self.joins(usable, addr)?;
        match self.over_quota(usable, addr) {
            Some((held, limit)) => {
                Err(self.quota(Family::of(addr), &usable.pool.name, (held, limit), Vec::new()))
            }
            None => Ok(addr),
        }
    }

    fn pool_of_requested(&self, addr: IpAddr) -> Result<&'a UsablePool, Denied> {
        let named = self.named_pool()?;
        if let Some(by) = self.pools.taken_by(addr) {
            return Err(Denied::AddressTaken { addr, by: by.into() });
        }
        match (named, self.pools.of(addr)) {
            (Some(named), _) if named.leaves_out(addr) => {
                Err(Denied::AddressLeftOut { addr, pool: named.pool.name.clone() })
            }
            (Some(named), _) if !named.contains(addr) => {
                Err(Denied::AddressNotInPool { addr, pool: named.pool.name.clone() })
            }
            (_, Some(usable)) => Ok(usable),
            (_, None) => Err(match self.pools.in_order().find(|usable| usable.leaves_out(addr)) {
                Some(usable) => Denied::AddressLeftOut { addr, pool: usable.pool.name.clone() },
                None if self.pools.is_empty() => Denied::NoPool,
                None => Denied::AddressOutsidePools { addr },
            }),
        }
    }

    /// Whether the address is free for the Service, or it may join those who hold it.
    fn joins(&self, usable: &UsablePool, addr: IpAddr) -> Result<(), Denied> {
        let Claimant { key, labels, .. } = self.who;
        let reservation = self.ledger.reservation_of(addr);
        let beneficiary = reservation.is_some_and(|held| held.whom.includes(key, labels));
        if let Some(held) = reservation.filter(|_| !beneficiary) {
            let whom = held.whom.to_string().into();
            return Err(Denied::AddressReserved { addr, reservation: held.name.clone(), whom });
        }
        if let Some(until) = self.ledger.rests_until(addr)
            && !beneficiary
            && !self.ledger.rests_of(addr, key)
        {
            return Err(Denied::AddressQuarantined { addr, until });
        }
        let clash = self.ledger.clash(usable.pool.sharing, key, &self.terms, addr);
        clash.map_or(Ok(()), |clash| Err(Denied::clash(addr, clash)))
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

    pub(super) fn serves_us(&self, usable: &UsablePool) -> bool {
        let Claimant { key, labels, namespace_labels, .. } = self.who;
        usable.pool.audience.includes(&key.namespace, namespace_labels, labels)
    }

    fn allowed(&self, usable: &UsablePool) -> Result<(), Denied> {
        if self.serves_us(usable) {
            return Ok(());
        }
        let namespace = self.who.key.namespace.clone();
        Err(Denied::PoolNotAllowed { pool: usable.pool.name.clone(), namespace })
    }

    /// An address of the family, whichever.
    pub(super) fn any(&self, family: Family) -> Result<IpAddr, Denied> {
        let named = self.named_pool()?;
        if let Some(named) = named {
            self.allowed(named)?;
        }
        if let Some(addr) = self.reserved(family) {
            return Ok(addr);
        }
        match self.shared(family) {
            Ok(Some(addr)) => Ok(addr),
            Ok(None) => self.free(family, named),
            // What is in the way of sharing says more than that there is nothing else.
            Err(clash) => self.free(family, named).map_err(|denied| match denied {
                Denied::PoolsFull { .. } | Denied::QuotaExceeded { .. } => clash,
                denied => denied,
            }),
        }
    }

    fn in_named_pool(&self, usable: &UsablePool) -> bool {
        self.request.pool.as_ref().is_none_or(|name| *name == usable.pool.name)
    }

    /// An address that is held for the Service.
    fn reserved(&self, family: Family) -> Option<IpAddr> {
        let all = self.ledger.reserved_for(self.who.key, self.who.labels);
        all.into_iter().filter(|addr| Family::of(*addr) == family).find(|addr| {
            self.pools.of(*addr).is_some_and(|usable| {
                self.in_named_pool(usable) && self.serves_us(usable) && self.joins(usable, *addr).is_ok()
            })
        })
    }

    /// An address that Services with the same key have: in the order of their pools, that of the other family
    /// first. An error is a port that is taken on the only address there would be.
    fn shared(&self, family: Family) -> Result<Option<IpAddr>, Denied> {
        let Some(sharing) = &self.terms.sharing else { return Ok(None) };
        let mut clash = None;
        let mut found: Option<((bool, i64, &PoolName), IpAddr)> = None;
        let partner = self.partner().map(|usable| &usable.pool.name);
        for addr in self.ledger.shared(sharing, self.who.key, self.pools.shares_widely()) {
            let Some(usable) = self.pools.of(addr).filter(|_| Family::of(addr) == family) else { continue };
            if !self.in_named_pool(usable) || !self.serves_us(usable) {
                continue;
            }
            match self.joins(usable, addr) {
                Ok(()) if self.over_quota(usable, addr).is_some() => {}
                Ok(()) => {
                    let name = &usable.pool.name;
                    let rank =
                        (Some(name) != partner, usable.pool.priority.map_or(i64::MAX, i64::from), name);
                    if found.is_none_or(|(best, _)| rank < best) {
                        found = Some((rank, addr));
                    }
                }
                Err(denied @ Denied::SharingPortConflict { .. }) => {
                    clash.get_or_insert(denied);
                }
                Err(_) => {}
            }
        }
        match (found, clash) {
            (Some((_, addr)), _) => Ok(Some(addr)),
            (None, Some(clash)) => Err(clash),
            (None, None) => Ok(None),
        }
    }

    /// A free address: of the pool asked for, of the pool of the other family, or of the first that has one.
    fn free(&self, family: Family, named: Option<&'a UsablePool>) -> Result<IpAddr, Denied> {
        if let Some(named) = named {
            if !named.serves(family) {
                return Err(Denied::PoolLacksFamily { pool: named.pool.name.clone(), family });
            }
            return self.lowest(named, family).map_err(|shut| self.all_shut(family, vec![(named, shut)]));
        }
        if self.pools.is_empty() {
            return Err(Denied::NoPool);
        }
        let preferred = self.partner().or_else(|| self.common_pool());
        if let Some(addr) = preferred.and_then(|usable| self.lowest(usable, family).ok()) {
            return Ok(addr);
        }
        let mut of_family = self
            .pools
            .in_order()
            .filter(|usable| usable.pool.auto_assign && usable.serves(family))
            .peekable();
        if of_family.peek().is_none() {
            return Err(Denied::NoPoolForFamily { family });
        }
        let mut tried = Vec::new();
        for usable in of_family.filter(|usable| self.serves_us(usable)) {
            match self.lowest(usable, family) {
                Ok(addr) => return Ok(addr),
                Err(shut) => tried.push((usable, shut)),
            }
        }
        Err(self.all_shut(family, tried))
    }

    fn lowest(&self, usable: &UsablePool, family: Family) -> Result<IpAddr, Shut> {
        let name = &usable.pool.name;
        let Some(addr) = self.ledger.lowest_free(name, family) else {
            return Err(Shut::Full(self.ledger.usage(name, family)));
        };
        match self.over_quota(usable, addr) {
            Some((held, limit)) => Err(Shut::Quota { held, limit }),
            None => Ok(addr),
        }
    }

    fn all_shut(&self, family: Family, tried: Vec<(&UsablePool, Shut)>) -> Denied {
        let namespace = &self.who.key.namespace;
        if tried.is_empty() {
            return Denied::NoMatchingPool { family, namespace: namespace.clone() };
        }
        let limited = tried.iter().find_map(|(usable, shut)| match shut {
            Shut::Quota { held, limit } => Some((&usable.pool.name, (*held, *limit))),
            Shut::Full(_) => None,
        });
        if let Some((pool, count)) = limited {
            let others = tried.iter().map(|(usable, _)| &usable.pool.name).filter(|name| *name != pool);
            return self.quota(family, pool, count, others.cloned().collect());
        }
        let full = |(usable, shut): (&UsablePool, Shut)| match shut {
            Shut::Full(usage) => Some((usable.pool.name.clone(), usage)),
            Shut::Quota { .. } => None,
        };
        Denied::PoolsFull { family, pools: tried.into_iter().filter_map(full).collect() }
    }
}

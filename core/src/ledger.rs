//! The ledger: which Services hold which address, which addresses rest or are reserved, and what is free in each
//! pool.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::addr::Family;
use crate::name::{Namespace, PoolName, ServiceKey};
use crate::pool::{Pools, SharingScope};
use crate::steps::Counted;

mod books;
mod reserved;
mod resting;
mod sharing;

pub use books::Usage;
use books::{Books, State};
pub use reserved::Standing;
use sharing::{Account, Holders};
pub use sharing::{Clash, Terms};

/// The first of all addresses in their order.
const LOWEST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Who holds what. Pools come and go without touching it: an address stays with its Service whatever happens to
/// the pool it came from.
///
/// Every operation on one address costs O(log n) in the number of addresses, pools and free intervals, and O(n) in
/// the number of Services that share that address. The ledger reads no clock: where time counts, `now` is an
/// argument, in Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    holders: BTreeMap<Counted<IpAddr>, Holders>,
    accounts: BTreeMap<ServiceKey, Account>,
    /// Shared addresses by key and namespace.
    groups: BTreeSet<(Arc<str>, Namespace, IpAddr)>,
    resting: resting::Resting,
    reserved: reserved::Reserved,
    books: BTreeMap<PoolName, Books>,
}

/// An address that a Service says it has, as found in the status of the Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The Service.
    pub key: ServiceKey,
    /// When the Service was created, in Unix seconds.
    pub created: i64,
    /// The address.
    pub addr: IpAddr,
    /// On which terms.
    pub terms: Terms,
    /// Whether it is on record that it clashes with others on the address (reason `SharingConflict`): it is the one
    /// that changed, and they have the better right.
    pub contested: bool,
}

/// A claim that lost against an older one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The Service that has to get another address.
    pub key: ServiceKey,
    /// The address both had.
    pub addr: IpAddr,
    /// The Service that keeps it.
    pub winner: ServiceKey,
}

impl Ledger {
    /// A ledger of what Services say they have. The order of the claims does not matter.
    ///
    /// Of two that claim one address and neither of which shares, the older Service has it (by name when they are
    /// equally old). Two that share and clash by now both stay, and so does one that has ceased to share: they were on
    /// it before, and nobody loses an address by a restart. Reservations and what rests are told afterwards.
    #[must_use]
    pub fn rebuild(pools: &Pools, mut claims: Vec<Claim>) -> (Self, Vec<Lost>) {
        // Who has no key on an address that others share has taken it away while nobody looked: they stay.
        let shared: BTreeSet<IpAddr> =
            claims.iter().filter(|claim| claim.terms.sharing.is_some()).map(|claim| claim.addr).collect();
        for claim in claims.iter_mut().filter(|claim| claim.terms.sharing.is_none()) {
            claim.contested |= shared.contains(&claim.addr);
        }
        let rank = |claim: &Claim| (claim.contested, claim.created);
        claims.sort_by(|a, b| (rank(a), &a.key, a.addr).cmp(&(rank(b), &b.key, b.addr)));
        let mut ledger = Self::default();
        let mut lost = Vec::new();
        for claim in claims {
            // The scope of a pool takes nothing from those who share already.
            let clash = ledger.clash(SharingScope::Cluster, &claim.key, &claim.terms, claim.addr);
            let contested = claim.contested || clash.is_some();
            match clash {
                Some(Clash::InUse { holder }) if !claim.contested => {
                    lost.push(Lost { winner: holder, key: claim.key, addr: claim.addr });
                }
                clash => {
                    ledger.enter(pools, &claim.key, claim.addr, &claim.terms);
                    if let Some(account) = ledger.accounts.get_mut(&claim.key) {
                        account.contested |= contested && clash.is_some();
                    }
                }
            }
        }
        ledger.set_pools(pools);
        (ledger, lost)
    }

    /// Says what the pools are now. Nobody loses an address by it. Costs as much as entering every address anew.
    pub fn set_pools(&mut self, pools: &Pools) {
        self.books = pools.in_order().map(|usable| (usable.pool.name.clone(), Books::new(usable))).collect();
        self.resting.set_pools(pools);
        self.reserved.resolve(pools);
        let known = self.holders.keys().map(|addr| addr.0);
        let known: BTreeSet<IpAddr> =
            known.chain(self.resting.addresses()).chain(self.reserved.addresses()).collect();
        for addr in known {
            self.shift(pools, addr, State::Free);
        }
        for (addr, holders) in &self.holders {
            let Some(books) = pools.of(addr.0).and_then(|usable| self.books.get_mut(&usable.pool.name))
            else {
                continue;
            };
            // In order of their names, so those of one namespace stand together.
            let mut last = None;
            for namespace in holders.list().iter().map(|key| &key.namespace) {
                if last != Some(namespace) {
                    books.joins(namespace);
                }
                last = Some(namespace);
            }
        }
        self.fill_reservations(pools);
    }

    /// Gives the address to the Service, on these terms from now on for all its addresses. A Service that has the
    /// address keeps it whatever its terms. Returns whether anything is different now; if another Service holds the
    /// address and the two do not go together, nothing changes.
    pub fn take(
        &mut self,
        pools: &Pools,
        key: &ServiceKey,
        addr: IpAddr,
        terms: &Terms,
    ) -> Result<bool, Clash> {
        if self.holders(addr).contains(key) {
            return Ok(self.set_terms(key, terms));
        }
        let scope = pools.of(addr).map_or(SharingScope::Namespace, |usable| usable.pool.sharing);
        if let Some(clash) = self.clash(scope, key, terms, addr) {
            return Err(clash);
        }
        self.set_terms(key, terms);
        self.enter(pools, key, addr, terms);
        Ok(true)
    }

    fn enter(&mut self, pools: &Pools, key: &ServiceKey, addr: IpAddr, terms: &Terms) {
        let before = self.state(addr);
        let home = pools.of(addr).map(|usable| &usable.pool.name);
        if self.first_of_namespace(key, addr)
            && let Some(books) = home.and_then(|name| self.books.get_mut(name))
        {
            books.joins(&key.namespace);
        }
        match self.holders.get_mut(&Counted(addr)) {
            Some(holders) => holders.add(key),
            None => {
                self.holders.insert(Counted(addr), Holders::One(key.clone()));
            }
        }
        let account = self.accounts.entry(key.clone()).or_default();
        account.terms = terms.clone();
        if !account.addresses.contains(&addr) {
            account.addresses.push(addr);
        }
        self.join_group(key, addr);
        self.resting.remove(addr);
        self.shift(pools, addr, before);
    }

    /// Takes the address from the Service, at `now` (Unix milliseconds); whether it held it. The last one to leave
    /// an address lets it rest, if its pool says so.
    pub fn release(&mut self, pools: &Pools, key: &ServiceKey, addr: IpAddr, now: i64) -> bool {
        let Some(holders) = self.holders.get(&Counted(addr)).filter(|all| all.list().contains(key)) else {
            return false;
        };
        let left = holders.without(key);
        let before = self.state(addr);
        self.leave_group(key, addr);
        match left {
            Some(left) => self.holders.insert(Counted(addr), left),
            None => self.holders.remove(&Counted(addr)),
        };
        if let Some(account) = self.accounts.get_mut(key) {
            account.addresses.retain(|other| *other != addr);
            if account.addresses.is_empty() {
                self.accounts.remove(key);
            }
        }
        let home = pools.of(addr).map(|usable| &usable.pool.name);
        if self.first_of_namespace(key, addr)
            && let Some(books) = home.and_then(|name| self.books.get_mut(name))
        {
            books.leaves(&key.namespace);
        }
        self.shift(pools, addr, before);
        if self.holders(addr).is_empty() {
            self.rest_after(pools, addr, key, now);
            self.fill_reservations(pools);
        } else {
            self.settle_conflicts(addr);
        }
        true
    }

    /// Takes every address from the Service, at `now` (Unix milliseconds), and returns them.
    pub fn release_all(&mut self, pools: &Pools, key: &ServiceKey, now: i64) -> Vec<IpAddr> {
        let addresses = self.held(key).to_vec();
        for addr in &addresses {
            self.release(pools, key, *addr, now);
        }
        addresses
    }

    /// The Services that hold the address, in order of their names.
    #[must_use]
    pub fn holders(&self, addr: IpAddr) -> &[ServiceKey] {
        self.holders.get(&Counted(addr)).map_or(&[], Holders::list)
    }

    /// The addresses that the Service holds, in the order in which it got them.
    #[must_use]
    pub fn held(&self, key: &ServiceKey) -> &[IpAddr] {
        self.accounts.get(key).map_or(&[], |account| &account.addresses)
    }

    /// The lowest free address of the pool: one that nobody holds, that does not rest and that is not reserved.
    #[must_use]
    pub fn lowest_free(&self, pool: &PoolName, family: Family) -> Option<IpAddr> {
        family.address(self.books.get(pool)?.family(family).numbers.lowest()?)
    }

    /// How much of the pool is given.
    #[must_use]
    pub fn usage(&self, pool: &PoolName, family: Family) -> Usage {
        self.books.get(pool).map_or_else(Usage::default, |books| books.family(family).usage)
    }

    /// How many addresses of the pool, of both families together, Services of the namespace hold.
    #[must_use]
    pub fn held_by_namespace(&self, pool: &PoolName, namespace: &Namespace) -> u32 {
        self.books.get(pool).and_then(|books| books.namespaces.get(namespace)).copied().unwrap_or(0)
    }

    /// Whether no Service of the same namespace, other than this one, holds the address.
    pub(crate) fn first_of_namespace(&self, key: &ServiceKey, addr: IpAddr) -> bool {
        let others = self.holders(addr).iter().filter(|other| *other != key);
        others.clone().all(|other| other.namespace != key.namespace)
    }

    fn state(&self, addr: IpAddr) -> State {
        if self.holders.contains_key(&Counted(addr)) {
            State::Assigned
        } else if self.resting.contains(addr) {
            State::Resting
        } else if self.reserved.contains(addr) {
            State::Reserved
        } else {
            State::Free
        }
    }

    /// The address was `before`; the books are told what it is now.
    fn shift(&mut self, pools: &Pools, addr: IpAddr, before: State) {
        let after = self.state(addr);
        if before != after
            && let Some(usable) = pools.of(addr)
            && let Some(books) = self.books.get_mut(&usable.pool.name)
        {
            books.shift(addr, before, after);
        }
    }
}

#[cfg(test)]
mod tests;

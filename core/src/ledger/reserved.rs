//! The reservations: which address each has, and who may have that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Ledger;
use crate::addr::Family;
use crate::name::{Namespace, ServiceKey};
use crate::pool::Pools;
use crate::reservation::{Held, Reservation};
use crate::selector::Labels;
use crate::steps::Counted;

/// The namespace and the name that a reservation gives.
type Beneficiary = (Option<Namespace>, Option<Box<str>>);

/// The reservations, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reserved {
    list: Vec<Reservation>,
    /// The address that each has got; `Reservation::address` of those follows it.
    got: Vec<Option<IpAddr>>,
    by_addr: BTreeMap<Counted<IpAddr>, usize>,
    by_name: BTreeMap<Box<str>, usize>,
    by_whom: BTreeMap<Beneficiary, Vec<usize>>,
    /// Reservations of any address of a pool that have none.
    unmet: BTreeSet<usize>,
}

impl Reserved {
    pub(super) fn contains(&self, addr: IpAddr) -> bool {
        self.by_addr.contains_key(&Counted(addr))
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_addr.keys().map(|addr| addr.0)
    }

    fn new(mut list: Vec<Reservation>, known: &Self) -> Self {
        list.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut reserved = Self { got: vec![None; list.len()], ..Self::default() };
        for (at, reservation) in list.iter_mut().enumerate() {
            // What it has got is kept, also where its status has not been written or read yet.
            let before = known.by_name.get(&reservation.name).and_then(|at| known.list.get(*at));
            if let Some(before) = before.filter(|before| before.held == reservation.held) {
                reservation.address = before.address.or(reservation.address);
            }
            reserved.by_name.insert(reservation.name.clone(), at);
            let whom = (reservation.whom.namespace.clone(), reservation.whom.name.clone());
            reserved.by_whom.entry(whom).or_default().push(at);
        }
        reserved.list = list;
        reserved
    }

    /// Says which address each has, but for those that have to look for one.
    pub(super) fn resolve(&mut self, pools: &Pools) {
        self.by_addr.clear();
        self.unmet.clear();
        for (at, reservation) in self.list.iter().enumerate() {
            let addr = match &reservation.held {
                Held::Address(addr) => Some(*addr),
                Held::Any { pool, family } => reservation.address.filter(|addr| {
                    Family::of(*addr) == *family
                        && pools.of(*addr).is_some_and(|usable| usable.pool.name == *pool)
                }),
            };
            let addr = addr.filter(|addr| !self.by_addr.contains_key(&Counted(*addr)));
            match addr {
                Some(addr) => {
                    self.by_addr.insert(Counted(addr), at);
                }
                None if matches!(reservation.held, Held::Any { .. }) => {
                    self.unmet.insert(at);
                }
                None => {}
            }
            if let Some(got) = self.got.get_mut(at) {
                *got = addr;
            }
        }
    }
}

/// How a reservation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Nobody has the address, and only the beneficiaries may get it.
    Held(IpAddr),
    /// These Services have it. Whether they are beneficiaries says [`crate::reservation::Whom::includes`]; if not,
    /// it is held once they have left.
    Used(IpAddr, &'a [ServiceKey]),
    /// The address is in no pool, or its pool leaves it out.
    OutsidePools(IpAddr),
    /// An older reservation holds the address.
    ReservedBefore(IpAddr, &'a Reservation),
    /// The pool does not exist or cannot be used.
    UnknownPool,
    /// The pool has no free address of the family.
    PoolFull,
}

impl Ledger {
    /// Says what the reservations are now. Nobody loses an address by it: one that is in use is held from when it
    /// is free.
    pub fn set_reservations(&mut self, pools: &Pools, list: Vec<Reservation>) {
        let mut next = Reserved::new(list, &self.reserved);
        next.resolve(pools);
        let touched: BTreeSet<IpAddr> = self.reserved.addresses().chain(next.addresses()).collect();
        let before: Vec<_> = touched.into_iter().map(|addr| (addr, self.state(addr))).collect();
        self.reserved = next;
        for (addr, state) in before {
            self.shift(pools, addr, state);
        }
        self.fill_reservations(pools);
    }

    /// Gives a free address to the reservations that wait for one, oldest first.
    pub(super) fn fill_reservations(&mut self, pools: &Pools) {
        let unmet: Vec<usize> = self.reserved.unmet.iter().copied().collect();
        for at in unmet {
            let Some(Held::Any { pool, family }) = self.reserved.list.get(at).map(|r| &r.held) else {
                continue;
            };
            let Some(addr) = self.lowest_free(pool, *family) else { continue };
            let before = self.state(addr);
            self.reserved.unmet.remove(&at);
            self.reserved.by_addr.insert(Counted(addr), at);
            if let Some(reservation) = self.reserved.list.get_mut(at) {
                reservation.address = Some(addr);
            }
            if let Some(got) = self.reserved.got.get_mut(at) {
                *got = Some(addr);
            }
            self.shift(pools, addr, before);
        }
    }

    /// The reservations, oldest first.
    #[must_use]
    pub fn reservations(&self) -> &[Reservation] {
        &self.reserved.list
    }

    /// The reservation that holds the address.
    #[must_use]
    pub fn reservation_of(&self, addr: IpAddr) -> Option<&Reservation> {
        self.reserved.by_addr.get(&Counted(addr)).and_then(|at| self.reserved.list.get(*at))
    }

    /// The addresses held for a Service with these labels, oldest reservation first.
    pub(crate) fn reserved_for(&self, key: &ServiceKey, labels: &Labels) -> Vec<IpAddr> {
        if self.reserved.list.is_empty() {
            return Vec::new();
        }
        let namespace = Some(key.namespace.clone());
        let whoms = [(namespace.clone(), Some((&*key.name).into())), (namespace, None), (None, None)];
        let mut found: Vec<usize> =
            whoms.iter().filter_map(|whom| self.reserved.by_whom.get(whom)).flatten().copied().collect();
        found.sort_unstable();
        let is_for = |at: &usize| self.reserved.list.get(*at).is_some_and(|r| r.whom.includes(key, labels));
        found
            .into_iter()
            .filter(is_for)
            .filter_map(|at| self.reserved.got.get(at).copied().flatten())
            .collect()
    }

    /// How the reservation of that name stands.
    #[must_use]
    pub fn standing(&self, pools: &Pools, name: &str) -> Option<Standing<'_>> {
        let at = *self.reserved.by_name.get(name)?;
        let reservation = self.reserved.list.get(at)?;
        let Some(addr) = self.reserved.got.get(at).copied().flatten() else {
            return Some(match &reservation.held {
                Held::Address(addr) => match self.reservation_of(*addr) {
                    Some(older) => Standing::ReservedBefore(*addr, older),
                    None => Standing::OutsidePools(*addr),
                },
                Held::Any { pool, .. } if pools.get(pool).is_none() => Standing::UnknownPool,
                Held::Any { .. } => Standing::PoolFull,
            });
        };
        let holders = self.holders(addr);
        Some(if !holders.is_empty() {
            Standing::Used(addr, holders)
        } else if pools.of(addr).is_none() {
            Standing::OutsidePools(addr)
        } else {
            Standing::Held(addr)
        })
    }
}

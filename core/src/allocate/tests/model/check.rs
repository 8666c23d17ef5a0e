//! What has to hold, worked out address by address.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::ledger::Usage;
use crate::pool::{SharingScope, UsablePool};

/// A Service before it is decided about.
pub(super) struct Before<'a> {
    name: &'a str,
    key: ServiceKey,
    demand: &'a Demand,
    /// What the Service has.
    pub(super) has: Vec<IpAddr>,
    /// Of what it has, what its pool wanted back.
    wanted_back: Vec<IpAddr>,
    /// The pools its addresses are recorded to be from.
    home: Vec<PoolName>,
    /// What Services of its namespace hold.
    of_namespace: BTreeSet<IpAddr>,
}

impl<'a> Before<'a> {
    pub(super) fn new(model: &Model, name: &'a str, demand: &'a Demand) -> Self {
        let key = key(name);
        let has = model.world.ledger.held(&key).to_vec();
        let record = model.world.records.get(&key).cloned().unwrap_or_default();
        let wanted_back = |addr: &IpAddr| {
            let at = record.addresses.iter().position(|other| other == addr).unwrap();
            let home = record.origin.pools.get(at).or(record.origin.pools.last());
            let recorded = record.origin.on_removal.get(at).or(record.origin.on_removal.last()).copied();
            let pools = &model.world.pools;
            let reassign = match home {
                Some(home) if pools.broken(home).is_some() => return false,
                Some(home) => pools.get(home).map(|usable| usable.pool.on_removal).or(recorded),
                None => recorded,
            };
            pools.of(*addr).is_none()
                && pools.taken_by(*addr).is_none()
                && reassign == Some(OnRemoval::Reassign)
        };
        let of_namespace = |addr: &IpAddr| {
            model.world.ledger.holders(*addr).iter().any(|other| other.namespace == key.namespace)
        };
        Self {
            name,
            demand,
            of_namespace: universe().filter(of_namespace).collect(),
            wanted_back: has.iter().copied().filter(wanted_back).collect(),
            home: record.origin.pools.clone(),
            has,
            key,
        }
    }

    fn request(&self) -> &Request {
        self.demand.request.as_ref().unwrap()
    }

    fn has(&self, family: Family) -> Option<IpAddr> {
        self.has.iter().copied().find(|addr| Family::of(*addr) == family)
    }
}

fn labels_of(model: &Model, key: &ServiceKey) -> Labels {
    model.world.records.get(key).map(|record| record.labels.clone()).unwrap_or_default()
}

/// Whether the address is held for somebody, and whether for this one.
fn reserved(model: &Model, key: &ServiceKey, addr: IpAddr) -> Option<bool> {
    let held = model.world.ledger.reservation_of(addr)?;
    Some(held.whom.includes(key, &labels_of(model, key)))
}

/// Whether the address is free for this Service, alone.
fn free(model: &Model, key: &ServiceKey, addr: IpAddr) -> bool {
    let ours = reserved(model, key, addr);
    let rests = model.freed.get(&addr).is_some_and(|(_, last)| last.as_ref() != Some(key));
    model.world.ledger.holders(addr).is_empty() && ours != Some(false) && (!rests || ours == Some(true))
}

/// Whether those who hold the address would have this Service beside them.
fn joinable(model: &Model, before: &Before<'_>, usable: &UsablePool, addr: IpAddr) -> bool {
    let others = model.world.ledger.holders(addr).iter().filter(|other| **other != before.key);
    others.clone().count() > 0
        && reserved(model, &before.key, addr) != Some(false)
        && others.clone().all(|other| {
            let theirs = &model.known[other];
            let ports: BTreeSet<_> = theirs.demand.ports.iter().collect();
            let same_key = theirs.told || theirs.demand.sharing == before.demand.sharing;
            let near =
                other.namespace == before.key.namespace || usable.pool.sharing == SharingScope::Cluster;
            before.demand.sharing.is_some()
                && same_key
                && near
                && before.demand.ports.iter().all(|port| !ports.contains(port))
        })
}

/// How many addresses of the pool the namespace holds, counted.
fn in_namespace(model: &Model, usable: &UsablePool, namespace: &Namespace) -> u32 {
    let counts = |addr: &IpAddr| {
        usable.contains(*addr)
            && model.world.ledger.holders(*addr).iter().any(|key| key.namespace == *namespace)
    };
    u32::try_from(universe().filter(counts).count()).unwrap()
}

fn serves(model: &Model, usable: &UsablePool, key: &ServiceKey) -> bool {
    usable.pool.audience.includes(&key.namespace, &Labels::none(), &labels_of(model, key))
}

/// What was given anew could be had, and what was refused could not; of free addresses it is the first in order.
pub(super) fn check_choice(
    model: &Model,
    before: &Before<'_>,
    decided: &Result<Grant, Denied>,
) -> Result<(), TestCaseError> {
    let pools = &model.world.pools;
    let given = decided.as_ref().map_or(&[][..], |grant| &grant.addresses);
    prop_assert!(decided.is_err() || !given.is_empty());
    for addr in given.iter().filter(|addr| !before.has.contains(addr)) {
        let usable = pools.of(*addr);
        prop_assert!(usable.is_some(), "{} is in no pool", addr);
        let Some(usable) = usable else { continue };
        prop_assert!(
            serves(model, usable, &before.key),
            "{} does not serve {}",
            usable.pool.name,
            before.name
        );
        prop_assert!(before.demand.families.wants(Family::of(*addr)));
        let request = before.request();
        prop_assert!(request.address(Family::of(*addr)).is_none_or(|asked| asked == *addr));
        prop_assert!(request.pool.as_ref().is_none_or(|name| *name == usable.pool.name));
        let alone = free(model, &before.key, *addr);
        prop_assert!(alone || joinable(model, before, usable, *addr), "{} is not to be had", addr);
        let ours = reserved(model, &before.key, *addr) == Some(true);
        let asked = request.addresses.contains(addr) || request.pool.is_some();
        prop_assert!(!alone || ours || asked || usable.pool.auto_assign);
    }
    let (Families::One(family), None) = (before.demand.families, before.has.first()) else { return Ok(()) };
    if before.request().address(family).is_none() {
        check_first(model, before, family, given)?;
    }
    Ok(())
}

/// For a Service of one family that has nothing and asks for no address: the very address that it has to get.
fn check_first(
    model: &Model,
    before: &Before<'_>,
    family: Family,
    given: &[IpAddr],
) -> Result<(), TestCaseError> {
    let pools = &model.world.pools;
    let named = before.request().pool.as_ref();
    let may = |usable: &&UsablePool| {
        serves(model, usable, &before.key)
            && named.map_or(usable.pool.auto_assign, |name| *name == usable.pool.name)
    };
    let room = |usable: &&UsablePool| {
        let held = in_namespace(model, usable, &before.key.namespace);
        usable.pool.quota.is_none_or(|limit| held < limit)
    };
    let of_family = || universe().filter(|addr| Family::of(*addr) == family);
    let lowest = |usable: &UsablePool| {
        of_family().find(|addr| {
            // What rests is for nobody who does not ask for it, and what is reserved comes before.
            let plain = !model.freed.contains_key(addr) && reserved(model, &before.key, *addr).is_none();
            usable.contains(*addr) && plain && free(model, &before.key, *addr)
        })
    };
    let first = pools.in_order().filter(may).filter(room).find_map(lowest);
    let in_reach = |addr: &IpAddr| {
        pools.of(*addr).filter(|usable| {
            serves(model, usable, &before.key) && named.is_none_or(|name| *name == usable.pool.name)
        })
    };
    let for_us = |addr: &IpAddr| {
        let reach = in_reach(addr);
        reserved(model, &before.key, *addr) == Some(true)
            && reach.is_some_and(|usable| {
                free(model, &before.key, *addr) || joinable(model, before, usable, *addr)
            })
    };
    let shared = |addr: &IpAddr| {
        let reach = in_reach(addr);
        let same = |other: &ServiceKey| model.known[other].demand.sharing == before.demand.sharing;
        let counted = |key: &ServiceKey| key.namespace == before.key.namespace;
        let ours = model.world.ledger.holders(*addr).iter().any(counted);
        reach.is_some_and(|usable| {
            joinable(model, before, usable, *addr)
                && model.world.ledger.holders(*addr).iter().any(same)
                && (ours || room(&usable))
        })
    };
    let given = given.first().copied();
    if of_family().any(|addr| for_us(&addr)) {
        prop_assert!(given.is_some_and(|addr| for_us(&addr)), "{:?} instead of the reserved one", given);
    } else if of_family().any(|addr| shared(&addr)) {
        prop_assert!(given.is_some_and(|addr| shared(&addr)), "{:?} instead of a shared one", given);
    } else {
        prop_assert_eq!(given, first, "{} asks for {:?}", before.name, before.demand);
    }
    Ok(())
}

/// What was given anew is within the limits of the pools, but for what is reserved.
pub(super) fn check_limits(
    model: &Model,
    before: &Before<'_>,
    decided: &Result<Grant, Denied>,
) -> Result<(), TestCaseError> {
    let given = decided.as_ref().map_or(&[][..], |grant| &grant.addresses);
    if given.iter().any(|addr| reserved(model, &before.key, *addr) == Some(true)) {
        return Ok(());
    }
    for addr in given.iter().filter(|addr| !before.of_namespace.contains(*addr)) {
        let usable = model.world.pools.of(*addr).unwrap();
        let held = in_namespace(model, usable, &before.key.namespace);
        let limit = usable.pool.quota;
        prop_assert!(limit.is_none_or(|limit| held <= limit), "{} of {:?} with {}", held, limit, addr);
    }
    Ok(())
}

/// Nothing that the Service had has moved or gone without a cause.
pub(super) fn check_moves(
    model: &Model,
    before: &Before<'_>,
    decided: &Result<Grant, Denied>,
) -> Result<(), TestCaseError> {
    let request = before.request();
    for family in before.demand.families.list() {
        let Some(old) = before.has(*family) else { continue };
        let new = decided
            .as_ref()
            .ok()
            .and_then(|grant| grant.addresses.iter().copied().find(|addr| Family::of(*addr) == *family));
        if new == Some(old) {
            continue;
        }
        let back = before.wanted_back.contains(&old);
        prop_assert!(new.is_some() || back, "{} was taken from {}", old, before.name);
        let home = model.world.pools.of(old).map(|usable| usable.pool.name.clone());
        let elsewhere = request
            .pool
            .as_ref()
            .is_some_and(|name| home.as_ref().map_or(!before.home.is_empty(), |home| home != name));
        let asked = request.address(*family).is_some() && request.address(*family) == new;
        prop_assert!(asked || elsewhere || back, "{} moved from {} to {:?}", before.name, old, new);
    }
    Ok(())
}

/// The ledger says what one finds by looking at every address.
pub(super) fn check_all(model: &Model) -> Result<(), TestCaseError> {
    let (ledger, pools) = (&model.world.ledger, &model.world.pools);
    for addr in universe() {
        let holders = ledger.holders(addr);
        for (at, one) in holders.iter().enumerate() {
            prop_assert!(ledger.held(one).contains(&addr), "{} of {}", addr, one);
            for other in &holders[at + 1..] {
                let (a, b) = (&model.known[one], &model.known[other]);
                let lawful = a.demand.sharing.is_some()
                    && a.demand.sharing == b.demand.sharing
                    && a.demand.ports.iter().all(|port| !b.demand.ports.contains(port));
                prop_assert!(lawful || a.told || b.told, "{} is held by {} and {}", addr, one, other);
            }
        }
        prop_assert_eq!(ledger.rests_until(addr).is_some(), model.freed.contains_key(&addr), "{}", addr);
    }
    for key in model.known.keys() {
        for addr in ledger.held(key) {
            prop_assert!(ledger.holders(*addr).contains(key), "{} of {}", addr, key);
        }
    }
    for usable in pools.in_order() {
        for family in [Family::V4, Family::V6] {
            check_numbers(model, usable, family)?;
        }
        for namespace in ["x", "y"].map(Namespace::from) {
            let counted = in_namespace(model, usable, &namespace);
            prop_assert_eq!(ledger.held_by_namespace(&usable.pool.name, &namespace), counted);
        }
    }
    Ok(())
}

fn check_numbers(model: &Model, usable: &UsablePool, family: Family) -> Result<(), TestCaseError> {
    let ledger = &model.world.ledger;
    let mut wanted = Usage::default();
    let mut lowest = None;
    for addr in universe().filter(|addr| Family::of(*addr) == family && usable.contains(*addr)) {
        prop_assert_eq!(model.world.pools.of(addr).map(|of| &of.pool.name), Some(&usable.pool.name));
        wanted.capacity += 1;
        if !ledger.holders(addr).is_empty() {
            wanted.assigned += 1;
        } else if model.freed.contains_key(&addr) {
            wanted.quarantined += 1;
        } else if ledger.reservation_of(addr).is_some() {
            wanted.reserved += 1;
        } else {
            lowest = lowest.or(Some(addr));
        }
    }
    prop_assert_eq!(ledger.usage(&usable.pool.name, family), wanted, "{}", usable.pool.name);
    prop_assert_eq!(ledger.lowest_free(&usable.pool.name, family), lowest, "{}", usable.pool.name);
    Ok(())
}

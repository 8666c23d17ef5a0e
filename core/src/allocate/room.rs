//! Limits of pools for namespaces, and pools that hold both families.

use std::net::IpAddr;

use super::Denied;
use super::search::Search;
use crate::addr::Family;
use crate::name::PoolName;
use crate::pool::UsablePool;

impl<'a> Search<'a> {
    pub(super) fn quota(
        &self,
        family: Family,
        pool: &PoolName,
        (held, limit): (u32, u32),
        others: Vec<PoolName>,
    ) -> Denied {
        let namespace = self.who.key.namespace.clone();
        Denied::QuotaExceeded { family, pool: pool.clone(), namespace, held, limit, others }
    }

    /// How many addresses of the pool the namespace holds and how many it may, if this one would be too many. One
    /// that is reserved for the Service is never: whoever reserves an address has counted it.
    pub(super) fn over_quota(&self, usable: &UsablePool, addr: IpAddr) -> Option<(u32, u32)> {
        let limit = usable.pool.quota?;
        let key = self.who.key;
        let costs = |addr: &IpAddr| {
            self.ledger.first_of_namespace(key, *addr) && !self.ledger.holders(*addr).contains(key)
        };
        let reserved = self.ledger.reservation_of(addr);
        if !costs(&addr) || reserved.is_some_and(|held| held.whom.includes(key, self.who.labels)) {
            return None;
        }
        let here = |addr: &IpAddr| self.pools.of(*addr).is_some_and(|of| of.pool.name == usable.pool.name);
        let held = self.ledger.held_by_namespace(&usable.pool.name, &key.namespace);
        let new = self.given.iter().filter(|addr| here(addr) && costs(addr)).count();
        // What it has in this family is given back for it, like everything else that it gives up.
        let back = |current: &&IpAddr| {
            (Family::of(**current) == Family::of(addr) || self.leaving.contains(current))
                && here(current)
                && self.ledger.holders(**current).contains(key)
                && self.ledger.first_of_namespace(key, **current)
        };
        let back = self.who.current.iter().filter(back).count();
        let then = (u64::from(held) + new as u64 + 1).saturating_sub(back as u64);
        (then > u64::from(limit)).then_some((held.saturating_add(u32::try_from(new).unwrap_or(0)), limit))
    }

    /// The pool of an address that the Service has, asks for or has just been given, so that both families come from
    /// one pool.
    pub(super) fn partner(&self) -> Option<&'a UsablePool> {
        if self.wanted.len() < 2 {
            return None;
        }
        let fixed = |family: &Family| self.request.address(*family).or(self.who.address(*family));
        let mut fixed = self.given.iter().copied().chain(self.wanted.iter().filter_map(fixed));
        let usable = fixed.find_map(|addr| self.pools.of(addr))?;
        let may = usable.pool.auto_assign || self.request.pool.as_ref() == Some(&usable.pool.name);
        (may && self.serves_us(usable)).then_some(usable)
    }

    /// The first pool that can serve every family.
    pub(super) fn common_pool(&self) -> Option<&'a UsablePool> {
        if self.wanted.len() < 2 || !self.given.is_empty() {
            return None;
        }
        let open = self.pools.in_order().filter(|usable| usable.pool.auto_assign && self.serves_us(usable));
        let room = |usable: &UsablePool| {
            let held = self.ledger.held_by_namespace(&usable.pool.name, &self.who.key.namespace);
            usable
                .pool
                .quota
                .is_none_or(|limit| u64::from(held) + self.wanted.len() as u64 <= u64::from(limit))
        };
        let free = |usable: &UsablePool, family: Family| {
            self.ledger.lowest_free(&usable.pool.name, family).is_some()
        };
        let mut open = open.filter(|usable| room(usable));
        open.find(|usable| self.wanted.iter().all(|family| free(usable, *family)))
    }
}

//! The ledger: which Service holds which address, and what is free in each pool.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::addr::{Family, number};
use crate::interval::Intervals;
use crate::name::{PoolName, ServiceKey};
use crate::pool::{AddressSet, Pools, buggy};

/// Who holds what. Pools come and go without touching it: an address stays with its Service whatever happens to
/// the pool it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    holders: BTreeMap<IpAddr, ServiceKey>,
    held: BTreeMap<ServiceKey, Vec<IpAddr>>,
    free: BTreeMap<PoolName, [Free; 2]>,
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

/// Numbers of addresses of one family of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Addresses that the pool can give in all.
    pub capacity: u128,
    /// Addresses of those that Services hold.
    pub assigned: u128,
}

impl Usage {
    /// Addresses that are free.
    #[must_use]
    pub const fn available(&self) -> u128 {
        self.capacity - self.assigned
    }
}

/// What is free of one family of one pool.
///
/// No interval of `numbers` begins or ends with an address that is left out as "buggy", so the lowest number is
/// always one that may be given and no search is ever needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Free {
    numbers: Intervals,
    avoid_buggy: bool,
    usage: Usage,
}

impl Free {
    fn new(set: &AddressSet) -> Self {
        let mut free = Self {
            numbers: set.numbers.clone(),
            avoid_buggy: set.avoid_buggy,
            usage: Usage { capacity: set.capacity(), assigned: 0 },
        };
        if free.avoid_buggy {
            let ends: Vec<_> = set.numbers.iter().collect();
            for (first, last) in ends {
                free.trim(first);
                free.trim(last);
            }
        }
        free
    }

    /// Takes `number` away if it is there and "buggy", and its neighbour, which is too if it ends in 255 or 0.
    fn trim(&mut self, number: u128) {
        for number in [number, number.saturating_add(1), number.saturating_sub(1)] {
            if buggy(number) && self.at_an_edge(number) {
                self.numbers.remove(number, number);
            }
        }
    }

    fn at_an_edge(&self, number: u128) -> bool {
        self.numbers.around(number).is_some_and(|(first, last)| number == first || number == last)
    }

    /// The address is one that the pool can give, and it is given now.
    fn take(&mut self, number: u128) {
        self.numbers.remove(number, number);
        self.usage.assigned += 1;
        if self.avoid_buggy {
            self.trim(number.saturating_add(1));
            self.trim(number.saturating_sub(1));
        }
    }

    /// The address is one that the pool can give, and it is free again.
    fn give(&mut self, number: u128) {
        self.numbers.insert(number, number);
        self.usage.assigned -= 1;
    }
}

const fn slot(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Ledger {
    /// A ledger of what Services say they have. Of two that claim one address, the older Service has it (by name
    /// when they are equally old); the order of the claims does not matter.
    #[must_use]
    pub fn rebuild(pools: &Pools, mut claims: Vec<Claim>) -> (Self, Vec<Lost>) {
        claims.sort_by(|a, b| (a.created, &a.key, a.addr).cmp(&(b.created, &b.key, b.addr)));
        let mut ledger = Self::default();
        let mut lost = Vec::new();
        for claim in claims {
            if let Err(winner) = ledger.take(pools, &claim.key, claim.addr) {
                lost.push(Lost { winner, key: claim.key, addr: claim.addr });
            }
        }
        ledger.set_pools(pools);
        (ledger, lost)
    }

    /// Says what the pools are now. Nobody loses an address by it.
    pub fn set_pools(&mut self, pools: &Pools) {
        self.free.clear();
        for usable in pools.in_order() {
            let sets = [Free::new(usable.set(Family::V4)), Free::new(usable.set(Family::V6))];
            self.free.insert(usable.pool.name.clone(), sets);
        }
        let held: Vec<IpAddr> = self.holders.keys().copied().collect();
        for addr in held {
            if let Some(free) = self.free_of(pools, addr) {
                free.take(number(addr));
            }
        }
    }

    /// Gives the address to the Service. When another one holds it, nothing changes and that one is returned.
    pub fn take(&mut self, pools: &Pools, key: &ServiceKey, addr: IpAddr) -> Result<(), ServiceKey> {
        match self.holders.get(&addr) {
            Some(holder) if holder == key => return Ok(()),
            Some(holder) => return Err(holder.clone()),
            None => {}
        }
        self.holders.insert(addr, key.clone());
        self.held.entry(key.clone()).or_default().push(addr);
        if let Some(free) = self.free_of(pools, addr) {
            free.take(number(addr));
        }
        Ok(())
    }

    /// Takes the address from the Service; whether it held it.
    pub fn release(&mut self, pools: &Pools, key: &ServiceKey, addr: IpAddr) -> bool {
        if self.holders.get(&addr) != Some(key) {
            return false;
        }
        self.holders.remove(&addr);
        if let Some(held) = self.held.get_mut(key) {
            held.retain(|other| *other != addr);
            if held.is_empty() {
                self.held.remove(key);
            }
        }
        if let Some(free) = self.free_of(pools, addr) {
            free.give(number(addr));
        }
        true
    }

    /// Takes every address from the Service and returns them.
    pub fn release_all(&mut self, pools: &Pools, key: &ServiceKey) -> Vec<IpAddr> {
        let addresses = self.held(key).to_vec();
        for addr in &addresses {
            self.release(pools, key, *addr);
        }
        addresses
    }

    /// The Service that holds the address.
    #[must_use]
    pub fn holder(&self, addr: IpAddr) -> Option<&ServiceKey> {
        self.holders.get(&addr)
    }

    /// The addresses that the Service holds, in the order in which it got them.
    #[must_use]
    pub fn held(&self, key: &ServiceKey) -> &[IpAddr] {
        self.held.get(key).map_or(&[], Vec::as_slice)
    }

    /// The lowest free address of the pool, in O(log n).
    #[must_use]
    pub fn lowest_free(&self, pool: &PoolName, family: Family) -> Option<IpAddr> {
        let number = self.free.get(pool)?.get(slot(family))?.numbers.lowest()?;
        family.address(number)
    }

    /// How much of the pool is given.
    #[must_use]
    pub fn usage(&self, pool: &PoolName, family: Family) -> Usage {
        self.free
            .get(pool)
            .and_then(|sets| sets.get(slot(family)))
            .map_or_else(Usage::default, |free| free.usage)
    }

    fn free_of(&mut self, pools: &Pools, addr: IpAddr) -> Option<&mut Free> {
        let name = &pools.of(addr)?.pool.name;
        self.free.get_mut(name)?.get_mut(slot(Family::of(addr)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::pool::tests::{pool, pools};

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("test", name)
    }

    fn claim(name: &str, created: i64, addr: &str) -> Claim {
        Claim { key: key(name), created, addr: addr.parse().unwrap() }
    }

    #[test]
    fn the_older_claim_wins_whatever_the_order() {
        let all = pools([pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])]);
        for addr in ["192.0.2.5", "2001:db8::5"] {
            let claims = vec![claim("young", 9, addr), claim("old", 3, addr)];
            let (ledger, lost) = Ledger::rebuild(&all, claims.clone());
            assert_eq!(ledger.holder(addr.parse().unwrap()), Some(&key("old")));
            assert_eq!(lost, [Lost { key: key("young"), addr: addr.parse().unwrap(), winner: key("old") }]);
            assert_eq!(Ledger::rebuild(&all, claims.into_iter().rev().collect()), (ledger, lost));
        }
    }

    #[test]
    fn an_address_outside_every_pool_stays_held() {
        let all = pools([pool("a", 1, &["192.0.2.0/28", "2001:db8::/64"])]);
        let (mut ledger, _) =
            Ledger::rebuild(&all, vec![claim("s", 1, "192.0.2.7"), claim("s", 1, "2001:db8::7")]);
        assert_eq!(ledger.usage(&"a".into(), Family::V4).assigned, 1);
        let other = pools([pool("b", 1, &["198.51.100.0/24"])]);
        ledger.set_pools(&other);
        assert_eq!(ledger.held(&key("s")).len(), 2);
        assert_eq!(ledger.usage(&"b".into(), Family::V4), Usage { capacity: 256, assigned: 0 });
        ledger.set_pools(&all);
        assert_eq!(ledger.usage(&"a".into(), Family::V6).assigned, 1);
        assert_eq!(ledger.lowest_free(&"a".into(), Family::V4), Some("192.0.2.0".parse().unwrap()));
    }

    #[test]
    fn the_lowest_free_address_of_a_full_pool_is_the_one_given_back() {
        let all = pools([pool("a", 1, &["10.0.0.0/24", "fd00::/120"])]);
        for family in [Family::V4, Family::V6] {
            let (mut ledger, _) = Ledger::rebuild(&all, vec![]);
            let name = PoolName::new("a");
            while let Some(addr) = ledger.lowest_free(&name, family) {
                ledger.take(&all, &key("s"), addr).unwrap();
            }
            assert_eq!(ledger.usage(&name, family), Usage { capacity: 256, assigned: 256 });
            let freed = ledger.held(&key("s"))[77];
            assert!(ledger.release(&all, &key("s"), freed));
            assert_eq!(ledger.lowest_free(&name, family), Some(freed));
        }
    }

    proptest! {
        /// Against a plain set of addresses: what is free, what is lowest, what is counted, with and without
        /// the addresses that end in .0 and .255, through takes, releases and rebuilds.
        #[test]
        fn it_behaves_like_a_set_of_addresses(
            avoid in any::<bool>(),
            steps in prop::collection::vec((0_u8..4, 0_u32..1030), 0..200),
        ) {
            let mut declared = pool("a", 1, &["10.0.0.254-10.0.4.1"]);
            declared.avoid_buggy = avoid;
            declared.exclude = vec!["10.0.1.250-10.0.2.3".parse().unwrap()];
            let all = pools([declared]);
            let usable = all.get(&"a".into()).unwrap();
            let base = u32::from("10.0.0.0".parse::<std::net::Ipv4Addr>().unwrap());
            let every: BTreeSet<IpAddr> = (0..1100_u32)
                .map(|n| IpAddr::from(std::net::Ipv4Addr::from(base + n)))
                .filter(|addr| usable.contains(*addr))
                .collect();
            let (mut ledger, _) = Ledger::rebuild(&all, vec![]);
            let mut free = every.clone();
            let owner = key("s");
            for (what, n) in steps {
                let addr = IpAddr::from(std::net::Ipv4Addr::from(base + n));
                match what {
                    0 => {
                        if let Some(lowest) = ledger.lowest_free(&"a".into(), Family::V4) {
                            ledger.take(&all, &owner, lowest).unwrap();
                            free.remove(&lowest);
                        }
                    }
                    1 => {
                        ledger.take(&all, &owner, addr).unwrap();
                        free.remove(&addr);
                    }
                    2 => {
                        if ledger.release(&all, &owner, addr) && every.contains(&addr) {
                            free.insert(addr);
                        }
                    }
                    _ => ledger.set_pools(&all),
                }
                prop_assert_eq!(ledger.lowest_free(&"a".into(), Family::V4), free.first().copied());
                let usage = ledger.usage(&"a".into(), Family::V4);
                prop_assert_eq!(usage.capacity, every.len() as u128);
                prop_assert_eq!(usage.available(), free.len() as u128);
            }
        }
    }
}

//! Address pools: which addresses each can give, in which order they are used, and where they overlap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::addr::{AddrRange, Family, number};
use crate::interval::Intervals;
use crate::name::PoolName;

/// What a pool is declared to be. [`Pools`] works out what it can give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// When it was created, in Unix seconds: the older of two overlapping pools keeps the common addresses.
    pub created: i64,
    /// The addresses.
    pub addresses: Vec<AddrRange>,
    /// Addresses of those that are never given.
    pub exclude: Vec<AddrRange>,
    /// Whether it serves Services that ask for no pool and no address.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out.
    pub avoid_buggy: bool,
    /// Lower is used first; pools without a number come last.
    pub priority: Option<i32>,
}

/// The addresses of one family that a pool can give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// As numbers, addresses that are left out as "buggy" still included.
    pub(crate) numbers: Intervals,
    /// Whether numbers that end in 0 or 255 do not count.
    pub(crate) avoid_buggy: bool,
}

/// Whether the last octet is 0 or 255.
pub(crate) const fn buggy(number: u128) -> bool {
    matches!(number & 0xff, 0 | 0xff)
}

impl AddressSet {
    /// Whether the address is one of them.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let number = number(addr);
        self.numbers.contains(number) && !(self.avoid_buggy && buggy(number))
    }

    /// How many addresses there are. The one set that has 2^128 says one less.
    #[must_use]
    pub fn capacity(&self) -> u128 {
        let all = self.numbers.count().unwrap_or(u128::MAX);
        if !self.avoid_buggy {
            return all;
        }
        // Of the numbers below n, those that end in 0 or 255: two in each full 256, and the 0 of the last part.
        let below = |n: u128| n / 256 * 2 + u128::from(!n.is_multiple_of(256));
        all - self.numbers.iter().map(|(first, last)| below(last + 1) - below(first)).sum::<u128>()
    }
}

/// A pool with what it can give once older pools have taken their part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsablePool {
    /// As declared.
    pub pool: Pool,
    v4: AddressSet,
    v6: AddressSet,
    /// Older pools that declare some of its addresses too, in order of age: those addresses are theirs.
    pub overlaps: Vec<PoolName>,
}

impl UsablePool {
    /// The addresses of one family.
    #[must_use]
    pub const fn set(&self, family: Family) -> &AddressSet {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Whether the pool can give the address (if it is free).
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.set(Family::of(addr)).contains(addr)
    }

    /// Whether the address lies in the declared ranges, but is left out by `exclude` or as "buggy".
    #[must_use]
    pub fn leaves_out(&self, addr: IpAddr) -> bool {
        let declared = self.pool.addresses.iter().any(|range| range.contains(addr));
        let excluded = self.pool.exclude.iter().any(|range| range.contains(addr));
        declared && (excluded || (self.pool.avoid_buggy && addr.is_ipv4() && buggy(number(addr))))
    }

    /// Whether it has any address of the family, given or not.
    #[must_use]
    pub fn serves(&self, family: Family) -> bool {
        self.set(family).capacity() > 0
    }
}

/// All pools: no address belongs to two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    usable: BTreeMap<PoolName, UsablePool>,
    /// Names in the order in which pools are tried.
    order: Vec<PoolName>,
    /// Pools that cannot be used at all, with the reason.
    broken: BTreeMap<PoolName, String>,
}

impl Pools {
    /// Works out what each pool can give. `broken` names pools that exist but cannot be read, with the reason.
    ///
    /// Of two pools that declare the same address the older one has it (by name when they are equally old). The
    /// order in which the pools are given does not matter.
    #[must_use]
    pub fn new(pools: impl IntoIterator<Item = Pool>, broken: BTreeMap<PoolName, String>) -> Self {
        let mut pools: Vec<Pool> = pools.into_iter().collect();
        pools.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut older: Vec<(PoolName, Intervals, Intervals)> = Vec::with_capacity(pools.len());
        let mut usable = BTreeMap::new();
        for pool in pools {
            let declared = |family| {
                let mut set = numbers(&pool.addresses, family);
                set.subtract(&numbers(&pool.exclude, family));
                set
            };
            let (own4, own6) = (declared(Family::V4), declared(Family::V6));
            let (mut v4, mut v6) = (own4.clone(), own6.clone());
            let mut overlaps = Vec::new();
            for (name, other4, other6) in &older {
                if own4.intersects(other4) || own6.intersects(other6) {
                    overlaps.push(name.clone());
                    v4.subtract(other4);
                    v6.subtract(other6);
                }
            }
            older.push((pool.name.clone(), own4, own6));
            let v4 = AddressSet { numbers: v4, avoid_buggy: pool.avoid_buggy };
            let v6 = AddressSet { numbers: v6, avoid_buggy: false };
            usable.insert(pool.name.clone(), UsablePool { pool, v4, v6, overlaps });
        }
        let mut names: Vec<PoolName> = usable.keys().cloned().collect();
        // A stable sort of names that are in order already: no number sorts behind every number.
        names.sort_by_key(|name| {
            let priority = usable.get(name).and_then(|usable: &UsablePool| usable.pool.priority);
            priority.map_or(i64::MAX, i64::from)
        });
        Self { usable, order: names, broken }
    }

    /// The pool of that name, if it can be used.
    #[must_use]
    pub fn get(&self, name: &PoolName) -> Option<&UsablePool> {
        self.usable.get(name)
    }

    /// Why the pool of that name cannot be used, if it exists and cannot.
    #[must_use]
    pub fn broken(&self, name: &PoolName) -> Option<&str> {
        self.broken.get(name).map(String::as_str)
    }

    /// The pools in the order in which they are tried: by priority, then by name.
    pub fn in_order(&self) -> impl Iterator<Item = &UsablePool> {
        self.order.iter().filter_map(|name| self.usable.get(name))
    }

    /// The pool that the address belongs to.
    #[must_use]
    pub fn of(&self, addr: IpAddr) -> Option<&UsablePool> {
        self.usable.values().find(|pool| pool.contains(addr))
    }

    /// Whether there is no usable pool.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.usable.is_empty()
    }
}

fn numbers(ranges: &[AddrRange], family: Family) -> Intervals {
    let mut set = Intervals::new();
    for range in ranges.iter().filter(|range| range.family() == family) {
        set.insert(number(range.first()), number(range.last()));
    }
    set
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pool of the given ranges that is as old as its place in the test says.
    pub(crate) fn pool(name: &str, created: i64, addresses: &[&str]) -> Pool {
        Pool {
            name: name.into(),
            created,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            exclude: Vec::new(),
            auto_assign: true,
            avoid_buggy: false,
            priority: None,
        }
    }

    pub(crate) fn pools(list: impl IntoIterator<Item = Pool>) -> Pools {
        Pools::new(list, BTreeMap::new())
    }

    fn capacity(pools: &Pools, name: &str, family: Family) -> u128 {
        pools.get(&name.into()).unwrap().set(family).capacity()
    }

    #[test]
    fn capacity_is_exact_in_both_families() {
        let all = pools([pool("a", 1, &["192.0.2.0/24", "192.0.2.128/25", "2001:db8::/64"])]);
        assert_eq!(capacity(&all, "a", Family::V4), 256);
        assert_eq!(capacity(&all, "a", Family::V6), 1 << 64);
    }

    #[test]
    fn addresses_ending_in_0_and_255_are_left_out_on_request() {
        // A50: 254 of the /24, and all but .0 or all but .255 of a /25.
        for (ranges, wanted) in [
            (&["192.0.2.0/24", "198.51.100.128/25"][..], 254 + 127),
            (&["192.0.2.0/31"][..], 1),
            (&["192.0.2.254/31"][..], 1),
            (&["192.0.2.255-192.0.3.0"][..], 0),
            (&["10.0.0.0/8"][..], 65536 * 254),
            (&["2001:db8::/120"][..], 256),
        ] {
            let mut declared = pool("a", 1, ranges);
            declared.avoid_buggy = true;
            let all = pools([declared]);
            let count = capacity(&all, "a", Family::V4) + capacity(&all, "a", Family::V6);
            assert_eq!(count, wanted, "{ranges:?}");
        }
    }

    #[test]
    fn excluded_addresses_are_not_given_and_known_as_such() {
        let mut declared = pool("a", 1, &["192.0.2.0/24", "2001:db8::/120"]);
        declared.exclude = vec!["192.0.2.16/28".parse().unwrap(), "2001:db8::-2001:db8::f".parse().unwrap()];
        let all = pools([declared]);
        let usable = all.get(&"a".into()).unwrap();
        assert_eq!((capacity(&all, "a", Family::V4), capacity(&all, "a", Family::V6)), (240, 240));
        for (text, given) in
            [("192.0.2.20", false), ("192.0.2.32", true), ("2001:db8::f", false), ("2001:db8::10", true)]
        {
            let addr = text.parse().unwrap();
            assert_eq!((usable.contains(addr), usable.leaves_out(addr)), (given, !given), "{text}");
        }
    }

    #[test]
    fn the_older_pool_keeps_what_two_declare() {
        // A60, with the younger one first by name and in the list.
        let all = pools([
            pool("a-young", 20, &["192.0.2.0/24", "2001:db8::/126"]),
            pool("b-old", 10, &["192.0.2.100-192.0.2.199", "2001:db8::3-2001:db8::9"]),
        ]);
        assert_eq!(all.get(&"a-young".into()).unwrap().overlaps, [PoolName::new("b-old")]);
        assert!(all.get(&"b-old".into()).unwrap().overlaps.is_empty());
        assert_eq!((capacity(&all, "a-young", Family::V4), capacity(&all, "b-old", Family::V4)), (156, 100));
        for (addr, owner) in [
            ("192.0.2.99", "a-young"),
            ("192.0.2.100", "b-old"),
            ("2001:db8::2", "a-young"),
            ("2001:db8::3", "b-old"),
        ] {
            assert_eq!(all.of(addr.parse().unwrap()).unwrap().pool.name.as_str(), owner, "{addr}");
        }
    }

    #[test]
    fn pools_are_tried_by_priority_then_name() {
        let with = |name: &str, priority| Pool { priority, ..pool(name, 1, &["192.0.2.0/24"]) };
        let all = pools([
            with("z", Some(-5)),
            with("c", None),
            with("b", None),
            with("y", Some(10)),
            with("x", Some(10)),
        ]);
        let order: Vec<_> = all.in_order().map(|usable| usable.pool.name.as_str().to_owned()).collect();
        assert_eq!(order, ["z", "x", "y", "b", "c"]);
    }
}

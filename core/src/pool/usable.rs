//! What each pool can give, once older pools and the cluster itself have taken their part.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::{AddressSet, Pool, SharingScope, buggy};
use crate::addr::{AddrRange, Family, number};
use crate::interval::{IntervalMap, Intervals};
use crate::name::PoolName;

/// Addresses that the cluster itself lives by. No pool gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The addresses.
    pub range: AddrRange,
    /// Whose they are: `the address of node n1`, `the pod CIDR of node n1`, `the Service CIDR kubernetes`.
    pub by: Box<str>,
}

impl fmt::Display for Taken {
    /// `192.0.2.11, the address of node n1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.range.first() == self.range.last() {
            write!(f, "{}, {}", self.range.first(), self.by)
        } else {
            write!(f, "{}, {}", self.range, self.by)
        }
    }
}

/// A pool with what it can give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsablePool {
    /// As declared.
    pub pool: Pool,
    v4: AddressSet,
    v6: AddressSet,
    /// Older pools that declare some of its addresses too, in order of age: those addresses are theirs.
    pub overlaps: Vec<PoolName>,
    /// The parts of it that belong to the cluster itself, each with whose it is.
    pub taken: Vec<Taken>,
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
    pub const fn serves(&self, family: Family) -> bool {
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
    /// Which pool an address belongs to, by family; "buggy" addresses included.
    homes: [IntervalMap<PoolName>; 2],
    /// Addresses of the cluster itself, by family.
    taken: [IntervalMap<Box<str>>; 2],
    /// Whether some pool allows sharing across namespaces.
    shares_widely: bool,
}

const fn slot(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn of<T>(both: &[T; 2], family: Family) -> &T {
    let [v4, v6] = both;
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

impl Pools {
    /// Works out what each pool can give. `broken` names pools that exist but cannot be read, with the reason;
    /// `taken` are the addresses of the cluster itself.
    ///
    /// Of two pools that declare the same address the older one has it (by name when they are equally old). The
    /// order in which the pools are given does not matter.
    #[must_use]
    pub fn new(
        pools: impl IntoIterator<Item = Pool>,
        broken: BTreeMap<PoolName, String>,
        taken: &[Taken],
    ) -> Self {
        let mut pools: Vec<Pool> = pools.into_iter().collect();
        pools.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut all = Self { broken, ..Self::default() };
        for part in taken {
            let (first, last) = (number(part.range.first()), number(part.range.last()));
            if let Some(map) = all.taken.get_mut(slot(part.range.family())) {
                map.insert(first, last, &part.by);
            }
        }
        let mut older: Vec<(PoolName, [Intervals; 2])> = Vec::with_capacity(pools.len());
        for pool in pools {
            let own = [Family::V4, Family::V6].map(|family| {
                let mut set = numbers(&pool.addresses, family);
                set.subtract(&numbers(&pool.exclude, family));
                set
            });
            let usable = usable(pool, &own, &older, taken);
            all.shares_widely |= usable.pool.sharing == SharingScope::Cluster;
            for (map, set) in all.homes.iter_mut().zip([&usable.v4, &usable.v6]) {
                set.numbers.iter().for_each(|(first, last)| map.insert(first, last, &usable.pool.name));
            }
            older.push((usable.pool.name.clone(), own));
            all.usable.insert(usable.pool.name.clone(), usable);
        }
        all.order = all.usable.keys().cloned().collect();
        // A stable sort of names that are in order already: no number sorts behind every number.
        all.order.sort_by_key(|name| {
            let priority = all.usable.get(name).and_then(|usable: &UsablePool| usable.pool.priority);
            priority.map_or(i64::MAX, i64::from)
        });
        all
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

    /// The pool that the address belongs to, in O(log n).
    #[must_use]
    pub fn of(&self, addr: IpAddr) -> Option<&UsablePool> {
        let name = of(&self.homes, Family::of(addr)).get(number(addr))?;
        self.usable.get(name).filter(|usable| usable.contains(addr))
    }

    /// Whose the address is, if it belongs to the cluster itself.
    #[must_use]
    pub fn taken_by(&self, addr: IpAddr) -> Option<&str> {
        of(&self.taken, Family::of(addr)).get(number(addr)).map(|by| &**by)
    }

    /// Whether some pool allows sharing across namespaces.
    #[must_use]
    pub const fn shares_widely(&self) -> bool {
        self.shares_widely
    }

    /// Whether there is no usable pool.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.usable.is_empty()
    }
}

/// What is left to the pool, which declares `own`, by older pools and by the cluster.
fn usable(
    pool: Pool,
    own: &[Intervals; 2],
    older: &[(PoolName, [Intervals; 2])],
    taken: &[Taken],
) -> UsablePool {
    let [mut v4, mut v6] = own.clone();
    let [own4, own6] = own;
    let mut overlaps = Vec::new();
    for (name, [other4, other6]) in older {
        if own4.intersects(other4) || own6.intersects(other6) {
            overlaps.push(name.clone());
            v4.subtract(other4);
            v6.subtract(other6);
        }
    }
    let mut parts = Vec::new();
    for by in taken {
        let family = by.range.family();
        let (first, last) = (number(by.range.first()), number(by.range.last()));
        let parts_of = |(from, to)| {
            let ends = (family.address(first.max(from))?, family.address(last.min(to))?);
            Some(Taken { range: AddrRange::new(ends.0, ends.1).ok()?, by: by.by.clone() })
        };
        let touched = of(own, family).iter().filter(|(from, to)| *from <= last && first <= *to);
        parts.extend(touched.filter_map(parts_of));
        match family {
            Family::V4 => v4.remove(first, last),
            Family::V6 => v6.remove(first, last),
        }
    }
    let (v4, v6) = (AddressSet::new(v4, pool.avoid_buggy), AddressSet::new(v6, false));
    UsablePool { pool, v4, v6, overlaps, taken: parts }
}

fn numbers(ranges: &[AddrRange], family: Family) -> Intervals {
    let mut set = Intervals::new();
    for range in ranges.iter().filter(|range| range.family() == family) {
        set.insert(number(range.first()), number(range.last()));
    }
    set
}

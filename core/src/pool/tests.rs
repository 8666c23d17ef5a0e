//! What pools can give.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::addr::Family;

/// A pool of the given ranges that is as old as its place in the test says.
pub(crate) fn pool(name: &str, created: i64, addresses: &[&str]) -> Pool {
    Pool::new(name, created, addresses.iter().map(|text| text.parse().unwrap()))
}

pub(crate) fn pools(list: impl IntoIterator<Item = Pool>) -> Pools {
    Pools::new(list, BTreeMap::new(), &[])
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

fn taken(range: &str, by: &str) -> Taken {
    Taken { range: range.parse().unwrap(), by: by.into() }
}

#[test]
fn what_belongs_to_the_cluster_is_named_and_not_given() {
    let own = [
        taken("192.0.2.11/32", "the address of node n1"),
        taken("2001:db8::b/128", "the address of node n1"),
        taken("10.244.0.0/16", "the pod CIDR of node n1"),
        taken("192.0.2.0/29", "the Service CIDR extra"),
        taken("192.0.2.30/32", "the address of node n2"),
    ];
    let mut lan = pool("lan", 1, &["192.0.2.4-192.0.2.40", "2001:db8::/64"]);
    lan.exclude = vec!["192.0.2.30/32".parse().unwrap()];
    let all = Pools::new([lan, pool("other", 2, &["198.51.100.0/24"])], BTreeMap::new(), &own);
    let usable = all.get(&"lan".into()).unwrap();
    let told: Vec<_> = usable.taken.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "192.0.2.11, the address of node n1",
            "2001:db8::b, the address of node n1",
            "192.0.2.4-192.0.2.7, the Service CIDR extra",
        ],
        "what the pool excludes anyway is no matter"
    );
    assert!(all.get(&"other".into()).unwrap().taken.is_empty());
    assert_eq!((capacity(&all, "lan", Family::V4), capacity(&all, "lan", Family::V6)), (31, (1 << 64) - 1));
    for (addr, by) in [
        ("192.0.2.11", Some("the address of node n1")),
        ("2001:db8::b", Some("the address of node n1")),
        ("10.244.77.1", Some("the pod CIDR of node n1")),
        ("192.0.2.12", None),
        ("2001:db8::c", None),
    ] {
        let addr = addr.parse().unwrap();
        assert_eq!(all.taken_by(addr), by);
        assert_eq!(all.of(addr).is_some(), by.is_none(), "{addr}");
    }
}

proptest! {
    /// The index finds what a look at every pool finds.
    #[test]
    fn an_address_belongs_to_the_pool_that_can_give_it(
        list in prop::collection::vec((0_u32..600, 0_u32..200, 0_i64..3, any::<bool>()), 0..6),
        cluster in prop::collection::vec((0_u32..600, 0_u32..20), 0..3),
    ) {
        let addr = |n: u32| IpAddr::V4((0x0a00_0000 + n).into());
        let range = |(first, length)| crate::addr::AddrRange::new(addr(first), addr(first + length)).unwrap();
        let pools = list.iter().enumerate().map(|(n, (first, length, created, avoid_buggy))| Pool {
            avoid_buggy: *avoid_buggy,
            ..Pool::new(format!("p{n}"), *created, [range((*first, *length))])
        });
        let cluster: Vec<Taken> =
            cluster.into_iter().map(|part| Taken { range: range(part), by: "it".into() }).collect();
        let all = Pools::new(pools, BTreeMap::new(), &cluster);
        for n in 0..820 {
            let here: Vec<_> = all.in_order().filter(|usable| usable.contains(addr(n))).collect();
            prop_assert!(here.len() < 2, "{} is in two pools", addr(n));
            prop_assert_eq!(all.of(addr(n)), here.first().copied());
            let of_cluster = cluster.iter().any(|part| part.range.contains(addr(n)));
            prop_assert_eq!(all.taken_by(addr(n)).is_some(), of_cluster);
            prop_assert!(!of_cluster || here.is_empty());
        }
    }
}

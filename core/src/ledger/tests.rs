//! The ledger alone.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::addr::number;
use crate::pool::tests::{pool, pools};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("test", name)
}

fn claim(name: &str, created: i64, addr: &str) -> Claim {
    Claim { key: key(name), created, addr: addr.parse().unwrap(), terms: Terms::default(), contested: false }
}

#[test]
fn the_older_claim_wins_whatever_the_order() {
    // A77: should two have one address all the same, the younger loses it.
    let all = pools([pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])]);
    for addr in ["192.0.2.5", "2001:db8::5"] {
        let claims = vec![claim("young", 9, addr), claim("old", 3, addr)];
        let (ledger, lost) = Ledger::rebuild(&all, claims.clone());
        assert_eq!(ledger.holders(addr.parse().unwrap()), [key("old")]);
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
    assert_eq!(ledger.usage(&"b".into(), Family::V4), Usage { capacity: 256, ..Usage::default() });
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
            ledger.take(&all, &key("s"), addr, &Terms::default()).unwrap();
        }
        assert_eq!(ledger.usage(&name, family), Usage { capacity: 256, assigned: 256, ..Usage::default() });
        let freed = ledger.held(&key("s"))[77];
        assert!(ledger.release(&all, &key("s"), freed, 0));
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
                        ledger.take(&all, &owner, lowest, &Terms::default()).unwrap();
                        free.remove(&lowest);
                    }
                }
                1 => {
                    ledger.take(&all, &owner, addr, &Terms::default()).unwrap();
                    free.remove(&addr);
                }
                2 => {
                    if ledger.release(&all, &owner, addr, 0) && every.contains(&addr) {
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

/// Comparisons that one operation on a ledger of that many addresses needs at most.
fn bound(addresses: u64) -> u64 {
    // A few look-ups in ordered maps, each with no more than twice the binary logarithm of comparisons (and one node
    // of a B-tree, eleven keys, to be read to its end).
    12 * (2 * u64::from(addresses.max(2).ilog2()) + 11)
}

#[test]
fn an_operation_costs_a_few_look_ups_however_many_addresses_there_are() {
    // A62: every second address is given, so there are as many free intervals as addresses in use.
    for (range, family) in [("10.0.0.0/8", Family::V4), ("fd00::/64", Family::V6)] {
        let all = pools([pool("a", 1, &[range])]);
        let base = number(all.get(&"a".into()).unwrap().pool.addresses[0].first());
        let mut most = Vec::new();
        for count in [500_u64, 5_000, 50_000] {
            let mut ledger = Ledger::default();
            ledger.set_pools(&all);
            let at = |n: u64| family.address(base + u128::from(n) * 2 + 1).unwrap();
            for n in 0..count {
                ledger.take(&all, &key(&format!("s{n}")), at(n), &Terms::default()).unwrap();
            }
            let mut steps = 0;
            for n in (0..count).step_by(usize::try_from(count / 50).unwrap()) {
                let owner = key(&format!("s{n}"));
                let (lowest, search) = crate::steps::count(|| ledger.lowest_free(&"a".into(), family));
                assert_eq!(lowest, family.address(base));
                let (freed, release) = crate::steps::count(|| ledger.release(&all, &owner, at(n), 0));
                assert!(freed);
                let taken = crate::steps::count(|| ledger.take(&all, &owner, at(n), &Terms::default()));
                assert_eq!(taken.0, Ok(true));
                let (home, lookup) = crate::steps::count(|| all.of(at(n)).is_some());
                assert!(home && search <= 1 && lookup <= 11);
                steps = steps.max(release).max(taken.1);
            }
            assert!(steps <= bound(count), "{steps} comparisons among {count} {family} addresses");
            most.push(steps);
        }
        assert!(most[2] <= most[0] * 3, "a hundred times as many addresses, a few more steps: {most:?}");
    }
}

#[test]
fn the_one_address_left_of_a_huge_pool_is_found_at_once() {
    // A62: 10.0.0.0/8 and fd00::/64 with everything given but one address in the middle, and the one below it.
    for (range, family, left) in
        [("10.0.0.0/8", Family::V4, "10.77.0.1"), ("fd00::/64", Family::V6, "fd00::7777:0:1")]
    {
        let all = pools([pool("a", 1, &[range])]);
        let (name, left): (PoolName, IpAddr) = ("a".into(), left.parse().unwrap());
        let mut ledger = Ledger::default();
        ledger.set_pools(&all);
        // 16 million Services would fill a test's memory: the books are told that all the others are given.
        let free = ledger.books.get_mut(&name).unwrap().family_mut(family);
        let capacity = free.usage.capacity;
        free.numbers.remove(0, number(left) - 1);
        free.numbers.remove(number(left) + 1, u128::MAX);
        free.usage.assigned = capacity - 1;
        let (found, steps) = crate::steps::count(|| ledger.lowest_free(&name, family));
        assert_eq!((found, steps), (Some(left), 0));
        let owner = key("s");
        let (taken, steps) = crate::steps::count(|| ledger.take(&all, &owner, left, &Terms::default()));
        assert!(taken == Ok(true) && steps < 20, "{steps} comparisons");
        assert_eq!(ledger.usage(&name, family).available(), 0);
        assert_eq!(ledger.lowest_free(&name, family), None);
        let (freed, steps) = crate::steps::count(|| ledger.release(&all, &owner, left, 0));
        assert!(freed && steps < 20, "{steps} comparisons");
        assert_eq!(ledger.lowest_free(&name, family), Some(left));
    }
}

#[test]
fn pools_told_anew_cost_no_more_than_entering_every_address() {
    for (range, family) in [("10.0.0.0/8", Family::V4), ("fd00::/64", Family::V6)] {
        let all = pools([pool("a", 1, &[range]), pool("b", 2, &["192.0.2.0/24", "2001:db8::/64"])]);
        let base = number(all.get(&"a".into()).unwrap().pool.addresses[0].first());
        let mut ledger = Ledger::default();
        ledger.set_pools(&all);
        let ((), entering) = crate::steps::count(|| {
            for n in 0..5_000_u128 {
                let addr = family.address(base + n * 2 + 1).unwrap();
                ledger.take(&all, &key(&format!("s{n}")), addr, &Terms::default()).unwrap();
            }
        });
        let before = ledger.clone();
        let ((), anew) = crate::steps::count(|| ledger.set_pools(&all));
        assert!(anew <= entering, "{anew} comparisons, {entering} to enter every address");
        assert_eq!(ledger, before);
    }
}

#[test]
fn the_numbers_of_a_pool_are_exact_through_every_state_of_an_address() {
    // A53
    use crate::reservation::{Held, Reservation, Whom};
    let of = |ranges: &[&str]| pools([crate::pool::Pool { quarantine_s: 30, ..pool("a", 1, ranges) }]);
    for (range, family, grown, addr) in [
        ("192.0.2.0/30", Family::V4, "192.0.2.0/29", "192.0.2.1"),
        ("2001:db8::/126", Family::V6, "2001:db8::/125", "2001:db8::1"),
    ] {
        let addr: IpAddr = addr.parse().unwrap();
        let all = of(&[range]);
        let mut ledger = Ledger::default();
        let numbers = |ledger: &Ledger| {
            let usage = ledger.usage(&"a".into(), family);
            [usage.capacity, usage.assigned, usage.quarantined, usage.reserved, usage.available()]
        };
        ledger.set_pools(&all);
        assert_eq!(numbers(&ledger), [4, 0, 0, 0, 4]);
        ledger.take(&all, &key("s"), addr, &Terms::default()).unwrap();
        assert_eq!(numbers(&ledger), [4, 1, 0, 0, 3]);
        let whom = Whom::service(&key("t"));
        let held =
            Reservation { name: "r".into(), created: 1, held: Held::Address(addr), whom, address: None };
        ledger.set_reservations(&all, vec![held]);
        assert_eq!(numbers(&ledger), [4, 1, 0, 0, 3], "in use it is not reserved");
        ledger.release(&all, &key("s"), addr, 1_000);
        assert_eq!(numbers(&ledger), [4, 0, 1, 0, 3]);
        let all = of(&[grown]);
        ledger.set_pools(&all);
        assert_eq!(numbers(&ledger), [8, 0, 1, 0, 7]);
        ledger.expire(&all, 31_000);
        assert_eq!(numbers(&ledger), [8, 0, 0, 1, 7]);
        ledger.set_reservations(&all, vec![]);
        assert_eq!(numbers(&ledger), [8, 0, 0, 0, 8]);
        let fresh = Ledger::rebuild(&all, vec![]).0;
        assert_eq!(ledger.books, fresh.books, "nothing is left over");
    }
}

#[test]
fn a_restart_finds_the_ledger_as_it_was() {
    // A3, A61
    let all = pools([pool("a", 1, &["192.0.2.0/28", "2001:db8::/124"])]);
    let mut ledger = Ledger::default();
    ledger.set_pools(&all);
    let mut claims = Vec::new();
    for n in 0..16 {
        for family in [Family::V4, Family::V6] {
            let addr = ledger.lowest_free(&"a".into(), family).unwrap();
            ledger.take(&all, &key(&format!("s{n}")), addr, &Terms::default()).unwrap();
            claims.push(claim(&format!("s{n}"), n, &addr.to_string()));
        }
    }
    for _ in 0..5 {
        claims.rotate_left(7);
        let (again, lost) = Ledger::rebuild(&all, claims.clone());
        assert_eq!((&again, lost), (&ledger, vec![]));
    }
    assert_eq!(ledger.lowest_free(&"a".into(), Family::V6), None);
}

//! The ledger alone.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::pool::tests::{pool, pools};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("test", name)
}

fn claim(name: &str, created: i64, addr: &str) -> Claim {
    Claim { key: key(name), created, addr: addr.parse().unwrap(), terms: Terms::default(), contested: false }
}

#[test]
fn the_older_claim_wins_whatever_the_order() {
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

//! Tables of single decisions, then random histories.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::demand::Families;
use crate::ledger::Claim;
use crate::pool::Pool;
use crate::pool::tests::{pool, pools};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("test", name)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn plain(families: Families) -> Demand {
    Demand { families, request: Ok(Request::default()) }
}

fn asking(families: Families, addresses: &[&str], pool: Option<&str>) -> Demand {
    Demand { families, request: Ok(Request { addresses: ips(addresses), pool: pool.map(PoolName::new) }) }
}

const V4: Families = Families::One(Family::V4);
const V6: Families = Families::One(Family::V6);

/// A cluster under test.
struct World {
    pools: Pools,
    ledger: Ledger,
}

impl World {
    fn new(list: impl IntoIterator<Item = Pool>) -> Self {
        let pools = pools(list);
        let (ledger, _) = Ledger::rebuild(&pools, vec![]);
        Self { pools, ledger }
    }

    fn decide(&self, name: &str, demand: &Demand) -> Result<Grant, Denied> {
        let key = key(name);
        allocate(&self.ledger, &self.pools, Claimant { key: &key, current: self.ledger.held(&key) }, demand)
    }

    /// Decides and enters the result into the ledger.
    fn serve(&mut self, name: &str, demand: &Demand) -> Result<Grant, Denied> {
        let grant = self.decide(name, demand)?;
        for addr in self.ledger.held(&key(name)).to_vec() {
            if !grant.addresses.contains(&addr) {
                self.ledger.release(&self.pools, &key(name), addr);
            }
        }
        for addr in &grant.addresses {
            self.ledger.take(&self.pools, &key(name), *addr).unwrap();
        }
        Ok(grant)
    }

    fn set_pools(&mut self, list: impl IntoIterator<Item = Pool>) {
        self.pools = pools(list);
        self.ledger.set_pools(&self.pools);
    }
}

#[expect(clippy::unnecessary_wraps, reason = "compared with what allocate returns")]
fn granted(addresses: &[&str]) -> Result<Grant, Denied> {
    Ok(Grant { addresses: ips(addresses), lacking: None })
}

#[test]
fn the_lowest_free_address_of_the_first_pool_is_given() {
    // A11, A33, A34
    let mut world = World::new([
        Pool { priority: Some(20), ..pool("a", 1, &["198.51.100.0/31", "2001:db8:1::/127"]) },
        Pool { priority: Some(10), ..pool("b", 2, &["192.0.2.1-192.0.2.1", "2001:db8:2::1-2001:db8:2::1"]) },
    ]);
    for (families, wanted) in [
        (V4, ["192.0.2.1", "198.51.100.0", "198.51.100.1"]),
        (V6, ["2001:db8:2::1", "2001:db8:1::", "2001:db8:1::1"]),
    ] {
        for (n, addr) in wanted.iter().enumerate() {
            assert_eq!(world.serve(&format!("{families:?}{n}"), &plain(families)), granted(&[addr]));
        }
        let denied = world.decide("late", &plain(families)).unwrap_err();
        assert_eq!(denied.reason(), "PoolsFull");
    }
}

#[test]
fn a_full_pool_is_named_with_its_size() {
    let mut world = World::new([pool("web", 1, &["192.0.2.0/31", "2001:db8::/127"])]);
    for (families, family) in [(V4, "IPv4"), (V6, "IPv6")] {
        for n in 0..2 {
            world.serve(&format!("{family}{n}"), &plain(families)).unwrap();
        }
        assert_eq!(
            world.decide("late", &plain(families)).unwrap_err().to_string(),
            format!("pool web is full: 2 of 2 {family} addresses in use; add addresses or delete a Service")
        );
    }
}

#[test]
fn every_obstacle_is_named() {
    let mut left_out = pool("left-out", 1, &["203.0.113.0/24", "2001:db8:3::/120"]);
    left_out.exclude =
        vec!["203.0.113.7-203.0.113.7".parse().unwrap(), "2001:db8:3::7-2001:db8:3::7".parse().unwrap()];
    let manual = Pool { auto_assign: false, ..pool("manual", 2, &["192.0.2.0/24"]) };
    let mut world = World::new([left_out, manual]);
    world.serve("other", &asking(V4, &["192.0.2.9"], None)).unwrap();
    world.serve("other6", &asking(V6, &["2001:db8:3::9"], None)).unwrap();
    for (demand, reason, object) in [
        (asking(V4, &["192.0.2.9"], None), "AddressInUse", "Service test/other:"),
        (asking(V6, &["2001:db8:3::9"], None), "AddressInUse", "Service test/other6:"),
        (asking(V4, &["10.0.0.1"], None), "AddressOutsidePools", "10.0.0.1"),
        (asking(V6, &["fd00::1"], None), "AddressOutsidePools", "fd00::1"),
        (asking(V4, &["203.0.113.7"], None), "AddressLeftOut", "pool left-out"),
        (asking(V6, &["2001:db8:3::7"], None), "AddressLeftOut", "pool left-out"),
        (asking(V4, &["203.0.113.8"], Some("manual")), "AddressNotInPool", "pool manual"),
        (asking(V6, &["2001:db8:3::8"], Some("manual")), "AddressNotInPool", "pool manual"),
        (asking(V4, &[], Some("missing")), "UnknownPool", "AddressPool missing"),
        (asking(V6, &[], Some("manual")), "PoolLacksFamily", "pool manual"),
    ] {
        let denied = world.decide("late", &demand).unwrap_err();
        assert_eq!(denied.reason(), reason, "{demand:?}");
        assert!(denied.to_string().contains(object), "{denied}");
        assert!(Denied::REASONS.contains(&reason));
    }
}

#[test]
fn no_pool_and_no_pool_of_the_family_are_told_apart() {
    for (families, other) in [(V4, "2001:db8::/64"), (V6, "192.0.2.0/24")] {
        assert_eq!(World::new([]).decide("s", &plain(families)), Err(Denied::NoPool));
        let world = World::new([pool("a", 1, &[other])]);
        let family = families.list()[0];
        assert_eq!(world.decide("s", &plain(families)), Err(Denied::NoPoolForFamily { family }));
    }
}

#[test]
fn a_pool_without_auto_assign_serves_only_those_who_ask() {
    // A15, A16
    for (families, range, first) in [(V4, "192.0.2.0/24", "192.0.2.0"), (V6, "2001:db8::/64", "2001:db8::")] {
        let world = World::new([Pool { auto_assign: false, ..pool("manual", 1, &[range]) }]);
        let family = families.list()[0];
        assert_eq!(world.decide("s", &plain(families)), Err(Denied::NoPoolForFamily { family }));
        assert_eq!(world.decide("s", &asking(families, &[], Some("manual"))), granted(&[first]));
        assert_eq!(world.decide("s", &asking(families, &[first], None)), granted(&[first]));
    }
}

#[test]
fn a_broken_pool_is_explained_to_those_who_ask_for_it() {
    let broken = BTreeMap::from([(PoolName::new("bad"), "spec.addresses[0]: reversed".to_owned())]);
    let pools = Pools::new([], broken);
    let ledger = Ledger::default();
    let key = key("s");
    let who = Claimant { key: &key, current: &[] };
    let denied = allocate(&ledger, &pools, who, &asking(V4, &[], Some("bad"))).unwrap_err();
    assert_eq!(denied.to_string(), "pool bad cannot be used: spec.addresses[0]: reversed");
}

#[test]
fn an_address_in_use_stays_whatever_happens_to_the_pools() {
    // A46, A48
    let mut world = World::new([pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])]);
    let both = plain(Families::Require(Family::V4));
    let before = world.serve("s", &both);
    assert_eq!(before, granted(&["192.0.2.0", "2001:db8::"]));
    for list in [
        vec![pool("a", 1, &["192.0.2.0/23", "2001:db8::/60"])],
        vec![pool("a", 1, &["198.51.100.0/24"])],
        vec![pool("b", 1, &["192.0.2.0/24"])],
        vec![],
    ] {
        world.set_pools(list);
        assert_eq!(world.decide("s", &both), before);
    }
    world.set_pools([pool("a", 1, &["192.0.2.0/24"])]);
    assert_eq!(world.decide("new", &plain(V4)), granted(&["192.0.2.1"]), "nobody else gets it");
}

#[test]
fn dual_stack_comes_from_one_pool_where_one_has_both() {
    // A32, A40
    let single4 = pool("a4", 1, &["192.0.2.0/24"]);
    let single6 = pool("a6", 2, &["2001:db8::/64"]);
    let dual = pool("dual", 3, &["198.51.100.0/24", "2001:db8:1::/64"]);
    for (list, wanted4, wanted6) in [
        (vec![single4.clone(), single6.clone(), dual], "198.51.100.0", "2001:db8:1::"),
        (vec![single4, single6], "192.0.2.0", "2001:db8::"),
    ] {
        let world = World::new(list);
        for policy in [Families::Prefer, Families::Require] {
            assert_eq!(world.decide("s", &plain(policy(Family::V4))), granted(&[wanted4, wanted6]));
            assert_eq!(world.decide("s", &plain(policy(Family::V6))), granted(&[wanted6, wanted4]));
        }
    }
}

#[test]
fn preferring_both_takes_what_there_is_and_the_second_later() {
    // A37
    let (v4, v6) = (pool("a", 1, &["192.0.2.0/24"]), pool("b", 2, &["2001:db8::/64"]));
    for (first, second, have, family, other) in [
        (v4.clone(), v6.clone(), "192.0.2.0", Family::V4, Family::V6),
        (v6, v4, "2001:db8::", Family::V6, Family::V4),
    ] {
        let mut world = World::new([first.clone()]);
        let demand = plain(Families::Prefer(family));
        let grant = world.serve("s", &demand).unwrap();
        assert_eq!(grant.addresses, ips(&[have]));
        assert_eq!(grant.lacking, Some(Denied::NoPoolForFamily { family: other }));
        world.set_pools([first, second]);
        let grant = world.serve("s", &demand).unwrap();
        assert_eq!((grant.addresses.len(), grant.addresses[0], grant.lacking), (2, ips(&[have])[0], None));
    }
}

#[test]
fn requiring_both_takes_both_or_none() {
    for (range, family, lacking) in
        [("192.0.2.0/24", Family::V4, Family::V6), ("2001:db8::/64", Family::V6, Family::V4)]
    {
        let mut world = World::new([pool("a", 1, &[range])]);
        let demand = plain(Families::Require(family));
        assert_eq!(world.decide("s", &demand), Err(Denied::NoPoolForFamily { family: lacking }));
        // A36: what it has from a time when one was enough, it keeps.
        world.serve("s", &plain(Families::One(family))).unwrap();
        let grant = world.decide("s", &demand).unwrap();
        assert_eq!(
            (grant.addresses.len(), grant.lacking),
            (1, Some(Denied::NoPoolForFamily { family: lacking }))
        );
    }
}

#[test]
fn asking_for_another_address_or_pool_moves_only_when_it_can_be_had() {
    // A24, A26
    let mut world = World::new([
        pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"]),
        pool("b", 2, &["198.51.100.0/31", "2001:db8:1::/127"]),
    ]);
    for (families, taken, free, from_b) in
        [(V4, "192.0.2.8", "192.0.2.9", "198.51.100.0"), (V6, "2001:db8::8", "2001:db8::9", "2001:db8:1::")]
    {
        let (other, name) = (format!("other{families:?}"), format!("s{families:?}"));
        world.serve(&other, &asking(families, &[taken], None)).unwrap();
        let first = world.serve(&name, &plain(families)).unwrap().addresses;
        let refused = world.decide(&name, &asking(families, &[taken], None)).unwrap();
        assert_eq!(refused.addresses, first, "it keeps the one it has");
        assert_eq!(refused.lacking.unwrap().reason(), "AddressInUse");
        assert_eq!(world.serve(&name, &asking(families, &[free], None)), granted(&[free]));
        assert_eq!(world.serve(&name, &asking(families, &[], Some("b"))), granted(&[from_b]));
    }
}

#[test]
fn a_senseless_request_takes_nothing_away() {
    let error = RequestError::NotAnAddress { field: "spec.loadBalancerIP", text: "x".into() };
    for (families, range) in [(V4, "192.0.2.0/24"), (V6, "2001:db8::/64")] {
        let mut world = World::new([pool("a", 1, &[range])]);
        let bad = Demand { families, request: Err(error.clone()) };
        assert_eq!(world.decide("s", &bad), Err(Denied::InvalidRequest(error.clone())));
        let before = world.serve("s", &plain(families)).unwrap();
        let after = world.decide("s", &bad).unwrap();
        assert_eq!(after.addresses, before.addresses);
        assert_eq!(after.lacking, Some(Denied::InvalidRequest(error.clone())));
    }
}

#[test]
fn a_huge_pool_that_is_full_but_for_one_address_is_no_work() {
    // A62: the cost is that of a few look-ups in a tree, or this test would not end.
    for (families, range, last) in
        [(V4, "10.0.0.0/8", "10.255.255.255"), (V6, "fd00::/64", "fd00::ffff:ffff:ffff:ffff")]
    {
        let mut declared = pool("a", 1, &[range]);
        let end = last.parse().unwrap();
        let before_end = families.list()[0].address(crate::addr::number(end) - 1).unwrap();
        declared.exclude =
            vec![crate::addr::AddrRange::new(declared.addresses[0].first(), before_end).unwrap()];
        assert_eq!(World::new([declared]).decide("s", &plain(families)), granted(&[last]));
    }
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Serve { service: u8, families: u8, asks: Option<u8> },
    Delete { service: u8 },
    Pools { which: u8 },
    Restart { reversed: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u8..12, 0_u8..6, prop::option::weighted(0.2, 0_u8..12))
            .prop_map(|(service, families, asks)| Step::Serve { service, families, asks }),
        3 => (0_u8..12).prop_map(|service| Step::Delete { service }),
        1 => (0_u8..4).prop_map(|which| Step::Pools { which }),
        1 => any::<bool>().prop_map(|reversed| Step::Restart { reversed }),
    ];
    prop::collection::vec(step, 0..60)
}

fn some_pools(which: u8) -> Vec<Pool> {
    let a = pool("a", 1, &["192.0.2.0/30", "2001:db8::/126"]);
    let b =
        Pool { priority: Some(1), ..pool("b", 2, &["192.0.2.2-192.0.2.9", "2001:db8::100-2001:db8::101"]) };
    match which {
        0 => vec![a],
        1 => vec![b],
        2 => vec![],
        _ => vec![a, b],
    }
}

fn some_families(n: u8) -> Families {
    let family = if n.is_multiple_of(2) { Family::V4 } else { Family::V6 };
    match n / 2 {
        0 => Families::One(family),
        1 => Families::Prefer(family),
        _ => Families::Require(family),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// No address is given twice, none moves without being asked to, a restart changes nothing, and what is
    /// released can be had again.
    #[test]
    fn histories_keep_every_promise(steps in steps()) {
        let mut world = World::new(some_pools(3));
        let mut created: BTreeMap<ServiceKey, i64> = BTreeMap::new();
        for (time, step) in steps.into_iter().enumerate() {
            match step {
                Step::Serve { service, families, asks } => {
                    let name = format!("s{service}");
                    let families = some_families(families);
                    let asked = asks.map(|n| format!("192.0.2.{n}")).filter(|_| families.wants(Family::V4));
                    let demand = asking(families, &asked.as_deref().into_iter().collect::<Vec<_>>(), None);
                    let before = world.ledger.held(&key(&name)).to_vec();
                    let again = world.decide(&name, &demand);
                    prop_assert_eq!(&again, &world.decide(&name, &demand), "not deterministic");
                    match world.serve(&name, &demand) {
                        Ok(grant) => {
                            created.entry(key(&name)).or_insert(i64::try_from(time).unwrap());
                            for addr in &grant.addresses {
                                let moved = !before.contains(addr)
                                    && before.iter().any(|old| Family::of(*old) == Family::of(*addr));
                                prop_assert!(!moved || asked.as_ref().is_some_and(|text| text.parse() == Ok(*addr)));
                            }
                            prop_assert_eq!(world.serve(&name, &demand), Ok(grant), "the second time differs");
                        }
                        Err(_) => prop_assert!(before.iter().all(|addr| !families.wants(Family::of(*addr)))),
                    }
                }
                Step::Delete { service } => {
                    let key = key(&format!("s{service}"));
                    created.remove(&key);
                    for addr in world.ledger.release_all(&world.pools, &key) {
                        prop_assert_eq!(world.ledger.holder(addr), None);
                        if let Some(usable) = world.pools.of(addr) {
                            let lowest = world.ledger.lowest_free(&usable.pool.name, Family::of(addr));
                            prop_assert!(lowest.is_some_and(|lowest| lowest <= addr), "{} leaked", addr);
                        }
                    }
                }
                Step::Pools { which } => world.set_pools(some_pools(which)),
                Step::Restart { reversed } => {
                    let mut claims: Vec<Claim> = created
                        .iter()
                        .flat_map(|(key, created)| {
                            let claim = |addr: &IpAddr| Claim { key: key.clone(), created: *created, addr: *addr };
                            world.ledger.held(key).iter().map(claim).collect::<Vec<_>>()
                        })
                        .collect();
                    if reversed {
                        claims.reverse();
                    }
                    let (rebuilt, lost) = Ledger::rebuild(&world.pools, claims);
                    prop_assert_eq!(lost, vec![]);
                    for key in created.keys() {
                        let (old, new) = (world.ledger.held(key), rebuilt.held(key));
                        prop_assert_eq!(
                            old.iter().collect::<BTreeSet<_>>(),
                            new.iter().collect::<BTreeSet<_>>()
                        );
                    }
                    world.ledger = rebuilt;
                }
            }
            let mut seen = BTreeSet::new();
            for key in created.keys() {
                for addr in world.ledger.held(key) {
                    prop_assert!(seen.insert(*addr), "{} is held twice", addr);
                    prop_assert_eq!(world.ledger.holder(*addr), Some(key));
                }
            }
        }
    }
}

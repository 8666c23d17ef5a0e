//! Services of two families.

use super::*;

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
        assert_eq!(grant.lacking, [Lacking::SecondFamily(Denied::NoPoolForFamily { family: other })]);
        world.set_pools([first, second]);
        let grant = world.serve("s", &demand).unwrap();
        assert_eq!((grant.addresses.len(), grant.addresses[0], grant.lacking), (2, ip(have), vec![]));
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
            (1, vec![Lacking::SecondFamily(Denied::NoPoolForFamily { family: lacking })])
        );
    }
}

#[test]
fn one_family_is_one_address_also_where_a_pool_has_both() {
    // A33, A34, A39
    let (v4, v6) = (pool("a4", 1, &["192.0.2.0/24"]), pool("a6", 2, &["2001:db8::/64"]));
    let both = pool("both", 3, &["192.0.2.0/24", "2001:db8::/64"]);
    for list in [vec![v4, v6], vec![both]] {
        let world = World::new(list);
        assert_eq!(world.decide("s", &plain(V4)), granted(&["192.0.2.0"]));
        assert_eq!(world.decide("s", &plain(V6)), granted(&["2001:db8::"]));
    }
}

#[test]
fn both_addresses_may_be_asked_for_in_two_pools_and_one_pool_named_has_to_have_both() {
    // A40
    let mut world = World::new([pool("a4", 1, &["192.0.2.0/24"]), pool("a6", 2, &["2001:db8::/64"])]);
    let both = ["192.0.2.5", "2001:db8::5"];
    assert_eq!(world.serve("s", &asking(REQUIRE, &["2001:db8::5", "192.0.2.5"], None)), granted(&both));
    for (named, lacks) in [("a4", Family::V6), ("a6", Family::V4)] {
        let denied = Denied::PoolLacksFamily { pool: named.into(), family: lacks };
        assert_eq!(world.decide("t", &asking(REQUIRE, &[], Some(named))), Err(denied.clone()));
        let half = world.decide("t", &asking(PREFER, &[], Some(named))).unwrap();
        assert_eq!((half.addresses.len(), half.lacking), (1, vec![Lacking::SecondFamily(denied)]));
    }
    // Of two addresses asked for one cannot be had: none is given.
    let taken = asking(PREFER, &["192.0.2.6", "2001:db8::5"], None);
    assert_eq!(world.reason("t", &taken), "AddressInUse");
    assert!(world.decide("t", &taken).is_err());
}

#[test]
fn a_second_family_is_taken_from_the_pool_of_the_first_though_another_one_comes_earlier() {
    // A32
    let early = Pool { priority: Some(1), ..pool("early", 1, &["198.51.100.0/24", "2001:db8:1::/64"]) };
    let late = pool("late", 2, &["192.0.2.0/24", "2001:db8::/64"]);
    let mut world = World::new([early, late]);
    for (one, both, first, second) in [
        (V4, PREFER, "192.0.2.7", "2001:db8::"),
        (V6, Families::Prefer(Family::V6), "2001:db8::7", "192.0.2.0"),
    ] {
        let name = format!("s{first}");
        world.serve(&name, &asking(one, &[first], None)).unwrap();
        assert_eq!(world.serve(&name, &plain(both)), granted(&[first, second]));
    }
}

#[test]
fn an_address_asked_for_that_cannot_be_had_is_not_made_up_for_by_one_of_the_other_family() {
    // A21
    let mut world = World::new([pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])]);
    for (asked, other) in [("203.0.113.9", "2001:db8::"), ("2001:db8:9::9", "192.0.2.0")] {
        let asks = asking(PREFER, &[asked], None);
        assert!(world.decide("s", &asks).is_err());
        assert_eq!(world.reason("s", &asks), "AddressOutsidePools");
        // What it has already stays.
        let one = if ip(other).is_ipv4() { V4 } else { V6 };
        world.serve("t", &asking(one, &[other], None)).unwrap();
        let kept = world.serve("t", &asks).unwrap();
        assert_eq!((kept.addresses, kept.lacking.len()), (ips(&[other]), 1));
        world.delete("t");
    }
}

#[test]
fn a_family_that_is_not_wanted_any_more_is_given_back() {
    let mut world = World::new([pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])]);
    world.serve("s", &plain(PREFER)).unwrap();
    for (families, left, freed) in [(V4, "192.0.2.0", "2001:db8::"), (PREFER, "192.0.2.0", "")] {
        let given = world.given("s", &plain(families));
        assert_eq!(given[0], ip(left));
        if !freed.is_empty() {
            assert!(world.ledger.holders(ip(freed)).is_empty());
        }
    }
}

//! Every refusal names what is in the way.

use super::*;

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
fn a_broken_pool_is_explained_to_those_who_ask_for_it() {
    let broken = BTreeMap::from([(PoolName::new("bad"), "spec.addresses[0]: reversed".to_owned())]);
    let mut world = World::new([]);
    world.set(Pools::new([], broken, &[]));
    let denied = world.decide("s", &asking(V4, &[], Some("bad"))).unwrap_err();
    assert_eq!(denied.reason(), "PoolNotReady");
    assert_eq!(denied.to_string(), "pool bad cannot be used: spec.addresses[0]: reversed");
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

//! Pools that change or go while Services have their addresses.

use super::*;

/// A Service with both addresses of a pool `a`, and what it was given.
fn with_pool_a(on_removal: OnRemoval) -> (World, Demand) {
    let a = Pool { on_removal, ..pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"]) };
    let mut world = World::new([a]);
    let demand = plain(REQUIRE);
    assert_eq!(world.serve("s", &demand), granted(&["192.0.2.0", "2001:db8::"]));
    (world, demand)
}

#[test]
fn an_address_that_a_pool_still_holds_is_not_touched() {
    // A46, A47: grown, given again, renamed, split.
    for on_removal in [OnRemoval::Keep, OnRemoval::Reassign] {
        let (mut world, demand) = with_pool_a(on_removal);
        let b = |ranges: &[&str]| Pool { on_removal, ..pool("b", 9, ranges) };
        let c = Pool { priority: Some(1), ..pool("c", 10, &["2001:db8::/127", "198.51.100.0/24"]) };
        for list in [
            vec![pool("a", 1, &["192.0.2.0/23", "2001:db8::/60"])],
            vec![pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])],
            vec![b(&["192.0.2.0/24", "2001:db8::/64"])],
            vec![b(&["192.0.2.0/31"]), c],
        ] {
            world.set_pools(list);
            assert_eq!(world.serve("s", &demand), granted(&["192.0.2.0", "2001:db8::"]));
        }
    }
}

#[test]
fn an_address_stays_when_a_pool_narrows_its_audience_or_its_quota() {
    let (mut world, demand) = with_pool_a(OnRemoval::Reassign);
    let audience = Audience { namespaces: ["other".into()].into(), ..Audience::default() };
    let a = pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"]);
    world.set_pools([Pool { audience, quota: Some(1), on_removal: OnRemoval::Reassign, ..a }]);
    assert_eq!(world.serve("s", &demand), granted(&["192.0.2.0", "2001:db8::"]));
}

#[test]
fn an_address_outside_every_pool_stays_and_nobody_else_gets_it() {
    // A48, A69
    for (list, gone) in [
        (vec![], true),
        (vec![pool("b", 2, &["198.51.100.0/24", "2001:db8:1::/64"])], true),
        (vec![pool("a", 1, &["192.0.2.1/32", "2001:db8::1/128"])], false),
    ] {
        let (mut world, demand) = with_pool_a(OnRemoval::Keep);
        world.set_pools(list);
        let grant = world.serve("s", &demand).unwrap();
        assert_eq!(grant.addresses, ips(&["192.0.2.0", "2001:db8::"]));
        assert_eq!(grant.reason(), "OutsidePool");
        let why = if gone { Outside::Gone(Some("a".into())) } else { Outside::Shrunk("a".into()) };
        let outside = |addr: &str| Lacking::OutsidePool { addr: ip(addr), why: why.clone() };
        assert_eq!(grant.lacking, [outside("192.0.2.0"), outside("2001:db8::")]);
        assert_eq!(grant.obstacles(), [Obstacle::AnyPool]);
        let told = grant.lacking[1].to_string();
        assert!(told.contains("pool a") && told.contains("2001:db8::"), "{told}");
        // It is not given to anybody who asks, and not when its pool is back.
        assert!(world.decide("thief", &asking(V4, &["192.0.2.0"], None)).is_err());
        world.set_pools([pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])]);
        assert_eq!(world.decide("t", &demand), granted(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(world.serve("s", &demand), granted(&["192.0.2.0", "2001:db8::"]));
    }
}

#[test]
fn an_address_is_exchanged_when_its_pool_wanted_it_back() {
    // A48, A70, and A9 with the pinned pool of a namespace
    let (mut world, demand) = with_pool_a(OnRemoval::Reassign);
    world.set_pools([pool("b", 2, &["198.51.100.0/24", "2001:db8:1::/64"])]);
    assert_eq!(world.serve("s", &demand), granted(&["198.51.100.0", "2001:db8:1::"]));
    assert!(world.ledger.holders(ip("192.0.2.0")).is_empty());
    // That pool keeps: the record on the Service follows the pool it is from.
    world.set_pools([pool("c", 3, &["203.0.113.0/24", "2001:db8:2::/64"])]);
    assert_eq!(world.reason("s", &demand), "OutsidePool");
}

#[test]
fn an_address_that_its_pool_wanted_back_is_released_also_when_there_is_no_other() {
    // A8, A70
    for (list, reason) in [
        (vec![], "NoPool"),
        (vec![pool("b", 2, &["198.51.100.0/24"])], "NoPoolForFamily"),
        (
            vec![Pool {
                on_removal: OnRemoval::Reassign,
                ..pool("a", 1, &["192.0.2.9/32", "2001:db8::1/128"])
            }],
            "PoolsFull",
        ),
    ] {
        let (mut world, demand) = with_pool_a(OnRemoval::Reassign);
        world.serve("t", &asking(V4, &["192.0.2.9"], None)).unwrap();
        world.set_pools(list);
        assert_eq!(world.reason("s", &demand), reason);
        assert!(world.serve("s", &demand).is_err());
        assert!(world.ledger.held(&key("s")).is_empty());
    }
}

#[test]
fn the_part_that_is_gone_is_exchanged_and_the_other_stays() {
    // A70
    for (range, both) in
        [("192.0.2.0/24", ["192.0.2.0", "2001:db8::1"]), ("2001:db8::/64", ["192.0.2.1", "2001:db8::"])]
    {
        let (mut world, demand) = with_pool_a(OnRemoval::Reassign);
        let other = if range.contains(':') { "192.0.2.1/32" } else { "2001:db8::1/128" };
        let a = Pool { on_removal: OnRemoval::Reassign, ..pool("a", 1, &[range]) };
        world.set_pools([a.clone()]);
        let half = world.decide("s", &demand).unwrap();
        assert_eq!((half.addresses.len(), half.reason()), (1, "SecondFamilyUnavailable"));
        world.set_pools([a, pool("b", 2, &[other])]);
        assert_eq!(world.serve("s", &demand), granted(&both));
    }
}

#[test]
fn which_of_keep_and_reassign_holds_says_the_pool_and_without_it_the_record() {
    // A69, A70
    for (recorded, declared, moves) in [
        (OnRemoval::Keep, Some(OnRemoval::Reassign), true),
        (OnRemoval::Reassign, Some(OnRemoval::Keep), false),
        (OnRemoval::Reassign, None, true),
        (OnRemoval::Keep, None, false),
    ] {
        let (mut world, demand) = with_pool_a(recorded);
        let b = pool("b", 2, &["198.51.100.0/24", "2001:db8:1::/64"]);
        let a = declared.map(|on_removal| Pool { on_removal, ..pool("a", 1, &["192.0.2.9/32"]) });
        world.set_pools(a.into_iter().chain([b]));
        let stays = world.decide("s", &demand).unwrap().addresses == ips(&["192.0.2.0", "2001:db8::"]);
        assert_eq!(stays, !moves, "{recorded:?} {declared:?}");
    }
    // Nothing is recorded: it stays.
    let (mut world, demand) = with_pool_a(OnRemoval::Reassign);
    world.records.get_mut(&key("s")).unwrap().origin = Origin::default();
    world.set_pools([pool("b", 2, &["198.51.100.0/24", "2001:db8:1::/64"])]);
    assert_eq!(world.reason("s", &demand), "OutsidePool");
}

#[test]
fn a_pool_that_cannot_be_read_takes_nothing_from_anybody() {
    // A78
    let (mut world, demand) = with_pool_a(OnRemoval::Reassign);
    let broken = BTreeMap::from([(PoolName::new("a"), "spec.addresses[1]: reversed".to_owned())]);
    world.set(Pools::new([pool("b", 2, &["198.51.100.0/24", "2001:db8:1::/64"])], broken, &[]));
    let grant = world.serve("s", &demand).unwrap();
    assert_eq!((grant.reason(), grant.addresses), ("OutsidePool", ips(&["192.0.2.0", "2001:db8::"])));
    let told = grant.lacking[0].to_string();
    assert!(told.contains("pool a of 192.0.2.0 cannot be used: spec.addresses[1]: reversed"), "{told}");
    // It asked for that pool by name: it stays as well.
    let by_name = asking(REQUIRE, &[], Some("a"));
    assert_eq!(world.decide("s", &by_name).unwrap().addresses, ips(&["192.0.2.0", "2001:db8::"]));
    assert_eq!(world.decide("t", &demand), granted(&["198.51.100.0", "2001:db8:1::"]), "others work on");
}

#[test]
fn who_asks_for_another_pool_leaves_one_that_is_gone() {
    // A24
    for on_removal in [OnRemoval::Keep, OnRemoval::Reassign] {
        let (mut world, _) = with_pool_a(on_removal);
        world.set_pools([pool("b", 2, &["198.51.100.0/24", "2001:db8:1::/64"])]);
        let demand = asking(REQUIRE, &[], Some("b"));
        assert_eq!(world.serve("s", &demand), granted(&["198.51.100.0", "2001:db8:1::"]));
    }
}

#[test]
fn what_is_recorded_says_for_each_address_where_it_is_from() {
    // A47, A69
    let kept = |name: &str, created, ranges: &[&str]| pool(name, created, ranges);
    let (v4, v6) = (kept("a", 1, &["192.0.2.0/24"]), kept("b", 2, &["2001:db8::/64"]));
    let back = |pool: &Pool| Pool { on_removal: OnRemoval::Reassign, ..pool.clone() };
    let mut world = World::new([v4.clone(), back(&v6)]);
    let demand = plain(PREFER);
    world.serve("s", &demand).unwrap();
    let origin = |world: &World| world.records[&key("s")].origin.clone();
    let names = |names: &[&str]| names.iter().map(PoolName::new).collect::<Vec<_>>();
    let two = Origin { pools: names(&["a", "b"]), on_removal: vec![OnRemoval::Keep, OnRemoval::Reassign] };
    assert_eq!(origin(&world), two);
    // One pool of both: one entry stands for both.
    world.set_pools([kept("c", 3, &["192.0.2.0/24", "2001:db8::/64"])]);
    world.serve("s", &demand).unwrap();
    assert_eq!(origin(&world), Origin { pools: names(&["c"]), on_removal: vec![OnRemoval::Keep] });
    // The pool of the first is gone; what was recorded of it stays, each in its place.
    world.set_pools([v4.clone(), back(&v6)]);
    world.serve("s", &demand).unwrap();
    world.set_pools([back(&v6)]);
    world.serve("s", &demand).unwrap();
    assert_eq!(origin(&world), two);
    world.set_pools([v4]);
    let half = world.serve("s", &demand).unwrap();
    assert_eq!((half.reason(), half.addresses), ("SecondFamilyUnavailable", ips(&["192.0.2.0"])));
    assert_eq!(origin(&world), Origin { pools: names(&["a"]), on_removal: vec![OnRemoval::Keep] });
}

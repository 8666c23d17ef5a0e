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
        // A21
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

/// One refusal of each kind, with what its message names and what it waits for.
fn every_refusal(family: Family) -> Vec<(Denied, &'static [&'static str], Vec<Obstacle>)> {
    let (text, addr) = match family {
        Family::V4 => ("192.0.2.7", ip("192.0.2.7")),
        Family::V6 => ("2001:db8::7", ip("2001:db8::7")),
    };
    let (pool, namespace, holder): (PoolName, Namespace, _) = ("web".into(), "shop".into(), key("shop/cart"));
    let usage = crate::ledger::Usage { capacity: 10, assigned: 7, quarantined: 1, reserved: 2 };
    let of_pool = || Obstacle::Pool("web".into(), family);
    let of_namespace = || Obstacle::Namespace("shop".into());
    let any = || vec![Obstacle::AnyPool];
    let of_addr = || vec![Obstacle::Address(addr), Obstacle::AnyPool];
    let error = RequestError::NotAnAddress { field: "spec.loadBalancerIP", text: text.into() };
    let quota = Denied::QuotaExceeded {
        family,
        pool: pool.clone(),
        namespace: namespace.clone(),
        held: 2,
        limit: 2,
        others: vec!["dmz".into()],
    };
    let dmz = Obstacle::Pool("dmz".into(), family);
    vec![
        (Denied::NoPool, &["AddressPool"], any()),
        (Denied::NoPoolForFamily { family }, &["autoAssign", "addresses"], any()),
        (
            Denied::NoMatchingPool { family, namespace: namespace.clone() },
            &["namespace shop", "serviceSelectors"],
            vec![Obstacle::AnyPool, of_namespace()],
        ),
        (
            Denied::PoolsFull { family, pools: vec![(pool.clone(), usage)] },
            &["pool web is full: 7 of 10", "2 reserved", "1 in quarantine"],
            vec![of_pool(), Obstacle::AnyPool],
        ),
        (
            quota,
            &["namespace shop", "2 of 2", "pool web"],
            vec![of_pool(), dmz, Obstacle::AnyPool, of_namespace()],
        ),
        (Denied::UnknownPool { pool: pool.clone() }, &["AddressPool web"], any()),
        (
            Denied::PoolNotReady { pool: pool.clone(), why: "reversed".into() },
            &["pool web", "reversed"],
            any(),
        ),
        (
            Denied::PoolNotAllowed { pool: pool.clone(), namespace },
            &["pool web", "namespace shop"],
            vec![Obstacle::AnyPool, of_namespace()],
        ),
        (Denied::PoolLacksFamily { pool: pool.clone(), family }, &["pool web", "addresses"], any()),
        (Denied::AddressOutsidePools { addr }, &["no AddressPool"], any()),
        (Denied::AddressNotInPool { addr, pool: pool.clone() }, &["pool web"], any()),
        (Denied::AddressLeftOut { addr, pool }, &["exclude", "avoidBuggyIPs", "pool web"], any()),
        (Denied::AddressTaken { addr, by: "the address of node n1".into() }, &["node n1"], any()),
        (
            Denied::AddressReserved { addr, reservation: "front".into(), whom: "shop/cart".into() },
            &["is reserved for shop/cart", "AddressReservation front"],
            vec![Obstacle::Reservations, Obstacle::Address(addr)],
        ),
        (Denied::AddressQuarantined { addr, until: 0 }, &["1970-01-01T00:00:00Z"], of_addr()),
        (Denied::AddressInUse { addr, holder: holder.clone() }, &["Service shop/cart"], of_addr()),
        (
            Denied::SharingKeyDiffers { addr, holder: holder.clone() },
            &["Service shop/cart", "key"],
            of_addr(),
        ),
        (
            Denied::SharingPortConflict { addr, holder: holder.clone(), port: (Protocol::Udp, 53) },
            &["UDP port 53", "Service shop/cart"],
            of_addr(),
        ),
        (
            Denied::SharingNotAllowed { addr, holder },
            &["Service shop/cart", "namespace", "sharing: Cluster"],
            of_addr(),
        ),
        (Denied::InvalidRequest(error), &["spec.loadBalancerIP"], vec![Obstacle::Never]),
    ]
}

#[test]
fn each_reason_has_a_message_that_names_the_obstacle_and_what_it_waits_for() {
    // A75
    for family in [Family::V4, Family::V6] {
        let all = every_refusal(family);
        let reasons: Vec<_> = all.iter().map(|(denied, ..)| denied.reason()).collect();
        assert_eq!(reasons, Denied::REASONS, "the list is complete and in order");
        for (denied, named, obstacles) in all {
            let message = denied.to_string();
            for part in named {
                assert!(message.contains(part), "{} names {part}: {message}", denied.reason());
            }
            let about_an_address =
                denied.reason().starts_with("Address") || denied.reason().starts_with("Sharing");
            let addr = if family == Family::V4 { "192.0.2.7" } else { "2001:db8::7" };
            assert!(!about_an_address || message.starts_with(addr), "{message}");
            assert_eq!(denied.obstacles(), obstacles, "{}", denied.reason());
            assert!(message.len() < 400, "{message}");
        }
    }
    let (reasons, lacks): (Vec<_>, Vec<_>) = (Denied::REASONS.to_vec(), Lacking::REASONS.to_vec());
    let mut different = [reasons, lacks].concat();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), Denied::REASONS.len() + Lacking::REASONS.len(), "no reason means two things");
}

#[test]
fn a_message_names_no_more_than_a_few_of_many_pools() {
    let full = |n: usize| (PoolName::new(format!("p{n}")), crate::ledger::Usage::default());
    let denied = Denied::PoolsFull { family: Family::V6, pools: (0..1000).map(full).collect() };
    let message = denied.to_string();
    assert!(
        message.contains("pool p3 ") && message.contains("so are 996 more") && message.len() < 400,
        "{message}"
    );
    assert_eq!(denied.obstacles().len(), 1001, "but it waits for each of them");
}

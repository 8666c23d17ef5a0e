//! Which pool and which address.

use super::*;

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
fn a_huge_pool_that_is_full_but_for_one_address_is_no_work() {
    // A62: the cost is that of a few look-ups in a tree, or this test would not end.
    for (families, range, last) in
        [(V4, "10.0.0.0/8", "10.255.255.255"), (V6, "fd00::/64", "fd00::ffff:ffff:ffff:ffff")]
    {
        let mut declared = pool("a", 1, &[range]);
        let end = ip(last);
        let before_end = families.list()[0].address(crate::addr::number(end) - 1).unwrap();
        declared.exclude =
            vec![crate::addr::AddrRange::new(declared.addresses[0].first(), before_end).unwrap()];
        assert_eq!(World::new([declared]).decide("s", &plain(families)), granted(&[last]));
    }
}

#[test]
fn a_namespace_uses_its_own_pool_first_and_others_never_do() {
    // A10: a pool with a priority goes before one without.
    for (families, own, open) in [(V4, "192.0.2.1", "198.51.100.1"), (V6, "2001:db8::1", "2001:db8:1::1")] {
        let range = |addr: &str| format!("{addr}-{addr}");
        let audience = Audience { namespaces: ["x".into()].into(), ..Audience::default() };
        let pinned = Pool { audience, priority: Some(20), ..pool("own", 1, &[&range(own)]) };
        let mut world = World::new([pinned, pool("open", 2, &[&range(open)])]);
        assert_eq!(world.decide("y/a", &plain(families)), granted(&[open]));
        assert_eq!(world.serve("x/a", &plain(families)), granted(&[own]));
        assert_eq!(world.serve("x/b", &plain(families)), granted(&[open]));
        // Full for one, closed for the other: only what could serve it is named.
        let denied = world.decide("y/a", &plain(families)).unwrap_err().to_string();
        assert!(denied.contains("pool open is full") && !denied.contains("own"), "{denied}");
    }
}

#[test]
fn a_pool_for_labelled_namespaces_serves_them_from_when_they_are_labelled() {
    // A12
    for (families, range, first) in [(V4, "192.0.2.0/24", "192.0.2.0"), (V6, "2001:db8::/64", "2001:db8::")] {
        let audience = Audience { namespace_selector: Some(select("team", "red")), ..Audience::default() };
        let mut world = World::new([Pool { audience, ..pool("red", 1, &[range]) }]);
        let family = families.list()[0];
        let denied = Denied::NoMatchingPool { family, namespace: "x".into() };
        assert_eq!(world.decide("x/s", &plain(families)), Err(denied));
        world.namespaces.insert("x".into(), labels(&[("team", "red")]));
        assert_eq!(world.serve("x/s", &plain(families)), granted(&[first]));
        world.namespaces.clear();
        assert_eq!(world.serve("x/s", &plain(families)), granted(&[first]), "what it has stays");
    }
}

#[test]
fn the_namespace_and_the_labels_of_the_service_have_to_match_both() {
    // A14
    for (families, range, first) in [(V4, "192.0.2.0/24", "192.0.2.0"), (V6, "2001:db8::/64", "2001:db8::")] {
        let audience = Audience {
            namespaces: ["x".into()].into(),
            services: vec![select("tier", "web")],
            ..Audience::default()
        };
        let mut world = World::new([Pool { audience, ..pool("a", 1, &[range]) }]);
        world.label("x/web", &[("tier", "web")]);
        world.label("y/web", &[("tier", "web")]);
        for (name, reason) in [("x/plain", "NoMatchingPool"), ("y/web", "NoMatchingPool")] {
            assert_eq!(world.reason(name, &plain(families)), reason, "{name}");
            assert_eq!(world.reason(name, &asking(families, &[], Some("a"))), "PoolNotAllowed", "{name}");
            assert_eq!(world.reason(name, &asking(families, &[first], None)), "PoolNotAllowed", "{name}");
        }
        assert_eq!(world.serve("x/web", &plain(families)), granted(&[first]));
        world.label("x/web", &[]);
        assert_eq!(world.serve("x/web", &plain(families)), granted(&[first]), "what it has stays");
    }
}

#[test]
fn an_excluded_address_is_never_given_and_the_refusal_names_the_exclusion() {
    // A63
    for (families, range, excluded, first) in [
        (V4, "192.0.2.0/30", "192.0.2.0-192.0.2.1", "192.0.2.2"),
        (V6, "2001:db8::/126", "2001:db8::-2001:db8::1", "2001:db8::2"),
    ] {
        let exclude = vec![excluded.parse().unwrap()];
        let mut world = World::new([Pool { exclude, ..pool("a", 1, &[range]) }]);
        assert_eq!(world.serve("s", &plain(families)), granted(&[first]));
        world.serve("t", &plain(families)).unwrap();
        assert_eq!(world.reason("u", &plain(families)), "PoolsFull");
        let (text, _) = excluded.split_once('-').unwrap();
        let denied = world.decide("u", &asking(families, &[text], None)).unwrap_err();
        assert_eq!(denied, Denied::AddressLeftOut { addr: ip(text), pool: "a".into() });
        assert!(denied.to_string().contains("exclude"), "{denied}");
    }
}

#[test]
fn addresses_that_end_in_0_or_255_are_neither_given_nor_to_be_asked_for_where_they_are_avoided() {
    // A41
    let mut world = World::new([Pool {
        avoid_buggy: true,
        ..pool("a", 1, &["192.0.2.0/31", "192.0.2.254/31", "2001:db8::/127"])
    }]);
    for buggy in ["192.0.2.0", "192.0.2.255"] {
        assert_eq!(world.reason("s", &asking(V4, &[buggy], None)), "AddressLeftOut", "{buggy}");
    }
    assert_eq!(world.serve("a", &plain(V4)), granted(&["192.0.2.1"]));
    assert_eq!(world.serve("b", &plain(V4)), granted(&["192.0.2.254"]));
    assert_eq!(world.reason("c", &plain(V4)), "PoolsFull");
    assert_eq!(world.serve("d", &plain(V6)), granted(&["2001:db8::"]), "of IPv4 only");
}

#[test]
fn addresses_of_the_cluster_itself_are_never_given_and_stay_where_they_are_in_use() {
    let taken = |range: &str, by: &str| Taken { range: range.parse().unwrap(), by: by.into() };
    for (families, range, node, pods, free) in [
        (V4, "192.0.2.0/24", "192.0.2.0-192.0.2.0", "192.0.2.2/31", "192.0.2.1"),
        (V6, "2001:db8::/64", "2001:db8::-2001:db8::", "2001:db8::2/127", "2001:db8::1"),
    ] {
        let mut world = World::new([pool("a", 1, &[range])]);
        let (first, _) = node.split_once('-').unwrap();
        let before = world.serve("early", &plain(families)).unwrap();
        assert_eq!(before.addresses, ips(&[first]));
        let of_cluster = [taken(node, "the address of node n1"), taken(pods, "the pod CIDR of node n1")];
        world.set(Pools::new([pool("a", 1, &[range])], BTreeMap::new(), &of_cluster));
        assert_eq!(world.serve("s", &plain(families)), granted(&[free]));
        let after = world.given("t", &plain(families));
        assert!(world.pools.taken_by(after[0]).is_none() && after != ips(&[free]), "{after:?}");
        let denied = world.decide("u", &asking(families, &[first], None)).unwrap_err();
        assert_eq!(
            denied.to_string(),
            format!(
                "{first} belongs to the cluster itself, to the address of node n1: ask for another address"
            )
        );
        let stays = world.serve("early", &plain(families)).unwrap();
        assert_eq!((stays.reason(), &stays.addresses), ("OutsidePool", &before.addresses));
    }
}

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

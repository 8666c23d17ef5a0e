//! How many addresses a namespace may have of a pool.

use super::*;

fn limited(limit: u32, ranges: &[&str]) -> Pool {
    Pool { quota: Some(limit), ..pool("tenants", 1, ranges) }
}

#[test]
fn a_namespace_gets_no_more_than_its_limit_and_the_refusal_counts() {
    // A68
    for (families, range) in [(V4, "192.0.2.0/24"), (V6, "2001:db8::/64")] {
        let family = families.list()[0];
        let mut world = World::new([limited(2, &[range])]);
        let first = world.given("shop/a", &plain(families));
        let second = world.given("shop/b", &plain(families));
        let denied = world.decide("shop/c", &plain(families)).unwrap_err();
        assert_eq!(denied.reason(), "QuotaExceeded");
        assert_eq!(
            denied.to_string(),
            "namespace shop holds 2 of 2 addresses that it may have of pool tenants: delete a Service there, share an \
             address or raise maxAddressesPerNamespace"
        );
        assert_eq!(
            denied.obstacles(),
            [Obstacle::Pool("tenants".into(), family), Obstacle::AnyPool, Obstacle::Namespace("shop".into())]
        );
        for request in [asking(families, &[], Some("tenants")), plain(families)] {
            assert_eq!(world.reason("shop/c", &request), "QuotaExceeded");
        }
        assert!(world.serve("other/a", &plain(families)).is_ok(), "each namespace has its own");
        assert_eq!(
            (world.given("shop/a", &plain(families)), world.given("shop/b", &plain(families))),
            (first, second)
        );
        world.delete("shop/a");
        assert!(world.serve("shop/c", &plain(families)).is_ok());
        // Lowered, it takes nothing.
        world.set_pools([limited(1, &[range])]);
        assert!(world.serve("shop/b", &plain(families)).is_ok());
        assert_eq!(world.reason("shop/d", &plain(families)), "QuotaExceeded");
    }
}

#[test]
fn a_pool_whose_limit_is_reached_is_passed_over() {
    // A68
    for (families, range, other) in
        [(V4, "192.0.2.0/24", "198.51.100.0"), (V6, "2001:db8::/64", "2001:db8:1::")]
    {
        let open = pool("zzz", 2, &[&format!("{other}-{other}")]);
        let mut world = World::new([limited(1, &[range]), open]);
        world.given("shop/a", &plain(families));
        assert_eq!(world.serve("shop/b", &plain(families)), granted(&[other]));
        // Of a limit and a full pool the limit is told, and both are waited for.
        let denied = world.decide("shop/c", &plain(families)).unwrap_err();
        assert_eq!(denied.reason(), "QuotaExceeded");
        assert!(denied.obstacles().contains(&Obstacle::Pool("zzz".into(), families.list()[0])));
    }
}

#[test]
fn both_addresses_of_a_service_count() {
    let ranges = ["192.0.2.0/24", "2001:db8::/64"];
    let world = World::new([limited(1, &ranges)]);
    assert_eq!(world.reason("shop/a", &plain(REQUIRE)), "QuotaExceeded");
    let half = world.decide("shop/a", &plain(PREFER)).unwrap();
    assert_eq!((half.addresses.len(), half.reason()), (1, "SecondFamilyUnavailable"));
    let mut world = World::new([limited(2, &ranges)]);
    assert_eq!(world.given("shop/a", &plain(REQUIRE)).len(), 2);
    assert_eq!(world.ledger.held_by_namespace(&"tenants".into(), &"shop".into()), 2);
}

#[test]
fn an_address_exchanged_for_another_one_of_the_pool_costs_nothing() {
    for (families, range, other) in [(V4, "192.0.2.0/24", "192.0.2.7"), (V6, "2001:db8::/64", "2001:db8::7")]
    {
        let mut world = World::new([limited(1, &[range])]);
        world.given("shop/a", &plain(families));
        assert_eq!(world.serve("shop/a", &asking(families, &[other], None)), granted(&[other]));
        assert_eq!(world.ledger.held_by_namespace(&"tenants".into(), &"shop".into()), 1);
    }
}

#[test]
fn a_shared_address_counts_once_in_each_namespace() {
    for (families, range) in [(V4, "192.0.2.0/24"), (V6, "2001:db8::/64")] {
        let scope = crate::pool::SharingScope::Cluster;
        let mut world = World::new([Pool { sharing: scope, ..limited(1, &[range]) }]);
        let first = world.given("shop/a", &sharing(plain(families), "k", &[80]));
        assert_eq!(world.given("shop/b", &sharing(plain(families), "k", &[81])), first);
        assert_eq!(world.given("other/c", &sharing(plain(families), "k", &[82])), first);
        let held = |world: &World, namespace: &str| {
            world.ledger.held_by_namespace(&"tenants".into(), &namespace.into())
        };
        assert_eq!((held(&world, "shop"), held(&world, "other")), (1, 1));
        assert_eq!(world.reason("other/d", &plain(families)), "QuotaExceeded");
        world.delete("shop/a");
        assert_eq!((held(&world, "shop"), held(&world, "other")), (1, 1));
        world.delete("shop/b");
        assert_eq!((held(&world, "shop"), held(&world, "other")), (0, 1));
    }
}

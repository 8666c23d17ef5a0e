//! Addresses held for somebody.

use super::*;
use crate::ledger::Standing;

fn any(name: &str, created: i64, pool: &str, family: Family, whom: Whom) -> Reservation {
    let held = Held::Any { pool: pool.into(), family };
    Reservation { name: name.into(), created, held, whom, address: None }
}

fn labelled(namespace: &str) -> Whom {
    Whom { namespace: Some(namespace.into()), name: None, selector: Some(select("app", "cart")) }
}

#[test]
fn a_service_made_anew_has_its_address_again_and_nobody_else_gets_it() {
    // A66
    for (families, range, held, other) in
        [(V4, "192.0.2.0/31", "192.0.2.0", "192.0.2.1"), (V6, "2001:db8::/127", "2001:db8::", "2001:db8::1")]
    {
        let mut world = World::new([Pool { quarantine_s: 30, ..pool("a", 1, &[range]) }]);
        world.reserve([reservation("front", 1, held, "shop/cart")]);
        for _ in 0..2 {
            assert_eq!(world.serve("thief", &plain(families)), granted(&[other]));
            assert_eq!(world.reason("late", &plain(families)), "PoolsFull");
            let denied = world.decide("late", &asking(families, &[held], None)).unwrap_err();
            assert_eq!(
                denied.to_string(),
                format!(
                    "{held} is reserved for shop/cart by AddressReservation front: ask for another address"
                )
            );
            assert_eq!(denied.obstacles(), [Obstacle::Reservations, Obstacle::Address(ip(held))]);
            assert_eq!(world.serve("shop/cart", &plain(families)), granted(&[held]));
            world.delete("shop/cart");
        }
        world.ledger.expire(&world.pools, i64::MAX);
        world.reserve([]);
        assert_eq!(world.decide("late", &plain(families)), granted(&[held]));
    }
}

#[test]
fn what_a_service_asks_for_goes_before_what_is_held_for_it() {
    for (families, range, held, asked) in
        [(V4, "192.0.2.0/24", "192.0.2.8", "192.0.2.9"), (V6, "2001:db8::/64", "2001:db8::8", "2001:db8::9")]
    {
        let mut world = World::new([pool("a", 1, &[range]), pool("b", 2, &["198.51.100.0/24", "fd00::/64"])]);
        world.reserve([reservation("r", 1, held, "s")]);
        assert_eq!(world.decide("s", &asking(families, &[asked], None)), granted(&[asked]));
        assert_eq!(world.decide("s", &asking(families, &[held], None)), granted(&[held]));
        let of_b = world.decide("s", &asking(families, &[], Some("b"))).unwrap().addresses;
        assert_eq!(world.pools.of(of_b[0]).unwrap().pool.name.as_str(), "b");
        assert_eq!(world.decide("s", &asking(families, &[], Some("a"))), granted(&[held]));
    }
}

#[test]
fn an_address_in_use_when_it_is_reserved_stays_and_is_held_once_free() {
    // A66
    for (families, range, addr) in [(V4, "192.0.2.0/32", "192.0.2.0"), (V6, "2001:db8::/128", "2001:db8::")] {
        let mut world = World::new([pool("a", 1, &[range])]);
        world.serve("other", &plain(families)).unwrap();
        world.reserve([reservation("r", 1, addr, "cart")]);
        assert_eq!(world.serve("other", &plain(families)), granted(&[addr]));
        let standing = world.ledger.standing(&world.pools, "r");
        assert_eq!(standing, Some(Standing::Used(ip(addr), &[key("other")])));
        assert_eq!(world.reason("cart", &plain(families)), "PoolsFull");
        world.delete("other");
        assert_eq!(world.ledger.standing(&world.pools, "r"), Some(Standing::Held(ip(addr))));
        assert_eq!(world.reason("other", &plain(families)), "PoolsFull");
        assert_eq!(world.ledger.usage(&"a".into(), families.list()[0]).reserved, 1);
        assert_eq!(world.serve("cart", &plain(families)), granted(&[addr]));
    }
}

#[test]
fn one_address_of_a_pool_is_chosen_once_and_kept() {
    // A66
    for (families, range, first, second) in
        [(V4, "192.0.2.0/31", "192.0.2.0", "192.0.2.1"), (V6, "2001:db8::/127", "2001:db8::", "2001:db8::1")]
    {
        let family = families.list()[0];
        let mut world = World::new([pool("a", 1, &[range])]);
        world.serve("early", &plain(families)).unwrap();
        world.reserve([any("r", 1, "a", family, labelled("shop"))]);
        assert_eq!(world.ledger.standing(&world.pools, "r"), Some(Standing::Held(ip(second))));
        assert_eq!(world.ledger.reservations()[0].address, Some(ip(second)));
        world.delete("early");
        // Given again as it was read, with or without its status, it keeps the address.
        world.reserve([any("r", 1, "a", family, labelled("shop"))]);
        assert_eq!(world.ledger.standing(&world.pools, "r"), Some(Standing::Held(ip(second))));
        let (ledger, _) = Ledger::rebuild(&world.pools, vec![]);
        world.ledger = ledger;
        let with_status =
            Reservation { address: Some(ip(second)), ..any("r", 1, "a", family, labelled("shop")) };
        world.reserve([with_status]);
        assert_eq!(world.ledger.standing(&world.pools, "r"), Some(Standing::Held(ip(second))));
        assert_eq!(world.serve("shop/plain", &plain(families)), granted(&[first]));
        assert_eq!(world.reason("shop/late", &plain(families)), "PoolsFull");
        world.label("shop/late", &[("app", "cart")]);
        assert_eq!(world.serve("shop/late", &plain(families)), granted(&[second]));
    }
}

#[test]
fn a_reservation_in_a_full_pool_gets_the_next_address_that_is_free() {
    for (families, range, addr) in [(V4, "192.0.2.0/32", "192.0.2.0"), (V6, "2001:db8::/128", "2001:db8::")] {
        let family = families.list()[0];
        let mut world = World::new([Pool { quarantine_s: 9, ..pool("a", 1, &[range]) }]);
        world.serve("s", &plain(families)).unwrap();
        world.reserve([
            any("r", 1, "a", family, labelled("shop")),
            any("s", 2, "b", family, labelled("shop")),
        ]);
        assert_eq!(world.ledger.standing(&world.pools, "r"), Some(Standing::PoolFull));
        assert_eq!(world.ledger.standing(&world.pools, "s"), Some(Standing::UnknownPool));
        world.delete("s");
        world.ledger.expire(&world.pools, 9_000);
        assert_eq!(world.ledger.standing(&world.pools, "r"), Some(Standing::Held(ip(addr))));
        assert_eq!(world.reason("s", &plain(families)), "PoolsFull");
        // Its pool moves away: it takes an address of the pool as it is then.
        let next = if families == V4 { "198.51.100.0" } else { "fd00::" };
        world.set_pools([pool("a", 1, &[&format!("{next}-{next}")])]);
        assert_eq!(world.ledger.standing(&world.pools, "r"), Some(Standing::Held(ip(next))));
        assert_eq!(world.ledger.standing(&world.pools, "none"), None);
    }
}

#[test]
fn of_two_reservations_of_one_address_the_older_one_has_it() {
    for (range, addr) in [("192.0.2.0/24", "192.0.2.7"), ("2001:db8::/64", "2001:db8::7")] {
        let mut world = World::new([pool("a", 1, &[range])]);
        let (old, young) = (reservation("z", 1, addr, "cart"), reservation("b", 2, addr, "shop"));
        for list in [[old.clone(), young.clone()], [young.clone(), old.clone()]] {
            world.reserve(list);
            assert_eq!(world.ledger.standing(&world.pools, "z"), Some(Standing::Held(ip(addr))));
            let standing = world.ledger.standing(&world.pools, "b");
            assert_eq!(standing, Some(Standing::ReservedBefore(ip(addr), &old)));
        }
        world.reserve([young.clone()]);
        assert_eq!(world.ledger.standing(&world.pools, "b"), Some(Standing::Held(ip(addr))));
        world.set_pools([]);
        assert_eq!(world.ledger.standing(&world.pools, "b"), Some(Standing::OutsidePools(ip(addr))));
    }
}

#[test]
fn a_reservation_opens_no_fence_but_is_not_stopped_by_the_quota() {
    // A10, A68
    for (families, range, held, first) in
        [(V4, "192.0.2.0/24", "192.0.2.9", "192.0.2.0"), (V6, "2001:db8::/64", "2001:db8::9", "2001:db8::")]
    {
        let audience = Audience { namespaces: ["x".into()].into(), ..Audience::default() };
        let mut world = World::new([Pool { audience, quota: Some(1), ..pool("a", 1, &[range]) }]);
        world.reserve([reservation("r", 1, held, "y/s"), reservation("q", 2, held, "x/t")]);
        assert_eq!(world.reason("y/s", &plain(families)), "NoMatchingPool");
        world.reserve([reservation("r", 1, held, "x/s")]);
        assert_eq!(world.serve("x/first", &plain(families)), granted(&[first]));
        assert_eq!(world.reason("x/second", &plain(families)), "QuotaExceeded");
        assert_eq!(world.serve("x/s", &plain(families)), granted(&[held]));
    }
}

#[test]
fn both_families_may_be_held_by_two_reservations() {
    let mut world = World::new([pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])]);
    world.reserve([reservation("r4", 1, "192.0.2.9", "s"), reservation("r6", 2, "2001:db8::9", "s")]);
    assert_eq!(world.serve("s", &plain(REQUIRE)), granted(&["192.0.2.9", "2001:db8::9"]));
    assert_eq!(world.serve("t", &plain(REQUIRE)), granted(&["192.0.2.0", "2001:db8::"]));
}

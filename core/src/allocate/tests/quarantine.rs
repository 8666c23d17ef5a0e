//! Addresses that rest after they were freed.

use super::*;

const START: i64 = 1_767_225_600_000;

fn resting(range: &str, seconds: u32) -> World {
    let mut world = World::new([Pool { quarantine_s: seconds, ..pool("a", 1, &[range]) }]);
    world.now = START;
    world
}

#[test]
fn a_freed_address_is_not_given_before_its_time() {
    // A67
    for (families, range, addr) in [(V4, "192.0.2.0/32", "192.0.2.0"), (V6, "2001:db8::/128", "2001:db8::")] {
        let family = families.list()[0];
        let mut world = resting(range, 30);
        world.serve("first", &plain(families)).unwrap();
        world.delete("first");
        let denied = world.decide("second", &plain(families)).unwrap_err();
        assert_eq!(
            denied.to_string(),
            format!(
                "pool a is full: 0 of 1 {family} addresses in use, 1 in quarantine; add addresses or delete a Service"
            )
        );
        let asks = asking(families, &[addr], None);
        let denied = world.decide("second", &asks).unwrap_err();
        assert_eq!(denied, Denied::AddressQuarantined { addr: ip(addr), until: START + 30_000 });
        assert!(denied.to_string().contains("rests until 2026-01-01T00:00:30Z"), "{denied}");
        assert!(denied.obstacles().contains(&Obstacle::Address(ip(addr))));
        assert_eq!(world.ledger.next_expiry(), Some(START + 30_000));
        assert_eq!(world.ledger.expire(&world.pools, START + 29_999), ips(&[]));
        assert!(world.decide("second", &plain(families)).is_err());
        assert_eq!(world.ledger.expire(&world.pools, START + 30_000), ips(&[addr]));
        assert_eq!(world.serve("second", &plain(families)), granted(&[addr]));
        assert_eq!(world.ledger.next_expiry(), None);
    }
}

#[test]
fn the_service_that_had_an_address_may_ask_for_it_again_at_once() {
    for (families, range, addr) in [(V4, "192.0.2.0/30", "192.0.2.0"), (V6, "2001:db8::/126", "2001:db8::")] {
        let mut world = resting(range, 30);
        world.serve("s", &plain(families)).unwrap();
        world.delete("s");
        let asks = asking(families, &[addr], None);
        assert_eq!(world.reason("other", &asks), "AddressQuarantined");
        assert_eq!(world.serve("s", &asks), granted(&[addr]));
        assert_eq!(world.ledger.next_expiry(), None, "in use it does not rest");
    }
}

#[test]
fn a_shared_address_rests_when_the_last_one_has_left() {
    for (families, range) in [(V4, "192.0.2.0/30"), (V6, "2001:db8::/126")] {
        let mut world = resting(range, 30);
        let addr = world.given("a", &sharing(plain(families), "k", &[80]))[0];
        assert_eq!(world.given("b", &sharing(plain(families), "k", &[81])), [addr]);
        world.delete("a");
        assert_eq!(world.ledger.rests_until(addr), None);
        world.delete("b");
        assert_eq!(world.ledger.rests_until(addr), Some(START + 30_000));
    }
}

#[test]
fn a_rest_is_as_long_as_the_pool_says_by_now_and_outlives_a_restart() {
    for (families, range, addr) in [(V4, "192.0.2.0/30", "192.0.2.0"), (V6, "2001:db8::/126", "2001:db8::")] {
        let mut world = resting(range, 30);
        world.serve("s", &plain(families)).unwrap();
        world.delete("s");
        let of = |seconds| Pool { quarantine_s: seconds, ..pool("a", 1, &[range]) };
        world.set_pools([of(300)]);
        assert_eq!(world.ledger.rests_until(ip(addr)), Some(START + 300_000));
        let written: Vec<_> = world.ledger.resting().collect();
        let (mut again, _) = Ledger::rebuild(&world.pools, vec![]);
        for (addr, until) in written {
            again.rest(&world.pools, addr, until);
        }
        assert_eq!(again.resting().collect::<Vec<_>>(), world.ledger.resting().collect::<Vec<_>>());
        assert_eq!(again.usage(&"a".into(), families.list()[0]).quarantined, 1);
        world.ledger = again;
        assert_eq!(world.reason("s", &asking(families, &[addr], None)), "AddressQuarantined");
        world.set_pools([of(0)]);
        assert_eq!(world.ledger.expire(&world.pools, START), ips(&[addr]));
        assert_eq!(world.decide("t", &plain(families)), granted(&[addr]));
    }
}

#[test]
fn what_is_in_use_or_in_no_pool_does_not_rest() {
    let mut world = resting("192.0.2.0/30", 30);
    world.serve("s", &plain(V4)).unwrap();
    for addr in ["192.0.2.0", "203.0.113.1", "2001:db8::1"] {
        world.ledger.rest(&world.pools, ip(addr), START + 5);
    }
    assert_eq!(world.ledger.next_expiry(), None);
}

//! Services that ask for an address or a pool.

use super::*;

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
        let holder = key(&other);
        let denied = Denied::AddressInUse { addr: ip(taken), holder };
        assert_eq!(refused.lacking, [Lacking::Requested(denied)]);
        assert_eq!(refused.reason(), "RequestedAddressUnavailable");
        assert!(refused.lacking[0].to_string().contains(&other), "names the obstacle");
        assert_eq!(world.serve(&name, &asking(families, &[free], None)), granted(&[free]));
        assert_eq!(world.serve(&name, &asking(families, &[], Some("b"))), granted(&[from_b]));
    }
}

#[test]
fn a_senseless_request_takes_nothing_away() {
    let error = RequestError::NotAnAddress { field: "spec.loadBalancerIP", text: "x".into() };
    for (families, range) in [(V4, "192.0.2.0/24"), (V6, "2001:db8::/64")] {
        let mut world = World::new([pool("a", 1, &[range])]);
        let bad = Demand { request: Err(error.clone()), ..plain(families) };
        assert_eq!(world.decide("s", &bad), Err(Denied::InvalidRequest(error.clone())));
        let before = world.serve("s", &plain(families)).unwrap();
        let after = world.decide("s", &bad).unwrap();
        assert_eq!(after.addresses, before.addresses);
        assert_eq!(after.lacking, [Lacking::Requested(Denied::InvalidRequest(error.clone()))]);
    }
}

#[test]
fn the_very_address_asked_for_is_given() {
    // A17, A18
    let mut world = World::new([pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])]);
    for (families, addresses) in
        [(V4, &["192.0.2.77"][..]), (V6, &["2001:db8::77"]), (REQUIRE, &["192.0.2.78", "2001:db8::78"])]
    {
        let name = format!("s{families:?}");
        assert_eq!(world.serve(&name, &asking(families, addresses, None)), granted(addresses));
        assert_eq!(world.serve(&name, &plain(families)), granted(addresses), "it stays without the request");
    }
}

#[test]
fn a_pool_is_served_from_when_it_is_named_whether_it_assigns_by_itself_or_not() {
    // A16, A25
    for auto_assign in [true, false] {
        let named = Pool { auto_assign, ..pool("z", 1, &["192.0.2.0/24", "2001:db8::/64"]) };
        let world = World::new([pool("a", 2, &["198.51.100.0/24", "2001:db8:1::/64"]), named]);
        for (families, first) in [(V4, "192.0.2.0"), (V6, "2001:db8::")] {
            assert_eq!(world.decide("s", &asking(families, &[], Some("z"))), granted(&[first]));
            let unknown = Denied::UnknownPool { pool: "y".into() };
            assert_eq!(world.decide("s", &asking(families, &[], Some("y"))), Err(unknown));
        }
    }
}

#[test]
fn an_address_in_a_status_may_be_kept_where_it_could_have_been_asked_for() {
    // A76: fence, reservation, quota and quarantine are those of a request.
    for (families, range, free, reserved, foreign) in [
        (V4, "192.0.2.0/24", "192.0.2.7", "192.0.2.8", "203.0.113.9"),
        (V6, "2001:db8::/64", "2001:db8::7", "2001:db8::8", "fd00::9"),
    ] {
        let audience = Audience { namespaces: ["test".into()].into(), ..Audience::default() };
        let a = Pool { audience, quota: Some(2), quarantine_s: 30, ..pool("a", 1, &[range]) };
        let mut world = World::new([a]);
        world.reserve([reservation("r", 1, reserved, "test/cart")]);
        let demand = plain(families);
        let first = world.given("holder", &demand)[0];
        world.serve("brief", &demand).unwrap();
        let rests = world.ledger.held(&key("brief"))[0];
        world.delete("brief");
        let refused = |name: &str, addr: &str| world.may_have(name, &demand, addr).unwrap_err().reason();
        assert_eq!(world.may_have("s", &demand, free), Ok(()));
        assert_eq!(world.may_have("cart", &demand, reserved), Ok(()));
        assert_eq!(refused("s", reserved), "AddressReserved");
        assert_eq!(refused("other/s", free), "PoolNotAllowed");
        assert_eq!(refused("s", foreign), "AddressOutsidePools");
        assert_eq!(refused("s", &first.to_string()), "AddressInUse");
        assert_eq!(refused("s", &rests.to_string()), "AddressQuarantined");
        let other_family = if families == V4 { "2001:db8::7" } else { "192.0.2.7" };
        assert_eq!(refused("s", other_family), "AddressOutsidePools");
        world.given("second", &demand);
        assert_eq!(world.may_have("s", &demand, free).unwrap_err().reason(), "QuotaExceeded");
    }
}

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

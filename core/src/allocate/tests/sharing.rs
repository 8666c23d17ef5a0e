//! Several Services on one address.

use super::*;
use crate::pool::SharingScope;

/// Per family: a range of two addresses, and the lower one of them.
const CASES: [(Families, &str, &str, &str); 2] =
    [(V4, "192.0.2.0/31", "192.0.2.0", "192.0.2.1"), (V6, "2001:db8::/127", "2001:db8::", "2001:db8::1")];

fn udp(families: Families, key: &str, port: u16) -> Demand {
    let ports = [(Protocol::Udp, port)].into_iter().collect();
    Demand { ports, ..sharing(plain(families), key, &[]) }
}

#[test]
fn services_with_one_key_and_different_ports_have_one_address() {
    // A4, A42
    for (families, range, first, _) in CASES {
        let mut world = World::new([pool("a", 1, &[range])]);
        for (name, demand) in [
            ("a", sharing(plain(families), "k", &[80, 443])),
            ("b", sharing(plain(families), "k", &[81])),
            ("c", udp(families, "k", 80)),
        ] {
            assert_eq!(world.serve(name, &demand), granted(&[first]), "{name}");
        }
        assert_eq!(world.ledger.holders(ip(first)), ["a", "b", "c"].map(key));
        assert_eq!(world.ledger.usage(&"a".into(), families.list()[0]).assigned, 1);
        world.delete("a");
        assert_eq!(world.ledger.holders(ip(first)), ["b", "c"].map(key));
        assert_eq!(world.serve("d", &sharing(plain(families), "k", &[80])), granted(&[first]));
    }
}

#[test]
fn both_addresses_are_shared_by_services_of_two_families() {
    // A4
    let mut world = World::new([pool("a", 1, &["192.0.2.0/24", "2001:db8::/64"])]);
    world.serve("filler", &plain(REQUIRE)).unwrap();
    let both = ["192.0.2.1", "2001:db8::1"];
    assert_eq!(world.serve("a", &sharing(plain(REQUIRE), "k", &[80])), granted(&both));
    assert_eq!(world.serve("b", &sharing(plain(REQUIRE), "k", &[81])), granted(&both));
    assert_eq!(world.serve("c", &sharing(plain(V6), "k", &[82])), granted(&both[1..]));
}

#[test]
fn a_port_that_is_taken_and_another_key_are_refused_to_those_who_ask_for_the_address() {
    // A42, A43
    for (families, range, first, second) in CASES {
        let mut world = World::new([pool("a", 1, &[range])]);
        world.serve("a", &sharing(plain(families), "k", &[80, 443])).unwrap();
        let asks = || asking(families, &[first], None);
        let port = world.decide("b", &sharing(asks(), "k", &[443, 444])).unwrap_err();
        assert_eq!(
            port.to_string(),
            format!("{first} has TCP port 443 of Service test/a already: change the port or the sharing key")
        );
        assert_eq!(port.reason(), "SharingPortConflict");
        assert_eq!(port.obstacles()[0], Obstacle::Address(ip(first)));
        for (demand, reason) in [
            (sharing(asks(), "other", &[81]), "SharingKeyDiffers"),
            (sharing(asks(), "", &[81]), "AddressInUse"),
            (sharing(asks(), "k", &[81]), "Allocated"),
        ] {
            assert_eq!(world.reason("b", &demand), reason, "{demand:?}");
        }
        // Who does not ask for it gets one of its own.
        for demand in [sharing(plain(families), "other", &[81]), sharing(plain(families), "k", &[80])] {
            assert_eq!(world.decide("b", &demand), granted(&[second]));
        }
        // Where there is no other, the port is what is in the way.
        world.serve("filler", &plain(families)).unwrap();
        assert_eq!(world.reason("b", &sharing(plain(families), "k", &[80])), "SharingPortConflict");
        assert_eq!(world.reason("b", &sharing(plain(families), "other", &[80])), "PoolsFull");
        // Nobody joins one who does not share.
        let sole = if world.ledger.holders(ip(second)).is_empty() { first } else { second };
        assert_eq!(world.reason("b", &sharing(asking(families, &[sole], None), "k", &[81])), "AddressInUse");
    }
}

#[test]
fn a_key_counts_in_its_namespace_unless_the_pool_allows_more() {
    // A65
    for (families, range, first, second) in CASES {
        let of = |scope| Pool { sharing: scope, ..pool("a", 1, &[range]) };
        let mut world = World::new([of(SharingScope::Namespace)]);
        world.serve("x/a", &sharing(plain(families), "k", &[80])).unwrap();
        let asks = sharing(asking(families, &[first], None), "k", &[81]);
        let denied = world.decide("y/a", &asks).unwrap_err();
        assert_eq!(denied, Denied::SharingNotAllowed { addr: ip(first), holder: key("x/a") });
        assert!(denied.to_string().contains("Service x/a of another namespace"), "{denied}");
        assert_eq!(world.decide("y/a", &sharing(plain(families), "k", &[81])), granted(&[second]));
        world.set_pools([of(SharingScope::Cluster)]);
        assert_eq!(world.decide("y/a", &asks), granted(&[first]));
        assert_eq!(world.serve("y/a", &sharing(plain(families), "k", &[81])), granted(&[first]));
        // Taken back, it takes no address; and no restart does.
        world.set_pools([of(SharingScope::Namespace)]);
        restart(&mut world, &[("y/a", 1), ("x/a", 2)], &asks);
        assert_eq!(world.serve("y/a", &asks), granted(&[first]));
        assert_eq!(world.serve("x/a", &sharing(plain(families), "k", &[80])), granted(&[first]));
    }
}

/// The ledger is built anew from what the Services have, each on the terms it has now but for its port.
fn restart(world: &mut World, services: &[(&str, i64)], demand: &Demand) {
    let mut claims = Vec::new();
    for (port, (name, created)) in services.iter().enumerate() {
        let port = u16::try_from(port).unwrap() + 1000;
        let terms =
            Terms::from(&Demand { ports: [(Protocol::Tcp, port)].into_iter().collect(), ..demand.clone() });
        let claim = |addr: &IpAddr| Claim {
            key: key(name),
            created: *created,
            addr: *addr,
            terms: terms.clone(),
            contested: false,
        };
        claims.extend(world.ledger.held(&key(name)).iter().map(claim));
    }
    let (ledger, lost) = Ledger::rebuild(&world.pools, claims);
    assert_eq!(lost, []);
    world.ledger = ledger;
}

#[test]
fn a_sole_owner_changes_key_and_ports_in_place() {
    // A44
    for (families, range, first, _) in CASES {
        let mut world = World::new([pool("a", 1, &[range])]);
        for (key, ports) in [("one", &[80][..]), ("two", &[80, 81]), ("", &[443]), ("three", &[80])] {
            assert_eq!(world.serve("a", &sharing(plain(families), key, ports)), granted(&[first]));
        }
        assert_eq!(world.serve("b", &sharing(plain(families), "three", &[81])), granted(&[first]));
        let asks = sharing(asking(families, &[first], None), "one", &[82]);
        assert_eq!(world.reason("c", &asks), "SharingKeyDiffers", "the old key is forgotten");
    }
}

#[test]
fn one_of_several_that_takes_a_port_of_another_keeps_its_address_and_is_told() {
    for (families, range, first, second) in CASES {
        let mut world = World::new([pool("a", 1, &[range])]);
        let (a, b) = (sharing(plain(families), "k", &[80]), sharing(plain(families), "k", &[81]));
        world.serve("a", &a).unwrap();
        world.serve("b", &b).unwrap();
        let clashing = sharing(plain(families), "k", &[80, 81]);
        for _ in 0..2 {
            let grant = world.serve("b", &clashing).unwrap();
            assert_eq!((grant.reason(), grant.addresses), ("SharingConflict", ips(&[first])));
            let told = grant.lacking[0].to_string();
            assert!(told.contains("TCP port 80 of Service test/a"), "{told}");
            assert!(grant.lacking[0].obstacles().contains(&Obstacle::Address(ip(first))));
        }
        assert_eq!(world.serve("a", &a), granted(&[first]), "the other one is not blamed");
        assert_eq!(world.serve("b", &b), granted(&[first]), "set right, it is in order");
        // Or the other one goes.
        world.serve("b", &clashing).unwrap();
        world.delete("a");
        assert_eq!(world.serve("b", &clashing), granted(&[first]));
        assert_eq!(world.decide("c", &sharing(plain(families), "k", &[80])), granted(&[second]));
    }
}

#[test]
fn one_of_several_that_changes_its_key_stays_and_moves_only_when_it_asks_for_another_address() {
    for (families, range, first, second) in CASES {
        for new_key in ["other", ""] {
            let mut world = World::new([pool("a", 1, &[range])]);
            let a = sharing(plain(families), "k", &[80]);
            world.serve("a", &a).unwrap();
            world.serve("b", &sharing(plain(families), "k", &[81])).unwrap();
            world.serve("filler", &plain(families)).unwrap();
            let changed = sharing(plain(families), new_key, &[81]);
            let grant = world.serve("b", &changed).unwrap();
            assert_eq!((grant.reason(), &grant.addresses), ("SharingConflict", &ips(&[first])));
            assert_eq!(world.serve("a", &a), granted(&[first]), "the other one is not blamed");
            // On record as the one that changed, it stays so over a restart, though it is the older one.
            let claim = |name: &str, created, demand: &Demand, contested| Claim {
                key: key(name),
                created,
                addr: ip(first),
                terms: demand.into(),
                contested,
            };
            let claims = vec![claim("a", 9, &a, false), claim("b", 1, &changed, true)];
            let (again, lost) = Ledger::rebuild(&world.pools, claims);
            assert_eq!((again.holders(ip(first)), &lost[..]), (&["a", "b"].map(key)[..], &[][..]));
            assert_eq!(again.conflict(&key("a"), &(&a).into(), ip(first)), None);
            assert!(again.conflict(&key("b"), &(&changed).into(), ip(first)).is_some());
            world.delete("filler");
            let grant = world.serve("b", &changed).unwrap();
            assert_eq!((grant.reason(), &grant.addresses), ("SharingConflict", &ips(&[first])));
            let asks = sharing(asking(families, &[second], None), new_key, &[81]);
            assert_eq!(world.serve("b", &asks), granted(&[second]));
            assert_eq!(world.serve("a", &a), granted(&[first]));
        }
    }
}

#[test]
fn one_that_asks_for_the_address_stays_there_with_another_key() {
    for (families, range, first, _) in CASES {
        let mut world = World::new([pool("a", 1, &[range])]);
        let asks = |key: &str| sharing(asking(families, &[first], None), key, &[81]);
        world.serve("a", &sharing(plain(families), "k", &[80])).unwrap();
        world.serve("b", &asks("k")).unwrap();
        let grant = world.serve("b", &asks("other")).unwrap();
        assert_eq!((grant.reason(), grant.addresses), ("SharingConflict", ips(&[first])));
        // Somebody with its new key cannot join: the key of the address is that of the others.
        assert_eq!(
            world.reason("c", &sharing(asking(families, &[first], None), "other", &[82])),
            "SharingKeyDiffers"
        );
        assert_eq!(world.reason("c", &sharing(asking(families, &[first], None), "k", &[82])), "Allocated");
        // Alone, it is the one whose key counts.
        world.delete("a");
        let asks = |key: &str| sharing(asking(families, &[first], None), key, &[82]);
        assert_eq!(world.reason("c", &asks("k")), "SharingKeyDiffers");
        assert_eq!(world.reason("c", &asks("other")), "Allocated");
    }
}

#[test]
fn two_that_share_are_both_kept_by_a_restart_also_if_they_clash_by_now() {
    for (families, range, first, _) in CASES {
        let world = World::new([pool("a", 1, &[range])]);
        let claim = |name: &str, created, key_: &str, ports: &[u16]| Claim {
            key: key(name),
            created,
            addr: ip(first),
            terms: Terms::from(&sharing(plain(families), key_, ports)),
            contested: false,
        };
        for young in [
            claim("young", 2, "k", &[81]),
            claim("young", 2, "k", &[80]),
            claim("young", 2, "other", &[81]),
            claim("young", 2, "", &[81]),
        ] {
            let (ledger, lost) =
                Ledger::rebuild(&world.pools, vec![young.clone(), claim("z-old", 1, "k", &[80])]);
            assert!(ledger.holders(ip(first)).contains(&key("young")), "{young:?}");
            assert_eq!(lost, []);
            assert!(ledger.holders(ip(first)).contains(&key("z-old")));
            assert_eq!(
                ledger.conflict(
                    &key("z-old"),
                    &Terms::from(&sharing(plain(families), "k", &[80])),
                    ip(first)
                ),
                None
            );
        }
        // The one without a key is the one that has changed, also when it is the older one.
        let (ledger, lost) =
            Ledger::rebuild(&world.pools, vec![claim("young", 2, "k", &[81]), claim("old", 1, "", &[80])]);
        assert_eq!((ledger.holders(ip(first)).len(), lost.len()), (2, 0));
        let terms = |name: &str| Terms::from(&sharing(plain(families), name, &[81]));
        assert_eq!(ledger.conflict(&key("young"), &terms("k"), ip(first)), None);
        // Neither shares: one of them has it by mistake.
        let (_, lost) =
            Ledger::rebuild(&world.pools, vec![claim("young", 2, "", &[81]), claim("old", 1, "", &[80])]);
        assert_eq!(lost.iter().map(|lost| &lost.key).collect::<Vec<_>>(), [&key("young")]);
    }
}

#[test]
fn a_reserved_or_fenced_address_is_not_joined_by_a_stranger() {
    for (families, range, first, second) in CASES {
        let mut world = World::new([pool("a", 1, &[range])]);
        world.reserve([reservation("r", 1, first, "cart")]);
        assert_eq!(world.serve("cart", &sharing(plain(families), "k", &[80])), granted(&[first]));
        assert_eq!(world.decide("b", &sharing(plain(families), "k", &[81])), granted(&[second]));
        let asks = sharing(asking(families, &[first], None), "k", &[81]);
        assert_eq!(world.reason("b", &asks), "AddressReserved");
        let audience = Audience { services: vec![select("app", "cart")], ..Audience::default() };
        world.reserve([]);
        world.set_pools([Pool { audience, ..pool("a", 1, &[range]) }]);
        assert_eq!(world.reason("b", &asks), "PoolNotAllowed");
        assert_eq!(world.reason("b", &sharing(plain(families), "k", &[81])), "NoMatchingPool");
    }
}

//! Several Services on one address, Services that change, and other people's address translation.

use std::collections::BTreeSet;

use landfall_core::service::ExternalPolicy;

use crate::rig::{FAMILIES, Web, client_addr, data_path, names, vip};
use crate::world::{Met, World};

#[test]
fn services_that_share_an_address_have_their_own_pods_and_ranges() {
    // S74, S76
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).only(&["192.0.2.200/32", "2001:db8:50::200/128"]).apply(&mut path);
    Web::new(100, &["p2"])
        .named("other")
        .port(81)
        .only(&["192.0.2.201/32", "2001:db8:50::201/128"])
        .apply(&mut path);
    for family in FAMILIES {
        let (first, mut second) = (vip(family, 100), vip(family, 100));
        second.set_port(81);
        assert_eq!(world.tcp("client", first).pod(), "p1", "{family}");
        assert_eq!(world.tcp("client2", second).pod(), "p2", "{family}");
        assert_eq!(world.tcp("client2", first), Met::Silence, "{family}");
        assert_eq!(world.tcp("client", second), Met::Silence, "{family}");
    }
    // One that goes takes nothing of the other along.
    path.remove_service(&Web::new(100, &[]).named("other").service.key);
    path.commit().unwrap();
    for family in FAMILIES {
        let mut second = vip(family, 100);
        assert_eq!(world.tcp("client", second).pod(), "p1", "{family}");
        second.set_port(81);
        assert_eq!(world.tcp("client2", second), Met::Refused, "{family}: undefined now");
    }
}

#[test]
fn a_port_that_changes_moves_and_the_address_stays() {
    // S88
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).apply(&mut path);
    Web::new(100, &["p1"]).port(8080).apply(&mut path);
    for family in FAMILIES {
        let mut to = vip(family, 100);
        assert_eq!(world.tcp("client", to), Met::Refused, "{family}");
        to.set_port(8080);
        assert_eq!(world.tcp("client", to).pod(), "p1", "{family}");
        assert!(world.ping("client", to.ip()), "{family}");
    }
}

#[test]
fn every_address_of_a_service_works_without_node_ports_and_again_when_it_is_made_anew() {
    // S78, S82, S91
    let world = World::new();
    let mut path = data_path(&world);
    let web = || {
        let mut web = Web::new(100, &["p1"]).only(&["192.0.2.200/32", "2001:db8:50::200/128"]);
        web.service.vips.extend(FAMILIES.map(|family| vip(family, 101).ip()));
        assert!(web.service.ports.iter().all(|port| port.node_port.is_none()));
        web
    };
    for _ in 0..2 {
        web().apply(&mut path);
        for family in FAMILIES {
            for last in [100, 101] {
                for udp in [false, true] {
                    assert_eq!(
                        world.many("client", udp, vip(family, last), 1)[0].pod(),
                        "p1",
                        "{family} {last}"
                    );
                    assert_eq!(
                        world.many("client2", udp, vip(family, last), 1),
                        [Met::Silence],
                        "{family} {last}"
                    );
                }
            }
        }
        path.remove_service(&web().service.key);
        path.commit().unwrap();
        for family in FAMILIES {
            for last in [100, 101] {
                let met = world.tcp("client", vip(family, last));
                assert!(!matches!(met, Met::Pod(..)), "{family} {last} {met:?}");
            }
        }
    }
}

#[test]
fn a_policy_that_changes_holds_for_new_flows_at_once() {
    // S52
    let world = World::new();
    let mut path = data_path(&world);
    for family in FAMILIES {
        let to = vip(family, 100);
        for policy in [ExternalPolicy::Cluster, ExternalPolicy::Local, ExternalPolicy::Cluster] {
            let mut web = Web::new(100, &["p1", "p3"]);
            web.service.external_policy = policy;
            web.apply(&mut path);
            let met = world.many("client", false, to, 20);
            let seen = met.iter().all(|one| one.seen() == client_addr(family));
            let (pods, kept) = match policy {
                ExternalPolicy::Cluster => (BTreeSet::from(["p1", "p3"]), false),
                ExternalPolicy::Local => (BTreeSet::from(["p1"]), true),
            };
            assert_eq!((names(&met), seen), (pods, kept), "{family} {policy:?}");
        }
    }
}

#[test]
fn a_masquerade_of_somebody_else_does_not_take_the_clients_address() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).local().apply(&mut path);
    let foreign = "table inet cni {
        chain post { type nat hook postrouting priority 100; policy accept; masquerade; }
    }
    ";
    world.run_with("node", "nft", &["-f", "-"], foreign);
    for family in FAMILIES {
        for udp in [false, true] {
            for met in world.many("client", udp, vip(family, 100), 4) {
                assert_eq!((met.pod(), met.seen()), ("p1", client_addr(family)), "{family} udp={udp}");
            }
        }
    }
}

#[test]
fn five_thousand_endpoints_are_one_service() {
    // One of them lives; the others are addresses where nobody answers, on the node's own pod network.
    let world = World::new();
    let mut path = data_path(&world);
    let web = Web::new(100, &["p1"]);
    web.apply_with(&mut path, 5_000);
    let table = world.run("node", "nft", &["list", "map", "inet", "landfall", "ep4"]);
    assert!(
        table.contains("10.244.1.11 . 8080") && table.matches("10.245.").count() >= 4_999,
        "all are in the kernel"
    );
    for family in FAMILIES {
        assert!(
            world.run("node", "nft", &["list", "chain", "inet", "landfall", "n5000"]).contains("mod 5000"),
            "{family}"
        );
    }
    web.apply(&mut path);
    for family in FAMILIES {
        assert_eq!(world.tcp("client", vip(family, 100)).pod(), "p1", "{family}: back to one");
    }
}

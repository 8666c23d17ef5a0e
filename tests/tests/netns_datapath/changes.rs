//! What changes do to flows, and what others do to the table.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use landfall_core::addr::Family;
use landfall_speaker::datapath::DataPath;
use landfall_speaker::nft;

use crate::rig::{FAMILIES, SEED, SetWhenDropped, Web, both, data_path, names, vip};
use crate::world::{Met, Stream, World, met_udp};

#[test]
fn a_removed_endpoint_gets_nothing_new_and_the_rest_get_it_all() {
    let world = World::new();
    let mut path = data_path(&world);
    let web = Web::new(100, &["p1", "p2", "p3"]);
    web.apply(&mut path);
    let web = web.pods(&["p1", "p3"]);
    web.apply(&mut path);
    for family in FAMILIES {
        for udp in [false, true] {
            let met = world.many("client", udp, vip(family, 100), 30);
            assert_eq!(names(&met), BTreeSet::from(["p1", "p3"]), "{family} udp={udp}");
        }
    }
    path.remove_service(&web.service.key);
    path.commit().unwrap();
    assert!(path.is_empty());
    for family in FAMILIES {
        // Not ours any more: the address is forwarded like any other, and nobody has it.
        for met in both(&world, "client", vip(family, 100)) {
            assert!(!matches!(met, Met::Pod(..)), "{family} {met:?}");
        }
    }
}

#[test]
fn a_udp_flow_moves_on_when_its_endpoint_goes() {
    let world = World::new();
    // The kernel sends a host one ICMP message a second; its redirects to the third pod must not use that up.
    world.run("node", "sysctl", &["-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]);
    let mut path = data_path(&world);
    for family in FAMILIES {
        let web = Web::new(100, &["p1"]);
        web.apply(&mut path);
        let to = vip(family, 100);
        world.inside("client", || {
            let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
            let socket = std::net::UdpSocket::bind((any, 0)).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(met_udp(&socket, to).pod(), "p1");
            // The same port goes on sending, as a resolver or a logger does (S130), to another pod here or elsewhere (X9).
            for pod in ["p2", "p3"] {
                Web::new(100, &[pod]).apply(&mut path);
                assert_eq!(met_udp(&socket, to).pod(), pod, "{family}");
            }
            // S126; S127: what was sent meanwhile holds nothing up.
            Web::new(100, &[]).apply(&mut path);
            for _ in 0..2 {
                assert_eq!(met_udp(&socket, to), Met::Refused, "{family}");
            }
            Web::new(100, &["p1"]).apply(&mut path);
            assert_eq!(met_udp(&socket, to).pod(), "p1", "{family}");
        });
    }
}

#[test]
fn flows_to_an_endpoint_on_a_dead_node_are_cut_and_those_to_one_that_only_goes_are_not() {
    // S124: TCP to an endpoint that goes is left to its end; unless nobody is there to end it.
    let world = World::new();
    let mut path = data_path(&world);
    for family in FAMILIES {
        let to = vip(family, 100);
        Web::new(100, &["p3"]).apply(&mut path);
        let mut there = world.stream("client", to);
        Web::new(100, &["p1"]).apply(&mut path);
        let mut here = world.stream("client", to);
        assert!(there.echo() && here.echo(), "{family}");
        Web::new(100, &["p1", "p3"]).without("node2").apply(&mut path);
        assert!(there.is_reset(), "{family}: its client can connect anew at once");
        assert!(here.echo(), "{family}");
        for met in world.many("client", false, to, 12) {
            assert_eq!(met.pod(), "p1", "{family}");
        }
        // UDP goes on to another one, whether the slices have noticed or not.
        Web::new(101, &["p3"]).apply(&mut path);
        let to = vip(family, 101);
        world.inside("client", || {
            let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
            let socket = std::net::UdpSocket::bind((any, 0)).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(met_udp(&socket, to).pod(), "p3");
            Web::new(101, &["p2", "p3"]).without("node2").apply(&mut path);
            assert_eq!(met_udp(&socket, to).pod(), "p2", "{family}");
        });
    }
}

#[test]
fn a_flow_survives_other_changes_and_a_restart_and_nothing_goes_with_the_process() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1", "p2"]).apply(&mut path);
    let mut flows = FAMILIES.map(|family| world.stream("client", vip(family, 100)));
    for round in 0..20 {
        Web::new(101, if round % 2 == 0 { &["p1"] } else { &["p2", "p3"] }).apply(&mut path);
    }
    assert!(flows.iter_mut().all(Stream::echo), "after changes elsewhere");
    drop(path);
    for family in FAMILIES {
        assert_eq!(world.tcp("client", vip(family, 100)).pod().len(), 2, "without the process");
    }
    let mut next = data_path(&world);
    Web::new(100, &["p1", "p2"]).apply(&mut next);
    assert!(flows.iter_mut().all(Stream::echo), "after the next process replaced the table");
    for family in FAMILIES {
        let met = world.tcp("client", vip(family, 101));
        assert!(!matches!(met, Met::Pod(..)), "{family}: what is no longer wanted is gone");
    }
}

#[test]
fn a_restart_refuses_and_loses_no_connection() {
    // S137
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1", "p2"]).apply(&mut path);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for family in FAMILIES {
            let (world, over) = (&world, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // A packet that is under way in the old table at that instant is dropped: TCP tries again.
                    let met = world.patient("client", vip(family, 100), 20);
                    assert!(met.iter().all(|one| matches!(one, Met::Pod(..))), "{family}: {met:?}");
                }
            });
        }
        let _over = SetWhenDropped(&over);
        for _ in 0..20 {
            drop(path);
            path = data_path(&world);
            Web::new(100, &["p1", "p2"]).apply(&mut path);
        }
    });
}

#[test]
fn somebody_elses_flush_is_noticed_and_repaired() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).apply(&mut path);
    assert!(path.verify().unwrap());
    // Another table is nobody's business, and an owned one cannot be flushed at all.
    world.run("node", "nft", &["add", "table", "inet", "other"]);
    assert!(path.verify().unwrap());
    world.run("node", "nft", &["flush", "ruleset"]);
    if !path.verify().unwrap() {
        let committed = path.commit().unwrap();
        assert!(committed.full);
    }
    assert!(path.verify().unwrap());
    assert_eq!(world.tcp("client", vip(Family::V4, 100)).pod(), "p1");
}

#[test]
fn without_ownership_a_flush_is_noticed_and_with_it_the_table_is_taken_over() {
    let world = World::new();
    let kernel = world.inside("node", || nft::Kernel::open_without_ownership().expect("NETLINK_NETFILTER"));
    let mut path = DataPath::new(kernel, SEED);
    Web::new(100, &["p1"]).apply(&mut path);
    world.run("node", "nft", &["add", "table", "inet", "other"]);
    assert!(path.verify().unwrap(), "another table is nobody's business");
    world.run("node", "nft", &["flush", "ruleset"]);
    assert!(!path.verify().unwrap());
    assert!(path.commit().unwrap().full);
    assert_eq!(world.tcp("client", vip(Family::V4, 100)).pod(), "p1");
    // The next version of the speaker on a newer kernel: it replaces the table by one of its own.
    let mut next = data_path(&world);
    Web::new(100, &["p2"]).apply(&mut next);
    assert_eq!(world.tcp("client", vip(Family::V4, 100)).pod(), "p2");
    // And the old process, should it still be there, can do no harm.
    Web::new(100, &["p1"]).pods(&["p3"]).stage(&mut path);
    assert!(path.commit().is_err());
    assert_eq!(world.tcp("client", vip(Family::V4, 100)).pod(), "p2");
}

//! Source ranges, also while they change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use landfall_core::addr::Family;
use landfall_speaker::datapath::DataPath;
use landfall_speaker::nft;

use crate::rig::{FAMILIES, SEED, SetWhenDropped, Web, both, data_path, node_addr, vip};
use crate::world::{Met, World};

#[test]
fn source_ranges_admit_who_is_in_them() {
    // S55, S56
    let world = World::new();
    let mut path = data_path(&world);
    let inside = ["192.0.2.200/32", "2001:db8:50::200/128"];
    Web::new(100, &["p1"]).only(&inside).apply(&mut path);
    // A family without a range is closed (S65), and so is everything when nothing was readable (S66).
    Web::new(101, &["p1"]).only(&["192.0.2.0/24"]).apply(&mut path);
    Web::new(102, &["p1"]).only(&[]).apply(&mut path);
    // Overlapping and duplicate ranges (S68), and a whole family (S64).
    Web::new(103, &["p1"])
        .only(&["192.0.2.0/24", "192.0.2.200/32", "::/0", "2001:db8::/32"])
        .apply(&mut path);
    // S71: outside and no endpoint: dropped; inside: refused.
    Web::new(104, &[]).only(&inside).apply(&mut path);
    for family in FAMILIES {
        let v4 = family == Family::V4;
        for (last, client, client2) in
            [(100, true, false), (101, v4, v4), (102, false, false), (103, true, true)]
        {
            for (host, admitted) in [("client", client), ("client2", client2)] {
                for met in both(&world, host, vip(family, last)) {
                    if admitted {
                        assert_eq!(met.pod(), "p1", "{host} {family} {last}");
                    } else {
                        assert_eq!(met, Met::Silence, "{host} {family} {last}");
                    }
                }
            }
        }
        assert_eq!(both(&world, "client", vip(family, 104)), [Met::Refused, Met::Refused], "{family}");
        assert_eq!(both(&world, "client2", vip(family, 104)), [Met::Silence, Met::Silence], "{family}");
        // S58, S61: neither pods nor the node are exempt.
        for host in ["p2", "node"] {
            assert_eq!(world.tcp(host, vip(family, 100)), Met::Silence, "{host} {family}");
        }
    }
}

#[test]
fn a_range_may_hold_pods_and_the_node_everybody_or_nobody() {
    // S59, S72
    let world = World::new();
    let mut path = data_path(&world);
    let inside = ["192.0.2.11/32", "10.244.1.12/32", "2001:db8:50::11/128", "fd00:244:1::12/128"];
    Web::new(100, &["p1"]).only(&inside).apply(&mut path);
    Web::new(101, &["p1"]).only(&["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]).apply(&mut path);
    Web::new(102, &["p1"]).only(&["255.0.0.0/32", "ff00::/128"]).apply(&mut path);
    for family in FAMILIES {
        for (host, admitted) in [("p2", true), ("node", true), ("p1", false), ("client", false)] {
            for met in both(&world, host, vip(family, 100)) {
                assert_eq!(matches!(met, Met::Pod(..)), admitted, "{host} {family} {met:?}");
            }
            for met in both(&world, host, vip(family, 101)) {
                assert_eq!(met.pod(), "p1", "{host} {family}");
            }
            // To a sender on the node itself a datagram that is dropped looks like one that is refused.
            let udp = if host == "node" { Met::Refused } else { Met::Silence };
            assert_eq!(both(&world, host, vip(family, 102)), [Met::Silence, udp], "{host} {family}");
        }
    }
}

#[test]
fn ranges_are_asked_where_the_client_is_seen_and_not_again_behind_it() {
    // S75: the second node has the endpoint and the same ranges, and sees the first node.
    let world = World::new();
    let mut path = data_path(&world);
    let kernel = world.inside("node2", || nft::Kernel::open().unwrap());
    let mut behind = DataPath::new(kernel, SEED);
    let only = ["192.0.2.200/32", "2001:db8:50::200/128"];
    Web::new(100, &["p3"]).only(&only).apply(&mut path);
    Web::new(100, &["p3"]).only(&only).on("node2").apply(&mut behind);
    for family in FAMILIES {
        for met in both(&world, "client", vip(family, 100)) {
            assert_eq!((met.pod(), met.seen()), ("p3", node_addr(family)), "{family}");
        }
        assert_eq!(both(&world, "client2", vip(family, 100)), [Met::Silence, Met::Silence], "{family}");
    }
}

#[test]
fn a_changed_range_cuts_the_flows_it_no_longer_admits_and_no_other() {
    // X8
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1", "p3"]).apply(&mut path);
    Web::new(101, &["p1"]).local().apply(&mut path);
    for family in FAMILIES {
        for last in [100, 101] {
            let to = vip(family, last);
            let mut admitted = world.stream("client", to);
            let mut shut_out = world.stream("client2", to);
            assert!(admitted.echo() && shut_out.echo());
            let only = ["192.0.2.200/32", "2001:db8:50::200/128"];
            let web = if last == 101 { Web::new(101, &["p1"]).local() } else { Web::new(100, &["p1", "p3"]) };
            web.only(&only).apply(&mut path);
            assert!(admitted.echo(), "{to}: goes on");
            assert!(shut_out.is_cut(), "{to}");
            let web = if last == 101 { Web::new(101, &["p1"]).local() } else { Web::new(100, &["p1", "p3"]) };
            web.apply(&mut path);
        }
    }
}

/// X8, S70: the hammer. Ranges and endpoints change a thousand times without a pause.
#[test]
fn changes_without_pause_never_shut_out_who_may_enter_nor_let_in_who_may_not() {
    const CHANGES: usize = 1_000;
    let world = World::new();
    let mut path = data_path(&world);
    world.forget_soon();
    let ranges: [&[&str]; 3] = [
        &["192.0.2.200/32", "2001:db8:50::200/128"],
        &["192.0.2.192/29", "192.0.2.200/32", "2001:db8:50::1f8/125", "2001:db8:50::200/128"],
        // The only one with .201, the stranger.
        &["192.0.2.200/30", "2001:db8:50::200/126", "10.0.0.0/8"],
    ];
    let pods: [&[&str]; 4] = [&["p1", "p2", "p3"], &["p2", "p3"], &["p3"], &["p1", "p3"]];
    // Flows of UDP end with their endpoint, so those of the datagrams stay.
    let apply = |path: &mut DataPath<nft::Kernel>, ranges: &[&str], pods: &[&'static str]| {
        Web::new(100, pods).only(ranges).stage(path);
        Web::new(101, &["p1", "p2"]).only(ranges).stage(path);
        // As the speaker does it: what is left over goes with the next change.
        path.commit_ready().expect("the kernel takes it");
        if let Some(commit) = path.unsettled() {
            nft::Kernel::grace();
            path.settled(commit);
        }
    };
    apply(&mut path, ranges[0], pods[0]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (host, udp, family) in [
            ("client", false, Family::V4),
            ("client", false, Family::V6),
            ("client", true, Family::V4),
            ("client", true, Family::V6),
            ("client2", false, Family::V4),
            ("client2", true, Family::V6),
        ] {
            let (world, over) = (&world, &over);
            scope.spawn(move || {
                let mut tried = 0;
                while !over.load(Ordering::Relaxed) {
                    let met = world.many(host, udp, vip(family, if udp { 101 } else { 100 }), 4);
                    tried += met.len();
                    let served = met.iter().filter(|met| matches!(met, Met::Pod(..))).count();
                    let wanted = if host == "client" { met.len() } else { 0 };
                    if served != wanted {
                        over.store(true, Ordering::Relaxed);
                    }
                    assert_eq!(served, wanted, "{host} {family} udp={udp}, attempt {tried}: {met:?}");
                }
                assert!(tried >= 4, "{tried}");
            });
        }
        let _over = SetWhenDropped(&over);
        for change in 1..=CHANGES {
            if over.load(Ordering::Relaxed) {
                break;
            }
            apply(&mut path, ranges[change % 2], pods[change / 2 % 4]);
        }
    });
    for (index, one) in ranges.iter().enumerate() {
        apply(&mut path, one, pods[0]);
        for family in FAMILIES {
            assert!(matches!(world.tcp("client", vip(family, 100)), Met::Pod(..)));
            let stranger = world.tcp("client2", vip(family, 100));
            assert_eq!(stranger == Met::Silence, index < 2, "{family} {stranger:?}");
        }
    }
}

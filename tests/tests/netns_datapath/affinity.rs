//! Clients that stick to an endpoint, and for how long.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use landfall_core::addr::Family;
use landfall_core::service::Affinity;
use landfall_speaker::datapath::DataPath;
use landfall_speaker::nft;

use crate::rig::{FAMILIES, NODE, Web, client_addr, data_path, data_paths, names, pod_addr, vip};
use crate::world::{World, met_udp};

const ALL: [&str; 3] = ["p1", "p2", "p3"];
/// Longer than any test takes.
const LONG: u32 = 10_800;
/// A record that lasts a second is gone by then, on however busy a machine.
const DEADLINE: Duration = Duration::from_secs(30);

impl Web {
    fn sticky(mut self, timeout_s: u32) -> Self {
        self.service.affinity = Affinity::ClientIp { timeout_s };
        self
    }
}

/// What some connections of a host meet, each from a port that no earlier datagram came from: one from a port that is
/// known goes on as it went before.
#[cfg(test)]
fn meet(world: &World, host: &str, udp: bool, to: SocketAddr, times: usize) -> BTreeSet<String> {
    /// The next port; every namespace has its own, so one counter serves all.
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let met = if udp {
        world.inside(host, || {
            let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
            let sockets = (0..times).map(|_| {
                let socket = UdpSocket::bind((any, NEXT.fetch_add(1, Ordering::Relaxed))).unwrap();
                socket.connect(to).unwrap();
                met_udp(&socket, to)
            });
            sockets.collect()
        })
    } else {
        world.many(host, false, to, times)
    };
    names(&met).into_iter().map(str::to_owned).collect()
}

/// The one endpoint that all of them meet.
#[cfg(test)]
#[track_caller]
fn only(world: &World, host: &str, udp: bool, to: SocketAddr) -> String {
    let met = meet(world, host, udp, to, 8);
    assert_eq!(met.len(), 1, "{host} {to} udp={udp} {met:?}");
    met.into_iter().next().unwrap_or_default()
}

/// Where the client goes among all endpoints when there is no record, and an endpoint that is another one.
fn choice(world: &World, path: &mut DataPath<nft::Kernel>, family: Family) -> (&'static str, &'static str) {
    let fresh = Web::new(109, &ALL).sticky(LONG);
    fresh.apply(path);
    let met = only(world, "client", false, vip(family, 109));
    path.remove_service(&fresh.service.key);
    path.commit().unwrap();
    let hashed = ALL.into_iter().find(|pod| *pod == met).unwrap();
    (hashed, ALL.into_iter().find(|pod| *pod != hashed).unwrap())
}

/// The lines of the records in the kernel.
fn records(world: &World, family: Family) -> String {
    let map = match family {
        Family::V4 => "aff4",
        Family::V6 => "aff6",
    };
    world.run("node", "nft", &["list", "map", "inet", "landfall", map])
}

/// Waits until the client's record in front of that address is gone.
fn until_gone(world: &World, to: SocketAddr) {
    let family = Family::of(to.ip());
    let (of, begun) = (format!("{} . ", to.ip()), Instant::now());
    while records(world, family).contains(&of) {
        assert!(begun.elapsed() < DEADLINE, "{}", records(world, family));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_client_meets_the_same_endpoint_at_every_address_of_a_service() {
    // S106: the first choice depends on the client alone. Records are kept for each address, though.
    let world = World::new();
    let mut path = data_path(&world);
    let mut web = Web::new(100, &ALL).sticky(LONG);
    for family in FAMILIES {
        web.service.vips.push(vip(family, 101).ip());
    }
    web.apply(&mut path);
    for family in FAMILIES {
        for host in ["client", "client2"] {
            for udp in [false, true] {
                let met = [100, 101].map(|last| only(&world, host, udp, vip(family, last)));
                assert_eq!(met[0], met[1], "{host} {family} udp={udp}");
            }
        }
    }
}

#[test]
fn a_client_keeps_its_endpoint_until_the_timeout_and_may_then_move() {
    // S102, S103, S108
    for udp in [false, true] {
        let world = World::new();
        let mut path = data_path(&world);
        for family in FAMILIES {
            let to = vip(family, 100);
            let (hashed, first) = choice(&world, &mut path, family);
            Web::new(100, &[first]).sticky(LONG).apply(&mut path);
            assert_eq!(only(&world, "client", udp, to), first, "{family}");
            Web::new(100, &ALL).sticky(LONG).apply(&mut path);
            assert_eq!(only(&world, "client", udp, to), first, "{family}: among more endpoints");
            // The shorter time holds from the next connection on.
            Web::new(100, &ALL).sticky(1).apply(&mut path);
            assert_eq!(only(&world, "client", udp, to), first, "{family}: each one renews the record");
            until_gone(&world, to);
            assert_eq!(only(&world, "client", udp, to), hashed, "{family}: after the timeout");
            until_gone(&world, to);
            Web::new(100, &ALL).sticky(LONG).apply(&mut path);
            assert_eq!(only(&world, "client", udp, to), hashed, "{family}");
            let long = records(&world, family);
            assert!(long.contains("timeout 3h"), "{long}");
        }
    }
}

#[test]
fn a_client_whose_endpoint_goes_gets_a_live_one_and_keeps_that() {
    // S104
    let world = World::new();
    let mut path = data_path(&world);
    for family in FAMILIES {
        for udp in [false, true] {
            let web = Web::new(100, &ALL).sticky(LONG);
            web.apply(&mut path);
            let to = vip(family, 100);
            let first = only(&world, "client", udp, to);
            let rest: Vec<&str> = ALL.into_iter().filter(|pod| *pod != first).collect();
            let gone = pod_addr(&first, family).to_string();
            assert!(records(&world, family).contains(&gone), "{family} udp={udp}");
            let web = web.pods(&rest);
            web.apply(&mut path);
            assert!(!records(&world, family).contains(&gone), "{family} udp={udp}");
            let second = only(&world, "client", udp, to);
            assert_ne!(second, first, "{family} udp={udp}");
            web.pods(&ALL).apply(&mut path);
            assert_eq!(only(&world, "client", udp, to), second, "{family} udp={udp}: when the first returns");
            path.remove_service(&Web::new(100, &[]).service.key);
            path.commit().unwrap();
        }
    }
}

#[test]
fn each_port_of_a_service_has_an_affinity_of_its_own() {
    // S105
    let world = World::new();
    let mut path = data_path(&world);
    for family in FAMILIES {
        let (hashed, first) = choice(&world, &mut path, family);
        let mut other = vip(family, 100);
        other.set_port(81);
        Web::new(100, &[first]).sticky(LONG).apply(&mut path);
        assert_eq!(only(&world, "client", false, vip(family, 100)), first, "{family}");
        Web::new(100, &ALL).sticky(LONG).apply(&mut path);
        Web::new(100, &ALL).named("other").port(81).sticky(LONG).apply(&mut path);
        assert_eq!(only(&world, "client", false, other), hashed, "{family}: another port");
        assert_eq!(only(&world, "client", true, vip(family, 100)), hashed, "{family}: another protocol");
        assert_eq!(only(&world, "client", false, vip(family, 100)), first, "{family}");
        assert_eq!(only(&world, "client2", false, vip(family, 100)).len(), 2, "{family}: another client");
    }
}

#[test]
fn affinity_is_switched_on_and_off_while_clients_connect() {
    // S107: load-balancer address and NodePort, Cluster and Local.
    let world = World::new();
    let mut path = data_path(&world);
    let everywhere = [("client", &ALL[..]), ("client", &ALL[..2])];
    for (local, (host, expected)) in [false, true].into_iter().zip(everywhere) {
        let web = || {
            let web = Web::new(100, &ALL).node_port(30_080);
            if local { web.local() } else { web }
        };
        for (family, node) in FAMILIES.into_iter().zip(NODE) {
            for to in [vip(family, 100), SocketAddr::new(node.parse().unwrap(), 30_080)] {
                for udp in [false, true] {
                    let spread = || meet(&world, host, udp, to, 30);
                    let all: BTreeSet<String> = expected.iter().map(|pod| (*pod).to_owned()).collect();
                    web().apply(&mut path);
                    assert_eq!(spread(), all, "{to} udp={udp} local={local}");
                    web().sticky(LONG).apply(&mut path);
                    assert_eq!(spread().len(), 1, "{to} udp={udp} local={local}");
                    web().apply(&mut path);
                    assert_eq!(spread(), all, "{to} udp={udp} local={local}: off again");
                    assert!(!records(&world, family).contains("elements"), "{to} udp={udp}");
                }
            }
        }
    }
}

#[test]
fn with_the_policy_local_a_client_keeps_an_endpoint_of_this_node_only() {
    // S109
    let world = World::new();
    let mut path = data_path(&world);
    for family in FAMILIES {
        for udp in [false, true] {
            let to = vip(family, 100);
            // The client has one elsewhere when the policy changes.
            Web::new(100, &["p3"]).sticky(LONG).apply(&mut path);
            for host in ["client", "p2"] {
                assert_eq!(only(&world, host, udp, to), "p3", "{family}");
            }
            Web::new(100, &ALL).sticky(LONG).apply(&mut path);
            assert_eq!(only(&world, "client", udp, to), "p3", "{family}");
            Web::new(100, &ALL).local().sticky(LONG).apply(&mut path);
            let met = only(&world, "client", udp, to);
            assert_ne!(met, "p3", "{family} udp={udp}");
            assert_eq!(
                only(&world, "p2", udp, to),
                "p3",
                "{family}: a pod goes anywhere and keeps what it had"
            );
            // One more on this node, or one less elsewhere, moves nobody.
            Web::new(100, &["p1", "p2"]).local().sticky(LONG).apply(&mut path);
            assert_eq!(only(&world, "client", udp, to), met, "{family} udp={udp}");
            assert_ne!(only(&world, "p2", udp, to), "p3", "{family} udp={udp}");
            path.remove_service(&Web::new(100, &[]).service.key);
            path.commit().unwrap();
        }
    }
}

#[test]
fn two_nodes_choose_the_same_endpoint_for_a_client_without_a_record() {
    // S110
    let world = World::new();
    let mut paths = data_paths(&world);
    for path in &mut paths {
        Web::new(100, &ALL).sticky(LONG).apply(path);
    }
    for family in FAMILIES {
        let to = vip(family, 100);
        let first = [false, true].map(|udp| only(&world, "client", udp, to));
        // The node that announces the address dies: the client comes by way of the other one, which knows nothing of it.
        let (route, via): (Arc<str>, Arc<str>) = match family {
            Family::V4 => ("192.0.2.96/27".into(), "192.0.2.12".into()),
            Family::V6 => ("2001:db8:50::100/120".into(), "2001:db8:50::12".into()),
        };
        world.run("client", "ip", &["route", "replace", &route, "via", &via]);
        assert_eq!([false, true].map(|udp| only(&world, "client", udp, to)), first, "{family}");
    }
}

#[test]
fn a_client_keeps_its_endpoint_through_a_restart() {
    // S111
    let world = World::new();
    let mut path = data_path(&world);
    let mut chosen = Vec::new();
    for (family, last) in FAMILIES.into_iter().zip([100, 101]) {
        let (hashed, first) = choice(&world, &mut path, family);
        Web::new(last, &[first]).sticky(LONG).apply(&mut path);
        for udp in [false, true] {
            assert_eq!(only(&world, "client", udp, vip(family, last)), first, "{family}");
        }
        Web::new(last, &ALL).sticky(LONG).apply(&mut path);
        chosen.push((family, last, hashed, first));
    }
    drop(path);
    let mut path = data_path(&world);
    for (_, last, ..) in &chosen {
        Web::new(*last, &ALL).sticky(LONG).stage(&mut path);
    }
    assert!(path.commit().unwrap().full);
    for (family, last, _, first) in &chosen {
        let listed = records(&world, *family);
        assert!(listed.contains(&client_addr(*family).to_string()), "{listed}");
        for udp in [false, true] {
            assert_eq!(only(&world, "client", udp, vip(*family, *last)), *first, "{family} udp={udp}");
        }
    }
    // What went while nobody was there is not brought back.
    drop(path);
    let mut path = data_path(&world);
    for (_, last, _, first) in &chosen {
        let rest: Vec<&'static str> = ALL.into_iter().filter(|pod| pod != first).collect();
        Web::new(*last, &rest).sticky(LONG).stage(&mut path);
    }
    path.commit().unwrap();
    for (family, last, _, first) in &chosen {
        for udp in [false, true] {
            assert_ne!(only(&world, "client", udp, vip(*family, *last)), *first, "{family} udp={udp}");
        }
    }
}

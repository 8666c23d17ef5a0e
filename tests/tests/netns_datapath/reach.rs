//! Who reaches which endpoint, and as whom it is seen.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use landfall_core::addr::Family;
use landfall_speaker::datapath::NodeNet;

use crate::rig::{FAMILIES, Web, both, client_addr, data_path, data_paths, names, node_addr, pod_addr, vip};
use crate::world::{Met, World, met_udp};

// S1, S38
#[test]
fn a_client_reaches_all_endpoints_and_they_see_the_node() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1", "p2", "p3"]).apply(&mut path);
    for family in FAMILIES {
        for udp in [false, true] {
            let met = world.many("client", udp, vip(family, 100), 40);
            assert_eq!(names(&met), BTreeSet::from(["p1", "p2", "p3"]), "{family} udp={udp}");
            // To a pod on another node the packet leaves by the LAN, to one of this node by the pod bridge.
            for one in &met {
                let expected = match (one.pod(), family) {
                    ("p3", _) => node_addr(family),
                    (_, Family::V4) => "10.244.1.1".parse().unwrap(),
                    (_, Family::V6) => "fd00:244:1::1".parse().unwrap(),
                };
                assert_eq!(one.seen(), expected, "{family} {}", one.pod());
            }
        }
    }
}

#[test]
fn a_pod_and_the_node_itself_reach_a_service_too() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1", "p3"]).apply(&mut path);
    Web::new(101, &["p1", "p3"]).local().apply(&mut path);
    for family in FAMILIES {
        for last in [100, 101] {
            for host in ["p2", "node"] {
                for udp in [false, true] {
                    let met = world.many(host, udp, vip(family, last), 24);
                    assert_eq!(names(&met), BTreeSet::from(["p1", "p3"]), "{host} {family} {last} udp={udp}");
                    if host == "node" {
                        // S41: the node is seen under an address of its own, under either policy.
                        for one in &met {
                            let own = match family {
                                Family::V4 => ["192.0.2.11", "10.244.1.1"],
                                Family::V6 => ["2001:db8:50::11", "fd00:244:1::1"],
                            };
                            assert!(
                                own.contains(&one.seen().to_string().as_str()),
                                "{family} {last} {one:?}"
                            );
                        }
                    }
                    if host == "p2" {
                        // S37: Cluster translates; S40: Local does not.
                        let kept = met.iter().all(|one| one.seen() == pod_addr("p2", family));
                        let replaced = met.iter().all(|one| one.seen() != pod_addr("p2", family));
                        assert!(if last == 101 { kept } else { replaced }, "{family} {last} {met:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    // S45, S46
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).apply(&mut path);
    Web::new(101, &["p1"]).local().apply(&mut path);
    for family in FAMILIES {
        for last in [100, 101] {
            for met in both(&world, "p1", vip(family, last)) {
                assert_eq!(met.pod(), "p1");
                assert_ne!(
                    met.seen(),
                    pod_addr("p1", family),
                    "{family} {last}: it must not answer itself directly"
                );
            }
        }
    }
}

#[test]
fn under_local_a_client_meets_local_endpoints_only_and_keeps_its_address() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1", "p3"]).local().apply(&mut path);
    Web::new(101, &["p3"]).local().apply(&mut path);
    Web::new(102, &[]).local().apply(&mut path);
    // A CNI plugin's masquerade would come behind ours.
    world.run_with(
        "node",
        "nft",
        &["-f", "-"],
        "table inet cni { chain post { type nat hook postrouting priority 100; policy accept; masquerade; }; }",
    );
    for family in FAMILIES {
        for udp in [false, true] {
            for met in world.many("client", udp, vip(family, 100), 8) {
                assert_eq!(met, Met::Pod("p1".into(), client_addr(family)));
            }
        }
        // S47: none here, one elsewhere: silence. S49: none anywhere: refused.
        assert_eq!(both(&world, "client", vip(family, 101)), [Met::Silence, Met::Silence], "{family}");
        assert_eq!(both(&world, "client", vip(family, 102)), [Met::Refused, Met::Refused], "{family}");
    }
}

#[test]
fn without_endpoints_everybody_is_refused_at_once_and_served_when_they_return() {
    let world = World::new();
    let mut path = data_path(&world);
    for pods in [&[][..], &["p2"][..], &[][..]] {
        let web = Web::new(100, pods);
        web.apply(&mut path);
        for family in FAMILIES {
            for host in ["client", "p1", "node"] {
                for met in both(&world, host, vip(family, 100)) {
                    match pods {
                        [] => assert_eq!(met, Met::Refused, "{host} {family}"),
                        _ => assert_eq!(met.pod(), "p2", "{host} {family}"),
                    }
                }
            }
        }
    }
}

#[test]
fn an_undefined_port_is_refused_and_ping_is_answered_while_there_are_endpoints() {
    // S77, X20
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).apply(&mut path);
    Web::new(101, &[]).apply(&mut path);
    for family in FAMILIES {
        let mut to = vip(family, 100);
        assert!(world.ping("client", to.ip()), "{family}");
        assert!(world.ping("node", to.ip()), "{family}");
        assert!(!world.ping("client", vip(family, 101).ip()), "{family}");
        to.set_port(81);
        for host in ["client", "p1", "node"] {
            assert_eq!(both(&world, host, to), [Met::Refused, Met::Refused], "{host} {family}");
        }
    }
}

#[test]
fn an_endpoint_in_the_nodes_own_network_is_reached_from_everywhere() {
    // S32
    let mut world = World::new();
    world.serve("node");
    let mut path = data_path(&world);
    Web::new(100, &["node"]).apply(&mut path);
    Web::new(101, &["node"]).local().apply(&mut path);
    for family in FAMILIES {
        for last in [100, 101] {
            for host in ["client", "p1", "node"] {
                let met = world.tcp(host, vip(family, last));
                assert_eq!(met.pod(), "node", "{host} {family} {last}");
                if host == "client" {
                    assert_eq!(met.seen(), client_addr(family), "nothing is translated on the way in");
                }
            }
        }
    }
}

#[test]
fn pods_and_nodes_that_clients_do_not_send_to_reach_the_address_too() {
    // X27: clients send to the first node; the second one carries what begins on it.
    let world = World::new();
    let mut paths = data_paths(&world);
    paths[1].set_node(NodeNet {
        pod_cidrs: ["10.244.2.0/24", "fd00:244:2::/64"].map(|net| net.parse().unwrap()).to_vec(),
    });
    for (path, node) in paths.iter_mut().zip(["node", "node2"]) {
        Web::new(100, &["p1", "p3"]).on(node).apply(path);
        Web::new(101, &["p1", "p3"]).local().on(node).apply(path);
        Web::new(102, &[]).on(node).apply(path);
    }
    for family in FAMILIES {
        for host in ["p3", "node2"] {
            for last in [100, 101] {
                for udp in [false, true] {
                    let met = world.many(host, udp, vip(family, last), 24);
                    assert!(
                        met.iter().all(|one| matches!(one, Met::Pod(..))),
                        "{host} {family} {last} {met:?}"
                    );
                    assert_eq!(names(&met), BTreeSet::from(["p1", "p3"]), "{host} {family} {last} udp={udp}");
                    let own = met.iter().filter(|one| one.seen() == pod_addr("p3", family));
                    // Under Local the other pod sees the pod; itself it never meets as itself (S46).
                    let wanted = if (host, last) == ("p3", 101) {
                        met.iter().filter(|one| one.pod() == "p1").count()
                    } else {
                        0
                    };
                    assert_eq!(own.count(), wanted, "{host} {family} {last} udp={udp} {met:?}");
                }
            }
            assert_eq!(both(&world, host, vip(family, 102)), [Met::Refused, Met::Refused], "{host} {family}");
        }
    }
}

#[test]
fn a_client_on_another_interface_is_answered_by_that_one() {
    // X19
    let world = World::new();
    // One ICMP message a second would be too few here.
    for limit in ["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"] {
        world.run("node", "sysctl", &["-qw", limit]);
    }
    let clients = world.second_lan();
    let mut path = data_path(&world);
    Web::new(100, &["p1", "p3"]).apply(&mut path);
    Web::new(101, &["p1"]).local().apply(&mut path);
    for (family, client) in FAMILIES.into_iter().zip(clients) {
        for udp in [false, true] {
            let met = world.many("client2", udp, vip(family, 100), 24);
            assert_eq!(names(&met), BTreeSet::from(["p1", "p3"]), "{family} udp={udp}");
            let local = Met::Pod("p1".into(), client);
            let met = world.many("client2", udp, vip(family, 101), 4);
            assert!(met.iter().all(|met| *met == local), "{family} udp={udp} {met:?}");
        }
        assert!(world.ping("client2", vip(family, 100).ip()), "{family}");
        let undefined = SocketAddr::new(vip(family, 100).ip(), 81);
        assert_eq!(both(&world, "client2", undefined), [Met::Refused, Met::Refused], "{family}");
    }
}

#[test]
fn pods_and_a_node_without_a_speaker_are_clients_like_any_other() {
    // S54: what they send leaves their node for the one that owns the address.
    let world = World::new();
    let mut path = data_path(&world);
    for route in ["192.0.2.96/27 via 192.0.2.11", "2001:db8:50::100/120 via 2001:db8:50::11"] {
        let words: Vec<&str> = ["route", "add"].into_iter().chain(route.split(' ')).collect();
        world.run("node2", "ip", &words);
    }
    Web::new(100, &["p1", "p3"]).apply(&mut path);
    Web::new(101, &["p1", "p3"]).local().apply(&mut path);
    Web::new(102, &["p3"]).local().apply(&mut path);
    for family in FAMILIES {
        let addrs = [("p3", pod_addr("p3", family)), ("node2", pod_addr("node2", family))];
        for (host, own) in addrs {
            for udp in [false, true] {
                let met = world.many(host, udp, vip(family, 100), 24);
                assert_eq!(names(&met), BTreeSet::from(["p1", "p3"]), "{host} {family} udp={udp}");
                let met = world.many(host, udp, vip(family, 101), 8);
                let local = Met::Pod("p1".into(), own);
                assert!(met.iter().all(|met| *met == local), "{host} {family} udp={udp} {met:?}");
            }
            assert_eq!(both(&world, host, vip(family, 102)), [Met::Silence, Met::Silence], "{host} {family}");
        }
    }
}

#[test]
fn a_node_that_does_not_know_its_pods_treats_them_like_anybody() {
    // S43
    let world = World::new();
    let mut path = data_path(&world);
    path.set_node(NodeNet::default());
    Web::new(100, &["p3"]).local().apply(&mut path);
    Web::new(101, &["p1", "p3"]).local().apply(&mut path);
    for family in FAMILIES {
        assert_eq!(both(&world, "p2", vip(family, 100)), [Met::Silence, Met::Silence], "{family}");
        for met in both(&world, "p2", vip(family, 101)) {
            assert_eq!(met.pod(), "p1", "{family}");
        }
    }
}

/// Nothing of this needs the real thing: the choice itself is the same on every node, whatever it is.
#[test]
fn two_nodes_choose_the_same_endpoint_for_a_flow() {
    let world = World::new();
    let mut paths = data_paths(&world);
    for path in &mut paths {
        Web::new(100, &["p3", "p1", "p2"]).apply(path);
    }
    for family in FAMILIES {
        let to = vip(family, 100);
        let first = by_port(&world, to);
        // The same client, the same ports, by way of the other node.
        let (route, via): (Arc<str>, Arc<str>) = match family {
            Family::V4 => ("192.0.2.96/27".into(), "192.0.2.12".into()),
            Family::V6 => ("2001:db8:50::100/120".into(), "2001:db8:50::12".into()),
        };
        world.run("client", "ip", &["route", "replace", &route, "via", &via]);
        assert_eq!(by_port(&world, to), first, "{family}");
    }
}

/// Which pod answers each of some fixed source ports.
#[cfg(test)]
fn by_port(world: &World, to: SocketAddr) -> Vec<String> {
    world.inside("client", || {
        (40_000..40_012)
            .map(|from| {
                let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
                let socket = std::net::UdpSocket::bind((any, from)).unwrap();
                socket.connect(to).unwrap();
                met_udp(&socket, to).pod().to_owned()
            })
            .collect()
    })
}

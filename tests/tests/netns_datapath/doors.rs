//! `NodePort`s and external IPs.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::rig::{FAMILIES, NODE, Web, both, client_addr, data_path, names, vip};
use crate::world::{Met, World};

#[test]
fn a_node_port_serves_everybody_on_the_nodes_own_address() {
    // S37, S38, S96, S100: two Services may have one NodePort if their protocols differ; here one has both.
    let world = World::new();
    // The kernel sends a host one ICMP message a second; its redirects must not use that up here.
    for limit in ["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"] {
        world.run("node", "sysctl", &["-qw", limit]);
    }
    let mut path = data_path(&world);
    let web = Web::new(100, &["p1", "p2", "p3"]).node_port(30_080);
    web.apply(&mut path);
    for (family, node) in FAMILIES.into_iter().zip(NODE) {
        let to = SocketAddr::new(node.parse().unwrap(), 30_080);
        for udp in [false, true] {
            let met = world.many("client", udp, to, 30);
            assert_eq!(names(&met), BTreeSet::from(["p1", "p2", "p3"]), "{family} udp={udp}");
            assert!(met.iter().all(|met| met.seen() != client_addr(family)), "{family}: the node's address");
        }
        for host in ["p1", "node"] {
            assert!(matches!(world.tcp(host, to), Met::Pod(..)), "{family} from {host}");
        }
        // S98 aside: what else listens on the node is none of our business, nor is a port nobody serves.
        let other = SocketAddr::new(to.ip(), 30_081);
        assert_eq!(world.tcp("client", other), Met::Refused, "the node's own kernel refuses");
    }
    // S51, S49, S90: no endpoints is refused, and served again when they return.
    web.pods(&[]).apply(&mut path);
    for node in NODE {
        let to = SocketAddr::new(node.parse().unwrap(), 30_080);
        assert_eq!(both(&world, "client", to), [Met::Refused, Met::Refused], "{to}");
        assert_eq!(world.tcp("p1", to), Met::Refused, "{to}");
    }
    Web::new(100, &["p1"]).node_port(30_080).apply(&mut path);
    for node in NODE {
        assert_eq!(world.tcp("client", SocketAddr::new(node.parse().unwrap(), 30_080)).pod(), "p1");
    }
    // S89: another port, and the address as before.
    Web::new(100, &["p1"]).node_port(30_090).apply(&mut path);
    for (family, node) in FAMILIES.into_iter().zip(NODE) {
        assert_eq!(world.tcp("client", SocketAddr::new(node.parse().unwrap(), 30_080)), Met::Refused);
        assert_eq!(world.tcp("client", SocketAddr::new(node.parse().unwrap(), 30_090)).pod(), "p1");
        assert_eq!(world.tcp("client", vip(family, 100)).pod(), "p1");
    }
}

#[test]
fn a_node_port_follows_the_policy_local_and_the_source_ranges() {
    let world = World::new();
    let mut path = data_path(&world);
    let to = |node: &str| SocketAddr::new(node.parse().unwrap(), 30_080);
    // S39, S40: one on this node and one elsewhere.
    Web::new(100, &["p1", "p3"]).local().node_port(30_080).apply(&mut path);
    for (family, node) in FAMILIES.into_iter().zip(NODE) {
        let met = world.many("client", false, to(node), 12);
        assert_eq!(names(&met), BTreeSet::from(["p1"]), "{family}");
        assert!(
            met.iter().all(|met| met.seen() == client_addr(family)),
            "{family}: the client's own address"
        );
        let met = world.many("p2", false, to(node), 24);
        assert_eq!(names(&met), BTreeSet::from(["p1", "p3"]), "{family}: a pod goes anywhere");
    }
    // S47, S48
    Web::new(100, &["p3"]).local().node_port(30_080).apply(&mut path);
    for node in NODE {
        assert_eq!(world.tcp("client", to(node)), Met::Silence);
        assert_eq!(world.tcp("p1", to(node)).pod(), "p3");
        assert_eq!(world.tcp("node", to(node)).pod(), "p3");
    }
    // S57, deliberately different: ranges hold on the NodePort too.
    let only = ["192.0.2.200/32", "2001:db8:50::200/128"];
    Web::new(100, &["p1"]).only(&only).node_port(30_080).apply(&mut path);
    for node in NODE {
        assert_eq!(world.tcp("client", to(node)).pod(), "p1");
        assert_eq!(both(&world, "client2", to(node)), [Met::Silence, Met::Silence]);
    }
    let mut open = Web::new(100, &["p1"]).only(&only).node_port(30_080);
    open.service.sources_on_node_ports = false;
    open.apply(&mut path);
    for (family, node) in FAMILIES.into_iter().zip(NODE) {
        assert_eq!(world.tcp("client2", to(node)).pod(), "p1", "the pool says otherwise");
        assert_eq!(world.tcp("client2", vip(family, 100)), Met::Silence, "and only for the NodePort");
    }
}

#[test]
fn a_node_port_is_no_port_of_a_load_balancer_address_that_the_node_has() {
    // S99: kube-proxy's match of all local addresses would serve it there. S60: the node speaks from that address.
    let world = World::new();
    let mut path = data_path(&world);
    for family in FAMILIES {
        world.run("node", "ip", &["address", "add", &vip(family, 100).ip().to_string(), "dev", "lo"]);
    }
    let only = ["192.0.2.11/32", "192.0.2.200/32", "2001:db8:50::11/128", "2001:db8:50::200/128"];
    Web::new(100, &["p1"]).node_port(30_080).only(&only).apply(&mut path);
    for (family, node) in FAMILIES.into_iter().zip(NODE) {
        let to = vip(family, 100);
        for host in ["client", "node"] {
            for met in both(&world, host, to) {
                assert_eq!(met.pod(), "p1", "{host} {family}");
            }
        }
        assert_eq!(world.tcp("client2", to), Met::Silence, "{family}");
        let number = SocketAddr::new(to.ip(), 30_080);
        assert_eq!(both(&world, "client", number), [Met::Refused, Met::Refused], "{family}");
        assert_eq!(world.tcp("client", SocketAddr::new(node.parse().unwrap(), 30_080)).pod(), "p1");
    }
}

#[test]
fn an_external_ip_is_served_on_the_ports_of_the_service_alone() {
    // S87
    let world = World::new();
    let mut path = data_path(&world);
    let addrs = ["192.0.2.190", "2001:db8:50::190"];
    for addr in addrs {
        // Somebody routes it to the node.
        let family = if addr.contains(':') { "-6" } else { "-4" };
        let node = NODE[usize::from(addr.contains(':'))];
        world.run("client", "ip", &[family, "route", "add", addr, "via", node]);
    }
    Web::new(100, &["p1"]).external(&addrs).apply(&mut path);
    for addr in addrs {
        let to = SocketAddr::new(addr.parse().unwrap(), 80);
        assert!(matches!(both(&world, "client", to), [Met::Pod(..), Met::Pod(..)]), "{addr}");
        let other = SocketAddr::new(to.ip(), 81);
        assert_ne!(world.tcp("client", other), Met::Pod("p1".into(), to.ip()), "{addr}: not our port");
    }
    Web::new(100, &[]).external(&addrs).apply(&mut path);
    for addr in addrs {
        let to = SocketAddr::new(addr.parse().unwrap(), 80);
        assert_eq!(both(&world, "client", to), [Met::Refused, Met::Refused], "{addr}");
    }
}

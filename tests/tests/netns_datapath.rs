//! The data path with real packets: clients, a node whose kernel carries the rules, and pods that say who they are
//! and whom they saw. Every behaviour in IPv4 and IPv6. S numbers are those of Kubernetes' own
//! behaviours as kube-proxy has them.
//!
//! Root and iproute2, nftables and ping are needed; without them the tests fail.

#[cfg(test)]
#[path = "support/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipnet::IpNet;
use landfall_core::addr::Family;
use landfall_core::frontend::frontends;
use landfall_core::name::{NodeName, ServiceKey};
use landfall_core::service::{
    Affinity, ExternalPolicy, Place, Protocol, Service, ServicePort, Slice, SliceEndpoint, SlicePort, Sources,
};
use landfall_speaker::datapath::{DataPath, NodeNet};
use landfall_speaker::kernel::Kernel as _;
use landfall_speaker::nft;
use world::{Met, POD_PORT, Stream, World};

/// The seed of the choice of endpoints; any will do.
const SEED: u32 = 0x5eed;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The node's own addresses.
const NODE: [&str; 2] = ["192.0.2.11", "2001:db8:50::11"];

/// A Service on port 80 of one address per family, TCP and UDP, in front of some pods.
struct Web {
    service: Service,
    pods: Vec<&'static str>,
}

#[cfg(test)]
impl Web {
    fn new(last: u8, pods: &[&'static str]) -> Self {
        let port = |protocol| ServicePort { name: "web".into(), protocol, port: port(80), node_port: None };
        let service = Service {
            key: ServiceKey::new("default", format!("web{last}")),
            uid: "1".into(),
            created: 0,
            vips: vec![vip(Family::V4, last).ip(), vip(Family::V6, last).ip()],
            ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
            external_policy: ExternalPolicy::Cluster,
            sources: Sources::Any,
            sources_on_node_ports: true,
            external_ips: Vec::new(),
            affinity: Affinity::None,
        };
        Self { service, pods: pods.to_vec() }
    }

    fn local(mut self) -> Self {
        self.service.external_policy = ExternalPolicy::Local;
        self
    }

    fn node_port(mut self, number: u16) -> Self {
        for found in &mut self.service.ports {
            found.node_port = Some(port(number));
        }
        self
    }

    fn external(mut self, addrs: &[&str]) -> Self {
        self.service.external_ips = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
        self
    }

    fn only(mut self, ranges: &[&str]) -> Self {
        let nets = ranges.iter().map(|range| range.parse::<IpNet>().unwrap());
        self.service.sources = Sources::Only(nets.collect());
        self
    }

    fn pods(mut self, pods: &[&'static str]) -> Self {
        self.pods = pods.to_vec();
        self
    }

    fn apply(&self, path: &mut DataPath<nft::Kernel>) {
        self.stage(path);
        path.commit().expect("the kernel takes it");
    }

    fn stage(&self, path: &mut DataPath<nft::Kernel>) {
        let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| SlicePort {
            name: "web".into(),
            protocol,
            port: Some(port(POD_PORT)),
        });
        let slices = FAMILIES.map(|family| Slice {
            family,
            ports: ports.to_vec(),
            endpoints: self.pods.iter().map(|pod| endpoint(pod, family)).collect(),
        });
        let here = Place {
            node_addrs: NODE.map(|addr| addr.parse().unwrap()).to_vec(),
            ..Place::of(NodeName::new("node"))
        };
        let fronts = frontends(&self.service, &slices.iter().collect::<Vec<_>>(), &here);
        path.set_service(&self.service.key, fronts);
    }
}

#[cfg(test)]
fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

#[cfg(test)]
fn pod_addr(pod: &str, family: Family) -> IpAddr {
    if pod == "node" {
        return node_addr(family);
    }
    let (number, last) = match pod {
        "p1" => (1, 11),
        "p2" => (1, 12),
        _ => (2, 11),
    };
    match family {
        Family::V4 => format!("10.244.{number}.{last}").parse().unwrap(),
        Family::V6 => format!("fd00:244:{number}::{last}").parse().unwrap(),
    }
}

#[cfg(test)]
fn endpoint(pod: &str, family: Family) -> SliceEndpoint {
    let node = if pod == "p3" { "node2" } else { "node" };
    SliceEndpoint {
        addr: pod_addr(pod, family),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(NodeName::new(node)),
        hints: None,
    }
}

/// Port 80 of a load-balancer address.
#[cfg(test)]
fn vip(family: Family, last: u8) -> SocketAddr {
    match family {
        Family::V4 => format!("192.0.2.{last}:80").parse().unwrap(),
        Family::V6 => format!("[2001:db8:50::1{:02x}]:80", last - 100).parse().unwrap(),
    }
}

#[cfg(test)]
fn node_addr(family: Family) -> IpAddr {
    match family {
        Family::V4 => NODE[0].parse().unwrap(),
        Family::V6 => NODE[1].parse().unwrap(),
    }
}

#[cfg(test)]
fn client_addr(family: Family) -> IpAddr {
    match family {
        Family::V4 => "192.0.2.200".parse().unwrap(),
        Family::V6 => "2001:db8:50::200".parse().unwrap(),
    }
}

#[cfg(test)]
fn data_path(world: &World) -> DataPath<nft::Kernel> {
    let kernel = world.inside("node", || nft::Kernel::open().expect("NETLINK_NETFILTER"));
    let mut path = DataPath::new(kernel, SEED);
    let pods = ["10.244.1.0/24", "fd00:244:1::/64"].map(|net| net.parse().unwrap());
    path.set_node(NodeNet { pod_cidrs: pods.to_vec() });
    path
}

/// One attempt with each protocol.
fn both(world: &World, host: &str, to: SocketAddr) -> [Met; 2] {
    [world.tcp(host, to), world.udp(host, to)]
}

fn names(met: &[Met]) -> BTreeSet<&str> {
    met.iter().map(Met::pod).collect()
}

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
fn source_ranges_admit_who_is_in_them() {
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

/// Set when it is dropped, also by a failed assertion.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

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
    let mut path = data_path(&world);
    for family in FAMILIES {
        let web = Web::new(100, &["p1"]);
        web.apply(&mut path);
        let to = vip(family, 100);
        world.inside("client", || {
            let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
            let socket = std::net::UdpSocket::bind((any, 0)).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(world::met_udp(&socket, to).pod(), "p1");
            // The same port goes on sending, as a resolver or a logger does (S130).
            let web = web.pods(&["p2"]);
            web.apply(&mut path);
            assert_eq!(world::met_udp(&socket, to).pod(), "p2", "{family}");
            let web = web.pods(&[]);
            web.apply(&mut path);
            assert_eq!(world::met_udp(&socket, to), Met::Refused, "{family}");
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

#[test]
fn an_endpoint_in_the_nodes_own_network_is_reached_from_everywhere() {
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

#[test]
fn it_decides_before_kube_proxy_does() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).apply(&mut path);
    Web::new(101, &[]).apply(&mut path);
    // What kube-proxy would do, at its place, for every port: another endpoint.
    let rival = |pod: &str| {
        format!(
            "table inet rival {{
               chain pre {{ type nat hook prerouting priority -100; policy accept;
                 ip daddr 192.0.2.96/27 meta l4proto tcp dnat ip to {v4}:8080
                 ip6 daddr 2001:db8:50::100/120 meta l4proto tcp dnat ip6 to [{v6}]:8080
               }}
             }}",
            v4 = pod_addr(pod, Family::V4),
            v6 = pod_addr(pod, Family::V6)
        )
    };
    world.run_with("node", "nft", &["-f", "-"], &rival("p2"));
    for family in FAMILIES {
        assert_eq!(world.tcp("client", vip(family, 100)).pod(), "p1", "{family}");
        assert_eq!(
            world.tcp("client", vip(family, 101)),
            Met::Refused,
            "{family}: no endpoints is a decision"
        );
        let mut undefined = vip(family, 100);
        undefined.set_port(81);
        assert_eq!(world.tcp("client", undefined), Met::Refused, "{family}: so is an undefined port");
        assert_eq!(world.tcp("client", vip(family, 102)).pod(), "p2", "{family}: not ours");
    }
}

#[test]
fn nft_lists_the_table_and_takes_its_own_listing_back() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1", "p2", "p3"]).apply(&mut path);
    Web::new(101, &["p1", "p3"]).local().only(&["192.0.2.0/24", "2001:db8:50::/64"]).apply(&mut path);
    let mut sticky = Web::new(102, &["p1", "p2"]);
    sticky.service.affinity = Affinity::ClientIp { timeout_s: 10_800 };
    sticky.apply(&mut path);
    Web::new(103, &[]).apply(&mut path);

    let listed = world.run("node", "nft", &["list", "table", "inet", "landfall"]);
    for part in [
        "typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport",
        "192.0.2.100 . tcp . 80 . 0 : 10.244.1.11 . 8080",
        "2001:db8:50::100 . udp . 80 : goto n3",
        "192.0.2.101 . tcp . 80 : goto fwb_l1",
        "jhash ip6 saddr . th sport mod 3 seed 0x5eed map @ep6",
        "jhash ip saddr mod 2 seed 0x5eed map @ep4",
        "offset 65536",
        "192.0.2.103 . tcp . 80 : goto rej",
    ] {
        assert!(listed.contains(part), "{part:?} is not in\n{listed}");
    }
    // Loaded somewhere else, it is listed the same. nft 1.0.6 does not know the flags of the table.
    let lines: Vec<&str> = listed.lines().filter(|line| !line.trim().starts_with("flags owner")).collect();
    let plain = lines.join("\n") + "\n";
    world.run_with("client2", "nft", &["-f", "-"], &plain);
    assert_eq!(sorted(&world.run("client2", "nft", &["list", "table", "inet", "landfall"])), sorted(&plain));
    world.run("node", "nft", &["list", "ruleset"]);
}

/// Elements of a hash come in any order: lines by themselves, sorted, and without what counters have counted.
fn sorted(listing: &str) -> Vec<String> {
    let mut parts: Vec<String> = listing
        .lines()
        // The first line names the program that owns the table.
        .map(|line| line.split(" #").next().unwrap_or(line))
        .flat_map(|line| line.split(", "))
        .map(|part| {
            part.trim().trim_start_matches("elements = {").trim_end_matches(['}', ',', ' ']).trim().to_owned()
        })
        .filter(|part| !part.is_empty())
        .collect();
    parts.sort();
    parts
}

#[test]
fn clients_stick_to_an_endpoint_when_asked_to() {
    let world = World::new();
    let mut path = data_path(&world);
    let mut web = Web::new(100, &["p1", "p2", "p3"]);
    web.service.affinity = Affinity::ClientIp { timeout_s: 10_800 };
    web.apply(&mut path);
    for family in FAMILIES {
        let met = world.many("client", false, vip(family, 100), 20);
        assert_eq!(names(&met).len(), 1, "{family} {met:?}");
    }
}

/// Nothing of this needs the real thing: the choice itself is the same on every node, whatever it is.
#[test]
fn two_nodes_choose_the_same_endpoint_for_a_flow() {
    let world = World::new();
    let mut paths = ["node", "node2"].map(|node| {
        let kernel = world.inside(node, || nft::Kernel::open().unwrap());
        DataPath::new(kernel, SEED)
    });
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
                world::met_udp(&socket, to).pod().to_owned()
            })
            .collect()
    })
}

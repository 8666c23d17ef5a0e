use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::name::NodeName;
use crate::name::ServiceKey;
use crate::service::{ServicePort, SliceEndpoint, SlicePort};

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ranges(texts: &[&str]) -> Admission {
    Admission::Ranges(texts.iter().map(|text| text.parse().unwrap()).collect())
}

/// A dual-stack Service with two addresses per family, TCP and UDP.
fn service() -> Service {
    let port = |name: &str, protocol, port| ServicePort {
        name: Arc::from(name),
        protocol,
        port: number(port),
        node_port: None,
    };
    Service {
        key: ServiceKey::new("default", "web"),
        uid: "1".into(),
        created: 0,
        vips: ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"]
            .map(|vip| vip.parse().unwrap())
            .to_vec(),
        ports: vec![port("web", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
        external_policy: ExternalPolicy::Cluster,
        sources: Sources::Any,
        sources_on_node_ports: true,
        external_ips: Vec::new(),
        affinity: Affinity::None,
    }
}

fn slices() -> [Slice; 2] {
    let port =
        |name: &str, protocol, port| SlicePort { name: Arc::from(name), protocol, port: Some(number(port)) };
    [(Family::V4, "10.0.0."), (Family::V6, "fd00::")].map(|(family, prefix)| Slice {
        family,
        ports: vec![port("web", Protocol::Tcp, 8080), port("dns", Protocol::Udp, 5353)],
        endpoints: [("2", "there", true), ("1", "here", true), ("3", "here", false)]
            .map(|(last, node, ready)| SliceEndpoint {
                addr: format!("{prefix}{last}").parse().unwrap(),
                ready,
                serving: true,
                terminating: !ready,
                node: Some(NodeName::new(node)),
                hints: None,
            })
            .to_vec(),
    })
}

fn made(service: &Service) -> Vec<(FrontendKey, Frontend)> {
    let slices = slices();
    frontends(service, &slices.iter().collect::<Vec<_>>(), &Place::of(NodeName::new("here")))
}

fn targets(list: &[Target]) -> Vec<String> {
    list.iter().map(|target| format!("{} {}", target.addr, target.port)).collect()
}

#[test]
fn every_address_and_port_has_a_front_end_with_the_endpoints_of_its_family() {
    // S30, S76, S78
    let made = made(&service());
    assert_eq!(made.len(), 8);
    for (key, front) in &made {
        let Route::Cluster { targets: found } = &front.route else { panic!("{front:?}") };
        let expected = match (key.family(), key.protocol) {
            (Family::V4, Protocol::Tcp) => ["10.0.0.1 8080", "10.0.0.2 8080"],
            (Family::V6, Protocol::Tcp) => ["fd00::1 8080", "fd00::2 8080"],
            (Family::V4, _) => ["10.0.0.1 5353", "10.0.0.2 5353"],
            (Family::V6, _) => ["fd00::1 5353", "fd00::2 5353"],
        };
        assert_eq!(targets(found), expected, "{key}");
        assert_eq!((&front.admission, front.spread), (&Admission::Anyone, Spread::Flow));
        assert_eq!(
            front.draining.len(),
            usize::from(key.protocol != Protocol::Tcp),
            "flows of TCP are left to their ends"
        );
        assert!(front.has_endpoints() && front.serves_external());
    }
}

#[test]
fn node_ports_and_external_ips_are_front_ends_of_addresses_that_are_not_ours_alone() {
    // S87, S96: and a Service without load-balancer address has them too.
    let mut open = service();
    open.ports[0].node_port = Some(number(30_080));
    open.external_ips = vec!["198.51.100.1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
    open.sources = Sources::Only(nets(&["203.0.113.0/24", "2001:db8:1::/48"]));
    let here = Place {
        node_addrs: vec!["192.0.2.11".parse().unwrap(), "2001:db8::11".parse().unwrap()],
        ..Place::of(NodeName::new("here"))
    };
    for sources_on_node_ports in [true, false] {
        open.sources_on_node_ports = sources_on_node_ports;
        let slices = slices();
        let made = frontends(&open, &slices.iter().collect::<Vec<_>>(), &here);
        let more: Vec<String> =
            made.iter().filter(|(_, front)| !front.owned).map(|(key, _)| key.to_string()).collect();
        let wanted = [
            "198.51.100.1:80/TCP",
            "192.0.2.11:30080/TCP",
            "198.51.100.1:53/UDP",
            "[2001:db8::11]:30080/TCP",
        ];
        assert_eq!(more, wanted, "an address that is ours anyway is not named twice");
        for (key, front) in &made {
            // S57, deliberately different: ranges hold everywhere, unless the pool says otherwise.
            let open_port = key.port == number(30_080) && !sources_on_node_ports;
            assert_eq!(front.admission == Admission::Anyone, open_port, "{key}");
        }
    }
    open.vips.clear();
    assert_eq!(frontends(&open, &[], &here).len(), 6, "four of external IPs, two of the node");
}

#[test]
fn the_policy_local_has_two_lists() {
    // S10
    let mut local = service();
    local.external_policy = ExternalPolicy::Local;
    for (key, front) in made(&local) {
        let Route::Local { local, everywhere } = &front.route else { panic!("{front:?}") };
        assert_eq!((local.len(), everywhere.len()), (1, 2), "{key}");
    }
    for (node, serves) in [("there", true), ("nowhere", false)] {
        let slices = slices();
        let made = frontends(&local, &slices.iter().collect::<Vec<_>>(), &Place::of(NodeName::new(node)));
        assert!(
            made.iter().all(|(_, front)| front.serves_external() == serves && front.has_endpoints()),
            "{node}"
        );
    }
}

#[test]
fn a_service_without_endpoints_still_has_its_front_ends() {
    // S49, S93: one without selector and slices is one without endpoints.
    let made = frontends(&service(), &[], &Place::of(NodeName::new("here")));
    assert_eq!(made.len(), 8);
    assert!(made.iter().all(|(_, front)| !front.has_endpoints()));
}

#[test]
fn affinity_makes_the_choice_depend_on_the_client_alone_and_keeps_it_for_a_time() {
    // S102
    assert!(made(&service()).iter().all(|(_, front)| (front.spread, front.affinity) == (Spread::Flow, None)));
    let mut sticky = service();
    sticky.affinity = Affinity::ClientIp { timeout_s: 10_800 };
    let kept = (Spread::Client, Some(10_800));
    assert!(made(&sticky).iter().all(|(_, front)| (front.spread, front.affinity) == kept));
}

#[test]
fn a_front_end_offers_a_client_what_its_policy_lets_it_reach() {
    // S109
    for v6 in [false, true] {
        let target = |last: u8| Target {
            addr: if v6 { format!("fd00::{last:x}") } else { format!("10.0.0.{last}") }.parse().unwrap(),
            port: NonZeroU16::new(8080).unwrap(),
        };
        let front = |route| Frontend {
            owned: true,
            admission: Admission::Anyone,
            spread: Spread::Client,
            affinity: Some(60),
            route,
            draining: Box::default(),
            lost: Box::default(),
        };
        let all: Box<[Target]> = [target(1), target(2)].into();
        let cluster = front(Route::Cluster { targets: all.clone() });
        let local = front(Route::Local { local: [target(1)].into(), everywhere: all });
        for inside in [false, true] {
            assert!(cluster.offers(target(2), inside) && !cluster.offers(target(3), inside));
            assert!(local.offers(target(1), inside) && !local.offers(target(3), inside));
            assert_eq!(local.offers(target(2), inside), inside);
        }
    }
}

#[test]
fn where_the_node_is_admitted_its_own_load_balancer_addresses_are_too() {
    // S60
    for (vip, node, around, elsewhere) in [
        ("192.0.2.100", "192.0.2.11", "192.0.2.8/29", "198.51.100.0/24"),
        ("2001:db8:50::100", "2001:db8:50::11", "2001:db8:50::10/124", "2001:db8:7::/48"),
    ] {
        let [vip, node] = [vip, node].map(|addr| addr.parse::<IpAddr>().unwrap());
        for (range, number, own) in [(around, 30_080, true), (elsewhere, 30_080, false)] {
            let mut service = service();
            service.vips = vec![vip];
            service.sources = Sources::Only(nets(&[range]));
            service.ports.truncate(1);
            service.ports[0].node_port = NonZeroU16::new(number);
            let here = Place { node_addrs: vec![node], ..Place::of(NodeName::new("here")) };
            let slices = slices();
            let fronts = frontends(&service, &slices.iter().collect::<Vec<_>>(), &here);
            let admits = |at: IpAddr, source: IpAddr| {
                let (_, front) = fronts.iter().find(|(key, _)| key.addr == at).unwrap();
                front.admission.admits(source)
            };
            assert_eq!((admits(vip, vip), admits(vip, node)), (own, own), "{range}");
            assert!(!admits(node, vip), "{range}: not at the NodePort");
            assert!(!admits(vip, "192.0.2.99".parse().unwrap()), "{range}: nobody else");
        }
    }
}

#[test]
fn a_restriction_admits_only_what_a_range_of_the_family_admits() {
    for (what, sources, v4, v6) in [
        ("no restriction", None, Admission::Anyone, Admission::Anyone),
        ("nothing readable", Some(&[][..]), Admission::Nobody, Admission::Nobody),
        ("one family only", Some(&["192.0.2.0/24"]), ranges(&["192.0.2.0/24"]), Admission::Nobody),
        ("the other one only", Some(&["2001:db8::/32"]), Admission::Nobody, ranges(&["2001:db8::/32"])),
        ("host bits", Some(&["10.0.0.5/8", "fd00::5/64"]), ranges(&["10.0.0.0/8"]), ranges(&["fd00::/64"])),
        (
            "overlaps, duplicates and neighbours",
            Some(&["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "10.0.0.0/9", "fd00::/64", "fd00::1/128"]),
            ranges(&["10.0.0.0/8"]),
            ranges(&["fd00::/64"]),
        ),
        ("everything", Some(&["0.0.0.0/0", "::/0"]), Admission::Anyone, Admission::Anyone),
        (
            "everything in halves",
            Some(&["0.0.0.0/1", "128.0.0.0/1", "8000::/1", "::/1"]),
            Admission::Anyone,
            Admission::Anyone,
        ),
        (
            "the last address",
            Some(&["255.255.255.255/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]),
            ranges(&["255.255.255.255/32"]),
            ranges(&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]),
        ),
    ] {
        let sources = sources.map_or(Sources::Any, |list| Sources::Only(nets(list)));
        assert_eq!(admission(&sources, Family::V4), v4, "{what}");
        assert_eq!(admission(&sources, Family::V6), v6, "{what}");
    }
}

prop_compose! {
    fn any_net()(v4 in any::<bool>(), bits in any::<u32>(), len in 0u8..=32) -> IpNet {
        let addr: IpAddr = if v4 {
            std::net::Ipv4Addr::from(bits).into()
        } else {
            std::net::Ipv6Addr::from(u128::from(bits) << 96).into()
        };
        IpNet::new(addr, len).unwrap()
    }
}

proptest! {
    #[test]
    fn merging_keeps_exactly_the_admitted_addresses(nets in prop::collection::vec(any_net(), 0..12)) {
        for family in [Family::V4, Family::V6] {
            let found = merged(nets.iter().copied(), family);
            for pair in found.windows(2) {
                prop_assert!(number_of(pair[0].last()) + 1 < number_of(pair[1].first()), "{:?}", pair);
            }
            // The ends of every range and their neighbours are where a mistake would show.
            for net in &nets {
                for addr in [net.network(), net.broadcast()] {
                    for offset in [-1i8, 0, 1] {
                        let number = number_of(addr);
                        let near = match offset { -1 => number.checked_sub(1), 0 => Some(number), _ => number.checked_add(1) };
                        let Some(near) = near.and_then(|near| Family::of(addr).address(near)) else { continue };
                        let expected = Family::of(near) == family && nets.iter().any(|net| net.contains(&near));
                        prop_assert_eq!(found.iter().any(|range| range.contains(near)), expected, "{}", near);
                    }
                }
            }
        }
    }
}

fn number_of(addr: IpAddr) -> u128 {
    crate::addr::number(addr)
}

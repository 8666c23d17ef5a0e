use std::num::NonZeroU16;

use landfall_core::addr::Family;
use landfall_core::elect::{NodeSet, Wanted};
use landfall_core::frontend::Route;
use landfall_core::name::Namespace;
use landfall_core::service::{Affinity, Hints, Protocol, ServicePort, SliceEndpoint, SlicePort, Sources};
use serde_json::{Value, json};

use super::*;
use crate::convert;

/// The same case in both families: load-balancer addresses and the start of pod addresses.
const FAMILIES: [(Family, &str, &str, &str); 2] = [
    (Family::V4, "192.0.2.100", "192.0.2.101", "10.244.0."),
    (Family::V6, "2001:db8:50::100", "2001:db8:50::101", "fd00:244::"),
];

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn port(name: &str) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        port: NonZeroU16::new(80).unwrap(),
        node_port: None,
    }
}

fn facts(name: &str, vips: &[&str], policy: ExternalPolicy) -> ServiceFacts {
    ServiceFacts {
        service: Service {
            key: key(name),
            uid: name.into(),
            created: 0,
            vips: vips.iter().map(|vip| addr(vip)).collect(),
            ports: vec![port("")],
            external_policy: policy,
            sources: Sources::Any,
            sources_on_node_ports: true,
            external_ips: Vec::new(),
            affinity: Affinity::None,
        },
        pools: Vec::new(),
        health_check: None,
    }
}

fn slice_key(name: &str) -> SliceKey {
    SliceKey { namespace: Namespace::new("shop"), name: name.into() }
}

/// An endpoint: node, ready, serving while terminating.
type Pod = (&'static str, bool, bool);

fn slice(service: &str, family: Family, prefix: &str, pods: &[Pod]) -> SliceFacts {
    let port = SlicePort { name: "".into(), protocol: Protocol::Tcp, port: NonZeroU16::new(8080) };
    let endpoint = |(index, (node, ready, draining)): (usize, &Pod)| SliceEndpoint {
        addr: addr(&format!("{prefix}{}", index + 1)),
        ready: *ready,
        serving: *ready || *draining,
        terminating: *draining,
        node: Some(NodeName::new(node)),
        hints: None,
    };
    let endpoints = pods.iter().enumerate().map(endpoint).collect();
    SliceFacts { service: key(service), slice: Slice { family, ports: vec![port], endpoints } }
}

fn node(labels: &Value) -> NodeFacts {
    convert::node(serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap())
}

fn ad(spec: &Value) -> Advertisement {
    let object = json!({"apiVersion": "landfall.dev/v1beta1", "kind": "L2Advertisement",
                        "metadata": {"name": "a"}, "spec": spec});
    convert::advertisement(serde_json::from_value(object).unwrap())
}

fn pool(addresses: &[&str]) -> Pool {
    let object = json!({"apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool",
                        "metadata": {"name": "p"}, "spec": {"addresses": addresses}});
    convert::pool(&serde_json::from_value(object).unwrap())
}

impl View {
    fn set(&mut self, facts: ServiceFacts) {
        self.apply(Observed::Service(Change::Set(facts.service.key.clone(), facts), 1));
    }

    fn set_slice(&mut self, name: &str, facts: SliceFacts) {
        self.apply(Observed::Slice(Change::Set(slice_key(name), facts), 1));
    }

    fn set_node(&mut self, name: &str, labels: &Value) {
        self.apply(Observed::Node(Change::Set(NodeName::new(name), node(labels))));
    }

    fn taken(&mut self) -> Vec<ServiceKey> {
        self.take_dirty(|_| false)
    }

    /// Everything that waits is in the kernel now.
    fn program(&mut self) {
        for key in self.taken() {
            let vips = self.service(&key).map(|service| service.vips.clone()).unwrap_or_default();
            self.set_programmed(key, &vips);
        }
    }

    fn plan(&mut self) -> Wanted {
        self.program();
        self.take_plans().unwrap()
    }
}

fn view() -> View {
    View::new(NodeName::new("n1"), Choices::default())
}

fn only(nodes: &[&str]) -> NodeSet {
    NodeSet::Only(Arc::new(nodes.iter().map(NodeName::new).collect()))
}

#[test]
fn a_change_touches_its_service_and_nothing_else() {
    for (family, vip, other, pods) in FAMILIES {
        let mut view = view();
        view.set(facts("a", &[vip], ExternalPolicy::Cluster));
        view.set(facts("b", &[other], ExternalPolicy::Cluster));
        assert_eq!(view.taken(), [key("a"), key("b")]);
        view.set_slice("b-1", slice("b", family, pods, &[("n1", true, false)]));
        assert_eq!(view.taken(), [key("b")]);
        view.set_slice("b-1", slice("b", family, pods, &[("n1", true, false)]));
        view.set(facts("a", &[vip], ExternalPolicy::Cluster));
        assert!(view.taken().is_empty(), "nothing is different");
        view.set_slice("c-1", slice("c", family, pods, &[("n1", true, false)]));
        assert!(view.taken().is_empty(), "there is no such Service");
        view.apply(Observed::Slice(Change::Delete(slice_key("b-1")), 2));
        view.apply(Observed::Service(Change::Delete(key("a")), 2));
        assert_eq!(view.taken(), [key("a"), key("b")]);
        assert!(view.frontends(&key("a")).is_none());
    }
}

#[test]
fn the_order_in_which_service_and_slices_arrive_makes_no_difference() {
    for (family, vip, _, pods) in FAMILIES {
        let service = || facts("a", &[vip], ExternalPolicy::Cluster);
        let endpoints = || slice("a", family, pods, &[("n1", true, false), ("n2", true, false)]);
        let (mut first, mut last) = (view(), view());
        first.set(service());
        first.set_slice("a-1", endpoints());
        last.set_slice("a-1", endpoints());
        last.set(service());
        let made = first.frontends(&key("a")).unwrap();
        assert_eq!(Some(&made), last.frontends(&key("a")).as_ref());
        assert!(matches!(&made[0].1.route, Route::Cluster { targets } if targets.len() == 2), "{made:?}");
        assert_eq!(last.taken(), [key("a")]);
    }
}

#[test]
fn a_slice_that_changes_hands_touches_both_services() {
    for (family, vip, other, pods) in FAMILIES {
        let mut view = view();
        view.set(facts("a", &[vip], ExternalPolicy::Cluster));
        view.set(facts("b", &[other], ExternalPolicy::Cluster));
        view.set_slice("s", slice("a", family, pods, &[("n1", true, false)]));
        view.taken();
        view.set_slice("s", slice("b", family, pods, &[("n1", true, false)]));
        assert_eq!(view.taken(), [key("a"), key("b")]);
        assert!(!view.frontends(&key("a")).unwrap()[0].1.has_endpoints());
        assert!(view.frontends(&key("b")).unwrap()[0].1.has_endpoints());
    }
}

#[test]
fn a_node_that_changes_its_zone_has_every_service_computed_anew() {
    // S20
    for (family, vip, _, pods) in FAMILIES {
        let mut view = view();
        let mut near = slice("a", family, pods, &[("n1", true, false), ("n2", true, false)]);
        for (endpoint, zone) in near.slice.endpoints.iter_mut().zip(["east", "west"]) {
            endpoint.hints = Some(Arc::new(Hints { zones: vec![zone.into()], nodes: Vec::new() }));
        }
        view.set(facts("a", &[vip], ExternalPolicy::Cluster));
        view.set_slice("a-1", near);
        view.taken();
        let targets = |view: &View| match &view.frontends(&key("a")).unwrap()[0].1.route {
            Route::Cluster { targets } => targets.iter().map(|target| target.addr).collect::<Vec<_>>(),
            Route::Local { .. } => unreachable!("the policy is Cluster"),
        };
        assert_eq!(targets(&view).len(), 2, "no zone, so all of them");
        for (zone, wanted) in [("east", "1"), ("west", "2")] {
            let labels = json!({"topology.kubernetes.io/zone": zone});
            view.apply(Observed::Node(Change::Set(NodeName::new("n1"), node(&labels))));
            assert_eq!(view.taken(), [key("a")]);
            assert_eq!(targets(&view), [addr(&format!("{pods}{wanted}"))]);
        }
        let labels = json!({"topology.kubernetes.io/zone": "west", "other": "label"});
        view.apply(Observed::Node(Change::Set(NodeName::new("n1"), node(&labels))));
        assert!(view.taken().is_empty());
    }
}

#[test]
fn node_ports_follow_the_choice_and_the_nodes_addresses() {
    let with = |node_ports| View::new(NodeName::new("n1"), Choices { node_ports, external_ips: true });
    let nets = |texts: &[&str]| NodePortAddresses::Within(texts.iter().map(|t| t.parse().unwrap()).collect());
    let local = ["127.0.0.1", "192.0.2.11", "198.51.100.1", "2001:db8::11", "::1"].map(addr);
    for (choice, wanted) in [
        (NodePortAddresses::None, &[][..]),
        // S96
        (NodePortAddresses::Primary, &["192.0.2.11", "2001:db8::11"]),
        // S97, S98: a family without prefix has all of its addresses, but loopback.
        (nets(&["198.51.100.0/24"]), &["198.51.100.1", "2001:db8::11"]),
        (nets(&["2001:db8::/32", "203.0.113.0/24"]), &["2001:db8::11"]),
        (nets(&["127.0.0.0/8"]), &["2001:db8::11"]),
    ] {
        let mut view = with(choice.clone());
        let mut service = facts("a", &["192.0.2.100"], ExternalPolicy::Cluster);
        service.service.ports[0].node_port = NonZeroU16::new(30_080);
        view.set(service);
        view.apply(Observed::Local(local.to_vec()));
        let node = NodeFacts {
            addresses: ["192.0.2.11", "2001:db8::11", "198.51.100.1"].map(addr).to_vec(),
            ..NodeFacts::default()
        };
        view.apply(Observed::Node(Change::Set(NodeName::new("n1"), node)));
        let doors = |view: &View| -> Vec<IpAddr> {
            let fronts = view.frontends(&key("a")).unwrap();
            fronts.iter().filter(|(_, front)| !front.owned).map(|(front, _)| front.addr).collect()
        };
        assert_eq!(doors(&view), wanted.iter().map(|text| addr(text)).collect::<Vec<_>>(), "{choice:?}");
        // S101: an address that goes takes its NodePort along, at once.
        view.taken();
        view.apply(Observed::Local(vec![addr("198.51.100.1")]));
        view.apply(Observed::Node(Change::Set(NodeName::new("n1"), NodeFacts::default())));
        assert_eq!(view.taken().is_empty(), wanted.is_empty(), "{choice:?}");
        assert!(doors(&view).iter().all(|door| *door == addr("198.51.100.1")), "{choice:?}");
    }
}

#[test]
fn external_ips_are_served_on_request_and_never_on_a_vital_address() {
    // S87
    for external_ips in [false, true] {
        let mut view = View::new(NodeName::new("n1"), Choices { external_ips, ..Choices::default() });
        let mut service = facts("a", &[], ExternalPolicy::Cluster);
        service.service.external_ips = ["203.0.113.9", "192.0.2.11", "2001:db8:9::1"].map(addr).to_vec();
        view.set(service);
        let node = NodeFacts { addresses: vec![addr("192.0.2.11")], ..NodeFacts::default() };
        view.apply(Observed::Node(Change::Set(NodeName::new("n2"), node)));
        let found: Vec<IpAddr> =
            view.frontends(&key("a")).unwrap().into_iter().map(|(front, _)| front.addr).collect();
        let wanted = if external_ips { vec![addr("203.0.113.9"), addr("2001:db8:9::1")] } else { Vec::new() };
        assert_eq!(found, wanted);
    }
}

#[test]
fn endpoints_on_a_dead_node_leave_at_once_and_those_of_this_node_never() {
    for (family, prefix, vip) in
        [(Family::V4, "10.0.0.", "192.0.2.100"), (Family::V6, "fd00::", "2001:db8::100")]
    {
        let mut view = View::new(NodeName::new("n1"), Choices::default());
        view.set(facts("a", &[vip], ExternalPolicy::Cluster));
        let pods = slice("a", family, prefix, &[("n1", true, false), ("n2", true, false)]);
        view.apply(Observed::Slice(Change::Set(slice_key("a-1"), pods), 1));
        let counts = |view: &View| {
            let (_, front) = view.frontends(&key("a")).unwrap().remove(0);
            (front.held().count(), front.lost.len())
        };
        for (node, dead, wanted) in
            [("n2", false, (2, 0)), ("n2", true, (1, 1)), ("n1", true, (1, 1)), ("n2", false, (2, 0))]
        {
            view.taken();
            let before = counts(&view);
            let facts = NodeFacts { dead, ..NodeFacts::default() };
            view.apply(Observed::Node(Change::Set(NodeName::new(node), facts)));
            assert_eq!(counts(&view), wanted, "{node} {dead}");
            assert_eq!(view.taken().is_empty(), before == wanted, "{node} {dead}");
        }
    }
}

#[test]
fn a_pool_may_leave_node_ports_without_source_ranges() {
    let choices = Choices { node_ports: NodePortAddresses::Primary, external_ips: false };
    let mut view = View::new(NodeName::new("n1"), choices);
    let node = NodeFacts { addresses: vec![addr("192.0.2.11")], ..NodeFacts::default() };
    view.apply(Observed::Node(Change::Set(NodeName::new("n1"), node)));
    let mut service = facts("a", &["192.0.2.100"], ExternalPolicy::Cluster);
    service.service.ports[0].node_port = NonZeroU16::new(30_080);
    service.service.sources = Sources::Only(vec!["198.51.100.0/24".parse().unwrap()]);
    service.pools = vec![PoolName::new("lan")];
    view.set(service);
    for open_node_ports in [false, true] {
        view.taken();
        let mut pool = Pool::default();
        pool.open_node_ports = open_node_ports;
        view.apply(Observed::Pool(Change::Set(PoolName::new("lan"), pool)));
        assert_eq!(view.taken().is_empty(), !open_node_ports, "only then something changes");
        for (front, made) in view.frontends(&key("a")).unwrap() {
            let open = open_node_ports && !made.owned;
            assert_eq!(made.admission == landfall_core::frontend::Admission::Anyone, open, "{front}");
        }
    }
}

#[test]
fn no_service_is_served_on_an_address_the_cluster_lives_by() {
    for (family, vip, other, _) in FAMILIES {
        let mut view = view();
        view.set(facts("a", &[vip, other], ExternalPolicy::Cluster));
        view.taken();
        let with = |addrs: &[&str]| NodeFacts {
            addresses: addrs.iter().map(|text| addr(text)).collect(),
            ..NodeFacts::default()
        };
        let set =
            |view: &mut View, facts| view.apply(Observed::Node(Change::Set(NodeName::new("n7"), facts)));
        set(&mut view, with(&[vip]));
        assert_eq!(view.taken(), [key("a")]);
        assert_eq!(view.vips(&key("a")), [addr(other)]);
        let fronts = view.frontends(&key("a")).unwrap();
        assert!(fronts.iter().all(|(front, _)| front.addr == addr(other)) && !fronts.is_empty());
        assert!(view.left_out()[&key("a")].contains("node n7"), "{:?}", view.left_out());
        set(&mut view, with(&[]));
        assert_eq!(view.taken(), [key("a")]);
        assert!(view.vips(&key("a")).len() == 2 && view.left_out().is_empty());

        let mut api = slice("kubernetes", family, "", &[]);
        api.service = ServiceKey::new("default", "kubernetes");
        api.slice.endpoints.push(SliceEndpoint {
            addr: addr(other),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            hints: None,
        });
        view.set_slice("kubernetes", api);
        assert_eq!(view.vips(&key("a")), [addr(vip)]);
        assert!(view.left_out()[&key("a")].contains("an API server"));
        for odd in ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            view.set(facts("b", &[odd], ExternalPolicy::Cluster));
            assert!(view.vips(&key("b")).is_empty(), "{odd}");
        }
    }
}

#[test]
fn what_a_complete_list_does_not_name_is_gone() {
    for (family, vip, other, pods) in FAMILIES {
        let mut view = view();
        view.set(facts("a", &[vip], ExternalPolicy::Cluster));
        view.set(facts("b", &[other], ExternalPolicy::Cluster));
        view.set_slice("b-1", slice("b", family, pods, &[("n1", true, false)]));
        view.set_slice("b-2", slice("b", family, pods, &[("n1", true, false)]));
        view.taken();
        view.apply(Observed::Service(Change::Listed(HashSet::from([key("b")])), 0));
        assert_eq!(view.taken(), [key("a")]);
        assert!(view.service(&key("a")).is_none() && view.service(&key("b")).is_some());
        view.apply(Observed::Slice(Change::Listed(HashSet::from([slice_key("b-2")])), 0));
        assert_eq!(view.taken(), [key("b")]);
        assert!(view.frontends(&key("b")).unwrap()[0].1.has_endpoints());
        view.apply(Observed::Slice(Change::Listed(HashSet::new()), 0));
        assert!(!view.frontends(&key("b")).unwrap()[0].1.has_endpoints());
    }
}

#[test]
fn nothing_is_ready_before_every_kind_it_needs_was_listed() {
    // S135
    let mut view = view();
    let lists = [
        Observed::Pool(Change::Listed(HashSet::new())),
        Observed::Service(Change::Listed(HashSet::new()), 0),
        Observed::Slice(Change::Listed(HashSet::new()), 0),
        Observed::Node(Change::Listed(HashSet::new())),
        Observed::Advertisement(Change::Listed(HashSet::new())),
    ];
    let mut states = Vec::new();
    for list in lists {
        view.apply(list);
        states.push((view.ready_to_program(), view.ready_to_announce()));
    }
    assert_eq!(states, [(false, false), (false, false), (false, false), (true, false), (true, true)]);
}

#[test]
fn the_watermark_only_rises() {
    let mut view = view();
    view.apply(Observed::Service(Change::Delete(key("a")), 7));
    view.apply(Observed::Service(Change::Listed(HashSet::new()), 0));
    view.apply(Observed::Slice(Change::Delete(slice_key("a")), 9));
    assert_eq!(view.watermark(), Watermark { services: 7, slices: 9 });
}

#[test]
fn an_address_is_wanted_once_the_kernel_serves_it_and_no_longer_than_the_service_has_it() {
    for (_, vip, other, _) in FAMILIES {
        let mut view = view();
        view.set(facts("a", &[vip], ExternalPolicy::Cluster));
        assert!(view.take_plans().unwrap().vips.is_empty(), "not in the kernel yet");
        view.program();
        assert!(view.take_plans().unwrap().vips.contains_key(&addr(vip)));
        assert!(view.take_plans().is_none(), "nothing has changed");

        view.set(facts("a", &[other], ExternalPolicy::Cluster));
        assert!(
            view.take_plans().unwrap().vips.is_empty(),
            "the old one is given up, the new one not served yet"
        );
        assert_eq!(view.leaving(&key("a")).collect::<Vec<_>>(), [addr(vip)]);
        view.program();
        assert_eq!(view.take_plans().unwrap().vips.into_keys().collect::<Vec<_>>(), [addr(other)]);

        view.apply(Observed::Service(Change::Delete(key("a")), 2));
        assert!(view.take_plans().unwrap().vips.is_empty());
        assert_eq!(view.leaving(&key("a")).collect::<Vec<_>>(), [addr(other)]);
        view.program();
        assert_eq!(view.leaving(&key("a")).count(), 0);
    }
}

#[test]
fn a_held_service_stays_marked() {
    let mut view = view();
    view.set(facts("a", &["192.0.2.100"], ExternalPolicy::Cluster));
    view.set(facts("b", &["2001:db8:50::100"], ExternalPolicy::Cluster));
    assert_eq!(view.take_dirty(|held| *held == key("a")), [key("b")]);
    assert_eq!(view.taken(), [key("a")]);
}

#[test]
fn endpoints_of_a_cluster_service_do_not_touch_who_announces() {
    for (family, vip, _, pods) in FAMILIES {
        let mut view = view();
        view.set(facts("a", &[vip], ExternalPolicy::Cluster));
        assert_eq!(view.plan().vips[&addr(vip)].endpoints, NodeSet::Any);
        view.set_slice("a-1", slice("a", family, pods, &[("n1", true, false)]));
        assert!(view.take_plans().is_none());
    }
}

#[test]
fn a_local_service_is_announced_where_its_endpoints_are() {
    for (family, vip, _, pods) in FAMILIES {
        let mut view = view();
        view.set(facts("a", &[vip], ExternalPolicy::Local));
        for (endpoints, nodes) in [
            (vec![], vec![]),
            (vec![("n1", true, false), ("n2", false, false)], vec!["n1"]),
            (vec![("n1", true, false), ("n2", false, true)], vec!["n1"]),
            (vec![("n1", false, false), ("n2", false, true)], vec!["n2"]),
        ] {
            view.set_slice("a-1", slice("a", family, pods, &endpoints));
            let wanted = view.plan();
            assert_eq!(wanted.vips[&addr(vip)].endpoints, only(&nodes), "{endpoints:?}");
        }
        let (elsewhere, _, _, strange) = FAMILIES[usize::from(family == Family::V4)];
        view.set_slice("a-1", slice("a", elsewhere, strange, &[("n1", true, false)]));
        assert_eq!(view.plan().vips[&addr(vip)].endpoints, only(&[]), "endpoints of the other family");
    }
}

#[test]
fn without_advertisements_every_node_announces_and_with_them_only_those_they_pick() {
    for (_, vip, other, _) in FAMILIES {
        let mut view = view();
        view.set_node("n1", &json!({"zone": "a"}));
        view.set_node("n2", &json!({"zone": "b"}));
        view.apply(Observed::Pool(Change::Set(
            PoolName::new("blue"),
            pool(&["192.0.2.100-192.0.2.100", "2001:db8:50::100-2001:db8:50::100"]),
        )));
        view.set(facts("a", &[vip, other], ExternalPolicy::Cluster));
        let rules = |view: &mut View, vip: &str| {
            view.program();
            view.plans().vips[&addr(vip)].rules.iter().map(|rule| rule.nodes.clone()).collect::<Vec<_>>()
        };
        assert_eq!(rules(&mut view, vip), [NodeSet::Any]);
        let blue = json!({"pools": ["blue"], "nodeSelectors": [{"matchLabels": {"zone": "a"}}]});
        view.apply(Observed::Advertisement(Change::Set("blue".into(), ad(&blue))));
        assert_eq!(rules(&mut view, vip), [only(&["n1"])]);
        assert_eq!(rules(&mut view, other), [], "no advertisement covers an address outside its pools");
        view.apply(Observed::Advertisement(Change::Set("rest".into(), ad(&json!({})))));
        assert_eq!(rules(&mut view, other), [NodeSet::Any]);
        assert_eq!(rules(&mut view, vip), [only(&["n1"]), NodeSet::Any]);
        view.set_node("n2", &json!({"zone": "a"}));
        assert_eq!(rules(&mut view, vip), [only(&["n1", "n2"]), NodeSet::Any]);
        view.apply(Observed::Advertisement(Change::Listed(HashSet::new())));
        assert_eq!(
            rules(&mut view, other),
            [NodeSet::Any],
            "the last one is gone: everything everywhere again"
        );
    }
}

#[test]
fn the_pool_of_an_address_is_the_one_noted_else_the_one_that_holds_it() {
    for (_, vip, other, _) in FAMILIES {
        let mut view = view();
        let holding = ["192.0.2.100-192.0.2.100", "2001:db8:50::100-2001:db8:50::100"];
        view.apply(Observed::Pool(Change::Set(PoolName::new("blue"), pool(&holding))));
        for (noted, first, second) in [
            (vec![], Some("blue"), None),
            (vec!["gone"], Some("gone"), Some("gone")),
            (vec!["red", "blue"], Some("blue"), Some("blue")),
            (vec!["red", "green"], Some("red"), Some("green")),
        ] {
            let mut facts = facts("a", &[vip, other], ExternalPolicy::Cluster);
            facts.pools = noted.iter().map(PoolName::new).collect();
            view.set(facts);
            view.program();
            let wanted = view.plans();
            let pool = |vip: &str| wanted.vips[&addr(vip)].pool.clone();
            assert_eq!(
                (pool(vip), pool(other)),
                (first.map(PoolName::new), second.map(PoolName::new)),
                "{noted:?}"
            );
        }
    }
}

#[test]
fn a_shared_address_is_announced_where_every_service_has_endpoints_or_where_any_has() {
    // A64: each port of it has to be reached.
    for (family, vip, _, pods) in FAMILIES {
        let mut view = view();
        let endpoints = |view: &mut View| view.plan().vips[&addr(vip)].endpoints.clone();
        view.set(facts("a", &[vip], ExternalPolicy::Local));
        view.set(facts("b", &[vip], ExternalPolicy::Local));
        view.set_slice("a-1", slice("a", family, pods, &[("n1", true, false)]));
        view.set_slice("b-1", slice("b", family, pods, &[("n2", true, false)]));
        assert_eq!(endpoints(&mut view), only(&["n1", "n2"]), "no node has both");
        view.set_slice("b-1", slice("b", family, pods, &[("n1", true, false), ("n2", true, false)]));
        assert_eq!(endpoints(&mut view), only(&["n1"]));
        view.set(facts("b", &[vip], ExternalPolicy::Cluster));
        assert_eq!(endpoints(&mut view), only(&["n1"]), "b is served from anywhere, a only from here");
        view.set_slice("a-1", slice("a", family, pods, &[]));
        assert_eq!(endpoints(&mut view), NodeSet::Any, "who has no endpoints has no say");
        assert_eq!(view.holder(addr(vip)).map(|service| service.key.clone()), Some(key("a")));
    }
}

#[test]
fn a_node_that_is_to_go_announces_nothing_and_one_that_is_not_ready_goes_on() {
    // S123
    let mut view = view();
    for (metadata, taint, barred) in [
        (json!({}), "ToBeDeletedByClusterAutoscaler", true),
        (json!({}), "node.kubernetes.io/not-ready", false),
        (json!({}), "node.kubernetes.io/unreachable", false),
        (json!({}), "node.kubernetes.io/unschedulable", false),
        (json!({"deletionTimestamp": "2026-01-02T03:04:05Z"}), "other", true),
        (json!({}), "other", false),
    ] {
        let object = json!({
            "metadata": metadata,
            "spec": {"taints": [{"key": taint, "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]},
        });
        let facts = crate::convert::node(serde_json::from_value(object).unwrap());
        view.apply(Observed::Node(Change::Set(NodeName::new("n1"), facts)));
        let wanted: BTreeSet<_> = barred.then(|| NodeName::new("n1")).into_iter().collect();
        assert_eq!(view.plans().barred, wanted, "{metadata} {taint}");
    }
}

#[test]
fn an_excluded_node_announces_nothing() {
    // S122, S123
    let mut view = view();
    view.set_node("n1", &json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""}));
    view.set_node("n2", &json!({}));
    assert_eq!(view.take_plans().unwrap().barred, BTreeSet::from([NodeName::new("n1")]));
    view.set_node("n1", &json!({}));
    assert!(view.take_plans().unwrap().barred.is_empty());
}

//! Landfall in clusters of other shapes: kube-proxy in iptables mode, no kube-proxy at all, one address family only.
//! Dual stack with kube-proxy in nftables mode is what all other end-to-end tests use.
#![cfg(test)]

use std::net::{IpAddr, SocketAddr};

use landfall_lab::product::{
    HELLO, POD, SOON, eventually, external_ip, get, nft_table, patch, pool_yaml, wait_owner, wait_served,
    wait_unserved,
};
use landfall_lab::{Families, KubeProxy, Lab, Options, TestNs, checkout};
use serde_json::json;

/// A lab of this test alone with Landfall installed; goes down with the test.
struct Variant(&'static Lab);

impl Variant {
    fn up(suffix: &str, kube_proxy: KubeProxy, families: Families) -> Self {
        let name = Lab::test_name(suffix).unwrap();
        let options = Options { kube_proxy, families, nodes: 2, ..Options::named(name) };
        let checkout = checkout().unwrap();
        let lab = Lab::up(&checkout, &options, &|line| eprintln!("{line}")).unwrap();
        let variant = Self(Box::leak(Box::new(lab)));
        if let Err(error) = variant.0.install(&checkout, &[]) {
            variant.0.print_report(&checkout, "landfall-system");
            panic!("the chart does not install: {error}");
        }
        variant
    }

    /// An unmodified hello-world with an address from a pool of that one address.
    fn hello(&self, address: &str) -> (TestNs, IpAddr) {
        let ns = self.0.namespace("variant").unwrap();
        let only = format!("{address}-{address}");
        self.0.apply(&pool_yaml("variant", &[&only])).unwrap();
        ns.apply(HELLO).unwrap();
        let ip = external_ip(&ns, "hello-world");
        assert_eq!(ip, address.parse::<IpAddr>().unwrap());
        (ns, ip)
    }

    /// A31, A39: who prefers two families gets the one of the cluster, and nobody can require two.
    fn gives_one_family(&self, ns: &TestNs, given: &str) {
        let both = ["192.0.2.150", "2001:db8:50::150"].map(|addr| format!("{addr}-{addr}"));
        self.0.apply(&pool_yaml("both", &[&both[0], &both[1]])).unwrap();
        ns.service("prefers", &json!({}), &json!({"ipFamilyPolicy": "PreferDualStack"}))
            .wait_addresses(&[given]);
        let requires = json!({"ipFamilyPolicy": "RequireDualStack"});
        let Err(refused) = ns.try_service("requires", &json!({}), &requires) else {
            panic!("the API server takes it");
        };
        let refused = format!("{refused:?}");
        assert!(refused.contains("ipFamilyPolicy"), "{refused}");
    }

    /// The client is served, and source ranges shut the other one out.
    fn serves(&self, ns: &TestNs, ip: IpAddr, allowed: &str) {
        let body = wait_served(self.0, "client", ip, 80, POD);
        assert!(body.contains("Hello Kubernetes!"), "{body}");
        let _ = wait_served(self.0, "client2", ip, 80, SOON);
        let ranges = format!(r#"{{"spec":{{"loadBalancerSourceRanges":["{allowed}"]}}}}"#);
        patch(ns, "service", "hello-world", &ranges);
        wait_unserved(self.0, "client2", ip, 80, SOON);
        let _ = wait_served(self.0, "client", ip, 80, SOON);
    }
}

impl Variant {
    /// S112, S119, S121: nodes with an endpoint say so, as long as somebody asks, and every node says how it is.
    fn answers_health_checks(&self, ns: &TestNs) {
        let nodes = ["192.0.2.11", "192.0.2.12"].map(|addr| addr.parse::<IpAddr>().unwrap());
        for node in nodes {
            let asked = SocketAddr::new(node, 10_256);
            let answer = self.0.host("client").unwrap().http_get_path(asked, "/healthz", SOON).unwrap();
            let health = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, 200, "{health}");
            assert!(health.contains("\"nodeEligible\":true"), "{health}");
        }
        patch(ns, "service", "hello-world", r#"{"spec":{"externalTrafficPolicy":"Local"}}"#);
        let service = ns.get_json(&["service", "hello-world"]).unwrap();
        let port = service["spec"]["healthCheckNodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
        let port = port.expect("the API server gives one");
        let pods = ns.get_json(&["pods", "--selector=app=hello-world"]).unwrap();
        let pods = pods["items"].as_array().unwrap();
        for node in nodes {
            let here = pods.iter().filter(|pod| pod["status"]["hostIP"] == node.to_string()).count();
            let wanted = format!("\"localEndpoints\": {here},");
            eventually(SOON, &format!("{node} to tell of {here} endpoints"), || {
                let told = get(self.0, "client", node, port).unwrap_or_else(|refused| refused);
                let right = told.contains(&wanted) && told.starts_with("503") == (here == 0);
                right.then_some(())
            });
        }
        patch(ns, "service", "hello-world", r#"{"spec":{"externalTrafficPolicy":"Cluster"}}"#);
        for node in nodes {
            wait_unserved(self.0, "client", node, port, SOON);
        }
    }
}

impl Drop for Variant {
    fn drop(&mut self) {
        // `up` of the same name cleans up as well: a failure here must not hide the test's own.
        if let Err(error) = Lab::down(self.0.name()) {
            eprintln!("{error}");
        }
    }
}

#[test]
fn ipv4_only_with_kube_proxy_in_iptables_mode_serves_clients_and_enforces_ranges() {
    let variant = Variant::up("-i", KubeProxy::Iptables, Families::Ipv4);
    let (ns, ip) = variant.hello("192.0.2.140");
    variant.serves(&ns, ip, "192.0.2.200/32");
    let _ = wait_owner(variant.0, ip);
    variant.gives_one_family(&ns, "192.0.2.150");
}

#[test]
fn ipv4_only_without_kube_proxy_serves_clients_and_enforces_ranges() {
    let variant = Variant::up("-n", KubeProxy::None, Families::Ipv4);
    let (ns, ip) = variant.hello("192.0.2.141");
    variant.serves(&ns, ip, "192.0.2.200/32");
    let _ = wait_owner(variant.0, ip);
    variant.answers_health_checks(&ns);
}

/// The address is reached by a route to a node: every node has it in its kernel.
#[test]
fn ipv6_only_serves_clients_that_route_to_any_node_and_enforces_ranges() {
    let variant = Variant::up("-6", KubeProxy::Nftables, Families::Ipv6);
    let (ns, ip) = variant.hello("2001:db8:50::140");
    for (client, node) in [("client", "2001:db8:50::11"), ("client2", "2001:db8:50::12")] {
        let route = format!("ip -6 route add {ip}/128 via {node}");
        variant.0.host(client).unwrap().run(&route.split(' ').collect::<Vec<_>>()).unwrap();
    }
    variant.serves(&ns, ip, "2001:db8:50::200/128");
    assert!(nft_table(variant.0, "n1").contains("2001:db8:50::140"));
    variant.gives_one_family(&ns, "2001:db8:50::150");
}

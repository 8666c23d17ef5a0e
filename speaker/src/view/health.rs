//! What other load balancers ask this node about.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use landfall_core::addr::Family;
use landfall_core::name::ServiceKey;
use landfall_core::service::Slice;

use super::View;
use crate::health_check::Check;

impl View {
    /// What the health-check port of a Service says on this node; `None` when it has none.
    #[must_use]
    pub fn health_check(&self, key: &ServiceKey) -> Option<Check> {
        let facts = self.services.get(key)?;
        let asked = facts.health_check?;
        let local = |family, wanted: bool| wanted.then(|| self.local_ready(key, family));
        Some(Check {
            uid: Arc::clone(&facts.service.uid),
            port: asked.port,
            local_v4: local(Family::V4, asked.v4),
            local_v6: local(Family::V6, asked.v6),
        })
    }

    /// The addresses of this node at which health-check ports are served.
    #[must_use]
    pub fn health_check_addresses(&self) -> Vec<IpAddr> {
        self.node_addrs()
    }

    /// Whether this node may be given new traffic, as far as its Node object says. Before the first list it may: it
    /// would else be taken out by every restart.
    #[must_use]
    pub fn eligible(&self) -> bool {
        match self.own_node() {
            Some(node) => !node.leaving,
            None => !self.ready_to_program(),
        }
    }

    /// The ready endpoints on this node. Those that are terminating do not count, although they are served where
    /// nothing else is: the node is to be drained. One address counts once, however many ports it has.
    fn local_ready(&self, key: &ServiceKey, family: Family) -> usize {
        let with_ports = |slice: &&Slice| slice.family == family && !slice.ports.is_empty();
        let here = self
            .slices_of(key)
            .filter(with_ports)
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| endpoint.ready && endpoint.node.as_ref() == Some(&self.node));
        here.map(|endpoint| endpoint.addr).collect::<HashSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use landfall_core::frontend::Route;
    use landfall_core::name::NodeName;
    use serde_json::{Value, json};

    use super::super::{Change, Choices, Observed};
    use super::*;
    use crate::args::NodePortAddresses;
    use crate::convert::{self, ClassFilter, Interner};

    fn view() -> View {
        let mut view = View::new(
            NodeName::new("n1"),
            Choices { node_ports: NodePortAddresses::Primary, external_ips: false },
        );
        let mut names = Interner::default();
        let classes = ClassFilter { class: "landfall.dev/landfall".into(), default: true };
        let object = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_400,
                     "ipFamilies": ["IPv4", "IPv6"], "ports": [{"port": 80}, {"port": 443}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.100"}, {"ip": "2001:db8:50::100"}]}},
        }))
        .unwrap();
        let facts = convert::service(&object, &classes, &mut names).unwrap();
        view.apply(Observed::Service(Change::Set(ServiceKey::new("shop", "web"), facts), 1));
        view
    }

    fn slice(view: &mut View, name: &str, family: &str, ports: &Value, endpoints: &Value) {
        let mut names = Interner::default();
        let object = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {convert::SERVICE_NAME: "web"}},
            "addressType": family, "ports": ports, "endpoints": endpoints,
        }))
        .unwrap();
        let key = convert::slice_key(&object, &mut names).unwrap();
        let facts = convert::slice(&object, &mut names).unwrap();
        view.apply(Observed::Slice(Change::Set(key, facts), 1));
    }

    fn node(view: &mut View, object: Value) {
        let facts = convert::node(serde_json::from_value(object).unwrap());
        view.apply(Observed::Node(Change::Set(NodeName::new("n1"), facts)));
    }

    #[test]
    fn the_ready_endpoints_of_this_node_count_each_once_and_by_family() {
        // S114, S115
        let mut view = view();
        let local = |view: &View| {
            let check = view.health_check(&ServiceKey::new("shop", "web")).unwrap();
            (check.local_v4, check.local_v6)
        };
        assert_eq!(local(&view), (Some(0), Some(0)));
        for (family, prefix) in [("IPv4", "10.244.1."), ("IPv6", "fd00:244:1::")] {
            let endpoint = |last: u8, node: &str, conditions: Value| json!({"addresses": [format!("{prefix}{last}")], "nodeName": node, "conditions": conditions});
            let draining = json!({"ready": false, "serving": true, "terminating": true});
            let endpoints = json!([
                endpoint(1, "n1", json!({})),
                endpoint(2, "n1", json!({"ready": false})),
                endpoint(3, "n1", draining),
                endpoint(4, "n2", json!({})),
            ]);
            slice(&mut view, &format!("{family}-a"), family, &json!([{"port": 8080}]), &endpoints);
            let again = json!([endpoint(1, "n1", json!({}))]);
            slice(&mut view, &format!("{family}-b"), family, &json!([{"name": "tls", "port": 8443}]), &again);
            slice(
                &mut view,
                &format!("{family}-c"),
                family,
                &json!([]),
                &json!([endpoint(9, "n1", json!({}))]),
            );
        }
        assert_eq!(local(&view), (Some(1), Some(1)));
        slice(
            &mut view,
            "IPv6-d",
            "IPv6",
            &json!([{"port": 8080}]),
            &json!([{"addresses": ["fd00:244:1::7"], "nodeName": "n1"}]),
        );
        assert_eq!(local(&view), (Some(1), Some(2)));
        assert_eq!(view.health_check(&ServiceKey::new("shop", "other")), None);
    }

    #[test]
    fn what_is_terminating_here_is_served_while_the_health_check_already_fails() {
        // S53
        let mut view = view();
        let web = ServiceKey::new("shop", "web");
        for (family, pod) in [("IPv4", "10.244.1.1"), ("IPv6", "fd00:244:1::1")] {
            for (draining, local) in [(false, 1), (true, 0)] {
                let conditions = json!({"ready": !draining, "serving": true, "terminating": draining});
                let endpoints = json!([{"addresses": [pod], "nodeName": "n1", "conditions": conditions}]);
                slice(&mut view, family, family, &json!([{"port": 8080}]), &endpoints);
                let check = view.health_check(&web).unwrap();
                let told = if family == "IPv4" { check.local_v4 } else { check.local_v6 };
                assert_eq!(told, Some(local), "{family}");
                let served = view.frontends(&web).into_iter().flatten().any(|(_, front)| match front.route {
                    Route::Local { local, .. } => local.iter().any(|target| target.addr.to_string() == pod),
                    Route::Cluster { .. } => false,
                });
                assert!(served, "{family}, draining: {draining}");
            }
        }
    }

    #[test]
    fn a_node_is_eligible_until_it_is_leaving_or_gone() {
        // S121
        let mut view = view();
        assert!(view.eligible(), "nothing is known yet");
        node(&mut view, json!({"metadata": {}}));
        assert!(view.eligible());
        node(&mut view, json!({"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}}));
        assert!(!view.eligible());
        view.apply(Observed::Service(Change::Listed(HashSet::new()), 0));
        view.apply(Observed::Slice(Change::Listed(HashSet::new()), 0));
        view.apply(Observed::Node(Change::Listed(HashSet::new())));
        assert!(!view.eligible(), "there is no such Node");
    }
}

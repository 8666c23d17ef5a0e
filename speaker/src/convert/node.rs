//! Node: what advertisements select by and where its pods are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as k8s;

use super::address;

/// The label by which users keep load-balancer traffic off a node (KEP-1143).
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The taint by which the cluster autoscaler marks a node that it is about to delete (KEP-3836).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The taint by which somebody says that a node is shut down and stays so (KEP-2268).
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What matters of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The networks of its pods, as far as Kubernetes hands them out.
    pub pod_cidrs: Vec<IpNet>,
    /// Its own addresses: internal ones first, else in the order in which the kubelet reports them.
    pub addresses: Vec<IpAddr>,
    /// Whether it is known to be dead: somebody who made sure has given it the taint
    /// `node.kubernetes.io/out-of-service` (KEP-2268). A node that is only not ready may well carry traffic.
    pub dead: bool,
    /// Whether it is about to go: it is being deleted, or the cluster autoscaler has marked it for that.
    pub leaving: bool,
}

impl NodeFacts {
    /// Whether users want load-balancer traffic kept off this node.
    #[must_use]
    pub fn excluded(&self) -> bool {
        // Any value counts, `false` too: the label's presence is the statement (cloud-provider does the same).
        self.labels.contains_key(EXCLUDE)
    }

    /// The zone the node is in, if it has a label that says.
    #[must_use]
    pub fn zone(&self) -> Option<Arc<str>> {
        self.labels.get(ZONE).map(|zone| Arc::from(zone.as_str()))
    }
}

/// The compact form of a Node.
#[must_use]
pub fn node(object: k8s::Node) -> NodeFacts {
    let spec = object.spec.unwrap_or_default();
    let marked = spec.taints.iter().flatten().any(|taint| taint.key == TO_BE_DELETED);
    let leaving = marked || object.metadata.deletion_timestamp.is_some();
    let mut cidrs = spec.pod_cidrs.unwrap_or_default();
    // Single-stack clusters of old fill only the singular field.
    if cidrs.is_empty() {
        cidrs.extend(spec.pod_cidr);
    }
    let dead = spec.taints.iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE);
    let mut pod_cidrs: Vec<IpNet> = cidrs.iter().filter_map(|c| address::prefix(c)).collect();
    pod_cidrs.sort_unstable();
    pod_cidrs.dedup();
    let mut listed = object.status.and_then(|status| status.addresses).unwrap_or_default();
    listed.sort_by_key(|listed| listed.type_ != "InternalIP");
    // Names (Hostname, InternalDNS) are no addresses and drop out.
    let addresses = listed.iter().filter_map(|listed| address::address(&listed.address)).collect();
    let labels = object.metadata.labels.unwrap_or_default();
    NodeFacts { labels, pod_cidrs, addresses, dead, leaving }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn convert(object: Value) -> NodeFacts {
        node(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn pod_networks_of_both_families_are_taken() {
        for (spec, want) in [
            (
                json!({"podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]}),
                vec!["10.244.1.0/24", "fd00:244:1::/64"],
            ),
            (json!({"podCIDR": "10.244.1.0/24"}), vec!["10.244.1.0/24"]),
            (json!({"podCIDR": "fd00:244:1::/64"}), vec!["fd00:244:1::/64"]),
            (json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}), vec!["10.244.1.0/24"]),
            (json!({}), vec![]),
        ] {
            let want: Vec<IpNet> = want.iter().map(|w| w.parse().unwrap()).collect();
            assert_eq!(convert(json!({"metadata": {}, "spec": spec})).pod_cidrs, want);
        }
    }

    #[test]
    fn addresses_are_taken_and_names_are_not() {
        let status = json!({"addresses": [
            {"type": "ExternalIP", "address": "198.51.100.1"}, {"type": "Hostname", "address": "n1"},
            {"type": "InternalIP", "address": "192.0.2.11"}, {"type": "InternalIP", "address": "2001:db8::11"},
        ]});
        let found = convert(json!({"metadata": {}, "status": status})).addresses;
        let wanted =
            ["192.0.2.11", "2001:db8::11", "198.51.100.1"].map(|addr| addr.parse::<IpAddr>().unwrap());
        assert_eq!(found, wanted);
    }

    #[test]
    fn only_the_taint_out_of_service_says_that_a_node_is_dead() {
        for (taint, dead) in [
            ("node.kubernetes.io/out-of-service", true),
            ("node.kubernetes.io/unreachable", false),
            ("node.kubernetes.io/not-ready", false),
        ] {
            let spec = json!({"taints": [{"key": taint, "value": "nodeshutdown", "effect": "NoExecute"}]});
            assert_eq!(convert(json!({"metadata": {}, "spec": spec})).dead, dead, "{taint}");
        }
        assert!(!convert(json!({"metadata": {}})).dead);
    }

    #[test]
    fn a_node_that_is_deleted_or_marked_for_it_is_leaving() {
        // S121
        let taint = |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
        for (meta, spec, leaving) in [
            (json!({}), json!({}), false),
            (json!({}), taint("node.kubernetes.io/unreachable"), false),
            (json!({}), taint(TO_BE_DELETED), true),
            (json!({"deletionTimestamp": "2026-01-02T03:04:05Z"}), json!({}), true),
        ] {
            assert_eq!(convert(json!({"metadata": meta, "spec": spec})).leaving, leaving, "{meta} {spec}");
        }
    }

    #[test]
    fn the_exclusion_label_counts_whatever_its_value() {
        // S122: a Node object has nothing else that takes it out for good; not being ready does not.
        for (labels, excluded) in [
            (json!({}), false),
            (json!({"kubernetes.io/hostname": "n1"}), false),
            (json!({EXCLUDE: ""}), true),
            (json!({EXCLUDE: "false"}), true),
        ] {
            assert_eq!(convert(json!({"metadata": {"labels": labels}})).excluded(), excluded, "{labels}");
        }
    }
}

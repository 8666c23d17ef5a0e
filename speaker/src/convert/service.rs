//! Service: which are ours, where they are reached and by whom.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as k8s;
use landfall_core::name::{PoolName, ServiceKey};
use landfall_core::service::{Affinity, ExternalPolicy, Service, ServicePort, Sources};

use super::{Interner, address, exact, protocol};

/// The pool (or two, comma-separated) that gave a Service its addresses; written by the controller.
const ALLOCATED_FROM: &str = "landfall.dev/allocated-from";

/// The label that gives a Service to another proxy than kube-proxy; here: than Landfall too (KEP-2447).
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// Source ranges as they were given before `spec.loadBalancerSourceRanges`; read when that list is empty.
const LEGACY_SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` when it is absent (Kubernetes' default: three hours).
const AFFINITY_TIMEOUT_S: u32 = 10_800;

/// Which Services are ours by their class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassFilter {
    /// The class that names us.
    pub class: Box<str>,
    /// Whether a Service without a class is ours as well.
    pub default: bool,
}

impl ClassFilter {
    /// Whether a Service with this `spec.loadBalancerClass` is ours.
    #[must_use]
    pub fn admits(&self, class: Option<&str>) -> bool {
        class.map_or(self.default, |class| class == &*self.class)
    }
}

/// A Service of ours that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// What the data path needs.
    pub service: Service,
    /// The pools its addresses came from, as the controller noted; empty when it did not.
    pub pools: Vec<PoolName>,
    /// Where other load balancers ask whether this node has an endpoint.
    pub health_check: Option<HealthCheck>,
}

/// A Service's `spec.healthCheckNodePort` and the families it is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port on every node.
    pub port: NonZeroU16,
    /// Whether the Service has IPv4.
    pub v4: bool,
    /// Whether the Service has IPv6.
    pub v6: bool,
}

/// Which object it is; `None` for one without a name, which the API server does not send.
#[must_use]
pub fn service_key(object: &k8s::Service, names: &mut Interner) -> Option<ServiceKey> {
    let meta = &object.metadata;
    let namespace = names.namespace(meta.namespace.as_deref()?);
    Some(ServiceKey { namespace, name: Arc::from(meta.name.as_deref()?) })
}

/// The compact form, or `None` when the Service is not ours to serve: another type or class, or no address yet.
#[must_use]
pub fn service(object: &k8s::Service, classes: &ClassFilter, names: &mut Interner) -> Option<ServiceFacts> {
    let spec = object.spec.as_ref()?;
    if spec.type_.as_deref() != Some("LoadBalancer") || !classes.admits(spec.load_balancer_class.as_deref()) {
        return None;
    }
    let labels = object.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get(PROXY_NAME)).is_some_and(|name| name != "landfall") {
        return None;
    }
    let vips = vips(object);
    let external_ips = external_ips(spec);
    let node_ports = spec.ports.iter().flatten().any(|port| port.node_port.is_some_and(|number| number != 0));
    let health_check = health_check(spec);
    if vips.is_empty() && external_ips.is_empty() && !node_ports && health_check.is_none() {
        return None;
    }
    let meta = &object.metadata;
    let annotation = |key| meta.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str);
    let service = Service {
        key: service_key(object, names)?,
        uid: Arc::from(meta.uid.as_deref().unwrap_or_default()),
        created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        vips,
        ports: exact(spec.ports.iter().flatten().filter_map(|p| port(p, names))),
        external_policy: match spec.external_traffic_policy.as_deref() {
            Some("Local") => ExternalPolicy::Local,
            _ => ExternalPolicy::Cluster,
        },
        sources: sources(spec.load_balancer_source_ranges.as_deref(), annotation(LEGACY_SOURCE_RANGES)),
        sources_on_node_ports: true,
        external_ips,
        affinity: affinity(spec),
    };
    let pools = annotation(ALLOCATED_FROM)
        .into_iter()
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(PoolName::new)
        .collect();
    Some(ServiceFacts { service, pools, health_check })
}

/// Only under the policy Local does the port mean anything; the API server wipes it otherwise.
fn health_check(spec: &k8s::ServiceSpec) -> Option<HealthCheck> {
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let number = spec.health_check_node_port.filter(|_| local)?;
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new)?;
    let has = |family| spec.ip_families.iter().flatten().any(|found| found == family);
    Some(HealthCheck { port, v4: has("IPv4"), v6: has("IPv6") })
}

/// The addresses that users have somebody route to the nodes.
fn external_ips(spec: &k8s::ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.external_ips.iter().flatten();
    exact(listed.filter_map(|text| address::address(text)))
}

/// The addresses in the status that mean "packets with this destination": KEP-1860's `ipMode` VIP, the default.
/// In mode `Proxy` the packets that reach a node carry the node's own address, so there is nothing to serve.
fn vips(object: &k8s::Service) -> Vec<IpAddr> {
    let status = object.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let mut vips = Vec::new();
    for ingress in status.and_then(|l| l.ingress.as_ref()).into_iter().flatten() {
        let is_vip = ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
        if let Some(addr) = ingress.ip.as_deref().filter(|_| is_vip).and_then(address::address)
            && !vips.contains(&addr)
        {
            vips.push(addr);
        }
    }
    vips.shrink_to_fit();
    vips
}

fn port(port: &k8s::ServicePort, names: &mut Interner) -> Option<ServicePort> {
    Some(ServicePort {
        name: names.name(port.name.as_deref().unwrap_or_default()),
        protocol: protocol(port.protocol.as_deref())?,
        port: u16::try_from(port.port).ok().and_then(NonZeroU16::new)?,
        node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).and_then(NonZeroU16::new),
    })
}

/// Who may connect. Any entry at all, valid or not, closes the Service to everybody whom no valid entry admits.
fn sources(spec: Option<&[String]>, legacy: Option<&str>) -> Sources {
    let parse = |texts: &mut dyn Iterator<Item = &str>| -> Vec<IpNet> {
        let mut nets: Vec<IpNet> = texts.filter_map(address::prefix).collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    };
    if let Some(ranges) = spec.filter(|ranges| !ranges.is_empty()) {
        return Sources::Only(parse(&mut ranges.iter().map(String::as_str)));
    }
    match legacy.map(str::trim) {
        None | Some("") => Sources::Any,
        Some(text) => Sources::Only(parse(&mut text.split(','))),
    }
}

fn affinity(spec: &k8s::ServiceSpec) -> Affinity {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Affinity::None;
    }
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|c| c.client_ip.as_ref())
        .and_then(|c| c.timeout_seconds)
        .and_then(|s| u32::try_from(s).ok());
    Affinity::ClientIp { timeout_s: timeout.unwrap_or(AFFINITY_TIMEOUT_S) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn convert_as(change: Value, default: bool) -> Option<ServiceFacts> {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1",
                         "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": 8080}]},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "192.0.2.100", "ipMode": "VIP"}, {"ip": "2001:db8:50::100"}]}}
        });
        merge(&mut object, change);
        let object = serde_json::from_value(object).unwrap();
        let classes = ClassFilter { class: "landfall.dev/landfall".into(), default };
        service(&object, &classes, &mut Interner::default())
    }

    fn convert(change: Value) -> Option<ServiceFacts> {
        convert_as(change, true)
    }

    fn merge(into: &mut Value, change: Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                for (key, value) in change {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, change) => *into = change,
        }
    }

    fn nets(texts: &[&str]) -> Sources {
        Sources::Only(texts.iter().map(|t| t.parse().unwrap()).collect())
    }

    #[test]
    fn a_service_keeps_what_the_data_path_needs() {
        let facts = convert(json!({
            "metadata": {"annotations": {"landfall.dev/allocated-from": "blue, green"}},
            "spec": {"ports": [
                {"name": "http", "port": 80, "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "odd", "port": 54, "protocol": "ICMP"}],
                "externalTrafficPolicy": "Local", "publishNotReadyAddresses": true}
        }))
        .unwrap();
        assert_eq!(facts.pools, [PoolName::new("blue"), PoolName::new("green")]);
        let service = facts.service;
        assert_eq!(service.key, ServiceKey::new("shop", "web"));
        assert_eq!((&*service.uid, service.created), ("u1", 1_767_323_045));
        assert_eq!(service.vips, ["192.0.2.100", "2001:db8:50::100"].map(|v| v.parse::<IpAddr>().unwrap()));
        assert_eq!(service.external_policy, ExternalPolicy::Local);
        let ports: Vec<_> = service.ports.iter().map(|p| (&*p.name, p.port.get(), p.node_port)).collect();
        assert_eq!(ports, [("http", 80, NonZeroU16::new(30080)), ("dns", 53, None)]);
        assert_eq!(service.ports[1].protocol, landfall_core::service::Protocol::Udp);
    }

    #[test]
    fn the_internal_policy_is_none_of_ours() {
        // S42
        for external in ["Cluster", "Local"] {
            let [local, cluster] = ["Local", "Cluster"].map(|internal| {
                convert(
                    json!({"spec": {"externalTrafficPolicy": external, "internalTrafficPolicy": internal}}),
                )
            });
            assert_eq!(local, cluster, "{external}");
            assert!(local.is_some());
        }
    }

    #[test]
    fn only_load_balancers_of_our_class_with_an_address_are_ours() {
        // S79, S81, S84, S85
        let class = |class: &str| json!({"spec": {"loadBalancerClass": class}});
        for (change, default, ours) in [
            (json!({}), true, true),
            (json!({}), false, false),
            (class("landfall.dev/landfall"), false, true),
            (class("landfall.dev/landfall"), true, true),
            (class("example.com/other"), true, false),
            (json!({"spec": {"type": "NodePort"}}), true, false),
            (json!({"spec": {"type": null}}), true, false),
            (json!({"status": {"loadBalancer": {"ingress": []}}}), true, false),
            (json!({"status": null}), true, false),
            // S94: whoever names another proxy is served by that one alone.
            (json!({"metadata": {"labels": {PROXY_NAME: "other"}}}), true, false),
            (json!({"metadata": {"labels": {PROXY_NAME: "landfall"}}}), true, true),
            (json!({"status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}}), true, false),
        ] {
            assert_eq!(convert_as(change.clone(), default).is_some(), ours, "{change} default {default}");
        }
    }

    #[test]
    fn only_addresses_in_mode_vip_count_and_each_once() {
        // S73, S80: in mode Proxy the balancer in front filters; no mode means VIP.
        for (ingress, want) in [
            (json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}, {"ip": "2001:db8::1"}]), vec!["2001:db8::1"]),
            (json!([{"ip": "2001:db8::1", "ipMode": "Proxy"}, {"ip": "192.0.2.1"}]), vec!["192.0.2.1"]),
            (json!([{"ip": "192.0.2.1"}, {"ip": "192.0.2.001"}]), vec!["192.0.2.1"]),
            (json!([{"ip": "2001:db8::1"}, {"ip": "2001:db8:0::1"}]), vec!["2001:db8::1"]),
            (json!([{"ip": "nonsense"}, {"ip": "192.0.2.1"}]), vec!["192.0.2.1"]),
        ] {
            let facts = convert(json!({"status": {"loadBalancer": {"ingress": ingress}}})).unwrap();
            let want: Vec<IpAddr> = want.iter().map(|w| w.parse().unwrap()).collect();
            assert_eq!(facts.service.vips, want, "{ingress}");
        }
    }

    #[test]
    fn source_ranges_admit_what_a_valid_range_admits_and_nothing_else() {
        // S63, S69
        for (ranges, annotation, want) in [
            (json!([]), None, Sources::Any),
            (json!(null), None, Sources::Any),
            (json!(null), Some("  "), Sources::Any),
            (json!(["198.51.100.0/24"]), None, nets(&["198.51.100.0/24"])),
            (json!(["2001:db8:1::/48"]), None, nets(&["2001:db8:1::/48"])),
            // S33, S62, S67: host bits, leading zeros, blanks, order and repetition make no difference.
            (
                json!(["203.0.113.077/025", " 198.51.100.9/24"]),
                None,
                nets(&["198.51.100.0/24", "203.0.113.0/25"]),
            ),
            (json!(["2001:db8:1::9/48", "2001:db8:1::/48"]), None, nets(&["2001:db8:1::/48"])),
            // S66: what does not parse is dropped; the rest stays closed.
            (json!(["198.51.100.0/24", "everybody"]), None, nets(&["198.51.100.0/24"])),
            (json!(["everybody"]), None, nets(&[])),
            (json!([""]), None, nets(&[])),
            (json!(["198.51.100.0/33", "2001:db8::/129"]), None, nets(&[])),
            (json!(["198.51.100.7"]), None, nets(&[])),
            // The annotation is read only when the list is empty.
            (
                json!([]),
                Some("198.51.100.0/24, 2001:db8:1::/48"),
                nets(&["198.51.100.0/24", "2001:db8:1::/48"]),
            ),
            (json!(["198.51.100.0/24"]), Some("0.0.0.0/0"), nets(&["198.51.100.0/24"])),
            (json!(["everybody"]), Some("::/0"), nets(&[])),
            (json!(null), Some("everybody"), nets(&[])),
        ] {
            let mut change = json!({"spec": {"loadBalancerSourceRanges": ranges}});
            if let Some(text) = annotation {
                merge(&mut change, json!({"metadata": {"annotations": {LEGACY_SOURCE_RANGES: text}}}));
            }
            assert_eq!(convert(change).unwrap().service.sources, want, "{ranges} {annotation:?}");
        }
    }

    #[test]
    fn a_health_check_port_counts_under_the_policy_local_and_in_the_families_of_the_service() {
        // S86: without addresses too, a load balancer outside the cluster may ask before there is one.
        let asked = |v4, v6| Some(HealthCheck { port: NonZeroU16::new(30_400).unwrap(), v4, v6 });
        for (families, v4, v6) in [
            (json!(["IPv4"]), true, false),
            (json!(["IPv6"]), false, true),
            (json!(["IPv6", "IPv4"]), true, true),
        ] {
            for (policy, wanted) in [("Local", asked(v4, v6)), ("Cluster", None)] {
                for status in [json!({}), json!({"loadBalancer": {"ingress": null}})] {
                    let spec = json!({"externalTrafficPolicy": policy, "healthCheckNodePort": 30_400,
                                      "ipFamilies": families});
                    let facts = convert(json!({"spec": spec, "status": status}));
                    assert_eq!(facts.and_then(|facts| facts.health_check), wanted, "{policy} {families}");
                }
            }
        }
        let unset = convert(json!({"spec": {"externalTrafficPolicy": "Local", "healthCheckNodePort": 0}}));
        assert_eq!(unset.unwrap().health_check, None);
    }

    #[test]
    fn affinity_has_kubernetes_default_timeout() {
        for (spec, want) in [
            (json!({}), Affinity::None),
            (json!({"sessionAffinity": "None"}), Affinity::None),
            (json!({"sessionAffinity": "ClientIP"}), Affinity::ClientIp { timeout_s: 10_800 }),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}}),
                Affinity::ClientIp { timeout_s: 7 },
            ),
        ] {
            assert_eq!(convert(json!({"spec": spec})).unwrap().service.affinity, want);
        }
    }
}

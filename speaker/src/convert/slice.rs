//! `EndpointSlice`: where the pods behind a Service are and what state they are in.

use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as k8s;
use landfall_core::addr::Family;
use landfall_core::name::{Namespace, ServiceKey};
use landfall_core::service::{Hints, Slice, SliceEndpoint, SlicePort};

use super::{Interner, address, exact, protocol};

/// The label that says which Service a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Which `EndpointSlice`: its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceKey {
    /// The namespace it lives in, which is that of its Service.
    pub namespace: Namespace,
    /// Its name inside the namespace.
    pub name: Arc<str>,
}

/// An `EndpointSlice` of one IP family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFacts {
    /// The Service it belongs to.
    pub service: ServiceKey,
    /// What the data path needs.
    pub slice: Slice,
}

/// Which object it is; `None` for one without a name, which the API server does not send.
#[must_use]
pub fn slice_key(object: &k8s::EndpointSlice, names: &mut Interner) -> Option<SliceKey> {
    let meta = &object.metadata;
    Some(SliceKey {
        namespace: names.namespace(meta.namespace.as_deref()?),
        name: Arc::from(meta.name.as_deref()?),
    })
}

/// The compact form, or `None` when it carries no IP addresses (type FQDN) or belongs to no Service.
#[must_use]
pub fn slice(object: &k8s::EndpointSlice, names: &mut Interner) -> Option<SliceFacts> {
    let meta = &object.metadata;
    let service = meta.labels.as_ref()?.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    let ports = exact(object.ports.iter().flatten().filter_map(|p| port(p, names)));
    let endpoints = exact(object.endpoints.iter().filter_map(|e| endpoint(e, family, names)));
    let namespace = names.namespace(meta.namespace.as_deref()?);
    Some(SliceFacts {
        service: ServiceKey { namespace, name: Arc::from(service.as_str()) },
        slice: Slice { family, ports, endpoints },
    })
}

fn port(port: &k8s::EndpointPort, names: &mut Interner) -> Option<SlicePort> {
    let number = match port.port {
        None => None,
        Some(number) => Some(u16::try_from(number).ok().and_then(NonZeroU16::new)?),
    };
    Some(SlicePort {
        name: names.name(port.name.as_deref().unwrap_or_default()),
        protocol: protocol(port.protocol.as_deref())?,
        port: number,
    })
}

/// One endpoint. All its addresses are interchangeable; like kube-proxy, the first is used.
fn endpoint(endpoint: &k8s::Endpoint, family: Family, names: &mut Interner) -> Option<SliceEndpoint> {
    let addr = address::address(endpoint.addresses.first()?).filter(|a| Family::of(*a) == family)?;
    let conditions = endpoint.conditions.as_ref();
    Some(SliceEndpoint {
        addr,
        // Absent means yes, yes and no: the field documentation and KEP-1672.
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        node: endpoint.node_name.as_deref().map(|n| names.node(n)),
        hints: endpoint.hints.as_ref().and_then(|h| hints(h, names)),
    })
}

fn hints(hints: &k8s::EndpointHints, names: &mut Interner) -> Option<Arc<Hints>> {
    let zones = exact(hints.for_zones.iter().flatten().map(|zone| names.name(&zone.name)));
    let nodes = exact(hints.for_nodes.iter().flatten().map(|node| names.node(&node.name)));
    (!zones.is_empty() || !nodes.is_empty()).then(|| Arc::new(Hints { zones, nodes }))
}

#[cfg(test)]
mod tests {
    use landfall_core::name::NodeName;
    use landfall_core::service::Protocol;
    use serde_json::{Value, json};

    use super::*;

    fn convert(address_type: &str, ports: &Value, endpoints: &Value) -> Option<SliceFacts> {
        let object = serde_json::from_value(json!({
            "metadata": {"name": "web-abc", "namespace": "shop", "labels": {SERVICE_NAME: "web"}},
            "addressType": address_type, "ports": ports, "endpoints": endpoints
        }))
        .unwrap();
        slice(&object, &mut Interner::default())
    }

    #[test]
    fn a_slice_belongs_to_the_service_its_label_names() {
        // S29: whoever wrote the slice, its addresses are used as they are.
        for (kind, addr) in [("IPv4", "10.244.1.5"), ("IPv6", "fd00:244:1::5")] {
            let facts = convert(
                kind,
                &json!([{"name": "http", "port": 8080}]),
                &json!([{"addresses": [addr], "nodeName": "n1"}]),
            )
            .unwrap();
            assert_eq!(facts.service, ServiceKey::new("shop", "web"));
            let endpoint = &facts.slice.endpoints[0];
            assert_eq!(endpoint.addr, addr.parse::<std::net::IpAddr>().unwrap());
            assert_eq!(endpoint.node, Some(NodeName::new("n1")));
            assert_eq!(facts.slice.family, Family::of(endpoint.addr));
        }
    }

    #[test]
    fn hints_of_zones_and_nodes_are_taken_and_empty_ones_are_none() {
        // S13, S15, S19: only the slice says it.
        for (kind, addr) in [("IPv4", "10.244.1.5"), ("IPv6", "fd00:244:1::5")] {
            for (hints, zones, nodes) in [
                (json!({"forZones": [{"name": "a"}, {"name": "b"}]}), &["a", "b"][..], &[][..]),
                (json!({"forNodes": [{"name": "n1"}]}), &[], &["n1"]),
                (json!({"forZones": []}), &[], &[]),
                (json!(null), &[], &[]),
            ] {
                let endpoints = json!([{"addresses": [addr], "hints": hints}]);
                let facts = convert(kind, &json!([{"port": 8080}]), &endpoints).unwrap();
                let found = facts.slice.endpoints[0].hints.as_deref().cloned().unwrap_or_default();
                let names: Vec<&str> = found.nodes.iter().map(NodeName::as_str).collect();
                assert_eq!(
                    (found.zones.iter().map(|z| &**z).collect::<Vec<_>>(), names),
                    (zones.to_vec(), nodes.to_vec())
                );
                assert_eq!(facts.slice.endpoints[0].hints.is_some(), !zones.is_empty() || !nodes.is_empty());
            }
        }
    }

    #[test]
    fn what_carries_no_address_of_a_service_is_ignored() {
        // S31
        assert_eq!(convert("FQDN", &json!([]), &json!([{"addresses": ["pod.example"]}])), None);
        let unlabelled = serde_json::from_value(json!({
            "metadata": {"name": "x", "namespace": "shop"}, "addressType": "IPv4", "endpoints": []
        }))
        .unwrap();
        assert_eq!(slice(&unlabelled, &mut Interner::default()), None);
    }

    #[test]
    fn absent_conditions_mean_ready_serving_and_not_terminating() {
        for (conditions, want) in [
            (json!(null), (true, true, false)),
            (json!({}), (true, true, false)),
            (json!({"ready": false}), (false, true, false)),
            (json!({"ready": false, "serving": true, "terminating": true}), (false, true, true)),
            (json!({"ready": false, "serving": false, "terminating": true}), (false, false, true)),
        ] {
            for (kind, addr) in [("IPv4", "10.244.1.5"), ("IPv6", "fd00:244:1::5")] {
                let facts =
                    convert(kind, &json!([]), &json!([{"addresses": [addr], "conditions": conditions}]))
                        .unwrap();
                let e = &facts.slice.endpoints[0];
                assert_eq!((e.ready, e.serving, e.terminating), want, "{conditions} {kind}");
            }
        }
    }

    #[test]
    fn addresses_of_the_wrong_kind_are_left_out() {
        // S23, S30
        for (kind, addresses, left) in [
            ("IPv4", json!(["010.244.001.005"]), 1),
            ("IPv4", json!(["fd00::5"]), 0),
            ("IPv4", json!(["nonsense"]), 0),
            ("IPv4", json!([]), 0),
            ("IPv6", json!(["fd00::5"]), 1),
            ("IPv6", json!(["10.244.1.5"]), 0),
        ] {
            let facts = convert(kind, &json!([]), &json!([{"addresses": addresses}])).unwrap();
            assert_eq!(facts.slice.endpoints.len(), left, "{kind} {addresses}");
        }
    }

    #[test]
    fn a_port_may_have_no_name_and_no_number() {
        // S24, S27
        let facts = convert(
            "IPv4",
            &json!([{}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 0}, {"protocol": "ICMP"}]),
            &json!([]),
        )
        .unwrap();
        let ports: Vec<_> = facts.slice.ports.iter().map(|p| (&*p.name, p.protocol, p.port)).collect();
        assert_eq!(ports, [("", Protocol::Tcp, None), ("dns", Protocol::Udp, NonZeroU16::new(53))]);
    }
}

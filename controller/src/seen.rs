//! Objects as the controller remembers them: what it needs of each and no more.

mod cluster;
mod service_parts;

pub use cluster::{SeenCidr, SeenNamespace, SeenNode, SeenReservation, SeenSpeaker};
pub use service_parts::{Finalizers, SeenConditions, SeenPort};

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use landfall_core::addr::Family;
use landfall_core::demand::{Demand, NodePortWish, Port, RawDemand};
use landfall_core::name::{PoolName, ServiceKey};
use landfall_core::pool::{OnRemoval, Pool};
use landfall_core::selector::Labels;
use landfall_core::service::Protocol;
use landfall_crds::class::{ServiceClass, annotation};
use landfall_crds::convert::{self, FieldError};
use landfall_crds::{AddressPool, AddressPoolStatus};

/// How an address of ours is said to be used (KEP-1860): packets reach a node with it as their destination.
pub const IP_MODE: &str = "VIP";

/// A version of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`: another one under the same name is another object.
    pub uid: Box<str>,
    /// `metadata.resourceVersion`.
    pub resource: Box<str>,
}

impl Version {
    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            resource: meta.resource_version.as_deref().unwrap_or_default().into(),
        }
    }

    /// `metadata.resourceVersion` as a number, where it is one.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.resource.parse().ok()
    }

    /// Whether this version was made before the other one. Resource versions are numbers that grow (KEP-5504);
    /// where they are not, nothing is older than anything.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        match (self.resource.parse::<u64>(), other.resource.parse::<u64>()) {
            (Ok(ours), Ok(theirs)) => ours < theirs,
            _ => false,
        }
    }
}

/// A condition of ours as it stands on a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenCondition {
    /// Whether its status is `True`.
    pub is_true: bool,
    /// Its reason.
    pub reason: Box<str>,
    /// Its message.
    pub message: Box<str>,
    /// When its status changed last.
    pub since: Timestamp,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenService {
    /// Which one.
    pub key: ServiceKey,
    /// Which version of it.
    pub version: Version,
    /// When it was created, in Unix seconds.
    pub created: i64,
    /// What it asks for, if it is of our class and has a cluster IP.
    pub demand: Option<Demand>,
    /// Whether it is being deleted and only waits for somebody's finalizer.
    pub deleting: bool,
    /// The addresses in its status.
    pub ingress: Vec<IpAddr>,
    /// Whether its status holds anything else than addresses in the form we write.
    pub foreign_ingress: bool,
    /// Our conditions.
    pub conditions: SeenConditions,
    /// The annotation that names the pools of the addresses.
    pub allocated_from: Option<Box<str>>,
    /// The annotation that says what becomes of the addresses when their pool goes.
    pub on_removal: Option<Box<str>>,
    /// How many bytes its annotations have, names and values together; `None` without any.
    pub annotated: Option<usize>,
    /// Its finalizers.
    pub finalizers: Finalizers,
    /// Its labels.
    pub labels: Labels,
    /// Its ports as they stand, if it wants `NodePort`s of us.
    pub ports: Box<[SeenPort]>,
    /// All `NodePort`s that it has, whoever gave them.
    pub node_ports: Box<[u16]>,
    /// Whether it says from where it may be reached.
    pub restricted: bool,
    /// Stands for everything that speakers read of it: another one after each change of that.
    pub content: u64,
}

impl SeenService {
    /// Takes from the object what is needed.
    #[must_use]
    pub fn new(object: &Service, class: &ServiceClass) -> Self {
        let meta = &object.metadata;
        let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref());
        let ingress = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = ingress.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
        let demand = demand(object, class);
        Self {
            key: ServiceKey::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            version: Version::of(meta),
            created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            deleting: meta.deletion_timestamp.is_some(),
            ingress: ingress.iter().filter_map(address).collect(),
            foreign_ingress: !ingress.iter().all(in_our_form),
            conditions: SeenConditions::new(conditions.unwrap_or_default()),
            allocated_from: text(meta, annotation::ALLOCATED_FROM).map(Into::into),
            on_removal: text(meta, annotation::ON_REMOVAL).map(Into::into),
            annotated: meta.annotations.as_ref().map(service_parts::size),
            finalizers: Finalizers::new(meta),
            labels: convert::labels(meta.labels.as_ref()),
            ports: if demand.as_ref().is_some_and(|demand| demand.node_ports == NodePortWish::Wanted) {
                service_parts::ports(object)
            } else {
                Box::default()
            },
            node_ports: service_parts::node_ports(object),
            restricted: service_parts::restricted(object),
            content: service_parts::content(object),
            demand,
        }
    }

    /// Whether the object carries anything that only we write.
    #[must_use]
    pub fn has_trace(&self) -> bool {
        self.conditions != SeenConditions::default()
            || self.allocated_from.is_some()
            || self.on_removal.is_some()
    }

    /// The pools that the annotation names.
    #[must_use]
    pub fn home(&self) -> Vec<PoolName> {
        let names = self.allocated_from.as_deref().unwrap_or_default().split(',').map(str::trim);
        names.filter(|name| !name.is_empty()).map(PoolName::new).collect()
    }

    /// What the annotation says is to become of the addresses, in their order; the last one stands for all that
    /// follow.
    #[must_use]
    pub fn recorded_removal(&self) -> Vec<OnRemoval> {
        let words = self.on_removal.as_deref().unwrap_or_default().split(',').map(str::trim);
        let read = |word| match word {
            "Reassign" => Some(OnRemoval::Reassign),
            "Keep" => Some(OnRemoval::Keep),
            _ => None,
        };
        words.filter_map(read).collect()
    }
}

pub(crate) fn text<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

fn address(ingress: &LoadBalancerIngress) -> Option<IpAddr> {
    ingress.ip.as_deref()?.parse().ok()
}

fn in_our_form(ingress: &LoadBalancerIngress) -> bool {
    address(ingress).is_some()
        && ingress.hostname.as_deref().is_none_or(str::is_empty)
        && ingress.ip_mode.as_deref() == Some(IP_MODE)
        && ingress.ports.as_deref().is_none_or(<[_]>::is_empty)
}

/// What the Service asks for, unless it is not ours. One without a cluster IP gets one from the API server first
/// and is seen again then.
fn demand(object: &Service, class: &ServiceClass) -> Option<Demand> {
    let spec = object.spec.as_ref().filter(|spec| class.owns(spec))?;
    let cluster_ip = spec.cluster_ip.as_deref().is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
    if !cluster_ip {
        return None;
    }
    let family = |name: &String| match name.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    };
    let families: Vec<Family> = spec.ip_families.iter().flatten().filter_map(family).collect();
    let meta = &object.metadata;
    let first = |ours: &'static str, theirs: &'static [&'static str]| {
        let names = std::iter::once(ours).chain(theirs.iter().copied());
        names
            .filter_map(|name| text(meta, name).map(|text| (name, text)))
            .find(|(_, text)| !text.trim().is_empty())
    };
    let ports: Vec<Port> = spec.ports.iter().flatten().filter_map(port).collect();
    let raw = RawDemand {
        families: &families,
        policy: spec.ip_family_policy.as_deref(),
        load_balancer_ip: spec.load_balancer_ip.as_deref(),
        addresses: first(annotation::ADDRESSES, annotation::METALLB_ADDRESSES),
        pool: first(annotation::POOL, annotation::METALLB_POOL),
        sharing_key: first(annotation::SHARING_KEY, annotation::METALLB_SHARING_KEY),
        ports: &ports,
        allocate_node_ports: spec.allocate_load_balancer_node_ports,
        node_ports: first(annotation::NODE_PORTS, &[]),
    };
    Some(raw.parse())
}

fn port(port: &ServicePort) -> Option<Port> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    u16::try_from(port.port).ok().map(|number| (protocol, number))
}

/// An `AddressPool`.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenPool {
    /// Its name.
    pub name: PoolName,
    /// Which version of it.
    pub version: Version,
    /// `metadata.generation`: the version of its specification.
    pub generation: Option<i64>,
    /// What it declares, or what is wrong with that.
    pub pool: Result<Pool, FieldError>,
    /// What we said about it.
    pub status: AddressPoolStatus,
}

impl SeenPool {
    /// Takes from the object what is needed.
    #[must_use]
    pub fn new(object: &AddressPool) -> Self {
        Self {
            name: PoolName::new(object.metadata.name.as_deref().unwrap_or_default()),
            version: Version::of(&object.metadata),
            generation: object.metadata.generation,
            pool: convert::pool(object),
            status: object.status.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use landfall_core::demand::{Families, Request};
    use serde_json::json;

    use super::*;

    fn class() -> ServiceClass {
        ServiceClass { name: "landfall.dev/landfall".into(), is_default: true }
    }

    fn service(value: serde_json::Value) -> SeenService {
        SeenService::new(&serde_json::from_value(value).unwrap(), &class())
    }

    #[test]
    fn a_service_is_remembered_with_what_matters() {
        let seen = service(json!({
            "metadata": {
                "namespace": "shop", "name": "web", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"landfall.dev/allocated-from": "lan", "landfall.dev/pool": "lan", "metallb.io/address-pool": "x"},
            },
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.9", "ipFamilies": ["IPv6", "IPv4"],
                "ipFamilyPolicy": "PreferDualStack",
            },
            "status": {
                "loadBalancer": {"ingress": [{"ip": "192.0.2.100", "ipMode": "VIP"}, {"ip": "2001:db8::1", "ipMode": "VIP"}]},
                "conditions": [{
                    "type": "landfall.dev/Allocated", "status": "True", "reason": "Allocated", "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:05Z",
                }],
            },
        }));
        let request = Request { addresses: vec![], pool: Some("lan".into()) };
        assert_eq!(seen.key, ServiceKey::new("shop", "web"));
        assert_eq!(seen.version, Version { uid: "u".into(), resource: "7".into() });
        assert_eq!((seen.created, seen.deleting, seen.foreign_ingress), (1_767_225_600, false, false));
        let demand = Demand { request: Ok(request), ..Demand::plain(Families::Prefer(Family::V6)) };
        assert_eq!(seen.demand, Some(demand));
        assert_eq!(seen.ingress, ["192.0.2.100", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap()));
        let told = SeenCondition {
            is_true: true,
            reason: "Allocated".into(),
            message: "m".into(),
            since: "2026-01-01T00:00:05Z".parse().unwrap(),
        };
        assert_eq!(seen.conditions.allocated, Some(told));
        assert_eq!(seen.home(), [PoolName::new("lan")]);
        assert!(seen.annotated.is_some() && seen.finalizers.ours.is_none() && !seen.restricted);
    }

    #[test]
    fn what_speakers_read_and_nothing_else_makes_another_content() {
        let base = json!({"metadata": {"resourceVersion": "1"}, "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1"}});
        let content = |change: serde_json::Value| {
            let mut object = base.clone();
            json_patch::merge(&mut object, &change);
            service(object).content
        };
        let same = content(json!({}));
        for (change, differs) in [
            (json!({"metadata": {"resourceVersion": "2", "annotations": {"mine": "x"}}}), false),
            (
                json!({"status": {"conditions": [{"type": "x", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:05Z"}]}}),
                false,
            ),
            (json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}}), true),
            (json!({"metadata": {"annotations": {annotation::SOURCE_RANGES: "192.0.2.0/24"}}}), true),
            (json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}), true),
        ] {
            assert_eq!(content(change.clone()) != same, differs, "{change}");
        }
    }

    #[test]
    fn what_others_wrote_into_the_status_is_noticed() {
        for (ingress, foreign) in [
            (json!([]), false),
            (json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]), false),
            (json!([{"ip": "2001:db8::1", "ipMode": "VIP"}]), false),
            (json!([{"ip": "192.0.2.1"}]), true),
            (json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}]), true),
            (json!([{"hostname": "lb.example.com"}]), true),
            (json!([{"ip": "rubbish", "ipMode": "VIP"}]), true),
        ] {
            let seen = service(json!({"metadata": {}, "status": {"loadBalancer": {"ingress": ingress}}}));
            assert_eq!(seen.foreign_ingress, foreign, "{ingress}");
        }
    }

    #[test]
    fn a_service_without_cluster_ip_or_of_another_class_asks_us_for_nothing() {
        for spec in [
            json!({"type": "LoadBalancer"}), // A29
            json!({"type": "LoadBalancer", "clusterIP": "None"}),
            json!({"type": "LoadBalancer", "clusterIP": "10.96.0.1", "loadBalancerClass": "example.com/x"}),
            json!({"type": "ClusterIP", "clusterIP": "fd00:96::1"}),
        ] {
            assert_eq!(service(json!({"metadata": {}, "spec": spec})).demand, None, "{spec}");
        }
    }

    #[test]
    fn the_annotations_of_metallb_mean_the_same_when_ours_are_absent() {
        // A74
        for (annotations, wanted) in [
            (json!({"metallb.io/loadBalancerIPs": "192.0.2.1"}), "192.0.2.1"),
            (json!({"metallb.universe.tf/loadBalancerIPs": "2001:db8::1"}), "2001:db8::1"),
            (
                json!({"metallb.io/loadBalancerIPs": "192.0.2.1", "landfall.dev/addresses": "192.0.2.2"}),
                "192.0.2.2",
            ),
        ] {
            let seen = service(json!({
                "metadata": {"annotations": annotations},
                "spec": {
                    "type": "LoadBalancer", "clusterIP": "10.96.0.1", "ipFamilies": ["IPv4", "IPv6"],
                    "ipFamilyPolicy": "PreferDualStack",
                },
            }));
            let request = seen.demand.unwrap().request.unwrap();
            assert_eq!(request.addresses, [wanted.parse::<IpAddr>().unwrap()]);
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = |text: &str| Version { uid: "u".into(), resource: text.into() };
        assert!(version("9").is_older_than(&version("10")));
        assert!(!version("10").is_older_than(&version("10")));
        assert!(!version("a").is_older_than(&version("b")), "what is no number is never older");
    }
}

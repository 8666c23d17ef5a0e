//! Parts of a Service.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use landfall_core::demand::Port;
use landfall_crds::class::{FINALIZER, annotation};
use landfall_crds::conditions;

use super::{SeenCondition, port, text};

/// Our conditions as they stand on a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenConditions {
    /// `landfall.dev/Allocated`.
    pub allocated: Option<SeenCondition>,
    /// The others, each with its type; none for most Services that wait.
    pub others: Vec<(&'static str, SeenCondition)>,
}

/// The types of the conditions beside `landfall.dev/Allocated`, in their order.
pub(crate) const OTHERS: [&str; 3] =
    [conditions::ANNOUNCED.type_, conditions::PROGRAMMED.type_, conditions::SOURCE_RANGES_ENFORCED.type_];

impl SeenConditions {
    pub(super) fn new(list: &[Condition]) -> Self {
        let find = |type_: &str| list.iter().find(|c| c.type_ == type_).map(seen);
        Self {
            allocated: find(conditions::ALLOCATED.type_),
            others: OTHERS.into_iter().filter_map(|type_| Some((type_, find(type_)?))).collect(),
        }
    }
}

fn seen(condition: &Condition) -> SeenCondition {
    SeenCondition {
        is_true: condition.status == "True",
        reason: condition.reason.as_str().into(),
        message: condition.message.as_str().into(),
        since: condition.last_transition_time.0,
    }
}

/// The finalizers of an object, as far as they matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finalizers {
    /// Where ours stands in the list.
    pub ours: Option<usize>,
    /// How many there are.
    pub count: usize,
}

impl Finalizers {
    pub(super) fn new(meta: &ObjectMeta) -> Self {
        let list = meta.finalizers.as_deref().unwrap_or_default();
        Self { ours: list.iter().position(|name| name == FINALIZER), count: list.len() }
    }
}

/// A port of a Service as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenPort {
    /// Protocol and number.
    pub port: Port,
    /// Its `NodePort`; 0 when it has none.
    pub node_port: u16,
}

pub(super) fn ports(object: &Service) -> Box<[SeenPort]> {
    let listed = object.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let read = |found| {
        let number = |found: &k8s_openapi::api::core::v1::ServicePort| {
            found.node_port.and_then(|number| u16::try_from(number).ok()).unwrap_or(0)
        };
        Some(SeenPort { port: port(found)?, node_port: number(found) })
    };
    let read: Option<Box<[SeenPort]>> = listed.map(read).collect();
    read.unwrap_or_default()
}

pub(super) fn node_ports(object: &Service) -> Box<[u16]> {
    let Some(spec) = &object.spec else { return Box::default() };
    let listed = spec.ports.iter().flatten().filter_map(|port| port.node_port);
    let all = listed.chain(spec.health_check_node_port);
    all.filter_map(|number| u16::try_from(number).ok()).filter(|number| *number != 0).collect()
}

/// As the API server counts it (`apimachinery/pkg/api/validation/objectmeta.go`).
pub(super) fn size(annotations: &BTreeMap<String, String>) -> usize {
    annotations.iter().map(|(name, value)| name.len() + value.len()).sum()
}

pub(super) fn restricted(object: &Service) -> bool {
    let listed = object.spec.as_ref().and_then(|spec| spec.load_balancer_source_ranges.as_ref());
    listed.is_some_and(|list| !list.is_empty())
        || text(&object.metadata, annotation::SOURCE_RANGES).is_some_and(|text| !text.trim().is_empty())
}

/// Everything that speakers read, in one number. Two contents with one number would delay a condition, no more.
pub(super) fn content(object: &Service) -> u64 {
    let mut hasher = DefaultHasher::new();
    // The text of an API object: it has no other order than that of its fields.
    let spec = object.spec.as_ref().and_then(|spec| serde_json::to_vec(spec).ok());
    spec.hash(&mut hasher);
    for name in [annotation::SOURCE_RANGES, annotation::ALLOCATED_FROM, annotation::OWNER] {
        text(&object.metadata, name).hash(&mut hasher);
    }
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    for ingress in status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default() {
        ingress.ip.hash(&mut hasher);
    }
    hasher.finish()
}

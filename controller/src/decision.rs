//! What should stand on a Service, and the patches that bring it there.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use landfall_core::allocate::{Denied, Grant, Lacking, Origin};
use landfall_core::name::{PoolName, ServiceKey};
use landfall_core::node_port;
use landfall_core::pool::{OnRemoval, Pools};
use landfall_crds::class::{FINALIZER, annotation};
use landfall_crds::conditions;
use serde_json::{Value, json};

use crate::seen::{IP_MODE, SeenCondition, SeenPort, SeenService, Version};

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether it is `True`.
    pub is_true: bool,
    /// Its reason, in one word.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

impl Told {
    fn is(&self, seen: &SeenCondition) -> bool {
        seen.is_true == self.is_true && *seen.reason == *self.reason && *seen.message == *self.message
    }
}

/// What should stand on a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The addresses in order; empty when it gets none.
    pub addresses: Vec<IpAddr>,
    /// The condition `landfall.dev/Allocated`.
    pub allocated: Told,
    /// The other conditions, each with its type; `None` leaves them as they are.
    pub others: Option<Vec<(&'static str, Told)>>,
    /// The annotation that names the pools; `None` removes it.
    pub allocated_from: Option<Box<str>>,
    /// The annotation that says what becomes of the addresses when their pool goes; `None` removes it.
    pub on_removal: Option<Box<str>>,
    /// Whether our finalizer is to stand there.
    pub finalizer: bool,
    /// `NodePort`s to write, by the place of the port in the list.
    pub node_ports: Vec<(usize, u16)>,
}

/// How many bytes the annotations of an object may have (`TotalAnnotationSizeLimitB` of
/// `apimachinery/pkg/api/validation/objectmeta.go`).
const MOST_ANNOTATIONS: usize = 256 * 1024;

/// The longest message, in characters: far below what the API server takes, and long enough for every obstacle.
const LONGEST: usize = 1_000;

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

impl Desired {
    /// What follows from a grant.
    #[must_use]
    pub fn granted(grant: &Grant, pools: &Pools, origin: &Origin) -> Self {
        let show = |addr: &IpAddr| match pools.of(*addr) {
            Some(usable) => format!("{addr} from pool {}", usable.pool.name),
            None => addr.to_string(),
        };
        let has = grant.addresses.iter().map(show).collect::<Vec<_>>().join(" and ");
        let lacks = grant.lacking.iter().map(ToString::to_string);
        let message = cut(std::iter::once(has).chain(lacks).collect::<Vec<_>>().join("; "));
        let from = origin.pools.iter().map(PoolName::as_str).collect::<Vec<_>>().join(",");
        let word = |removal: &OnRemoval| match removal {
            OnRemoval::Keep => "Keep",
            OnRemoval::Reassign => "Reassign",
        };
        let removal = origin.on_removal.iter().map(word).collect::<Vec<_>>().join(",");
        Self {
            addresses: grant.addresses.clone(),
            allocated: Told { is_true: true, reason: grant.reason(), message },
            others: Some(Vec::new()),
            allocated_from: (!from.is_empty()).then(|| from.into()),
            on_removal: (!removal.is_empty()).then(|| removal.into()),
            finalizer: true,
            node_ports: Vec::new(),
        }
    }

    /// What follows from a refusal.
    #[must_use]
    pub fn denied(denied: &Denied) -> Self {
        let message = cut(denied.to_string());
        Self {
            addresses: Vec::new(),
            allocated: Told { is_true: false, reason: denied.reason(), message },
            others: Some(Vec::new()),
            allocated_from: None,
            on_removal: None,
            finalizer: false,
            node_ports: Vec::new(),
        }
    }

    /// Leaves out what the annotations of the Service have no room for, and says so: it is to get its address all the
    /// same.
    pub fn fit(&mut self, seen: &SeenService) {
        let wanted = self.recorded(seen);
        let size =
            |name: &str, value: &Option<Box<str>>| value.as_ref().map_or(0, |value| name.len() + value.len());
        let ours: usize = wanted.iter().map(|(name, has, _)| size(name, has)).sum();
        let after: usize = wanted.iter().map(|(name, _, wants)| size(name, wants)).sum();
        let others = seen.annotated.unwrap_or(0).saturating_sub(ours);
        if after > 0 && others + after > MOST_ANNOTATIONS {
            self.allocated_from.clone_from(&seen.allocated_from);
            self.on_removal.clone_from(&seen.on_removal);
            self.allocated.message = cut(format!(
                "{}; its annotations leave no room for {} and {}, which would say so when the pool is gone",
                self.allocated.message,
                annotation::ALLOCATED_FROM,
                annotation::ON_REMOVAL
            ));
        }
    }

    /// Says in the condition that `NodePort`s lack, unless it has something weightier to say.
    pub fn lacks_node_ports(&mut self, reason: &'static str, message: &str) {
        if self.allocated.reason == Lacking::ALLOCATED {
            self.allocated.reason = reason;
        }
        self.allocated.message = cut(format!("{}; {message}", self.allocated.message));
    }

    /// The writes that are needed, if any.
    #[must_use]
    pub fn diff(&self, seen: &SeenService, now: Timestamp) -> Option<Write> {
        let same_allocated = seen.conditions.allocated.as_ref().is_some_and(|old| self.allocated.is(old));
        let same_others = self.others.as_ref().is_none_or(|others| {
            let mut pairs = seen.conditions.others.iter().zip(others);
            seen.conditions.others.len() == others.len()
                && pairs.all(|((old_type, old), (type_, told))| old_type == type_ && told.is(old))
        });
        let same_ingress = !seen.foreign_ingress && seen.ingress == self.addresses;
        let pressing = !same_allocated || !same_ingress;
        let status = (pressing || !same_others).then(|| self.status(seen, now));
        let metadata = self.metadata(seen);
        if status.is_none() && metadata.is_none() {
            return None;
        }
        let moved = seen.ingress != self.addresses;
        let turned =
            seen.conditions.allocated.as_ref().is_none_or(|old| *old.reason != *self.allocated.reason);
        let quiet = [Lacking::ALLOCATED, "OutsidePool"];
        let note = (pressing && (moved || turned)).then(|| Note {
            warning: !self.allocated.is_true || !quiet.contains(&self.allocated.reason),
            reason: self.allocated.reason,
            message: self.allocated.message.clone(),
        });
        Some(Write {
            key: seen.key.clone(),
            version: seen.version.clone(),
            fold: metadata.is_none() && !pressing,
            // What is given up is out of the status before it is out of the records.
            status_first: self.addresses.is_empty(),
            metadata,
            status,
            note,
        })
    }

    fn status(&self, seen: &SeenService, now: Timestamp) -> Value {
        let ingress: Vec<Value> =
            self.addresses.iter().map(|addr| json!({"ip": addr.to_string(), "ipMode": IP_MODE})).collect();
        let condition = |type_: &str, told: &Told, old: Option<&SeenCondition>| {
            let same_side = old.filter(|old| old.is_true == told.is_true);
            json!({
                "type": type_,
                "status": if told.is_true { "True" } else { "False" },
                "reason": told.reason,
                "message": told.message,
                "lastTransitionTime":
                    same_side.map_or(now, |old| old.since).strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            })
        };
        let allocated =
            condition(conditions::ALLOCATED.type_, &self.allocated, seen.conditions.allocated.as_ref());
        let others: Vec<Value> = match &self.others {
            Some(others) => others
                .iter()
                .map(|(type_, told)| {
                    let old = seen.conditions.others.iter().find(|(old, _)| old == type_).map(|(_, old)| old);
                    condition(type_, told, old)
                })
                .collect(),
            None => seen.conditions.others.iter().map(|(type_, old)| as_it_is(type_, old)).collect(),
        };
        let all: Vec<Value> = std::iter::once(allocated).chain(others).collect();
        json!({"loadBalancer": {"ingress": ingress}, "conditions": all})
    }

    /// The annotations that we write: what stands there, and what is to stand there.
    const fn recorded<'a>(&'a self, seen: &'a SeenService) -> [Wanted<'a>; 2] {
        [
            (annotation::ALLOCATED_FROM, &seen.allocated_from, &self.allocated_from),
            (annotation::ON_REMOVAL, &seen.on_removal, &self.on_removal),
        ]
    }

    fn metadata(&self, seen: &SeenService) -> Option<Metadata> {
        let mut ops = Vec::new();
        finalizer(seen, self.finalizer, &mut ops);
        let guards = self.finalizer && !ops.is_empty();
        let wanted = self.recorded(seen);
        annotations(seen, &wanted, &mut ops);
        let ports = self.node_ports.iter().flat_map(|(at, number)| node_port(&seen.ports, *at, *number));
        let node_ports: Vec<Value> = ports.collect();
        (!ops.is_empty() || !node_ports.is_empty()).then_some(Metadata { ops, guards, node_ports })
    }
}

fn as_it_is(type_: &str, seen: &SeenCondition) -> Value {
    json!({
        "type": type_,
        "status": if seen.is_true { "True" } else { "False" },
        "reason": seen.reason,
        "message": seen.message,
        "lastTransitionTime": seen.since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })
}

fn finalizer(seen: &SeenService, wanted: bool, ops: &mut Vec<Value>) {
    match (seen.finalizers.ours, wanted) {
        (None, true) if seen.finalizers.count == 0 => {
            ops.push(json!({"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}));
        }
        (None, true) => ops.push(json!({"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER})),
        (Some(at), false) => {
            let path = format!("/metadata/finalizers/{at}");
            ops.push(json!({"op": "test", "path": path, "value": FINALIZER}));
            ops.push(json!({"op": "remove", "path": path}));
        }
        _ => {}
    }
}

type Wanted<'a> = (&'static str, &'a Option<Box<str>>, &'a Option<Box<str>>);

fn annotations(seen: &SeenService, wanted: &[Wanted<'_>], ops: &mut Vec<Value>) {
    let mut there = seen.annotated.is_some();
    for (name, has, wants) in wanted.iter().filter(|(_, has, wants)| has != wants) {
        let path = format!("/metadata/annotations/{}", name.replace('~', "~0").replace('/', "~1"));
        match wants {
            Some(value) => {
                if !std::mem::replace(&mut there, true) {
                    ops.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
                }
                ops.push(json!({"op": "add", "path": path, "value": &**value}));
            }
            None if has.is_some() => ops.push(json!({"op": "remove", "path": path})),
            None => {}
        }
    }
}

/// Sets the `NodePort` of a port, if the port still stands where it stood.
fn node_port(ports: &[SeenPort], at: usize, number: u16) -> Vec<Value> {
    let Some(SeenPort { port: (_, port), .. }) = ports.get(at) else { return Vec::new() };
    vec![
        json!({"op": "test", "path": format!("/spec/ports/{at}/port"), "value": port}),
        json!({"op": "add", "path": format!("/spec/ports/{at}/nodePort"), "value": number}),
    ]
}

/// The writes that take everything of ours off a Service that is not ours any more, or that is on its way out.
///
/// The applied status is empty: the API server removes what this field manager wrote before, and nothing that
/// somebody else has written since. Of a Service that goes as soon as our finalizer does, only that is written.
#[must_use]
pub fn clear(seen: &SeenService) -> Option<Write> {
    let last = seen.deleting && seen.finalizers.ours.is_some() && seen.finalizers.count == 1;
    if !seen.has_trace() || (seen.deleting && seen.finalizers.count == 0) {
        return None;
    }
    let mut ops = Vec::new();
    finalizer(seen, false, &mut ops);
    if !last {
        let wanted = [
            (annotation::ALLOCATED_FROM, &seen.allocated_from, &None),
            (annotation::ON_REMOVAL, &seen.on_removal, &None),
        ];
        annotations(seen, &wanted, &mut ops);
    }
    let told = seen.conditions.allocated.is_some() || !seen.conditions.others.is_empty();
    let had = seen.ingress.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let note = (!last && told && !had.is_empty()).then(|| Note {
        warning: false,
        reason: "Released",
        message: format!("{had} is given back: the Service is no longer one of ours"),
    });
    let metadata = (!ops.is_empty()).then_some(Metadata { ops, guards: false, node_ports: Vec::new() });
    let status = (!last && told).then(|| json!({}));
    (metadata.is_some() || status.is_some()).then(|| Write {
        key: seen.key.clone(),
        version: seen.version.clone(),
        fold: false,
        status_first: true,
        metadata,
        status,
        note,
    })
}

/// What to write to one Service: at most one patch of its status and one of its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which Service.
    pub key: ServiceKey,
    /// The version that was read.
    pub version: Version,
    /// Whether it only tells what others have reported, and can wait.
    pub fold: bool,
    /// Whether the status is written before the metadata.
    pub status_first: bool,
    /// What to change of the object beside its status.
    pub metadata: Option<Metadata>,
    /// The status to apply.
    pub status: Option<Value>,
    /// The Event to record once the status is written.
    pub note: Option<Note>,
}

/// Changes of an object as operations of a JSON patch (RFC 6902).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Finalizer and annotations.
    pub ops: Vec<Value>,
    /// Whether our finalizer is set with it.
    pub guards: bool,
    /// `NodePort`s, which the API server may refuse.
    pub node_ports: Vec<Value>,
}

/// An Event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a warning.
    pub warning: bool,
    /// Its reason.
    pub reason: &'static str,
    /// Its text.
    pub message: String,
}

/// Reasons that say that `NodePort`s lack.
pub const NODE_PORT_REASONS: [&str; 2] = [node_port::EXHAUSTED, node_port::RANGE_INVALID];

impl Write {
    /// The status as a server-side apply on the status subresource. It names the version that was read: when the
    /// object has changed since, the API server refuses and the decision is made again.
    #[must_use]
    pub fn status_patch(&self, version: &Version) -> Option<Value> {
        let status = self.status.as_ref()?;
        Some(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": &*self.key.name,
                "namespace": self.key.namespace.as_str(),
                "uid": &*version.uid,
                "resourceVersion": &*version.resource,
            },
            "status": status,
        }))
    }

    /// Conditions of ours that stand there after the status was applied, and should not: somebody else has written them,
    /// and an apply takes away only what the same manager applied before. A strategic merge patch that removes them.
    #[must_use]
    pub fn leftover(&self, seen: &SeenService) -> Option<Value> {
        let wanted = self.status.as_ref()?.get("conditions").and_then(Value::as_array);
        let wants = |type_: &str| wanted.is_some_and(|list| list.iter().any(|told| told["type"] == type_));
        let allocated = seen.conditions.allocated.iter().map(|_| conditions::ALLOCATED.type_);
        let there = allocated.chain(seen.conditions.others.iter().map(|(type_, _)| *type_));
        let spare: Vec<Value> = there
            .filter(|type_| !wants(type_))
            .map(|type_| json!({"$patch": "delete", "type": type_}))
            .collect();
        (!spare.is_empty()).then(|| {
            json!({
                "metadata": {"uid": &*seen.version.uid, "resourceVersion": &*seen.version.resource},
                "status": {"conditions": spare},
            })
        })
    }

    /// The metadata as a JSON patch on the version given: another version is a conflict.
    #[must_use]
    pub fn metadata_patch(&self, version: &Version, with_node_ports: bool) -> Option<Value> {
        let metadata = self.metadata.as_ref()?;
        let mut ops = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": &*version.uid}),
            json!({"op": "replace", "path": "/metadata/resourceVersion", "value": &*version.resource}),
        ];
        ops.extend(metadata.ops.iter().cloned());
        if with_node_ports {
            ops.extend(metadata.node_ports.iter().cloned());
        }
        (ops.len() > 2).then_some(Value::Array(ops))
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.metadata.as_ref().map(|_| "metadata"), self.status.as_ref().map(|_| "status")];
        write!(f, "{} of {}", parts.into_iter().flatten().collect::<Vec<_>>().join(" and "), self.key)
    }
}

#[cfg(test)]
mod tests;

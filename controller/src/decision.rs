//! What should stand on a Service, and the patches that bring it there.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use landfall_core::allocate::{Denied, Grant};
use landfall_core::pool::Pools;
use landfall_crds::class::annotation;
use serde_json::{Value, json};

use crate::seen::{ALLOCATED, IP_MODE, SeenService, Version};

/// What should stand on a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The addresses in order; empty when it gets none.
    pub addresses: Vec<IpAddr>,
    /// The reason of the condition, in one word.
    pub reason: &'static str,
    /// The message of the condition.
    pub message: String,
    /// The annotation that names the pools; `None` removes it.
    pub allocated_from: Option<Box<str>>,
}

/// Reasons of the condition when it is `True`.
pub mod given {
    /// The Service has what it asks for.
    pub const ALLOCATED: &str = "Allocated";
    /// It has one family and asks for two.
    pub const SECOND_FAMILY: &str = "SecondFamilyUnavailable";
    /// It keeps its address and asks for another one, or from another pool.
    pub const REQUESTED: &str = "RequestedAddressUnavailable";
    /// An address of it is in no pool any more.
    pub const OUTSIDE_POOL: &str = "OutsidePool";
}

impl Desired {
    /// What follows from a grant.
    #[must_use]
    pub fn granted(grant: &Grant, pools: &Pools, seen: &SeenService) -> Self {
        let homes: Vec<_> = grant.addresses.iter().map(|addr| (addr, pools.of(*addr))).collect();
        let outside = homes.iter().any(|(_, home)| home.is_none());
        let show = |(addr, home): &(&IpAddr, Option<&_>)| match home {
            Some(usable) => {
                let usable: &landfall_core::pool::UsablePool = usable;
                format!("{addr} from pool {}", usable.pool.name)
            }
            None => addr.to_string(),
        };
        let has = homes.iter().map(show).collect::<Vec<_>>().join(" and ");
        let reason = grant.reason();
        let lacks = grant.lacking.iter().map(ToString::to_string);
        let message = std::iter::once(has).chain(lacks).collect::<Vec<_>>().join("; ");
        // Where the pool is gone, the annotation still says which one it was.
        let allocated_from = if outside && seen.allocated_from.is_some() {
            seen.allocated_from.clone()
        } else {
            let mut names: Vec<&str> = Vec::with_capacity(2);
            for (_, home) in &homes {
                if let Some(usable) = home
                    && !names.contains(&usable.pool.name.as_str())
                {
                    names.push(usable.pool.name.as_str());
                }
            }
            (!names.is_empty()).then(|| names.join(",").into())
        };
        Self { addresses: grant.addresses.clone(), reason, message, allocated_from }
    }

    /// What follows from a refusal.
    #[must_use]
    pub fn denied(denied: &Denied) -> Self {
        Self {
            addresses: Vec::new(),
            reason: denied.reason(),
            message: denied.to_string(),
            allocated_from: None,
        }
    }

    const fn is_true(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// The writes that are needed, if any.
    #[must_use]
    pub fn diff(&self, seen: &SeenService, now: Timestamp) -> Option<Write> {
        let same_condition = seen.condition.as_ref().is_some_and(|old| {
            old.is_true == self.is_true() && *old.reason == *self.reason && *old.message == *self.message
        });
        let same_ingress = !seen.foreign_ingress && seen.ingress == self.addresses;
        let status = (!same_condition || !same_ingress).then(|| self.status(seen, now));
        let metadata = (seen.allocated_from != self.allocated_from).then(|| self.allocated_from.clone());
        if status.is_none() && metadata.is_none() {
            return None;
        }
        let moved = seen.ingress != self.addresses;
        let turned = seen.condition.as_ref().is_none_or(|old| *old.reason != *self.reason);
        let note = (status.is_some() && (moved || turned)).then(|| Note {
            warning: !self.is_true() || matches!(self.reason, given::SECOND_FAMILY | given::REQUESTED),
            reason: self.reason,
            message: self.message.clone(),
        });
        Some(Write { key: seen.key.clone(), version: seen.version.clone(), status, metadata, note })
    }

    fn status(&self, seen: &SeenService, now: Timestamp) -> Value {
        let ingress: Vec<Value> =
            self.addresses.iter().map(|addr| json!({"ip": addr.to_string(), "ipMode": IP_MODE})).collect();
        let same_side = seen.condition.as_ref().filter(|old| old.is_true == self.is_true());
        json!({
            "loadBalancer": {"ingress": ingress},
            "conditions": [{
                "type": ALLOCATED,
                "status": if self.is_true() { "True" } else { "False" },
                "reason": self.reason,
                "message": self.message,
                "lastTransitionTime": same_side.map_or(now, |old| old.since).strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            }],
        })
    }
}

/// The writes that take everything of ours off a Service that is not ours any more.
///
/// The applied status is empty: the API server removes what this field manager wrote before, and nothing that
/// somebody else has written since.
#[must_use]
pub fn clear(seen: &SeenService) -> Option<Write> {
    seen.has_trace().then(|| Write {
        key: seen.key.clone(),
        version: seen.version.clone(),
        status: Some(json!({})),
        metadata: seen.allocated_from.is_some().then_some(None),
        note: None,
    })
}

/// What to write to one Service: at most one patch of its status and one of its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which Service.
    pub key: landfall_core::name::ServiceKey,
    /// The version that was read.
    pub version: Version,
    /// The status to apply.
    pub status: Option<Value>,
    /// The annotation to set (`Some(Some)`) or remove (`Some(None)`).
    pub metadata: Option<Option<Box<str>>>,
    /// The Event to record once the status is written.
    pub note: Option<Note>,
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

impl Write {
    /// The status as a server-side apply on the status subresource. It names the version that was read: when the
    /// object has changed since, the API server refuses and the decision is made again.
    #[must_use]
    pub fn status_patch(&self) -> Option<Value> {
        let status = self.status.as_ref()?;
        Some(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": &*self.key.name,
                "namespace": self.key.namespace.as_str(),
                "uid": &*self.version.uid,
                "resourceVersion": &*self.version.resource,
            },
            "status": status,
        }))
    }

    /// The annotation as a JSON merge patch on the version given.
    #[must_use]
    pub fn metadata_patch(&self, version: &Version) -> Option<Value> {
        let value = self.metadata.as_ref()?;
        Some(json!({
            "metadata": {
                "uid": &*version.uid,
                "resourceVersion": &*version.resource,
                "annotations": {annotation::ALLOCATED_FROM: value.as_deref()},
            },
        }))
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.status.as_ref().map(|_| "status"), self.metadata.as_ref().map(|_| "metadata")];
        write!(f, "{} of {}", parts.into_iter().flatten().collect::<Vec<_>>().join(" and "), self.key)
    }
}

#[cfg(test)]
mod tests;

//! `AddressReservation`: an address that is held for a Service, also while that Service does not exist.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has a name and a type; the lint reads them as one list"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::selector;
use crate::text::IpText;

/// An address, or one address of a pool, that nobody but the Services named here may have.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "landfall.dev",
    version = "v1beta1",
    kind = "AddressReservation",
    plural = "addressreservations",
    shortname = "ares",
    category = "landfall",
    status = "AddressReservationStatus",
    derive = "PartialEq",
    doc = "An address held for a Service, also while that Service does not exist.",
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(
        // The first of the two that is set.
        name = "For namespace",
        type_ = "string",
        json_path = ".spec['service.namespace', 'namespace']"
    ),
    printcolumn(name = "For service", type_ = "string", json_path = ".spec.service.name"),
    printcolumn(name = "Used by", type_ = "string", json_path = ".status.usedBy"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.since"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct AddressReservationSpec {
    /// The address to hold. Either this, or `pool` and `family`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpText>,
    /// The pool to hold an address of: its lowest free one, which stays the same from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub pool: Option<String>,
    /// The family of the address of that pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<IpFamily>,
    /// The Service it is held for. Either this, or `namespace` and `serviceSelector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceRef>,
    /// The namespace of the Services it is held for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// The labels of the Services it is held for. The oldest Service that matches gets the address; others wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector::one")]
    pub service_selector: Option<LabelSelector>,
}

fn rules() -> serde_json::Value {
    json!([
        {
            "rule": "has(self.address) != has(self.pool)",
            "message": "exactly one of spec.address and spec.pool must be set",
            "fieldPath": ".address",
        },
        {
            "rule": "has(self.pool) == has(self.family)",
            "message": "spec.family must be set together with spec.pool, and only then",
            "fieldPath": ".family",
        },
        {
            "rule": "has(self.service) != has(self.namespace)",
            "message": "exactly one of spec.service and spec.namespace (with spec.serviceSelector) must be set",
            "fieldPath": ".service",
        },
        {
            "rule": "has(self.namespace) == has(self.serviceSelector)",
            "message": "spec.serviceSelector must be set together with spec.namespace, and only then",
            "fieldPath": ".serviceSelector",
        },
    ])
}

/// An IP family, as Services name it.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// One Service.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// What the controller says about a reservation.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressReservationStatus {
    /// The address that is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The Service that has it, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// Since when that Service has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// `Ready`: the address is held, or in use by a Service it is held for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

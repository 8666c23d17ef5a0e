//! `AddressPool`: the addresses that may be given to Services.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has a name and a type; the lint reads them as one list"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::AddressText;

/// Addresses that may be given to Services of type `LoadBalancer`.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "landfall.dev",
    version = "v1beta1",
    kind = "AddressPool",
    plural = "addresspools",
    shortname = "apool",
    category = "landfall",
    status = "AddressPoolStatus",
    derive = "PartialEq",
    doc = "Addresses that may be given to Services of type LoadBalancer.",
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses"),
    printcolumn(name = "Auto", type_ = "boolean", json_path = ".spec.autoAssign"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority", priority = 1),
    printcolumn(name = "IPv4 assigned", type_ = "string", json_path = ".status.ipv4.assigned"),
    printcolumn(name = "IPv4 available", type_ = "string", json_path = ".status.ipv4.available"),
    printcolumn(name = "IPv6 assigned", type_ = "string", json_path = ".status.ipv6.assigned"),
    printcolumn(name = "IPv6 available", type_ = "string", json_path = ".status.ipv6.available"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolSpec {
    /// The addresses: CIDRs (`192.0.2.0/24`) and ranges (`192.0.2.10-192.0.2.20`, both ends included), IPv4 and
    /// IPv6 in any mixture. Every address of a CIDR is used, the first and the last too.
    #[schemars(length(min = 1, max = 256))]
    pub addresses: Vec<AddressText>,
    /// Addresses of those that are never given, in the same form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub exclude: Vec<AddressText>,
    /// Whether a Service that asks for no pool and no address may be served from this pool.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out: some old devices refuse to talk to them.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,
    /// Which pool is used first: the lowest number, then the pools without a number, each by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
}

const fn yes() -> bool {
    true
}

/// What the controller says about a pool.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolStatus {
    /// The IPv4 addresses of the pool in numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<AddressCount>,
    /// The IPv6 addresses of the pool in numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<AddressCount>,
    /// `Ready`: the pool can be used. `Overlapping`: addresses of it belong to an older pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Numbers of addresses, exact: a decimal string each, because a /64 does not fit into a number of JSON.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressCount {
    /// Addresses that the pool can give in all.
    pub capacity: String,
    /// Addresses of those that Services hold.
    pub assigned: String,
    /// Addresses of those that are free.
    pub available: String,
}

//! `L2Advertisement`: which nodes announce which pools on which interfaces.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has a name and a type; the lint reads them as one list"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector;

/// Which nodes announce the addresses of which pools, and on which interfaces. With no `L2Advertisement` at all,
/// every pool is announced by every node. A node announces on an interface only what lies in a subnet of it.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "landfall.dev",
    version = "v1beta1",
    kind = "L2Advertisement",
    plural = "l2advertisements",
    shortname = "l2adv",
    category = "landfall",
    derive = "PartialEq",
    doc = "Which nodes announce the addresses of which pools by ARP and NDP, and on which interfaces.",
    printcolumn(name = "Pools", type_ = "string", json_path = ".spec.pools"),
    printcolumn(name = "Interfaces", type_ = "string", json_path = ".spec.interfaces"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementSpec {
    /// Names of the pools. Empty: all pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub pools: Vec<String>,
    /// Nodes that announce: those that match any of the selectors. Empty list: all nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "selector::many")]
    pub node_selectors: Vec<LabelSelector>,
    /// Names of the interfaces to announce on, as the node's kernel knows them. Empty: all interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 15)))]
    pub interfaces: Vec<String>,
}

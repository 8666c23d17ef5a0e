//! `AddressPool`: the addresses that may be given to Services.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has a name and a type; the lint reads them as one list"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector;
use crate::text::{AddressText, DurationText, PortRangeText};

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
    printcolumn(name = "IPv4 used", type_ = "string", json_path = ".status.ipv4.assigned"),
    printcolumn(name = "IPv4 free", type_ = "string", json_path = ".status.ipv4.available"),
    printcolumn(name = "IPv6 used", type_ = "string", json_path = ".status.ipv6.assigned"),
    printcolumn(name = "IPv6 free", type_ = "string", json_path = ".status.ipv6.available"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Overlapping",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Overlapping")].status"#,
        priority = 1
    ),
    printcolumn(
        name = "Exhausted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Exhausted")].status"#,
        priority = 1
    ),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority", priority = 1),
    printcolumn(name = "Namespaces", type_ = "string", json_path = ".spec.namespaces", priority = 1),
    printcolumn(name = "Node ports", type_ = "string", json_path = ".spec.nodePortRange", priority = 1),
    printcolumn(name = "On removal", type_ = "string", json_path = ".spec.onRemoval", priority = 1),
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
    /// Namespaces whose Services may be served. Together with `namespaceSelector` it is a union; with neither,
    /// the Services of every namespace may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub namespaces: Vec<String>,
    /// Namespaces whose Services may be served, by the labels of the Namespace object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector::one")]
    pub namespace_selector: Option<LabelSelector>,
    /// Services that may be served, by their labels: those that match any of the selectors, within the namespaces.
    /// With none, every Service may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "selector::many")]
    pub service_selectors: Vec<LabelSelector>,
    /// The `NodePorts` for Services that have an address of this pool, set `allocateLoadBalancerNodePorts: false`
    /// and ask for `NodePorts` by annotation: `31000-31009`. It has to lie within the API server's own range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port_range: Option<PortRangeText>,
    /// Most addresses of this pool that the Services of one namespace may hold; a shared address counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_addresses_per_namespace: Option<i32>,
    /// What becomes of a Service whose address is in no pool any more, because this pool was deleted or shrunk:
    /// `Keep` lets it keep the address, `Reassign` gives it another one.
    #[serde(default)]
    pub on_removal: OnRemoval,
    /// How long a freed address rests before another Service may get it: `30s`, `5m`, `1h30m`; 24h at most.
    #[serde(default)]
    pub quarantine: DurationText,
    /// Whether a node asks on the LAN if somebody else uses an address before it announces it for the first time.
    #[serde(default)]
    pub conflict_detection: ConflictDetection,
    /// Whether `loadBalancerSourceRanges` holds for the `NodePorts` of the Services too.
    #[serde(default)]
    pub source_ranges_on_node_port: SourceRangesOnNodePort,
    /// Whether answers may go from the node of the pod straight to the client, where the network allows it.
    #[serde(default)]
    pub direct_return: DirectReturn,
    /// Who may share an address by naming the same sharing key: Services of one namespace, or of all of them.
    #[serde(default)]
    pub sharing: Sharing,
}

/// What becomes of a Service whose address is in no pool any more.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnRemoval {
    /// It keeps the address; nobody else gets it.
    #[default]
    Keep,
    /// It gets another address, or none until there is one.
    Reassign,
}

/// Whether the LAN is asked before an address is announced for the first time (RFC 5227).
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConflictDetection {
    /// It is asked.
    #[default]
    Probe,
    /// It is not.
    Off,
}

/// Whether the source ranges of a Service hold for its `NodePorts` too.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceRangesOnNodePort {
    /// They do.
    #[default]
    Enforce,
    /// They hold for the load-balancer address only, as with kube-proxy.
    Ignore,
}

/// Whether answers may go from the node of the pod straight to the client.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectReturn {
    /// Where the network allows it.
    #[default]
    Auto,
    /// Never: they go back through the node that announces the address.
    Off,
}

/// Who may share an address by naming the same sharing key.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// Services of one namespace.
    #[default]
    Namespace,
    /// Services of all namespaces.
    Cluster,
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
    /// Addresses that were freed and rest, those that rest longest last; no more than 4096 are named. A controller
    /// that starts takes the quarantine up again from here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), extend("x-kubernetes-list-type" = "atomic"))]
    pub resting: Vec<RestingAddress>,
    /// `Ready`: the pool can be used. `Overlapping`: addresses of it belong to an older pool or to the cluster
    /// itself. `Exhausted`: no address is left. `AddressConflict`: somebody else on the LAN uses one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Most addresses that [`AddressPoolStatus::resting`] names.
pub const MAX_RESTING: usize = 4096;

/// A freed address that nobody gets for a while.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestingAddress {
    /// The address.
    pub address: String,
    /// When it may be given again.
    pub until: Time,
}

/// Numbers of addresses, exact: a decimal string each, because a /64 does not fit into a number of JSON.
/// `available` is what is left of `capacity` without all the others.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressCount {
    /// Addresses that the pool can give in all.
    pub capacity: String,
    /// Addresses of those that Services hold; a shared one counts once.
    pub assigned: String,
    /// Addresses of those that any Service may get.
    pub available: String,
    /// Addresses of those that were freed and rest.
    #[serde(default = "zero")]
    pub quarantined: String,
    /// Addresses of those that are free and held back by an `AddressReservation`.
    #[serde(default = "zero")]
    pub reserved: String,
    /// Addresses of those that somebody else on the LAN uses.
    #[serde(default = "zero")]
    pub conflicting: String,
}

impl Default for AddressCount {
    fn default() -> Self {
        Self {
            capacity: zero(),
            assigned: zero(),
            available: zero(),
            quarantined: zero(),
            reserved: zero(),
            conflicting: zero(),
        }
    }
}

fn zero() -> String {
    "0".to_owned()
}

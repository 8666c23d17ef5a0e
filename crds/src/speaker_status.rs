//! `SpeakerStatus`: what the speaker of one node does, as it says itself.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has a name and a type; the lint reads them as one list"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A `SpeakerStatus` has no specification: there is nothing for a user to say. The empty type carries the
/// derivation only and has no field in the object.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "landfall.dev",
    version = "v1beta1",
    kind = "SpeakerStatus",
    plural = "speakerstatuses",
    shortname = "spk",
    category = "landfall",
    no_spec,
    status = "SpeakerStatusStatus",
    derive = "PartialEq",
    doc = "What the speaker of the node of the same name does. Written by that speaker only.",
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(
        name = "HostReady",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="HostReady")].status"#
    ),
    printcolumn(name = "Owned", type_ = "string", json_path = ".status.owned", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct SpeakerStatusSpec {}

/// What one speaker says about itself.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerStatusStatus {
    /// The addresses this node announces, each as `IP@INTERFACE#EPOCH`. The epoch grows whenever the node gains the
    /// address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"), inner(length(max = 128)))]
    pub owned: Vec<String>,
    /// How far the node's kernel is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<DataPathStatus>,
    /// The other speakers as this one sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub peers: Vec<PeerStatus>,
    /// `HostReady`: whether the node lets the traffic of Services pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The version of the speaker.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// How far the kernel of a node is behind the API server.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataPathStatus {
    /// The newest objects that are in the kernel, with all that came before them.
    #[serde(default)]
    pub watermark: Watermark,
    /// The number of changes written to the kernel since the speaker started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Objects that are not in the kernel as they should be; at most 100 are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"), length(max = 100))]
    pub exceptions: Vec<DataPathException>,
}

/// The highest `resourceVersion` of each kind that is in the kernel.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watermark {
    /// The `resourceVersion` of the newest Service.
    #[serde(default)]
    pub services: String,
    /// The `resourceVersion` of the newest `EndpointSlice`.
    #[serde(default)]
    pub endpoint_slices: String,
}

/// An object that is not in the kernel as it should be.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataPathException {
    /// The Service as `namespace/name`.
    pub object: String,
    /// Why.
    pub reason: String,
}

/// Another speaker as this one sees it.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// The node of the peer.
    pub node: String,
    /// Whether it is taken to be alive.
    pub alive: bool,
    /// When it last gave a sign of life; filled for the dead only, so that the living cause no writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

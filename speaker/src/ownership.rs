//! Which addresses this node announces. The protocol behind the interface is exchangeable: today Leases in the
//! API server ([`lease`]).
//!
//! A protocol takes part from the first value *sent* on [`Ports::wanted`] (the initial value of the channel is
//! only a placeholder): other nodes make room for this one as soon as they see it, so it must be able to serve.

pub mod lease;

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_core::name::NodeName;
use landfall_core::segment::Segments;
use tokio::sync::watch;
use tokio::time::Instant;

pub use landfall_core::elect::{AdRule, Holding, NodeSet, Owned, VipPlan, Wanted};

use crate::link::Links;

/// The channels that connect an ownership protocol to the rest of the speaker.
#[derive(Debug)]
pub struct Ports {
    /// In: all addresses and where each may be announced.
    pub wanted: watch::Receiver<Arc<Wanted>>,
    /// In: the interfaces of this node.
    pub links: watch::Receiver<Arc<Links>>,
    /// Out: what this node announces.
    pub owned: watch::Sender<Arc<Owned>>,
    /// Out: what it knows of the others.
    pub peers: watch::Sender<Arc<Peers>>,
}

/// What this node knows of the other speakers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Whether signals can be exchanged now. When not, nobody is judged dead and the last decision stands.
    pub in_touch: bool,
    /// Whether this node may announce anything at all: seen by the others, and believed dead by none of them.
    pub standing: bool,
    /// The other speakers.
    pub nodes: BTreeMap<NodeName, Peer>,
}

/// Another speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Whether it is counted among the living.
    pub living: bool,
    /// When it last gave a sign of life, on this node's clock.
    pub last_signal: Instant,
    /// The subnets it says it is connected to.
    pub segments: Segments,
}

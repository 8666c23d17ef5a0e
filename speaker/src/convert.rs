//! Kubernetes objects to the compact types that the rest works on: the only place that sees the wire types.
//!
//! Each object is converted the moment it arrives and then dropped. What does not parse is left out here, once,
//! and always so that less is reachable, never more: a range that makes no sense admits nobody, an endpoint
//! without an address receives nothing.

pub mod address;
mod node;
mod policy;
mod service;
mod slice;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use landfall_core::name::{Namespace, NodeName};
use landfall_core::service::Protocol;

pub use node::{NodeFacts, node};
pub use policy::{Advertisement, Labels, Pool, Selector, advertisement, pool};
pub use service::{ClassFilter, HealthCheck, ServiceFacts, service, service_key};
pub use slice::{SERVICE_NAME, SliceFacts, SliceKey, slice, slice_key};

/// Shares the texts that thousands of objects repeat: names of namespaces, nodes and ports.
///
/// It only grows, by the names ever seen; past [`Interner::LIMIT`] it starts over, which costs
/// sharing and nothing else.
#[derive(Debug, Default)]
pub struct Interner {
    nodes: HashMap<Box<str>, NodeName>,
    names: HashSet<Arc<str>>,
    namespaces: HashMap<Box<str>, Namespace>,
}

impl Interner {
    /// How many texts of a kind are remembered.
    pub const LIMIT: usize = 20_000;

    /// The one copy of a node's name.
    pub fn node(&mut self, name: &str) -> NodeName {
        shared(&mut self.nodes, name)
    }

    /// The one copy of a namespace's name.
    pub fn namespace(&mut self, name: &str) -> Namespace {
        shared(&mut self.namespaces, name)
    }

    /// The one copy of a port's name.
    pub fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        if self.names.len() >= Self::LIMIT {
            self.names.clear();
        }
        let new: Arc<str> = Arc::from(name);
        self.names.insert(Arc::clone(&new));
        new
    }
}

fn shared<T: Clone + for<'a> From<&'a str>>(known: &mut HashMap<Box<str>, T>, name: &str) -> T {
    if let Some(known) = known.get(name) {
        return known.clone();
    }
    if known.len() >= Interner::LIMIT {
        known.clear();
    }
    let new = T::from(name);
    known.insert(Box::from(name), new.clone());
    new
}

/// A list without room to spare: collecting a filtered sequence leaves up to half of it empty.
fn exact<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.shrink_to_fit();
    items
}

/// The protocol of a Service or slice port: absent means TCP, anything unknown means no port at all.
fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP" | "") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_name_is_stored_once() {
        let mut interner = Interner::default();
        assert!(Arc::ptr_eq(&interner.name("http"), &interner.name("http")));
        let (first, again) = (interner.node("n1"), interner.node("n1"));
        assert!(std::ptr::eq(first.as_str(), again.as_str()));
        assert_ne!(interner.node("n2"), first);
    }

    #[test]
    fn the_names_ever_seen_do_not_pile_up() {
        let mut interner = Interner::default();
        for n in 0..=Interner::LIMIT {
            interner.name(&format!("p{n}"));
            interner.node(&format!("n{n}"));
        }
        assert_eq!((interner.names.len(), interner.nodes.len()), (1, 1));
    }
}

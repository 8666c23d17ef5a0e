//! Address pools as they are declared. [`Pools`] works out what each of them can give.

use crate::addr::AddrRange;
use crate::name::PoolName;
use crate::node_port::PortRange;
use crate::selector::Audience;

mod set;
mod usable;

pub use set::AddressSet;
pub(crate) use set::buggy;
pub use usable::{Pools, Taken, UsablePool};

/// What a pool is declared to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// When it was created, in Unix seconds: the older of two overlapping pools keeps the common addresses.
    pub created: i64,
    /// The addresses.
    pub addresses: Vec<AddrRange>,
    /// Addresses of those that are never given.
    pub exclude: Vec<AddrRange>,
    /// Whether it serves Services that ask for no pool and no address.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out.
    pub avoid_buggy: bool,
    /// Lower is used first; pools without a number come last.
    pub priority: Option<i32>,
    /// Which Services it may serve.
    pub audience: Audience,
    /// The `NodePort`s for Services with an address of it that leave the choice to us; `None`: the default range.
    pub node_ports: Option<PortRange>,
    /// Most addresses of it, of both families together, that the Services of one namespace may hold. A shared
    /// address counts once.
    pub quota: Option<u32>,
    /// What becomes of a Service whose address is in no pool any more.
    pub on_removal: OnRemoval,
    /// How long a freed address rests before another Service may get it, in seconds.
    pub quarantine_s: u32,
    /// Who may share an address of it.
    pub sharing: SharingScope,
}

impl Pool {
    /// A pool of these addresses; everything else is as when it is not declared.
    pub fn new(
        name: impl Into<PoolName>,
        created: i64,
        addresses: impl IntoIterator<Item = AddrRange>,
    ) -> Self {
        Self {
            name: name.into(),
            created,
            addresses: addresses.into_iter().collect(),
            exclude: Vec::new(),
            auto_assign: true,
            avoid_buggy: false,
            priority: None,
            audience: Audience::default(),
            node_ports: None,
            quota: None,
            on_removal: OnRemoval::Keep,
            quarantine_s: 0,
            sharing: SharingScope::Namespace,
        }
    }
}

/// What becomes of a Service whose address is in no pool any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRemoval {
    /// It keeps the address; nobody else gets it.
    #[default]
    Keep,
    /// It gets another address, or none until there is one.
    Reassign,
}

/// Who may share an address by an equal key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharingScope {
    /// Services of one namespace.
    #[default]
    Namespace,
    /// Services of all namespaces.
    Cluster,
}

#[cfg(test)]
pub(crate) mod tests;

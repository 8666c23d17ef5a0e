//! The HTTP ports by which other load balancers learn whether this node can take traffic: the `healthCheckNodePort` of
//! each Service with `externalTrafficPolicy: Local`, and the health of the node as a whole. kube-proxy serves the same
//! (`pkg/proxy/healthcheck`); here they are served where no kube-proxy runs.
//!
//! Numbers change without anybody being woken: a request reads the newest state. The listeners are looked at anew when
//! the set of ports or addresses changes, and every few seconds for those that could not be opened.

mod answer;
mod listeners;
mod others;
mod task;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use landfall_core::name::ServiceKey;
use tokio::time::Instant;

pub use answer::{node_health, node_life, service};
pub use others::Seat;
pub use task::{Mode, Settings, StateGone, run};

/// A change that is not in the kernel after so long makes the node unhealthy: twice kube-proxy's default
/// `syncPeriod`, as kube-proxy has it.
pub const LATE: Duration = Duration::from_mins(1);

/// What is known, for whoever asks.
#[derive(Clone, Debug)]
pub struct State {
    /// The Services with a health-check port.
    pub checks: BTreeMap<ServiceKey, Check>,
    /// The addresses of this node where they are asked.
    pub addresses: Vec<IpAddr>,
    /// Whether the node may be given new traffic: it is neither being deleted nor about to be.
    pub eligible: bool,
    /// Since when there is a change that the kernel does not have.
    pub pending: Option<Instant>,
    /// When the kernel last took a change.
    pub updated: Option<Timestamp>,
}

/// The health-check port of one Service, on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The uid of the Service.
    pub uid: Arc<str>,
    /// The port.
    pub port: NonZeroU16,
    /// Ready IPv4 endpoints on this node; `None` when the Service has no IPv4.
    pub local_v4: Option<usize>,
    /// Ready IPv6 endpoints on this node; `None` when the Service has no IPv6.
    pub local_v6: Option<usize>,
}

impl Check {
    /// The endpoints in the family of that address: like kube-proxy, each family answers for itself.
    #[must_use]
    pub const fn local(&self, addr: IpAddr) -> Option<usize> {
        match addr {
            IpAddr::V4(_) => self.local_v4,
            IpAddr::V6(_) => self.local_v6,
        }
    }

    /// Whether the same sockets serve both.
    fn listens_like(&self, other: &Self) -> bool {
        let sockets = |check: &Self| (check.port, check.local_v4.is_some(), check.local_v6.is_some());
        sockets(self) == sockets(other)
    }
}

impl Default for State {
    /// Before anything is known the node is healthy, as with kube-proxy: a restart must not take it out.
    fn default() -> Self {
        Self { checks: BTreeMap::new(), addresses: Vec::new(), eligible: true, pending: None, updated: None }
    }
}

impl State {
    /// Notes what the port of a Service says; whether other sockets are wanted now.
    pub fn set_check(&mut self, key: &ServiceKey, check: Option<Check>) -> bool {
        let old = self.checks.remove(key);
        let same = match (&old, &check) {
            (None, None) => true,
            (Some(old), Some(new)) => new.listens_like(old),
            _ => false,
        };
        self.checks.extend(check.map(|check| (key.clone(), check)));
        !same
    }

    /// Whether the kernel keeps up with what is wanted.
    #[must_use]
    pub fn healthy(&self, now: Instant) -> bool {
        self.pending.is_none_or(|since| now.saturating_duration_since(since) < LATE)
    }

    /// The sockets that the checks need, with the Service that each answers for. Should two Services name one port, the
    /// first by name has it.
    #[must_use]
    pub fn sockets(&self) -> BTreeMap<SocketAddr, &ServiceKey> {
        let mut sockets = BTreeMap::new();
        for (key, check) in &self.checks {
            for addr in self.addresses.iter().filter(|addr| check.local(**addr).is_some()) {
                sockets.entry(SocketAddr::new(*addr, check.port.get())).or_insert(key);
            }
        }
        sockets
    }
}

#[cfg(test)]
mod tests;

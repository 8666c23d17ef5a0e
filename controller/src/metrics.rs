//! What the controller counts. Every label has a bounded set of values; pools are as many as the user makes.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use landfall_core::addr::Family as IpFamily;
use landfall_core::allocate::{Denied, Lacking};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::decision::NODE_PORT_REASONS;
use crate::index::Index;

/// The metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// 1 while this replica leads.
    pub leader: Gauge,
    /// Writes of a Service's status that gave it an address or another one.
    pub allocations: Counter,
    /// Addresses given back by Services that are no longer ours.
    pub releases: Counter,
    /// Refusals told to a Service, by reason.
    pub denials: Family<Reason, Counter>,
    services: Family<State, Gauge>,
    pool_addresses: Family<PoolState, Gauge<f64, AtomicU64>>,
    /// Requests that write, by what is written and how it ended.
    pub writes: Family<Written, Counter>,
    /// Watch events, by kind and whether they came or the watch broke.
    pub watch: Family<Watched, Counter>,
    /// Events for users that were dropped because too many were waiting.
    pub events_dropped: Counter,
}

/// Label of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// [`Denied::reason`], or what lacks although there is an address ([`Lacking`], `NodePort`s).
    pub reason: &'static str,
}

/// Label of a state of Services.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// `allocated` or `waiting`.
    pub state: &'static str,
}

/// Labels of a number of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PoolState {
    /// The pool.
    pub pool: Arc<str>,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// `capacity`, `assigned`, `quarantined` or `reserved`.
    pub state: &'static str,
}

/// Labels of a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Written {
    /// `service_status`, `service_metadata`, `pool_status`, `reservation_status`, `event` or `lease`.
    pub object: &'static str,
    /// `ok`, `conflict`, `gone`, `invalid`, `timeout` or `error`.
    pub result: &'static str,
}

/// Labels of a watch event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Watched {
    /// `service`, `pool`, `reservation`, `namespace`, `node`, `service_cidr` or `speaker`.
    pub kind: &'static str,
    /// `event` or `broken`.
    pub outcome: &'static str,
}

impl Metrics {
    /// This replica leads no more: it tells nothing of what only the leader knows.
    pub fn stand_down(&self) {
        self.leader.set(0);
        self.services.clear();
        self.pool_addresses.clear();
    }

    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("landfall_controller");
        registry.register("leader", "1 while this replica leads", self.leader.clone());
        registry.register("allocations", "Addresses given to Services", self.allocations.clone());
        registry.register("releases", "Addresses given back by Services", self.releases.clone());
        registry.register("denials", "Refusals told to Services", self.denials.clone());
        registry.register("services", "Services with an address and waiting for one", self.services.clone());
        registry.register("pool_addresses", "Addresses of the pools", self.pool_addresses.clone());
        registry.register("writes", "Requests to the API server that write", self.writes.clone());
        registry.register("watch_events", "Events of watches and their failures", self.watch.clone());
        registry.register(
            "events_dropped",
            "Events for users that were dropped",
            self.events_dropped.clone(),
        );
        // A series that exists from the start can be alerted on.
        for reason in Denied::REASONS.into_iter().chain(Lacking::REASONS).chain(NODE_PORT_REASONS) {
            if ["Allocated", "OutsidePool"].contains(&reason) {
                continue;
            }
            let _ = self.denials.get_or_create(&Reason { reason });
        }
    }

    /// Counts one write.
    pub fn wrote(&self, object: &'static str, result: &'static str) {
        self.writes.get_or_create(&Written { object, result }).inc();
    }

    /// Brings the gauges up to date.
    pub fn observe(&self, index: &Index) {
        let (allocated, waiting) = index.counts();
        for (state, count) in [("allocated", allocated), ("waiting", waiting)] {
            self.services.get_or_create(&State { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        // Pools come and go: their series with them.
        self.pool_addresses.clear();
        for (pool, family, usage) in index.usage() {
            let family = match family {
                IpFamily::V4 => "ipv4",
                IpFamily::V6 => "ipv6",
            };
            let states = [
                ("capacity", usage.capacity),
                ("assigned", usage.assigned),
                ("quarantined", usage.quarantined),
                ("reserved", usage.reserved),
            ];
            for (state, count) in states {
                let labels = PoolState { pool: pool.as_str().into(), family, state };
                self.pool_addresses.get_or_create(&labels).set(float(count));
            }
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floats; exact numbers stand in the pool's status"
)]
const fn float(count: u128) -> f64 {
    count as f64
}

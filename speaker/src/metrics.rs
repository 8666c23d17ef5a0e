//! What Prometheus is told. Label sets are bounded: kinds of objects and outcomes, never names of Services.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::{host, l2};

/// The kinds of objects that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Kind {
    /// Services of all namespaces.
    Service,
    /// `EndpointSlice`s that belong to a Service.
    EndpointSlice,
    /// Nodes.
    Node,
    /// Address pools.
    AddressPool,
    /// L2 advertisements.
    L2Advertisement,
}

/// Label: which kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfKind {
    kind: Kind,
}

/// How a write to the API server went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// It was accepted.
    Written,
    /// It failed and is tried again, or for an Event: given up.
    Failed,
    /// An Event that was not sent, to keep to the rate.
    Dropped,
}

/// Label: how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WithOutcome {
    outcome: Outcome,
}

/// Label: what kind of thing is wrong with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WithReason {
    reason: &'static str,
}

/// All metrics the speaker keeps itself. Cheap to clone: the clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Front ends (address, protocol, port) in the kernel.
    pub frontends: Gauge,
    /// Endpoints of all front ends in the kernel.
    pub endpoints: Gauge,
    /// Services in the kernel.
    pub services: Gauge,
    /// Batches the kernel took.
    pub commits: Counter,
    /// Batches the kernel took that replaced the whole table.
    pub full_commits: Counter,
    /// Batches the kernel refused.
    pub kernel_errors: Counter,
    /// Times the table was found changed or removed by somebody else.
    pub foreign_changes: Counter,
    /// Bytes of a batch.
    pub batch_bytes: Histogram,
    /// Seconds the kernel took for a batch.
    pub commit_seconds: Histogram,
    /// Seconds from the arrival of an event to its being in the kernel.
    pub sync_seconds: Histogram,
    /// Addresses announced by this node.
    pub owned: Gauge,
    /// Other speakers taken to be alive.
    pub peers_alive: Gauge,
    /// Other speakers known.
    pub peers: Gauge,
    /// Whether signals are exchanged with the other speakers.
    pub in_touch: Gauge,
    /// Health-check sockets that are open.
    pub health_check_ports: Gauge,
    /// Health-check sockets that are wanted here and could not be opened.
    pub health_check_ports_missing: Gauge,
    host_findings: Family<WithReason, Gauge>,
    watch_events: Family<OfKind, Counter>,
    watch_errors: Family<OfKind, Counter>,
    status_writes: Family<WithOutcome, Counter>,
    events: Family<WithOutcome, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let latency = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        Self {
            frontends: Gauge::default(),
            endpoints: Gauge::default(),
            services: Gauge::default(),
            commits: Counter::default(),
            full_commits: Counter::default(),
            kernel_errors: Counter::default(),
            foreign_changes: Counter::default(),
            batch_bytes: Histogram::new(exponential_buckets(256.0, 4.0, 10)),
            commit_seconds: latency(),
            sync_seconds: latency(),
            owned: Gauge::default(),
            peers_alive: Gauge::default(),
            peers: Gauge::default(),
            in_touch: Gauge::default(),
            health_check_ports: Gauge::default(),
            health_check_ports_missing: Gauge::default(),
            host_findings: Family::default(),
            watch_events: Family::default(),
            watch_errors: Family::default(),
            status_writes: Family::default(),
            events: Family::default(),
        }
    }
}

impl Metrics {
    /// Counts an event of a watch.
    pub fn watch_event(&self, kind: Kind) {
        self.watch_events.get_or_create(&OfKind { kind }).inc();
    }

    /// Counts a failure of a watch.
    pub fn watch_error(&self, kind: Kind) {
        self.watch_errors.get_or_create(&OfKind { kind }).inc();
    }

    /// Counts an attempt to write the status.
    pub fn status_write(&self, outcome: Outcome) {
        self.status_writes.get_or_create(&WithOutcome { outcome }).inc();
    }

    /// Counts an Event.
    pub fn event(&self, outcome: Outcome) {
        self.events.get_or_create(&WithOutcome { outcome }).inc();
    }

    /// Says how many things of a kind are wrong with the host.
    pub fn set_host_findings(&self, kind: host::Kind, number: usize) {
        let gauge = self.host_findings.get_or_create(&WithReason { reason: kind.name() }).clone();
        gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// The registry that `/metrics` serves.
    #[must_use]
    pub fn registry(&self, arp: Arc<l2::Counters>) -> Registry {
        let mut registry = Registry::with_prefix("landfall_speaker");
        let r = &mut registry;
        r.register("services", "Services in the kernel", self.services.clone());
        r.register("frontends", "Front ends (address, protocol, port) in the kernel", self.frontends.clone());
        r.register("endpoints", "Endpoints of all front ends in the kernel", self.endpoints.clone());
        r.register("commits", "Batches the kernel took", self.commits.clone());
        r.register("full_commits", "Batches that replaced the whole table", self.full_commits.clone());
        r.register("kernel_errors", "Batches the kernel refused", self.kernel_errors.clone());
        r.register(
            "foreign_changes",
            "Times the table was changed or removed by somebody else",
            self.foreign_changes.clone(),
        );
        r.register("batch_bytes", "Size of a batch", self.batch_bytes.clone());
        r.register("commit_seconds", "Time the kernel took for a batch", self.commit_seconds.clone());
        r.register("sync_seconds", "Time from an event to the kernel", self.sync_seconds.clone());
        r.register("owned_addresses", "Addresses announced by this node", self.owned.clone());
        r.register("peers_alive", "Other speakers taken to be alive", self.peers_alive.clone());
        r.register("peers", "Other speakers known", self.peers.clone());
        r.register(
            "in_touch",
            "1 while signals are exchanged with the other speakers",
            self.in_touch.clone(),
        );
        r.register(
            "health_check_ports",
            "Health-check sockets that are open",
            self.health_check_ports.clone(),
        );
        r.register(
            "health_check_ports_missing",
            "Health-check sockets that could not be opened",
            self.health_check_ports_missing.clone(),
        );
        r.register(
            "host_findings",
            "Things on the host that break or may break traffic",
            self.host_findings.clone(),
        );
        r.register("watch_events", "Events of the watches", self.watch_events.clone());
        r.register("watch_errors", "Failures of the watches", self.watch_errors.clone());
        r.register("status_writes", "Writes of the SpeakerStatus", self.status_writes.clone());
        r.register("events", "Events about Services", self.events.clone());
        r.register_collector(Box::new(Arp(arp)));
        registry
    }
}

/// Shows the announcer's counters, which are plain numbers to keep its path short.
#[derive(Debug)]
struct Arp(Arc<l2::Counters>);

impl Collector for Arp {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut counter = |name, help, value: &AtomicU64| {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)
        };
        let l2 = &self.0;
        counter("arp_requests", "ARP requests received", &l2.requests)?;
        counter("arp_replies", "ARP replies sent", &l2.replies)?;
        counter("arp_gratuitous", "Gratuitous ARP frames sent", &l2.gratuitous)?;
        counter("arp_malformed", "Frames ignored as malformed", &l2.malformed)?;
        counter("arp_conflicts", "Frames in which another station uses an owned address", &l2.conflicts)?;
        counter("arp_send_errors", "Frames that could not be sent", &l2.send_errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented_and_no_other() {
        let metrics = Metrics::default();
        metrics.watch_event(Kind::Service);
        metrics.watch_error(Kind::Service);
        metrics.status_write(Outcome::Written);
        metrics.event(Outcome::Written);
        metrics.set_host_findings(host::Kind::ForwardingOff, 0);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry(Arc::default())).unwrap();
        let served: std::collections::BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|line| line.split_once(' '))
            .map(|(name, kind)| format!("{name}{}", if kind == "counter" { "_total" } else { "" }))
            .collect();
        let documented: std::collections::BTreeSet<String> = include_str!("../../docs/metrics.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `landfall_speaker_")?.split('`').next())
            .map(|name| format!("landfall_speaker_{name}"))
            .collect();
        assert_eq!(served, documented);
    }

    #[test]
    fn every_family_is_served_under_its_name() {
        let metrics = Metrics::default();
        let arp = Arc::new(l2::Counters::default());
        arp.replies.store(7, Ordering::Relaxed);
        metrics.watch_error(Kind::EndpointSlice);
        metrics.status_write(Outcome::Written);
        metrics.event(Outcome::Dropped);
        metrics.owned.set(3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry(arp)).unwrap();
        for line in [
            "landfall_speaker_arp_replies_total 7",
            "landfall_speaker_watch_errors_total{kind=\"EndpointSlice\"} 1",
            "landfall_speaker_status_writes_total{outcome=\"Written\"} 1",
            "landfall_speaker_events_total{outcome=\"Dropped\"} 1",
            "landfall_speaker_owned_addresses 3",
            "landfall_speaker_sync_seconds_count 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}

//! Events about Services: an address that begins or ceases to be announced from this node.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use landfall_core::name::NodeName;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::metrics::{Metrics, Outcome};
use crate::sync::Transition;

/// Whose Events these are (`reportingController`).
const CONTROLLER: &str = "landfall.dev/speaker";

/// How many Events may go out at once, and how long it takes until one more may.
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_millis(200);

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(3);

/// Nobody reports transitions any more.
#[derive(Debug, thiserror::Error)]
#[error("the sender of transitions ended")]
pub struct InputClosed;

/// Who reports.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// The node.
    pub node: NodeName,
    /// The pod, or the node's name when it is not known.
    pub instance: String,
}

/// Writes an Event for each transition until the sender ends. Events are a courtesy: one that fails, or that would
/// break the rate, is counted and given up.
pub async fn run(
    client: Client,
    reporter: Reporter,
    mut transitions: mpsc::Receiver<Transition>,
    metrics: Metrics,
) -> Result<(), InputClosed> {
    let mut rate = Rate::new(Instant::now());
    while let Some(transition) = transitions.recv().await {
        if !rate.admits(Instant::now()) {
            metrics.event(Outcome::Dropped);
            continue;
        }
        let event = event(&reporter, &transition, Timestamp::now());
        let api: Api<Event> = Api::namespaced(client.clone(), transition.service.namespace.as_str());
        let created = timeout(REQUEST, api.create(&PostParams::default(), &event)).await;
        match created {
            Ok(Ok(_)) => metrics.event(Outcome::Written),
            Ok(Err(error)) => {
                metrics.event(Outcome::Failed);
                tracing::debug!(service = %transition.service, %error, "cannot write an Event");
            }
            Err(_) => metrics.event(Outcome::Failed),
        }
    }
    Err(InputClosed)
}

fn event(reporter: &Reporter, transition: &Transition, now: Timestamp) -> Event {
    let Transition { service, uid, addr, iface } = transition;
    let (reason, note) = match iface {
        Some(iface) => ("Announcing", format!("{addr} is announced from node {} on {iface}", reporter.node)),
        None => ("Withdrawn", format!("{addr} is no longer announced from node {}", reporter.node)),
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", service.name, now.as_nanosecond())),
            namespace: Some(service.namespace.to_string()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(reporter.instance.clone()),
        action: Some("Announce".to_owned()),
        reason: Some(reason.to_owned()),
        note: Some(note),
        type_: Some("Normal".to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            name: Some(service.name.to_string()),
            namespace: Some(service.namespace.to_string()),
            uid: Some(uid.to_string()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

/// A token bucket.
#[derive(Debug)]
struct Rate {
    tokens: u32,
    filled: Instant,
}

impl Rate {
    const fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now }
    }

    /// Whether one more may go out now; takes its token.
    fn admits(&mut self, now: Instant) -> bool {
        while self.tokens < BURST && now.duration_since(self.filled) >= REFILL {
            self.tokens += 1;
            self.filled += REFILL;
        }
        if self.tokens == BURST {
            self.filled = now;
        }
        let admitted = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use landfall_core::name::{Iface, ServiceKey};

    use super::*;

    #[test]
    fn an_event_says_which_address_is_announced_from_where() {
        let reporter = Reporter { node: NodeName::new("n1"), instance: "speaker-x".to_owned() };
        for (addr, iface, reason, note) in [
            ("192.0.2.100", Some("eth0"), "Announcing", "192.0.2.100 is announced from node n1 on eth0"),
            (
                "2001:db8:50::100",
                Some("eth1"),
                "Announcing",
                "2001:db8:50::100 is announced from node n1 on eth1",
            ),
            ("192.0.2.100", None, "Withdrawn", "192.0.2.100 is no longer announced from node n1"),
            ("2001:db8:50::100", None, "Withdrawn", "2001:db8:50::100 is no longer announced from node n1"),
        ] {
            let transition = Transition {
                service: ServiceKey::new("shop", "web"),
                uid: "u1".into(),
                addr: addr.parse().unwrap(),
                iface: iface.map(Iface::new),
            };
            let event = event(&reporter, &transition, Timestamp::UNIX_EPOCH);
            assert_eq!((event.reason.as_deref(), event.note.as_deref()), (Some(reason), Some(note)));
            let regarding = event.regarding.unwrap();
            assert_eq!(regarding.uid.as_deref(), Some("u1"));
            assert_eq!(event.metadata.namespace, regarding.namespace);
        }
    }

    #[test]
    fn a_flood_is_cut_to_the_burst_and_then_to_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        assert_eq!((0..1000).filter(|_| rate.admits(start)).count(), BURST as usize);
        let later = start + REFILL * 3;
        assert_eq!((0..1000).filter(|_| rate.admits(later)).count(), 3);
        let much_later = later + REFILL * 1000;
        assert_eq!((0..1000).filter(|_| rate.admits(much_later)).count(), BURST as usize);
    }
}

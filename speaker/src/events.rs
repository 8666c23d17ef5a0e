//! Events about Services: an address that begins or ceases to be announced from this node, and a Service that its
//! kernel does not take.

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
use crate::sync::{Notice, Transition};

/// Whose Events these are (`reportingController`).
const CONTROLLER: &str = "landfall.dev/speaker";

/// How many Events may go out at once, and how long it takes until one more may.
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_millis(200);

/// The API server takes no longer note, in bytes.
const LONGEST_NOTE: usize = 1024;

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(3);

/// Nobody reports anything any more.
#[derive(Debug, thiserror::Error)]
#[error("the sender of notices ended")]
pub struct InputClosed;

/// Who reports.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// The node.
    pub node: NodeName,
    /// The pod, or the node's name when it is not known.
    pub instance: String,
}

/// Writes an Event for each notice until the sender ends. Events are a courtesy: one that fails, or that would
/// break the rate, is counted and given up.
pub async fn run(
    client: Client,
    reporter: Reporter,
    mut notices: mpsc::Receiver<Notice>,
    metrics: Metrics,
) -> Result<(), InputClosed> {
    let mut rate = Rate::new(Instant::now());
    while let Some(notice) = notices.recv().await {
        if !rate.admits(Instant::now()) {
            metrics.event(Outcome::Dropped);
            continue;
        }
        let event = event(&reporter, &notice, Timestamp::now());
        let service = notice.service();
        let api: Api<Event> = Api::namespaced(client.clone(), service.namespace.as_str());
        let created = timeout(REQUEST, api.create(&PostParams::default(), &event)).await;
        match created {
            Ok(Ok(_)) => metrics.event(Outcome::Written),
            Ok(Err(error)) => {
                metrics.event(Outcome::Failed);
                tracing::debug!(%service, %error, "cannot write an Event");
            }
            Err(_) => metrics.event(Outcome::Failed),
        }
    }
    Err(InputClosed)
}

/// What an Event says.
struct Said {
    kind: &'static str,
    action: &'static str,
    reason: &'static str,
    text: String,
}

fn said(node: &NodeName, notice: &Notice) -> Said {
    match notice {
        Notice::Announcement(Transition { addr, iface, .. }) => {
            let (reason, text) = match iface {
                Some(iface) => ("Announcing", format!("{addr} is announced from node {node} on {iface}")),
                None => ("Withdrawn", format!("{addr} is no longer announced from node {node}")),
            };
            Said { kind: "Normal", action: "Announce", reason, text }
        }
        Notice::Refused { reason, .. } => {
            let mut text = format!("the kernel of node {node} does not take this Service: {reason}");
            text.truncate(text.floor_char_boundary(LONGEST_NOTE));
            Said { kind: "Warning", action: "Program", reason: "DataPathRefused", text }
        }
    }
}

fn event(reporter: &Reporter, notice: &Notice, now: Timestamp) -> Event {
    let Said { kind, action, reason, text } = said(&reporter.node, notice);
    let (service, uid) = (notice.service(), notice.uid());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", service.name, now.as_nanosecond())),
            namespace: Some(service.namespace.to_string()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(reporter.instance.clone()),
        action: Some(action.to_owned()),
        reason: Some(reason.to_owned()),
        note: Some(text),
        type_: Some(kind.to_owned()),
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
            let notice = Notice::Announcement(Transition {
                service: ServiceKey::new("shop", "web"),
                uid: "u1".into(),
                addr: addr.parse().unwrap(),
                iface: iface.map(Iface::new),
            });
            let event = event(&reporter, &notice, Timestamp::UNIX_EPOCH);
            assert_eq!((event.reason.as_deref(), event.note.as_deref()), (Some(reason), Some(note)));
            let regarding = event.regarding.unwrap();
            assert_eq!(regarding.uid.as_deref(), Some("u1"));
            assert_eq!(event.metadata.namespace, regarding.namespace);
        }
    }

    #[test]
    fn an_event_says_that_the_kernel_does_not_take_a_service() {
        let reporter = Reporter { node: NodeName::new("n1"), instance: "speaker-x".to_owned() };
        for reason in ["no such thing".to_owned(), "ä".repeat(2000)] {
            let service = ServiceKey::new("shop", "web");
            let notice = Notice::Refused { service, uid: "u1".into(), reason };
            let event = event(&reporter, &notice, Timestamp::UNIX_EPOCH);
            assert_eq!(
                (event.reason.as_deref(), event.type_.as_deref()),
                (Some("DataPathRefused"), Some("Warning"))
            );
            let note = event.note.unwrap();
            assert!(
                note.starts_with("the kernel of node n1 does not take this Service: ") && note.len() <= 1024
            );
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

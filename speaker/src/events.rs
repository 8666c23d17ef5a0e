//! Events: an address of a Service that begins or ceases to be announced from this node, a Service that its kernel does
//! not take, and what on the node breaks traffic.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::{Api, Client};
use landfall_core::name::NodeName;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::host::{Finding, Findings};
use crate::metrics::{Metrics, Outcome};
use crate::sync::{Notice, Transition};

/// Whose Events these are (`reportingController`).
const CONTROLLER: &str = "landfall.dev/speaker";

/// How many Events may go out at once, and how long it takes until one more may.
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_millis(200);

/// The API server takes no longer note, in bytes (`EventValidation`).
const LONGEST_NOTE: usize = 1024;

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(3);

/// The namespace of Events about objects that have none.
const DEFAULT: &str = "default";

/// Nobody reports any more.
#[derive(Debug, thiserror::Error)]
#[error("a sender of what Events tell ended")]
pub struct InputClosed;

/// Who reports.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// The node.
    pub node: NodeName,
    /// The pod, or the node's name when it is not known.
    pub instance: String,
    /// The uid of the Node object.
    pub node_uid: Option<String>,
}

/// What Events tell.
#[derive(Debug)]
pub struct Ports {
    /// What users should know of Services.
    pub notices: mpsc::Receiver<Notice>,
    /// What on the node breaks traffic.
    pub findings: watch::Receiver<Findings>,
}

/// Writes an Event for each notice and each new finding until a sender ends. Events are a courtesy: one that fails, or
/// that would break the rate, is counted and given up.
pub async fn run(
    client: Client,
    reporter: Reporter,
    mut ports: Ports,
    metrics: Metrics,
) -> Result<(), InputClosed> {
    let mut rate = Rate::new(Instant::now());
    let mut told: Findings = None;
    loop {
        let events: Vec<Event> = tokio::select! {
            notice = ports.notices.recv() => {
                vec![event(&reporter, &notice.ok_or(InputClosed)?, Timestamp::now())]
            }
            changed = ports.findings.changed() => {
                changed.map_err(|_| InputClosed)?;
                let found = ports.findings.borrow_and_update().clone();
                let events = host_events(&reporter, &told, &found, Timestamp::now());
                told = found;
                events
            }
        };
        for event in events {
            if rate.admits(Instant::now()) {
                metrics.event(write(&client, &event).await);
            } else {
                metrics.event(Outcome::Dropped);
            }
        }
    }
}

async fn write(client: &Client, event: &Event) -> Outcome {
    let namespace = event.metadata.namespace.as_deref().unwrap_or(DEFAULT);
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    match timeout(REQUEST, api.create(&PostParams::default(), event)).await {
        Ok(Ok(_)) => Outcome::Written,
        Ok(Err(error)) => {
            tracing::debug!(event = event.metadata.name, %error, "cannot write an Event");
            Outcome::Failed
        }
        Err(_) => Outcome::Failed,
    }
}

/// A warning for each thing that has come to break traffic, and a word when the last one is gone.
fn host_events(reporter: &Reporter, told: &Findings, found: &Findings, now: Timestamp) -> Vec<Event> {
    let breaking = |findings: &Findings| -> BTreeSet<Finding> {
        findings.iter().flatten().filter(|finding| finding.breaks).cloned().collect()
    };
    let (told, found) = (breaking(told), breaking(found));
    let come =
        found.difference(&told).map(|finding| ("Warning", finding.kind.name(), finding.message.as_str()));
    let gone = (found.is_empty() && !told.is_empty()).then_some((
        "Normal",
        "HostReady",
        "nothing on this node breaks the traffic of Services any more",
    ));
    let node = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(reporter.node.to_string()),
        uid: reporter.node_uid.clone(),
        ..ObjectReference::default()
    };
    let event = |(number, (kind, reason, text)): (i64, (&'static str, &'static str, &str))| {
        let said = Said { kind, action: "CheckHost", reason, text: text.to_owned() };
        // Each has a name of its own.
        said.about(node.clone(), reporter, now + SignedDuration::from_nanos(number))
    };
    (0..).zip(come.chain(gone)).map(event).collect()
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
            let text = format!("the kernel of node {node} does not take this Service: {reason}");
            Said { kind: "Warning", action: "Program", reason: "DataPathRefused", text }
        }
        Notice::NoHealthCheck { addr, reason, .. } => {
            let text = format!("node {node} cannot serve the health-check port {addr}: {reason}");
            // kube-proxy's name for it.
            let reason = "FailedToStartServiceHealthcheck";
            Said { kind: "Warning", action: "ServeHealthCheck", reason, text }
        }
    }
}

impl Said {
    fn about(self, regarding: ObjectReference, reporter: &Reporter, now: Timestamp) -> Event {
        let Self { kind, action, reason, mut text } = self;
        text.truncate(text.floor_char_boundary(LONGEST_NOTE));
        Event {
            metadata: ObjectMeta {
                name: regarding.name.as_ref().map(|name| format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(regarding.namespace.clone().unwrap_or_else(|| DEFAULT.to_owned())),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(reporter.instance.clone()),
            action: Some(action.to_owned()),
            reason: Some(reason.to_owned()),
            note: Some(text),
            type_: Some(kind.to_owned()),
            regarding: Some(regarding),
            ..Event::default()
        }
    }
}

fn event(reporter: &Reporter, notice: &Notice, now: Timestamp) -> Event {
    let (service, uid) = (notice.service(), notice.uid());
    let regarding = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        name: Some(service.name.to_string()),
        namespace: Some(service.namespace.to_string()),
        uid: Some(uid.to_string()),
        ..ObjectReference::default()
    };
    said(&reporter.node, notice).about(regarding, reporter, now)
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
        let reporter =
            Reporter { node: NodeName::new("n1"), instance: "speaker-x".to_owned(), node_uid: None };
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
        let reporter =
            Reporter { node: NodeName::new("n1"), instance: "speaker-x".to_owned(), node_uid: None };
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
    fn an_event_says_which_health_check_port_cannot_be_served() {
        // S118
        let reporter =
            Reporter { node: NodeName::new("n1"), instance: "speaker-x".to_owned(), node_uid: None };
        for addr in ["192.0.2.11:30400", "[2001:db8:50::11]:30400"] {
            let notice = Notice::NoHealthCheck {
                service: ServiceKey::new("shop", "web"),
                uid: "u1".into(),
                addr: addr.parse().unwrap(),
                reason: "Address already in use".to_owned(),
            };
            let event = event(&reporter, &notice, Timestamp::UNIX_EPOCH);
            assert_eq!(event.reason.as_deref(), Some("FailedToStartServiceHealthcheck"));
            let wanted = format!("node n1 cannot serve the health-check port {addr}: Address already in use");
            assert_eq!(event.note, Some(wanted));
        }
    }

    #[test]
    fn what_breaks_traffic_is_told_once_and_its_end_too() {
        use crate::host::Kind;
        let node_uid = Some("u1".to_owned());
        let reporter = Reporter { node: NodeName::new("n1"), instance: "speaker-x".to_owned(), node_uid };
        let finding = |kind, breaks, message: &str| Finding { kind, breaks, message: message.to_owned() };
        let off = finding(Kind::ForwardingOff, true, "net.ipv4.ip_forward=0");
        let off6 = finding(Kind::ForwardingOff, true, "net.ipv6.conf.all.forwarding=0");
        let advice = finding(Kind::ConntrackShort, false, "short");
        let set = |findings: &[&Finding]| Some(findings.iter().copied().cloned().collect::<BTreeSet<_>>());
        for (told, found, notes) in [
            (None, set(&[]), vec![]),
            (None, set(&[&advice]), vec![]),
            (None, set(&[&off, &off6]), vec![&*off.message, &*off6.message]),
            (set(&[&off]), set(&[&off, &off6]), vec![&*off6.message]),
            (set(&[&off, &off6]), set(&[&off6]), vec![]),
            (
                set(&[&off]),
                set(&[&advice]),
                vec!["nothing on this node breaks the traffic of Services any more"],
            ),
        ] {
            let events = host_events(&reporter, &told, &found, Timestamp::UNIX_EPOCH);
            let said: Vec<_> = events.iter().filter_map(|event| event.note.as_deref()).collect();
            assert_eq!(said, notes);
            let names: BTreeSet<_> = events.iter().map(|event| &event.metadata.name).collect();
            assert_eq!(names.len(), events.len(), "each has a name of its own");
            for event in &events {
                let regarding = event.regarding.as_ref().unwrap();
                assert_eq!((regarding.name.as_deref(), regarding.uid.as_deref()), (Some("n1"), Some("u1")));
                assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
            }
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

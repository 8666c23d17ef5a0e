//! The `SpeakerStatus` of this node: what users and the controller learn of it. It follows what happens and is
//! never waited for.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use landfall_core::elect::Owned;
use landfall_core::name::NodeName;
use landfall_crds::conditions::HOST_READY;
use landfall_crds::{
    DataPathException, DataPathStatus, PeerStatus, SpeakerStatus, SpeakerStatusStatus, Watermark,
};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::host::{Finding, Findings};
use crate::metrics::{Metrics, Outcome};
use crate::ownership::Peers;
use crate::sync::KernelState;

/// Who owns the fields written here.
pub const FIELD_MANAGER: &str = "landfall-speaker";

/// The shortest time between two writes, whatever happens.
const PACE: Duration = Duration::from_millis(500);

/// After a write nothing is written for so many times as long as it took, and at most so long: a status with thousands
/// of addresses is work for the API server and for all who watch it.
const PAUSE: u32 = 20;
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// The longest wait after a failed write.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// How often a status that does not change is compared with what stands there: somebody may have deleted it.
const LOOK: Duration = Duration::from_secs(15);

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(5);

/// The longest message of a condition that the API server takes.
const MESSAGE: usize = 32_768;

/// At most so many exceptions are named (the type's `maxItems`).
const EXCEPTIONS: usize = 100;

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("no answer from the API server in {REQUEST:?}")]
    Timeout,
    #[error("the API server refused")]
    Refused(#[source] kube::Error),
}

/// The inputs of the status.
#[derive(Debug)]
pub struct Ports {
    /// What this node answers for.
    pub answering: watch::Receiver<Arc<Owned>>,
    /// What it knows of the other speakers.
    pub peers: watch::Receiver<Arc<Peers>>,
    /// How far its kernel is.
    pub state: watch::Receiver<Arc<KernelState>>,
    /// What on the node breaks traffic.
    pub findings: watch::Receiver<Findings>,
}

/// An input's sender is gone.
#[derive(Debug, thiserror::Error)]
#[error("a sender of the status ended")]
pub struct InputClosed;

/// Keeps the object of this node up to date until an input closes.
pub async fn run(
    client: Client,
    node: NodeName,
    mut ports: Ports,
    metrics: Metrics,
) -> Result<(), InputClosed> {
    let writer = Writer { objects: Api::all(client.clone()), nodes: Api::all(client), node };
    let mut written: Option<SpeakerStatusStatus> = None;
    let mut host = None;
    let mut wait = PACE;
    loop {
        // Before the first batch is in the kernel there is nothing to tell.
        host = host_ready(&ports.findings.borrow(), host, Timestamp::now());
        let status = SpeakerStatusStatus { conditions: host.iter().cloned().collect(), ..status(&ports) };
        metrics.owned.set(i64::try_from(status.owned.len()).unwrap_or(i64::MAX));
        if status.data_path.is_none() || written.as_ref() == Some(&status) {
            tokio::select! {
                changed = ports.changed() => changed?,
                () = sleep(LOOK), if written.is_some() => {
                    if !writer.stands(&status).await {
                        tracing::info!("the SpeakerStatus is gone or was changed by somebody else, writing it anew");
                        written = None;
                    }
                }
            }
            continue;
        }
        let begun = Instant::now();
        // An object that was never written in this run may not exist.
        match writer.write(&status, written.is_none()).await {
            Ok(()) => {
                metrics.status_write(Outcome::Written);
                written = Some(status);
                wait = (begun.elapsed() * PAUSE).clamp(PACE, LONGEST_PAUSE);
            }
            Err(error) => {
                metrics.status_write(Outcome::Failed);
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot write the SpeakerStatus");
                written = None;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
        sleep(wait).await;
    }
}

impl Ports {
    async fn changed(&mut self) -> Result<(), InputClosed> {
        tokio::select! {
            changed = self.answering.changed() => changed,
            changed = self.peers.changed() => changed,
            changed = self.state.changed() => changed,
            changed = self.findings.changed() => changed,
        }
        .map_err(|_| InputClosed)
    }
}

/// What the object should say now.
fn status(ports: &Ports) -> SpeakerStatusStatus {
    let owned = ports.answering.borrow();
    let owned = owned.vips.iter().map(|(addr, at)| format!("{addr}@{}#{}", at.iface, at.epoch)).collect();
    let peers = ports.peers.borrow();
    let peers = peers.nodes.iter().map(|(node, peer)| PeerStatus {
        node: node.to_string(),
        alive: peer.living,
        // The last sign of life is known on this node's own clock only; as a date it would be made up.
        last_seen: None,
    });
    SpeakerStatusStatus {
        owned,
        data_path: data_path(&ports.state.borrow()),
        peers: peers.collect(),
        conditions: Vec::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Whether anything breaks the traffic; the time is that of the last change of the answer that this run has seen.
fn host_ready(findings: &Findings, before: Option<Condition>, now: Timestamp) -> Option<Condition> {
    let breaking: Vec<&Finding> = findings.as_ref()?.iter().filter(|finding| finding.breaks).collect();
    let messages: Vec<&str> = breaking.iter().map(|finding| finding.message.as_str()).collect();
    let status = if breaking.is_empty() { "True" } else { "False" };
    let since = before.filter(|before| before.status == status).map(|before| before.last_transition_time);
    Some(Condition {
        type_: HOST_READY.type_.to_owned(),
        status: status.to_owned(),
        reason: breaking.first().map_or("Ready", |finding| finding.kind.name()).to_owned(),
        message: messages.join("; also ").chars().take(MESSAGE).collect(),
        // In whole seconds, as Kubernetes has its times: what is read back is then what was written.
        last_transition_time: since.unwrap_or(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
        observed_generation: None,
    })
}

fn data_path(state: &KernelState) -> Option<DataPathStatus> {
    let (mark, exceptions) = (state.watermark, exceptions(state));
    if mark.is_none() && exceptions.is_empty() {
        return None;
    }
    let mark = mark.unwrap_or_default();
    Some(DataPathStatus {
        watermark: Watermark {
            services: mark.services.to_string(),
            endpoint_slices: mark.slices.to_string(),
        },
        generation: i64::try_from(state.commits).ok(),
        exceptions,
    })
}

fn exceptions(state: &KernelState) -> Vec<DataPathException> {
    let refused =
        state.refused.iter().map(|(service, reason)| (service, format!("the kernel refused: {reason}")));
    let left_out = state.left_out.iter().map(|(service, reason)| (service, reason.clone()));
    refused
        .chain(left_out)
        .take(EXCEPTIONS)
        .map(|(service, reason)| DataPathException { object: service.to_string(), reason })
        .collect()
}

/// Writes the object.
struct Writer {
    objects: Api<SpeakerStatus>,
    nodes: Api<Node>,
    node: NodeName,
}

impl Writer {
    async fn write(&self, status: &SpeakerStatusStatus, first: bool) -> Result<(), WriteError> {
        let name = self.node.as_str();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        if first {
            let object = self.object().await?;
            within(self.objects.patch(name, &params, &Patch::Apply(&object))).await?;
        }
        let object = json!({
            "apiVersion": "landfall.dev/v1beta1",
            "kind": "SpeakerStatus",
            "metadata": {"name": name},
            "status": status,
        });
        within(self.objects.patch_status(name, &params, &Patch::Apply(&object))).await.map(drop)
    }

    /// Whether the object says this still, as far as can be told.
    async fn stands(&self, status: &SpeakerStatusStatus) -> bool {
        match within(self.objects.get_opt(self.node.as_str())).await {
            Ok(found) => found.and_then(|object| object.status).as_ref() == Some(status),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "cannot read the SpeakerStatus");
                true
            }
        }
    }

    /// The object without its status. It belongs to the Node object and is collected with it.
    async fn object(&self) -> Result<serde_json::Value, WriteError> {
        let name = self.node.as_str();
        let uid = within(self.nodes.get_metadata_opt(name)).await?.and_then(|node| node.metadata.uid);
        let owners: Vec<_> = uid
            .into_iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}))
            .collect();
        Ok(json!({
            "apiVersion": "landfall.dev/v1beta1",
            "kind": "SpeakerStatus",
            "metadata": {"name": name, "ownerReferences": owners},
        }))
    }
}

async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, WriteError> {
    timeout(REQUEST, request).await.map_err(|_| WriteError::Timeout)?.map_err(WriteError::Refused)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use landfall_core::elect::Holding;
    use landfall_core::name::{Iface, ServiceKey};
    use landfall_core::segment::Segments;

    use super::*;
    use crate::host::Kind;
    use crate::ownership::Peer;
    use crate::view;

    fn ports(owned: Owned, peers: Peers, state: KernelState) -> Ports {
        Ports {
            answering: watch::channel(Arc::new(owned)).1,
            peers: watch::channel(Arc::new(peers)).1,
            state: watch::channel(Arc::new(state)).1,
            findings: watch::channel(None).1,
        }
    }

    #[tokio::test]
    async fn the_status_tells_addresses_kernel_and_peers() {
        let holding = |epoch| Holding { iface: Iface::new("eth0"), epoch };
        let owned = Owned {
            vips: BTreeMap::from([
                ("192.0.2.100".parse().unwrap(), holding(3)),
                ("2001:db8:50::100".parse().unwrap(), holding(4)),
            ]),
        };
        let peer =
            Peer { living: false, last_signal: tokio::time::Instant::now(), segments: Segments::default() };
        let peers = Peers { nodes: BTreeMap::from([(NodeName::new("n2"), peer)]), ..Peers::default() };
        let state = KernelState {
            watermark: Some(view::Watermark { services: 7, slices: 9 }),
            commits: 5,
            refused: BTreeMap::from([(ServiceKey::new("shop", "web"), "no space".to_owned())]),
            left_out: BTreeMap::from([(
                ServiceKey::new("shop", "odd"),
                "192.0.2.11 is the address of node n1".to_owned(),
            )]),
        };
        let status = status(&ports(owned, peers, state));
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            json!({
                "owned": ["192.0.2.100@eth0#3", "2001:db8:50::100@eth0#4"],
                "dataPath": {
                    "watermark": {"services": "7", "endpointSlices": "9"},
                    "generation": 5,
                    "exceptions": [
                        {"object": "shop/web", "reason": "the kernel refused: no space"},
                        {"object": "shop/odd", "reason": "192.0.2.11 is the address of node n1"},
                    ],
                },
                "peers": [{"node": "n2", "alive": false}],
                "version": env!("CARGO_PKG_VERSION"),
            })
        );
    }

    #[test]
    fn the_condition_of_the_host_names_what_breaks_and_has_only_documented_reasons() {
        let finding = |kind, breaks| Finding { kind, breaks, message: format!("{kind:?}") };
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(host_ready(&None, None, at(1)), None, "nobody has looked yet");
        let good = host_ready(&Some([finding(Kind::ConntrackShort, false)].into()), None, at(1)).unwrap();
        assert_eq!((&*good.status, &*good.reason, &*good.message), ("True", "Ready", ""));
        let bad = Some([finding(Kind::ConntrackFull, true), finding(Kind::ForwardingOff, true)].into());
        let bad = host_ready(&bad, Some(good), at(2)).unwrap();
        assert_eq!((&*bad.status, &*bad.reason), ("False", "ForwardingOff"));
        assert_eq!(bad.message, "ForwardingOff; also ConntrackFull");
        assert_eq!(bad.last_transition_time.0, at(2));
        let other = host_ready(&Some([finding(Kind::ConntrackFull, true)].into()), Some(bad), at(3)).unwrap();
        assert_eq!((&*other.reason, other.last_transition_time.0), ("ConntrackFull", at(2)));
        // One kind never breaks anything.
        let breaking = Kind::ALL.into_iter().filter(|kind| *kind != Kind::ConntrackShort);
        for kind in breaking {
            assert!(HOST_READY.has(false, kind.name()), "{kind:?}");
        }
    }

    #[test]
    fn before_the_first_batch_there_is_nothing_to_tell() {
        let none = ports(Owned::default(), Peers::default(), KernelState::default());
        assert_eq!(status(&none).data_path, None);
    }

    #[test]
    fn a_sign_of_life_of_a_peer_changes_nothing_in_the_status() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        let at = |last_signal| {
            let peer = Peer { living: true, last_signal, segments: Segments::default() };
            let peers = Peers { nodes: BTreeMap::from([(NodeName::new("n2"), peer)]), ..Peers::default() };
            status(&ports(Owned::default(), peers, KernelState::default()))
        };
        let now = tokio::time::Instant::now();
        assert_eq!(at(now), at(now + Duration::from_secs(1)));
    }
}

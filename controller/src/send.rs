//! Requests to the API server, bounded in time, and how they end.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use landfall_crds::class::ServiceClass;
use landfall_crds::{AddressPool, AddressPoolStatus, AddressReservation, AddressReservationStatus};
use tokio::task::JoinSet;

use crate::decision::{Note, Write};
use crate::hooks::{Hooks, Moment};
use crate::index::Failure;
use crate::leader::{REQUEST_TIMEOUT, Term};
use crate::metrics::Metrics;
use crate::pool_status;
use crate::reservation_status;
use crate::seen::{SeenPool, SeenReservation, SeenService, Version};

/// The name under which our fields are owned (server-side apply), and that reports Events.
pub const MANAGER: &str = "landfall-controller";

/// How a request ended, if not well.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The object has changed since it was read.
    #[error("the object has changed meanwhile")]
    Conflict,
    /// The object does not exist.
    #[error("the object does not exist")]
    Gone,
    /// No answer in time; the request may have taken effect all the same.
    #[error("no answer from the API server within {0:?}")]
    Timeout(Duration),
    /// The term of this leader is over, so nothing was sent.
    #[error("this replica does not lead any more")]
    NotLeading,
    /// The object as it would be is not valid.
    #[error("the API server finds the object invalid: {0}")]
    Invalid(String),
    /// Anything else.
    #[error("the API server refused or could not be reached")]
    Other(#[source] Box<kube::Error>),
}

impl From<&SendError> for Failure {
    fn from(error: &SendError) -> Self {
        match error {
            SendError::Conflict => Self::Conflict,
            SendError::Gone => Self::Gone,
            SendError::Timeout(_) | SendError::NotLeading | SendError::Invalid(_) | SendError::Other(_) => {
                Self::Other
            }
        }
    }
}

/// Waits for the answer to a request, but not for ever.
pub async fn request<T>(
    within: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, SendError> {
    match tokio::time::timeout(within, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(SendError::Conflict),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(SendError::Gone),
        Ok(Err(kube::Error::Api(status))) if status.code == 422 => {
            Err(SendError::Invalid(status.message.clone()))
        }
        Ok(Err(error)) => Err(SendError::Other(Box::new(error))),
        Err(_) => Err(SendError::Timeout(within)),
    }
}

/// The label of a metric for how a request ended.
#[must_use]
pub const fn outcome<T>(result: &Result<T, SendError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(SendError::Conflict) => "conflict",
        Err(SendError::Gone) => "gone",
        Err(SendError::Timeout(_)) => "timeout",
        Err(SendError::Invalid(_)) => "invalid",
        Err(SendError::NotLeading | SendError::Other(_)) => "error",
    }
}

/// Sends what was decided, as long as this replica leads. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    /// The API server.
    pub client: Client,
    /// Which Services are ours.
    pub class: ServiceClass,
    /// Until when this replica leads.
    pub term: Term,
    /// Where it is counted.
    pub metrics: Metrics,
    /// What is called around every write.
    pub hooks: Hooks,
}

/// What became of a [`Write`].
#[derive(Debug)]
pub struct Sent {
    /// What was to be written.
    pub write: Write,
    /// The Service after the last patch that succeeded, if one did.
    pub seen: Option<SeenService>,
    /// Whether the status is written (or was not to be).
    pub status_done: bool,
    /// What went wrong, if anything did.
    pub error: Option<SendError>,
    /// Why the API server did not take the `NodePort`s, if it did not.
    pub ports_refused: Option<PortsRefused>,
}

/// Why the API server does not take `NodePort`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortsRefused {
    /// Somebody else has one of them.
    Taken,
    /// They are outside its own range.
    OutOfRange,
}

impl PortsRefused {
    /// What the words of the API server mean (`pkg/registry/core/service/portallocator/allocator.go`).
    fn read(message: &str) -> Option<Self> {
        if message.contains("already allocated") {
            Some(Self::Taken)
        } else if message.contains("not in the valid range") {
            Some(Self::OutOfRange)
        } else {
            None
        }
    }
}

fn json_patch(patch: serde_json::Value) -> Result<Patch<()>, SendError> {
    serde_json::from_value(patch).map(Patch::Json).map_err(|error| SendError::Invalid(error.to_string()))
}

fn plain() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

impl Sender {
    /// Writes to a Service, its metadata and its status in the order that the write says.
    pub async fn write(self, write: Write) -> Sent {
        let first = write.status_first;
        let mut sent = Sent { seen: None, status_done: false, error: None, ports_refused: None, write };
        for status in [first, !first] {
            let done = if status { self.status(&mut sent).await } else { self.metadata(&mut sent).await };
            if let Err(error) = done {
                // What the API server does not want to record keeps nobody from its address, but for the finalizer:
                // without it the address could be somebody else's while the Service is still there.
                let guarded = sent.write.metadata.as_ref().is_none_or(|metadata| !metadata.guards);
                let goes_on = matches!(error, SendError::Invalid(_)) && !status && guarded;
                sent.error = Some(error);
                if !goes_on {
                    break;
                }
            }
        }
        sent
    }

    async fn status(&self, sent: &mut Sent) -> Result<(), SendError> {
        if let Some(patch) = sent.write.status_patch(sent.version()) {
            let api: Api<Service> = Api::namespaced(self.client.clone(), sent.write.key.namespace.as_str());
            let params = PatchParams::apply(MANAGER).force();
            let (name, patch) = (&*sent.write.key.name, Patch::Apply(&patch));
            let request = api.patch_status(name, &params, &patch);
            let result = self.within_term("service_status", request).await;
            let mut seen = SeenService::new(&result?, &self.class);
            if let Some(patch) = sent.write.leftover(&seen) {
                let patch = Patch::Strategic(&patch);
                let params = plain();
                let request = api.patch_status(name, &params, &patch);
                let result = self.within_term("service_status", request).await;
                seen = SeenService::new(&result?, &self.class);
            }
            sent.seen = Some(seen);
        }
        sent.status_done = true;
        Ok(())
    }

    async fn metadata(&self, sent: &mut Sent) -> Result<(), SendError> {
        let result = self.patch(sent, true).await;
        if let Err(SendError::Invalid(message)) = &result
            && let Some(refused) = PortsRefused::read(message)
        {
            // The ports must not hold up the address.
            sent.ports_refused = Some(refused);
            return self.patch(sent, false).await;
        }
        result
    }

    async fn patch(&self, sent: &mut Sent, with_node_ports: bool) -> Result<(), SendError> {
        let Some(patch) = sent.write.metadata_patch(sent.version(), with_node_ports) else { return Ok(()) };
        let patch = json_patch(patch)?;
        let api: Api<Service> = Api::namespaced(self.client.clone(), sent.write.key.namespace.as_str());
        let params = plain();
        let request = api.patch(&sent.write.key.name, &params, &patch);
        let result = self.within_term("service_metadata", request).await;
        sent.seen = Some(SeenService::new(&result?, &self.class));
        Ok(())
    }

    /// Writes the status of a pool and returns the pool as it is then.
    pub async fn write_pool(self, seen: SeenPool, status: AddressPoolStatus) -> Result<SeenPool, SendError> {
        let api: Api<AddressPool> = Api::all(self.client.clone());
        let patch = json_patch(pool_status::patch(&seen, &status))?;
        let params = plain();
        let request = api.patch_status(seen.name.as_str(), &params, &patch);
        self.within_term("pool_status", request).await.map(|object| SeenPool::new(&object))
    }

    /// Writes the status of a reservation and returns the reservation as it is then.
    pub async fn write_reservation(
        self,
        seen: SeenReservation,
        status: AddressReservationStatus,
    ) -> Result<SeenReservation, SendError> {
        let api: Api<AddressReservation> = Api::all(self.client.clone());
        let patch = json_patch(reservation_status::patch(&seen, &status))?;
        let params = plain();
        let request = api.patch_status(&seen.name, &params, &patch);
        self.within_term("reservation_status", request).await.map(|object| SeenReservation::new(&object))
    }

    async fn within_term<T>(
        &self,
        what: &'static str,
        future: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, SendError> {
        self.hooks.call(Moment::Before, what);
        let result = if self.term.lasts() {
            request(REQUEST_TIMEOUT, future).await
        } else {
            Err(SendError::NotLeading)
        };
        self.hooks.call(Moment::After, what);
        self.metrics.wrote(what, outcome(&result));
        result
    }
}

impl Sent {
    /// The newest version of the object that is known.
    fn version(&self) -> &Version {
        self.seen.as_ref().map_or(&self.write.version, |seen| &seen.version)
    }
}

/// An Event about a Service, as the API server takes it.
#[must_use]
pub fn event(write: &Write, note: &Note, instance: &str, now: Timestamp) -> Event {
    let text = note_text(&note.message);
    let namespace = write.key.namespace.as_str().to_owned();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", write.key.name, now.as_nanosecond())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some("landfall.dev/controller".to_owned()),
        reporting_instance: Some(instance.to_owned()),
        action: Some("Allocate".to_owned()),
        reason: Some(note.reason.to_owned()),
        note: Some(text),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            name: Some(write.key.name.to_string()),
            namespace: Some(namespace),
            uid: Some(write.version.uid.to_string()),
            resource_version: Some(write.version.resource.to_string()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

/// The longest text the API server takes, in bytes (`NoteLengthLimit`, `pkg/apis/core/validation/events.go`).
const NOTE_BYTES: usize = 1_024;

/// A text that fits: cut at a character.
fn note_text(message: &str) -> String {
    let fits = |at: &(usize, char)| at.0 + at.1.len_utf8() < NOTE_BYTES;
    message.char_indices().take_while(fits).map(|(_, c)| c).collect()
}

/// Events recorded at the same time: they keep pace with the writes they tell of.
const EVENTS_AT_ONCE: usize = 8;

/// Records Events as they come. An Event that cannot be recorded is lost: the condition says the same.
pub async fn record_events(client: Client, mut events: tokio::sync::mpsc::Receiver<Event>, metrics: Metrics) {
    let mut recording = JoinSet::new();
    while let Some(event) = events.recv().await {
        if recording.len() >= EVENTS_AT_ONCE {
            recording.join_next().await;
        }
        recording.spawn(record(client.clone(), event, metrics.clone()));
        while recording.try_join_next().is_some() {}
    }
    while recording.join_next().await.is_some() {}
}

async fn record(client: Client, event: Event, metrics: Metrics) {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client, &namespace);
    let result = request(REQUEST_TIMEOUT, api.create(&PostParams::default(), &event)).await;
    metrics.wrote("event", outcome(&result));
    if let Err(error) = result {
        tracing::debug!(%error, namespace, "cannot record an Event");
    }
}

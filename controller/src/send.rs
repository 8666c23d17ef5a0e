//! Requests to the API server, bounded in time, and how they end.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use landfall_crds::class::ServiceClass;
use landfall_crds::{AddressPool, AddressPoolStatus};
use tokio::task::JoinSet;

use crate::decision::{Note, Write};
use crate::index::Failure;
use crate::leader::{REQUEST_TIMEOUT, Term};
use crate::metrics::Metrics;
use crate::pool_status;
use crate::seen::{SeenPool, SeenService, Version};

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
    /// Anything else.
    #[error("the API server refused or could not be reached")]
    Other(#[source] Box<kube::Error>),
}

impl From<&SendError> for Failure {
    fn from(error: &SendError) -> Self {
        match error {
            SendError::Conflict => Self::Conflict,
            SendError::Gone => Self::Gone,
            SendError::Timeout(_) | SendError::NotLeading | SendError::Other(_) => Self::Other,
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
}

impl Sender {
    /// Writes to a Service: the status first, because it is the record of who has which address; the annotation is
    /// made from it again should the program end in between.
    pub async fn write(self, write: Write) -> Sent {
        let api: Api<Service> = Api::namespaced(self.client.clone(), write.key.namespace.as_str());
        let mut sent = Sent { seen: None, status_done: false, error: None, write };
        let mut version: Version = sent.write.version.clone();
        if let Some(patch) = sent.write.status_patch() {
            let params = PatchParams::apply(MANAGER).force();
            let result = self
                .within_term(api.patch_status(&sent.write.key.name, &params, &Patch::Apply(&patch)))
                .await;
            self.metrics.wrote("service_status", outcome(&result));
            match result {
                Ok(object) => {
                    let seen = SeenService::new(&object, &self.class);
                    version = seen.version.clone();
                    sent.seen = Some(seen);
                }
                Err(error) => {
                    sent.error = Some(error);
                    return sent;
                }
            }
        }
        sent.status_done = true;
        if let Some(patch) = sent.write.metadata_patch(&version) {
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            let result =
                self.within_term(api.patch(&sent.write.key.name, &params, &Patch::Merge(&patch))).await;
            self.metrics.wrote("service_metadata", outcome(&result));
            match result {
                Ok(object) => sent.seen = Some(SeenService::new(&object, &self.class)),
                Err(error) => sent.error = Some(error),
            }
        }
        sent
    }

    /// Writes the status of a pool and returns the pool as it is then.
    pub async fn write_pool(self, seen: SeenPool, status: AddressPoolStatus) -> Result<SeenPool, SendError> {
        let api: Api<AddressPool> = Api::all(self.client.clone());
        let patch = pool_status::patch(&seen, &status);
        let params = PatchParams::apply(MANAGER).force();
        let result =
            self.within_term(api.patch_status(seen.name.as_str(), &params, &Patch::Apply(&patch))).await;
        self.metrics.wrote("pool_status", outcome(&result));
        result.map(|object| SeenPool::new(&object))
    }

    async fn within_term<T>(
        &self,
        future: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, SendError> {
        if !self.term.lasts() {
            return Err(SendError::NotLeading);
        }
        request(REQUEST_TIMEOUT, future).await
    }
}

/// An Event about a Service, as the API server takes it.
#[must_use]
pub fn event(write: &Write, note: &Note, instance: &str, now: Timestamp) -> Event {
    // Longest text the API server takes (validation of events.k8s.io).
    let text: String = note.message.chars().take(1_000).collect();
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

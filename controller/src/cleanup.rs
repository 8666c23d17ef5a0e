//! What is done once when the product is removed: our finalizer is taken off the Services, so that none of them
//! hangs when it is deleted. Addresses stay where they are.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Service;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use landfall_crds::class::{FINALIZER, ServiceClass};
use landfall_runtime::telemetry::LogArgs;
use serde_json::json;

use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::seen::SeenService;
use crate::send::{self, MANAGER, SendError};

/// Flags of the cleaning.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "landfall-controller cleanup", version)]
pub struct Args {
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
    /// Which Services are ours.
    #[command(flatten)]
    pub class: ServiceClass,
    /// Namespace of the leader's Lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system", value_name = "NAME")]
    pub namespace: String,
    /// Identity in the leader's Lease
    #[arg(long, env = "POD_NAME", default_value = "landfall-cleanup", value_name = "NAME")]
    pub pod_name: String,
}

/// Services read by one request.
const PAGE: u32 = 500;
/// How often a Service that changes meanwhile is tried, and the longest a request takes.
const TRIES: usize = 10;
const REQUEST: Duration = Duration::from_secs(10);

/// Cleans up; how many Services have lost our finalizer.
///
/// The leader's Lease is taken first: a controller that is still ending would put the finalizer back.
pub async fn run(args: Args) -> anyhow::Result<usize> {
    let client =
        Client::try_default().await.context("no way to the API server: not in a pod and no kubeconfig")?;
    let mut candidate = Candidate::new(client.clone(), &args.namespace, &args.pod_name, Metrics::default());
    let term = candidate.acquire(|| ()).await;
    let cleaned = tokio::select! {
        lost = candidate.hold(&term) => Err(lost.into()),
        cleaned = clean_all(&client, &args.class) => cleaned,
    };
    candidate.release().await;
    cleaned
}

async fn clean_all(client: &Client, class: &ServiceClass) -> anyhow::Result<usize> {
    let all: Api<Service> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut cleaned = 0;
    loop {
        let list = send::request(REQUEST, all.list(&page)).await.context("cannot list the Services")?;
        for object in &list.items {
            if clean(client, object, class).await? {
                cleaned += 1;
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    tracing::info!(services = cleaned, "the finalizer is taken off");
    Ok(cleaned)
}

/// Takes the finalizer off a Service of ours; whether it was there.
async fn clean(client: &Client, object: &Service, class: &ServiceClass) -> anyhow::Result<bool> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let mut object = object.clone();
    for _ in 0..TRIES {
        let seen = SeenService::new(&object, class);
        // The finalizer has the name that all load balancers use: on others' Services it is theirs.
        let Some(at) = seen.finalizers.ours.filter(|_| seen.has_trace() || seen.demand.is_some()) else {
            return Ok(false);
        };
        let path = format!("/metadata/finalizers/{at}");
        let ops = json!([
            {"op": "test", "path": "/metadata/uid", "value": &*seen.version.uid},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": &*seen.version.resource},
            {"op": "test", "path": path, "value": FINALIZER},
            {"op": "remove", "path": path},
        ]);
        let ops: json_patch::Patch = serde_json::from_value(ops)?;
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match send::request(REQUEST, api.patch(&seen.key.name, &params, &Patch::Json::<()>(ops))).await {
            Ok(_) => return Ok(true),
            Err(SendError::Gone) => return Ok(false),
            Err(SendError::Conflict | SendError::Invalid(_)) => {
                let read = send::request(REQUEST, api.get_opt(&seen.key.name)).await;
                match read.with_context(|| format!("cannot read Service {}", seen.key))? {
                    Some(next) => object = next,
                    None => return Ok(false),
                }
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot take the finalizer off {}", seen.key));
            }
        }
    }
    anyhow::bail!("Service {namespace}/{} changes without pause", object.name_any())
}

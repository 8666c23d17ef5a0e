//! Puts the parts together: stand for leader, and while leading, watch and work.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use landfall_crds::AddressPool;
use landfall_runtime::health::{Health, Pulse};
use landfall_runtime::watch::{self, Outcome};
use landfall_runtime::{http, signal};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch as latch};
use tokio::task::JoinSet;

use crate::args::Args;
use crate::leader::Candidate;
use crate::metrics::{Metrics, Watched};
use crate::seen::{SeenPool, SeenService};
use crate::send::{Sender, record_events};
use crate::work::{self, Inputs, Outputs};

/// Changes of Services that may wait: a page of a list; beyond it the watch waits.
const SERVICE_QUEUE: usize = 512;
const POOL_QUEUE: usize = 64;
/// Events that may wait to be recorded; more are dropped and counted.
const EVENT_QUEUE: usize = 1_024;
/// The loop beats every second; a loop that has not for this long hangs.
const PULSE: Duration = Duration::from_secs(30);

type Task = (&'static str, anyhow::Result<()>);

/// Runs until a signal comes or this replica can lead no more.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let health = Health::new();
    let reached = health.gate("the API server");
    let listener = http::listen(args.listen).await?;
    let mut background: JoinSet<()> = JoinSet::new();
    background.spawn(http::serve(listener, health.clone(), Arc::new(registry)));

    let client =
        Client::try_default().await.context("no way to the API server: not in a pod and no kubeconfig")?;
    let mut candidate = Candidate::new(client.clone(), &args.namespace, &args.pod_name, metrics.clone());
    let mut shutdown = std::pin::pin!(signal::shutdown());
    let term = tokio::select! {
        term = candidate.acquire(|| reached.set(true)) => term,
        name = &mut shutdown => {
            tracing::info!(signal = name?, "ending");
            return Ok(());
        }
    };
    metrics.leader.set(1);

    let sender = Sender { client, class: args.class.clone(), term: term.clone(), metrics: metrics.clone() };
    let (stop, stopped) = latch::channel(false);
    let pulse = health.pulse("the work loop", PULSE);
    let mut tasks = lead(sender, &args, metrics, pulse, stopped);
    let ended = tokio::select! {
        lost = candidate.hold(&term) => Err(lost.into()),
        ended = landfall_runtime::supervise::first_ended(&mut tasks) => Err(anyhow::anyhow!("{ended}")),
        name = &mut shutdown => name.context("signals cannot be received"),
    };
    match ended {
        Ok(name) => {
            tracing::info!(signal = name, "ending");
            // What is on its way has to be over before anybody else leads.
            let _ = stop.send(true);
            let finished = async {
                while let Some(task) = tasks.join_next().await {
                    if matches!(task, Ok(("work", _))) {
                        break;
                    }
                }
            };
            if tokio::time::timeout(crate::leader::REQUEST_TIMEOUT * 3, finished).await.is_ok() {
                candidate.release().await;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn lead(
    sender: Sender,
    args: &Args,
    metrics: Metrics,
    pulse: Pulse,
    stop: latch::Receiver<bool>,
) -> JoinSet<Task> {
    let mut tasks: JoinSet<Task> = JoinSet::new();
    let client = sender.client.clone();

    let (service_tx, services) = mpsc::channel(SERVICE_QUEUE);
    let (class, counted) = (args.class.clone(), count(&metrics, "service"));
    let api: Api<Service> = Api::all(client.clone());
    tasks.spawn(async move {
        watch::run(api, |object| SeenService::new(&object, &class), service_tx, counted).await;
        ("watch of Services", Ok(()))
    });

    let (pool_tx, pools) = mpsc::channel(POOL_QUEUE);
    let counted = count(&metrics, "pool");
    let api: Api<AddressPool> = Api::all(client.clone());
    tasks.spawn(async move {
        watch::run(api, |object| SeenPool::new(&object), pool_tx, counted).await;
        ("watch of AddressPools", Ok(()))
    });

    let (events, recorded) = mpsc::channel(EVENT_QUEUE);
    let counted = metrics.clone();
    tasks.spawn(async move {
        record_events(client, recorded, counted).await;
        ("Events", Ok(()))
    });

    let outputs = Outputs { sender, events, instance: args.pod_name.clone(), metrics, pulse };
    let inputs = Inputs { services, pools, stop };
    tasks.spawn(async move { ("work", work::run(inputs, outputs).await.map_err(Into::into)) });
    tasks
}

fn count(metrics: &Metrics, kind: &'static str) -> impl Fn(Outcome) + Send + use<> {
    let of = |outcome| metrics.watch.get_or_create(&Watched { kind, outcome }).clone();
    let (events, broken) = (of("event"), of("broken"));
    move |outcome| {
        match outcome {
            Outcome::Event => events.inc(),
            Outcome::Broken => broken.inc(),
        };
    }
}

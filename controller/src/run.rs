//! Puts the parts together: stand for leader, and while leading, watch and work.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client};
use landfall_crds::{AddressPool, AddressReservation, SpeakerStatus};
use landfall_runtime::health::{Health, Pulse};
use landfall_runtime::watch::{self, Change, Outcome};
use landfall_runtime::{http, signal};
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch as latch};
use tokio::task::JoinSet;

use crate::args::Args;
use crate::hooks::Hooks;
use crate::index::Choices;
use crate::leader::Candidate;
use crate::metrics::{Metrics, Watched};
use crate::seen::{SeenCidr, SeenNamespace, SeenNode, SeenPool, SeenReservation, SeenService, SeenSpeaker};
use crate::send::{Sender, record_events};
use crate::work::{self, Inputs, Observed, Outputs};

/// Changes of Services that may wait: a page of a list; beyond it the watch waits.
const SERVICE_QUEUE: usize = 512;
/// Changes of everything else that may wait.
const OTHER_QUEUE: usize = 256;
/// Events that may wait to be recorded; more are dropped and counted.
const EVENT_QUEUE: usize = 1_024;
/// The loop beats every second; a loop that has not for this long hangs.
const PULSE: Duration = Duration::from_secs(30);

type Task = (&'static str, anyhow::Result<()>);

/// Runs until a signal comes. A replica that can lead no more forgets everything and stands for leader again: an end
/// of the process would make the kubelet wait longer each time before it starts the next, and an API server that comes
/// back would find nobody.
pub async fn run(args: Args) -> anyhow::Result<()> {
    run_with(args, Hooks::default()).await
}

/// As [`run`], with something that is called around every write.
pub async fn run_with(args: Args, hooks: Hooks) -> anyhow::Result<()> {
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
    loop {
        let term = tokio::select! {
            term = candidate.acquire(|| reached.set(true)) => term,
            name = &mut shutdown => {
                tracing::info!(signal = name?, "ending");
                return Ok(());
            }
        };
        metrics.leader.set(1);
        let (client, class, hooks) = (client.clone(), args.class.clone(), hooks.clone());
        let sender = Sender { client, class, term: term.clone(), metrics: metrics.clone(), hooks };
        let (stop, stopped) = latch::channel(false);
        let pulse = health.pulse("the work loop", PULSE);
        let mut tasks = lead(sender, &args, metrics.clone(), pulse, stopped);
        tokio::select! {
            lost = candidate.hold(&term) => {
                metrics.stand_down();
                // Requests on their way end here, too.
                tasks.shutdown().await;
                tracing::warn!(error = &lost as &dyn std::error::Error, "leading no more, standing for leader again");
            }
            ended = landfall_runtime::supervise::first_ended(&mut tasks) => return Err(anyhow::anyhow!("{ended}")),
            name = &mut shutdown => {
                tracing::info!(signal = name.context("signals cannot be received")?, "ending");
                // What is on its way has to be over before anybody else leads.
                let _ = stop.send(true);
                if tokio::time::timeout(crate::leader::REQUEST_TIMEOUT * 3, worked(&mut tasks)).await.is_ok() {
                    candidate.release().await;
                }
                return Ok(());
            }
        }
    }
}

/// Waits until the work loop has ended.
async fn worked(tasks: &mut JoinSet<Task>) {
    while let Some(task) = tasks.join_next().await {
        if matches!(task, Ok(("work", _))) {
            break;
        }
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

    let (others_tx, others) = mpsc::channel(OTHER_QUEUE);
    let mut watching = Others { tasks: &mut tasks, client: &client, metrics: &metrics, out: others_tx };
    watching.watch::<AddressPool, _>("pool", |object| SeenPool::new(&object), Observed::Pool);
    watching.watch::<AddressReservation, _>(
        "reservation",
        |object| SeenReservation::new(&object),
        Observed::Reservation,
    );
    watching.watch::<NamespaceObject, _>(
        "namespace",
        |object| SeenNamespace::new(&object),
        Observed::Namespace,
    );
    watching.watch::<Node, _>("node", |object| SeenNode::new(&object), Observed::Node);
    watching.watch_if_served::<ServiceCIDR, _>(
        "service_cidr",
        |object| SeenCidr::new(&object),
        Observed::Cidr,
    );
    watching.watch::<SpeakerStatus, _>("speaker", |object| SeenSpeaker::new(&object), Observed::Speaker);
    drop(watching);

    let (events, recorded) = mpsc::channel(EVENT_QUEUE);
    let counted = metrics.clone();
    tasks.spawn(async move {
        record_events(client, recorded, counted).await;
        ("Events", Ok(()))
    });

    let outputs = Outputs { sender, events, instance: args.pod_name.clone(), metrics, pulse };
    let inputs = Inputs { services, others, stop };
    let choices = Choices { finalizer: args.finalizer, node_ports: args.node_port_range };
    tasks.spawn(async move { ("work", work::run(choices, inputs, outputs).await.map_err(Into::into)) });
    tasks
}

/// The watches of everything but Services.
struct Others<'a> {
    tasks: &'a mut JoinSet<Task>,
    client: &'a Client,
    metrics: &'a Metrics,
    out: mpsc::Sender<Observed>,
}

impl Others<'_> {
    fn watch<K, T>(
        &mut self,
        kind: &'static str,
        convert: impl Fn(K) -> T + Send + 'static,
        wrap: impl Fn(Change<T>) -> Observed + Send + 'static,
    ) where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        T: Send + 'static,
    {
        let (api, counted, out) =
            (Api::all(self.client.clone()), count(self.metrics, kind), self.out.clone());
        self.tasks.spawn(async move {
            watch::run_into(api, convert, out, wrap, counted).await;
            (kind, Ok(()))
        });
    }

    fn watch_if_served<K, T>(
        &mut self,
        kind: &'static str,
        convert: impl Fn(K) -> T + Send + 'static,
        wrap: impl Fn(Change<T>) -> Observed + Send + 'static,
    ) where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        T: Send + 'static,
    {
        let (api, counted, out) =
            (Api::all(self.client.clone()), count(self.metrics, kind), self.out.clone());
        self.tasks.spawn(async move {
            watch::run_into_if_served(api, convert, out, wrap, counted).await;
            (kind, Ok(()))
        });
    }
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

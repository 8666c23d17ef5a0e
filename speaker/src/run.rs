//! Composition: builds the tasks, connects them, and ends with the first of them that ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Node};
use kube::{Api, Client, Config};
use landfall_core::name::{Namespace, NodeName};
use landfall_runtime::health::Health;
use landfall_runtime::supervise::first_ended;
use landfall_runtime::{http, signal};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::args::Args;
use crate::datapath::DataPath;
use crate::link::Links;
use crate::metrics::Metrics;
use crate::nft;
use crate::ownership::lease;
use crate::sync::{Applier, Sync};
use crate::view::{Choices, Observed};
use crate::watch::{Arrived, Watches};
use crate::{events, gauges, health_check, host, l2, link, ownership, status, sync, watch as watches};

/// How long to wait for a connection to the API server.
const CONNECT: Duration = Duration::from_secs(3);

/// How long a single request at the start may take, and how long to wait before it is sent again.
const REQUEST: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);

/// A loop that shows no sign of life for so long is taken to hang, and the kubelet starts the process anew. Writing
/// the whole data path is the longest thing a loop does, a fraction of a second at 10,000 Services.
const HANGS_AFTER: Duration = Duration::from_mins(1);

/// Tasks with their names; errors as text, since nobody tells them apart.
type Tasks = JoinSet<(&'static str, Result<(), String>)>;

/// Runs the speaker until a signal asks it to stop or a task ends.
///
/// Nothing is undone at the end: the kernel goes on forwarding, and the next run takes over where this one stopped.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut tasks = Tasks::new();
    tokio::select! {
        caught = signal::shutdown() => {
            let name = caught.context("cannot wait for signals")?;
            tracing::info!(signal = name, "stopping; the kernel goes on forwarding");
            Ok(())
        }
        outcome = start_and_supervise(args, &mut tasks) => outcome,
    }
}

async fn start_and_supervise(args: Args, tasks: &mut Tasks) -> anyhow::Result<()> {
    let health = Health::new();
    let metrics = Metrics::default();
    let counters = Arc::new(l2::Counters::default());
    let listener = http::listen(args.listen).await?;
    let registry = Arc::new(metrics.registry(Arc::clone(&counters)));
    {
        let health = health.clone();
        tasks.spawn(async move {
            http::serve(listener, health, registry).await;
            ("http", Ok(()))
        });
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %args.node_name, "starting");
    let client = client().await?;
    // Registered before the waiting below, so that the endpoint does not say "ready" in the meantime.
    let gates = [health.gate("the first complete data path"), health.gate("contact with the other speakers")];
    let facts = tokio::select! {
        facts = cluster_facts(&client, &args.node_name) => facts?,
        ended = first_ended(tasks) => bail!("{ended}"),
    };
    Parts { args, client, facts, health, metrics, counters }.spawn(tasks, gates).await?;
    Err(anyhow!("{}", first_ended(tasks).await))
}

async fn client() -> anyhow::Result<Client> {
    // Its text names its causes itself.
    let mut config = Config::infer().await.map_err(|error| anyhow!("no way to the API server: {error}"))?;
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).context("cannot set up the connection to the API server")
}

/// What has to be known of the cluster before anything starts.
struct ClusterFacts {
    /// The seed of every choice of an endpoint, the same on all nodes.
    seed: u32,
    /// The uid of this Node object.
    node_uid: Option<String>,
}

async fn cluster_facts(client: &Client, node: &str) -> anyhow::Result<ClusterFacts> {
    let namespaces: Api<NamespaceObject> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client.clone());
    let uid =
        insist("the namespace kube-system", || namespaces.get_metadata("kube-system")).await.metadata.uid;
    let uid = uid.context("the namespace kube-system has no uid")?;
    let found = insist("the Node of this machine", || nodes.get_metadata_opt(node)).await;
    let Some(found) = found else {
        bail!(
            "there is no Node named {node:?}: --node-name (NODE_NAME) has to be the name of this machine's Node"
        )
    };
    Ok(ClusterFacts { seed: seed(&uid), node_uid: found.metadata.uid })
}

/// Asks until there is an answer: without it nothing can begin, and the API server may be starting as well.
async fn insist<T, F>(what: &str, request: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, kube::Error>>,
{
    loop {
        match timeout(REQUEST, request()).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot read {what}, trying again");
            }
            Err(_) => tracing::warn!("no answer to the question for {what} in {REQUEST:?}, trying again"),
        }
        sleep(AGAIN).await;
    }
}

/// The seed is part of the protocol between speakers of different versions and must never change: FNV-1a, 32 bits,
/// over the text of the uid.
fn seed(uid: &str) -> u32 {
    uid.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Everything the tasks are made of.
struct Parts {
    args: Args,
    client: Client,
    facts: ClusterFacts,
    health: Health,
    metrics: Metrics,
    counters: Arc<l2::Counters>,
}

impl Parts {
    async fn spawn(
        self,
        tasks: &mut Tasks,
        gates: [landfall_runtime::health::Gate; 2],
    ) -> anyhow::Result<()> {
        let Self { args, client, facts, health, metrics, counters } = self;
        let node = NodeName::new(&args.node_name);
        let [programmed, in_touch] = gates;

        let (arrived_out, arrived) = mpsc::channel(watches::QUEUE);
        let (batches_out, batches) = mpsc::channel(sync::BATCHES);
        let (reports_out, reports) = mpsc::channel(sync::REPORTS);
        let (notices_out, notices) = mpsc::channel(sync::NOTICES);
        let (wanted_out, wanted) = watch::channel(Arc::default());
        let (owned_out, owned) = watch::channel(Arc::default());
        let (answering_out, answering) = watch::channel(Arc::default());
        let (peers_out, peers) = watch::channel(Arc::default());
        let (state_out, state) = watch::channel(Arc::default());
        let (pods_out, pods) = watch::channel(Vec::new());
        let (findings_out, findings) = watch::channel(None);
        let (health_out, asked) = watch::channel(health_check::State::default());

        let kernel =
            nft::Kernel::open().context("cannot open the kernel's packet filter (NETLINK_NETFILTER)")?;
        let applier = Applier::new(
            DataPath::new(kernel, facts.seed),
            (batches, reports_out),
            metrics.clone(),
            programmed,
            health.pulse("data path", HANGS_AFTER),
        );
        let runtime = Handle::current();
        tasks.spawn_blocking(move || ("data path", as_text(applier.run(&runtime))));

        let ports = sync::Ports {
            arrived,
            batches: batches_out,
            reports,
            wanted: wanted_out,
            answering: answering.clone(),
            state: state_out,
            notices: notices_out.clone(),
            health: health_out,
            pods: pods_out,
        };
        let pulse = health.pulse("sync", HANGS_AFTER);
        let choices =
            Choices { node_ports: args.nodeport_addresses.clone(), external_ips: args.external_ips };
        let sync = Sync::new(node.clone(), choices, args.cluster_cidr.clone(), ports);
        spawn(tasks, "sync", sync.run(pulse));

        let (monitor, links) = link::open().await.context("cannot read the network interfaces")?;
        spawn(tasks, "links", monitor.run());
        spawn(tasks, "local addresses", local_addresses(links.clone(), arrived_out.clone()));

        let identity = lease::Identity {
            namespace: Namespace::new(&args.namespace),
            node: node.clone(),
            node_uid: facts.node_uid.clone(),
        };
        let host = host::Ports { wanted: wanted.clone(), links: links.clone(), pods, findings: findings_out };
        spawn(tasks, "host", host::run(host::Settings::new(args.sysctls.clone()), host, metrics.clone()));

        let ports = ownership::Ports { wanted, links: links.clone(), owned: owned_out, peers: peers_out };
        spawn(tasks, "ownership", lease::run(identity, client.clone(), ports));

        let settings = l2::Settings {
            seed: u64::from(facts.seed) ^ u64::from(seed(node.as_str())),
            ..l2::Settings::default()
        };
        let ports = l2::Ports { owned, links, answering: answering_out };
        spawn(tasks, "announcer", l2::run(settings, ports, counters));

        let ports = status::Ports { answering, peers: peers.clone(), state, findings: findings.clone() };
        spawn(tasks, "status", status::run(client.clone(), node.clone(), ports, metrics.clone()));
        spawn(tasks, "gauges", gauges::run(peers.clone(), metrics.clone(), in_touch));

        let settings = health_check::Settings::new(args.health_checks, args.node_health.0);
        spawn(tasks, "health checks", health_check::run(settings, asked, notices_out, metrics.clone()));

        let instance = args.pod_name.clone().unwrap_or_else(|| node.to_string());
        let reporter = events::Reporter { node, instance, node_uid: facts.node_uid };
        let ports = events::Ports { notices, findings };
        spawn(tasks, "events", events::run(client.clone(), reporter, ports, metrics.clone()));

        let watches = Watches { client, classes: args.classes(), peers, out: arrived_out, metrics };
        spawn(tasks, "watches", crate::watch::run(watches));
        Ok(())
    }
}

/// The end of a channel is gone.
#[derive(Debug, thiserror::Error)]
#[error("the other end of a channel is gone")]
struct ChannelClosed;

/// Reports the addresses of the node's interfaces whenever they change.
async fn local_addresses(
    mut links: watch::Receiver<Arc<Links>>,
    out: mpsc::Sender<Arrived>,
) -> Result<(), ChannelClosed> {
    loop {
        let mut addrs: Vec<IpAddr> = {
            let links = links.borrow_and_update();
            links.iter().flat_map(|link| &link.addresses).map(IpNet::addr).collect()
        };
        addrs.sort_unstable();
        addrs.dedup();
        let arrived = Arrived { at: Instant::now(), observed: Observed::Local(addrs) };
        out.send(arrived).await.map_err(|_| ChannelClosed)?;
        links.changed().await.map_err(|_| ChannelClosed)?;
    }
}

/// Spawns a task whose result, if it ever has one, ends the process.
fn spawn<T, E>(
    tasks: &mut Tasks,
    name: &'static str,
    task: impl Future<Output = Result<T, E>> + Send + 'static,
) where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    tasks.spawn(async move { (name, as_text(task.await)) });
}

fn as_text<T, E: std::error::Error>(outcome: Result<T, E>) -> Result<(), String> {
    outcome.map(drop).map_err(|error| chain(&error))
}

/// An error with all its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_the_same_in_every_version() {
        // FNV-1a test vectors (draft-eastlake-fnv): the empty text, "a" and "foobar".
        assert_eq!([seed(""), seed("a"), seed("foobar")], [0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968]);
    }
}

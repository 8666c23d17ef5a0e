//! From a Service created to its address in the status to the first answer at a client.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use landfall_lab::{Lab, checkout, wait};
use serde_json::json;

use crate::client::{LIMIT, Prober, address, with_api};
use crate::metallb;
use crate::stats::Samples;

const HELLO: &str = include_str!("../../../../docs/examples/hello-world.yaml");

/// What one load balancer was measured at.
struct Figures {
    allocated: Samples,
    answered: Samples,
}

/// Measures Landfall and, unless told otherwise, its peer in the same lab.
pub(crate) fn run(lab: &Lab, rounds: usize, peer: bool) -> anyhow::Result<()> {
    lab.apply(HELLO)?;
    lab.kubectl(&["delete", "service", "hello-world"])?;
    lab.kubectl(&["wait", "--for=jsonpath={.status.readyReplicas}=2", "rs/hello-world", "--timeout=60s"])?;
    lab.install(&checkout()?, &[])?;
    lab.apply(
        r#"{"apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool", "metadata": {"name": "bench"},
            "spec": {"addresses": ["192.0.2.100-192.0.2.149"]}}"#,
    )?;
    let ours = measure(lab, rounds)?;
    println!("\nService created -> ..., {rounds} times, milliseconds        p50      p90      max");
    print_figures("Landfall", &ours);
    if !peer {
        return Ok(());
    }
    uninstall(lab)?;
    metallb::install(lab, "192.0.2.150-192.0.2.199")?;
    let theirs = measure(lab, rounds)?;
    print_figures("MetalLB + kube-proxy", &theirs);
    println!(
        "ratio, created -> first answer, p50: {:.1}",
        theirs.answered.percentile(50) / ours.answered.percentile(50)
    );
    Ok(())
}

/// Takes Landfall away with everything it leaves on purpose.
pub(crate) fn uninstall(lab: &Lab) -> anyhow::Result<()> {
    lab.kubectl(&["delete", "addresspool", "bench"])?;
    let mut helm = lab.helm_command();
    let done = helm.args(["uninstall", "landfall", "--namespace", "landfall-system", "--wait"]).output()?;
    anyhow::ensure!(done.status.success(), "helm uninstall: {}", String::from_utf8_lossy(&done.stderr));
    // Kernel state outlives the speakers on purpose; the peer must not meet it.
    for node in 1..=lab.node_count() {
        let host = lab.host(&format!("n{node}"))?;
        // The table is its speaker's own until that has ended.
        wait::until_seen(LIMIT, "the table to be let go", || {
            host.run(&["nft", "delete", "table", "inet", "landfall"])
        })?;
    }
    Ok(())
}

fn print_figures(name: &str, figures: &Figures) {
    println!("{name:24} address in the status   {}", figures.allocated.line());
    println!("{name:24} first answer            {}", figures.answered.line());
}

/// Makes Services one after the other and times each.
fn measure(lab: &Lab, rounds: usize) -> anyhow::Result<Figures> {
    std::thread::scope(|scope| {
        let prober = Prober::start(scope, lab);
        with_api(lab, async move |client| timed_rounds(client, &prober, rounds).await)
    })
}

async fn timed_rounds(client: kube::Client, prober: &Prober, rounds: usize) -> anyhow::Result<Figures> {
    let api: Api<Service> = Api::namespaced(client, "default");
    let mut seen =
        watcher(api.clone(), watcher::Config::default()).default_backoff().applied_objects().boxed();
    let mut figures = Figures { allocated: Samples::default(), answered: Samples::default() };
    // The first round warms up connections and caches on both sides and is not counted.
    for round in 0..=rounds {
        let name = format!("bench-{round}");
        let service: Service = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "selector": {"app": "hello-world"},
                     "ports": [{"port": 80, "targetPort": 8080}]},
        }))?;
        let created = Instant::now();
        api.create(&PostParams::default(), &service).await?;
        let found = async {
            while let Some(event) = seen.next().await {
                let service = event?;
                if service.metadata.name.as_deref() == Some(&name)
                    && let Some(addr) = address(&service)
                {
                    return Ok((addr, Instant::now()));
                }
            }
            anyhow::bail!("the watch of Services ended")
        };
        let (addr, allocated) =
            tokio::time::timeout(LIMIT, found).await.with_context(|| format!("no address for {name}"))??;
        let answered = prober.first_answer(SocketAddr::new(addr, 80))?;
        if round > 0 {
            figures.allocated.push(allocated - created);
            figures.answered.push(answered - created);
        }
        api.delete(&name, &DeleteParams::default()).await?;
    }
    Ok(figures)
}

/// Waits for a deployment or daemon set to be rolled out.
pub(crate) fn rolled_out(lab: &Lab, namespace: &str, what: &str) -> anyhow::Result<()> {
    wait::until_seen(LIMIT, what, || {
        lab.kubectl(&["-n", namespace, "rollout", "status", what, "--timeout=10s"])
    })?;
    Ok(())
}

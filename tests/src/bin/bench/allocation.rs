//! Many Services at once: how fast each gets its address, and what that costs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use landfall_lab::objects::{leader_metrics, metric};
use landfall_lab::recorder::Recorder;
use landfall_lab::{Lab, checkout, wait};
use serde_json::json;

use crate::client::with_api;
use crate::latency::uninstall;
use crate::metallb;
use crate::process::Process;
use crate::stats::Samples;

/// Who creates at the same time.
const CREATORS: usize = 8;

/// How long one crowd may take.
const WITHIN: Duration = Duration::from_mins(10);

/// Makes crowds of Services of these sizes, one after the other in the same cluster.
pub(crate) fn run(lab: &Lab, sizes: &[usize]) -> anyhow::Result<()> {
    install(lab)?;
    lab.apply(
        r#"{"apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool", "metadata": {"name": "bench"},
            "spec": {"addresses": ["198.18.0.0/15"]}}"#,
    )?;
    let recorder = Recorder::start(lab, &[])?;
    // Warms connections and caches up on both sides.
    crowd(lab, &recorder, "warm", 50, true)?;
    println!("\n{CREATORS} creators; milliseconds");
    println!(
        "{:>8} {:>9} | {:>8} {:>8} | {:>8} {:>8} {:>8} | {:>8} {:>8} | writes of a Service, CPU",
        "Services", "a second", "create", "p99", "address", "p99", "max", "p50*", "p99*"
    );
    for size in sizes {
        let name = format!("bench-{size}");
        crowd(lab, &recorder, &name, *size, true)?.print(*size);
        clear(lab, &recorder, &name)?;
    }
    println!("* from the answer to the create instead of its sending");
    anyhow::ensure!(recorder.seen().wrong.is_empty(), "{:#?}", recorder.seen().wrong);
    Ok(())
}

/// The same crowd for Landfall and for its peer, one after the other in the same cluster.
pub(crate) fn compare(lab: &Lab, size: usize) -> anyhow::Result<()> {
    install(lab)?;
    lab.apply(
        r#"{"apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool", "metadata": {"name": "bench"},
            "spec": {"addresses": ["198.18.0.0/15"]}}"#,
    )?;
    let recorder = Recorder::start(lab, &[])?;
    crowd(lab, &recorder, "warm", 50, true)?;
    println!("\nLandfall, then MetalLB, with kube-proxy, {size} Services; columns as above");
    crowd(lab, &recorder, "bench-landfall", size, true)?.print(size);
    clear(lab, &recorder, "bench-landfall")?;
    uninstall(lab)?;
    metallb::install(lab, "198.18.0.0/15")?;
    crowd(lab, &recorder, "warm-peer", 10, false)?;
    crowd(lab, &recorder, "bench-metallb", size, false)?.print(size);
    Ok(())
}

/// One replica of the controller, without limits.
pub(crate) fn install(lab: &Lab) -> anyhow::Result<()> {
    let values = ["controller.replicas=1", "controller.resources=null", "speaker.resources=null"];
    let arguments: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
    lab.install(&checkout()?, &arguments)?;
    Ok(())
}

/// What one crowd was measured at.
struct Figures {
    creates: Samples,
    allocated: Samples,
    after_answer: Samples,
    took: Duration,
    writes: BTreeMap<&'static str, f64>,
    cpu: BTreeMap<&'static str, Duration>,
}

impl Figures {
    fn print(&self, size: usize) {
        let p = Samples::percentile;
        let count = f64::from(u32::try_from(size).unwrap_or(u32::MAX));
        println!(
            "{size:8} {:9.0} | {:8.1} {:8.1} | {:8.1} {:8.1} {:8.1} | {:8.1} {:8.1} |{}",
            count / self.took.as_secs_f64(),
            p(&self.creates, 50),
            p(&self.creates, 99),
            p(&self.allocated, 50),
            p(&self.allocated, 99),
            p(&self.allocated, 100),
            p(&self.after_answer, 50),
            p(&self.after_answer, 99),
            self.writes
                .iter()
                .map(|(name, writes)| format!(" {name} {:.2}", writes / count))
                .chain(self.cpu.iter().map(|(name, cpu)| format!(" {name} {:.2} s", cpu.as_secs_f64())))
                .collect::<String>(),
        );
        if let (Some(own), Some(theirs)) = (self.cpu.get("controller"), self.cpu.get("kube-apiserver")) {
            println!(
                "{:8} the controller used {:.1} % of the CPU time of the API server, {:.0} µs a Service",
                "",
                own.as_secs_f64() / theirs.as_secs_f64() * 100.0,
                own.as_secs_f64() / count * 1e6
            );
        }
    }
}

/// `ours` is whether Landfall's controller is the one that is measured.
fn crowd(
    lab: &Lab,
    recorder: &Recorder,
    namespace: &str,
    size: usize,
    ours: bool,
) -> anyhow::Result<Figures> {
    lab.kubectl(&["create", "namespace", namespace])?;
    let program = if ours { "landfall-controller" } else { "controller" };
    let mut processes = vec![("controller", Process::in_pod(lab, program)?)];
    for part in ["kube-apiserver", "etcd"] {
        processes.push((part, Process::part(lab, part)?));
    }
    let cpu = || -> anyhow::Result<BTreeMap<&str, Duration>> {
        processes.iter().map(|(name, process)| Ok((*name, process.cpu(lab)?))).collect()
    };
    let counted = || if ours { leader_metrics(lab) } else { String::new() };
    let (before, cpu_before) = (counted(), cpu()?);
    let begin = Instant::now();
    let created = with_api(lab, async |client| create(client, namespace, size).await)?;
    let last = wait::until_seen(WITHIN, "every Service to have an address", || {
        let seen = recorder.seen();
        let firsts = created.iter().map(|(key, ..)| seen.first(key));
        let all: Option<Vec<Instant>> = firsts.collect();
        all.and_then(|all| all.into_iter().max()).ok_or_else(|| seen.served())
    })?;
    let cpu_after = cpu()?;
    let mut figures = Figures {
        creates: Samples::default(),
        allocated: Samples::default(),
        after_answer: Samples::default(),
        took: last - begin,
        writes: BTreeMap::new(),
        cpu: cpu_after
            .into_iter()
            .map(|(name, after)| {
                (name, after.saturating_sub(cpu_before.get(name).copied().unwrap_or_default()))
            })
            .collect(),
    };
    for (key, sent, answered) in &created {
        let first = recorder.seen().first(key).context("it has an address")?;
        figures.creates.push(*answered - *sent);
        figures.allocated.push(first - *sent);
        figures.after_answer.push(first.saturating_duration_since(*answered));
    }
    // Conditions that are folded in later are writes as well.
    std::thread::sleep(Duration::from_secs(3));
    let after = counted();
    for object in ["service_metadata", "service_status", "event"] {
        let label = format!("object=\"{object}\"");
        let count = |text: &str| metric(text, "landfall_controller_writes_total", &[&label]);
        if ours {
            figures.writes.insert(object, count(&after) - count(&before));
        }
    }
    Ok(figures)
}

/// Deletes a crowd and waits until it is gone.
fn clear(lab: &Lab, recorder: &Recorder, namespace: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    with_api(lab, async |client| {
        let api: Api<Service> = Api::namespaced(client, namespace);
        // The API server gives such a request up after a minute; what is left takes another.
        while api.delete_collection(&DeleteParams::default(), &ListParams::default()).await.is_err() {
            anyhow::ensure!(begin.elapsed() < WITHIN, "the Services of {namespace} are not deleted");
        }
        Ok(())
    })?;
    wait::until_seen(WITHIN, "every Service to go", || {
        let left = recorder.seen().of_namespace(namespace);
        if left == 0 { Ok(()) } else { Err(left) }
    })?;
    eprintln!("{namespace}: all gone after {:.1} s", begin.elapsed().as_secs_f32());
    Ok(())
}

/// Creates them and returns each one's name with when the request was sent and answered.
async fn create(
    client: kube::Client,
    namespace: &str,
    size: usize,
) -> anyhow::Result<Vec<(String, Instant, Instant)>> {
    let api: Api<Service> = Api::namespaced(client, namespace);
    stream::iter(0..size)
        .map(|n| {
            let api = &api;
            async move {
                let name = format!("web-{n}");
                let service = serde_json::from_value(json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                    "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                             "ports": [{"port": 80, "targetPort": 8080}]},
                }))?;
                let sent = Instant::now();
                api.create(&PostParams::default(), &service).await?;
                anyhow::Ok((format!("{namespace}/{name}"), sent, Instant::now()))
            }
        })
        .buffer_unordered(CREATORS)
        .try_collect()
        .await
}

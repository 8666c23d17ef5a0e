//! Resident memory of controller and speaker with thousands of Services.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{ListParams, PostParams};
use landfall_lab::{Lab, checkout};
use serde_json::json;

use crate::client::{address, with_api};

/// Requests under way at once.
const PARALLEL: usize = 16;

/// How long the controller may take for all of them.
const WITHIN: Duration = Duration::from_mins(10);

/// Fills the cluster, waits until every Service has an address, and prints what the programs hold.
pub(crate) fn run(lab: &Lab, services: usize, endpoints: usize) -> anyhow::Result<()> {
    lab.install(
        &checkout()?,
        &[
            "--set",
            "controller.replicas=1",
            "--set",
            "controller.resources=null",
            "--set",
            "speaker.resources=null",
        ],
    )?;
    lab.apply(
        r#"{"apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool", "metadata": {"name": "bench"},
            "spec": {"addresses": ["198.18.0.0/15"]}}"#,
    )?;
    print_memory(lab, "no Service")?;
    with_api(lab, async |client| fill(client, services, endpoints).await)?;
    let begin = Instant::now();
    with_api(lab, async |client| {
        let api: Api<Service> = Api::namespaced(client, "default");
        loop {
            let list = api.list(&ListParams::default()).await?;
            let with_address = list.items.iter().filter(|service| address(service).is_some()).count();
            if with_address >= services {
                return Ok(());
            }
            anyhow::ensure!(
                begin.elapsed() < WITHIN,
                "{with_address} of {services} Services have an address"
            );
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    })?;
    println!(
        "all {services} Services have an address {:.1} s after the last was created",
        begin.elapsed().as_secs_f32()
    );
    let in_kernel = || -> anyhow::Result<bool> {
        let table = lab.host("n1")?.run(&["nft", "list", "map", "inet", "landfall", "svc4"])?;
        Ok(table.matches(" : ").count() > services)
    };
    let waiting = Instant::now();
    while !in_kernel().unwrap_or(false) {
        anyhow::ensure!(waiting.elapsed() < WITHIN, "the front ends are not in the kernel");
        std::thread::sleep(Duration::from_secs(1));
    }
    print_memory(lab, &format!("{services} Services x {endpoints} endpoints"))
}

async fn fill(client: kube::Client, services: usize, endpoints: usize) -> anyhow::Result<()> {
    let begin = Instant::now();
    let objects: Api<Service> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    stream::iter(0..services)
        .map(|n| {
            let (objects, slices) = (&objects, &slices);
            async move {
                let name = format!("bench-{n}");
                let service = serde_json::from_value(json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                    "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                             "ports": [{"port": 80, "targetPort": 8080}]},
                }))?;
                objects.create(&PostParams::default(), &service).await?;
                slices.create(&PostParams::default(), &slice(&name, n, endpoints)?).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    eprintln!("{services} Services and slices created in {:.1} s", begin.elapsed().as_secs_f32());
    Ok(())
}

fn slice(service: &str, number: usize, endpoints: usize) -> anyhow::Result<EndpointSlice> {
    let list: Vec<_> = (0..endpoints)
        .map(|index| {
            let pod = u32::try_from(number * endpoints + index).unwrap_or(0) % (1 << 20);
            let addr = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 16, 0, 0)) + pod);
            json!({"addresses": [addr.to_string()], "conditions": {"ready": true}, "nodeName": "n1"})
        })
        .collect();
    Ok(serde_json::from_value(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": list,
    }))?)
}

/// Prints what the kernel says about the two programs: resident now and at the highest.
fn print_memory(lab: &Lab, when: &str) -> anyhow::Result<()> {
    for part in ["landfall-controller", "landfall-speaker"] {
        let pid = lab.host("n1")?.run(&["pgrep", "-o", "-f", &format!("^/{part}")])?;
        let status = lab.host("n1")?.run(&["cat", &format!("/proc/{}/status", pid.trim())])?;
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .context("a field of /proc/PID/status")?;
            let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
            anyhow::Ok(kib / 1024.0)
        };
        println!(
            "{when:32} {part:22} resident {:6.1} MiB, highest {:6.1} MiB",
            field("VmRSS")?,
            field("VmHWM")?
        );
    }
    Ok(())
}

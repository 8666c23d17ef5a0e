//! Whether the size of a pool matters: one Service after the other from pools of very different sizes.

use std::time::Instant;

use landfall_lab::recorder::Recorder;
use landfall_lab::{Lab, wait};
use serde_json::json;

use crate::allocation::install;
use crate::client::LIMIT;
use crate::process::Process;
use crate::stats::Samples;

/// Pools by their size in words, the addresses and the family of the Services.
const POOLS: [(&str, &str, &str); 4] = [
    ("/28", "198.18.0.0/28", "IPv4"),
    ("/16", "198.18.0.0/16", "IPv4"),
    ("/8", "10.0.0.0/8", "IPv4"),
    ("/64", "2001:db8:0:1::/64", "IPv6"),
];

/// From a Service created to its address, and the controller's CPU time of it, for each pool.
pub(crate) fn run(lab: &Lab, rounds: usize) -> anyhow::Result<()> {
    install(lab)?;
    lab.kubectl(&["create", "namespace", "pool-size"])?;
    let recorder = Recorder::start(lab, &[])?;
    println!("\nService created -> address by size of the pool, milliseconds     p50      p90      max");
    for (size, addresses, family) in POOLS {
        let pool = json!({
            "apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool", "metadata": {"name": "bench"},
            "spec": {"addresses": [addresses]},
        });
        lab.apply(&pool.to_string())?;
        let controller = Process::in_pod(lab, "landfall-controller")?;
        let mut samples = Samples::default();
        let mut before = controller.cpu(lab)?;
        // The first rounds warm up and are not counted.
        for round in 0..rounds + 10 {
            if round == 10 {
                before = controller.cpu(lab)?;
            }
            let name = format!("web{}-{round}", size.replace('/', "-"));
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                         "ipFamilies": [family], "ports": [{"port": 80}]},
            });
            let services = "/api/v1/namespaces/pool-size/services";
            let begin = Instant::now();
            let made = lab.api("POST", services, Some(("application/json", &service)))?;
            anyhow::ensure!(made.status == 201, "{}", made.text());
            let key = format!("pool-size/{name}");
            let served = wait::until(LIMIT, "an address", || recorder.seen().first(&key))?;
            if round >= 10 {
                samples.push(served - begin);
            }
            lab.api("DELETE", &format!("{services}/{name}"), None)?;
        }
        let cpu = controller.cpu(lab)?.saturating_sub(before);
        let count = f64::from(u32::try_from(rounds)?);
        println!("{size:62} {} controller {:.0} µs each", samples.line(), cpu.as_secs_f64() / count * 1e6);
        lab.kubectl(&["delete", "addresspool", "bench"])?;
    }
    Ok(())
}

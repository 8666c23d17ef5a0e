//! How long nobody allocates after the leader is gone.

use std::time::Instant;

use anyhow::Context;
use landfall_lab::objects::wait_leader;
use landfall_lab::recorder::Recorder;
use landfall_lab::{Fault, Lab, checkout, wait};
use serde_json::json;

use crate::client::LIMIT;
use crate::latency::rolled_out;
use crate::stats::Samples;

/// How the leader goes.
#[derive(Clone, Copy, Debug)]
enum End {
    /// As in an update of the deployment or a drain: it gives its Lease up.
    Deleted,
    /// Its process is killed.
    Killed,
    /// Its node loses power.
    PowerCut,
}

/// From the leader's end to the address of a Service created at that moment.
pub(crate) fn run(lab: &Lab, rounds: usize) -> anyhow::Result<()> {
    lab.install(&checkout()?, &[])?;
    lab.apply(
        r#"{"apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool", "metadata": {"name": "bench"},
            "spec": {"addresses": ["198.18.0.0/20"]}}"#,
    )?;
    lab.kubectl(&["create", "namespace", "takeover"])?;
    let recorder = Recorder::start(lab, &[])?;
    println!(
        "\nthe leader's end -> address of a Service created then, milliseconds        p50      p90      max"
    );
    for end in [End::Deleted, End::Killed, End::PowerCut] {
        let mut samples = Samples::default();
        for round in 0..rounds {
            samples.push(one(lab, &recorder, end, &format!("{end:?}-{round}").to_lowercase())?);
        }
        let what = match end {
            End::Deleted => "pod deleted: the Lease is given up",
            End::Killed => "process killed: the Lease runs out",
            End::PowerCut => "node without power: the Lease runs out",
        };
        println!("{what:72} {}", samples.line());
    }
    anyhow::ensure!(recorder.seen().wrong.is_empty(), "{:#?}", recorder.seen().wrong);
    Ok(())
}

fn one(lab: &Lab, recorder: &Recorder, end: End, name: &str) -> anyhow::Result<std::time::Duration> {
    let (pod, node, _) = wait_leader(lab);
    let host = lab.host(&node)?;
    match end {
        End::Deleted => {
            let path = format!("/api/v1/namespaces/landfall-system/pods/{pod}");
            lab.api("DELETE", &path, None)?;
        }
        End::Killed => {
            host.run(&["pkill", "-KILL", "-f", "^/landfall-controller"])?;
        }
        End::PowerCut => lab.fault(Fault::Kill, &node)?,
    }
    let begin = Instant::now();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]},
    });
    let made =
        lab.api("POST", "/api/v1/namespaces/takeover/services", Some(("application/json", &service)))?;
    anyhow::ensure!(made.status == 201, "{}", made.text());
    let key = format!("takeover/{name}");
    let served = wait::until(LIMIT, "an address", || recorder.seen().first(&key))?;
    if matches!(end, End::PowerCut) {
        lab.fault(Fault::Boot, &node)?;
        wait::until_seen(LIMIT, "all nodes to be Ready", || {
            let status = lab.status();
            if status.contains("not ready") { Err(status) } else { Ok(()) }
        })?;
    }
    rolled_out(lab, "landfall-system", "deployment/landfall-controller").context("two replicas again")?;
    Ok(served - begin)
}

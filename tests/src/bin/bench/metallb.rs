//! The peer: `MetalLB` in its own manifests, built from its Go module as the rest of the lab is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use landfall_lab::{Lab, checkout, wait};

use crate::client::LIMIT;
use crate::latency::rolled_out;

const VERSION: &str = "v0.16.1";

/// Builds `MetalLB`, installs it in layer-2 mode with one pool, and waits until it is ready.
pub(crate) fn install(lab: &Lab, addresses: &str) -> anyhow::Result<()> {
    let module = checkout()?.join("tests/kube/metallb");
    let folder = tempfile::tempdir()?;
    eprintln!("building MetalLB {VERSION}");
    go(
        &module,
        &[
            "build",
            "-mod=readonly",
            "-trimpath",
            "-ldflags=-s -w",
            "-o",
            &format!("{}/", folder.path().display()),
            "tool",
        ],
    )?;
    for part in ["controller", "speaker"] {
        let archive = folder.path().join(format!("{part}.tar"));
        let name = format!("quay.io/metallb/{part}:{VERSION}");
        landfall_lab::write_program_image(&archive, &name, part, &folder.path().join(part))?;
        lab.push(&archive, None)?;
    }
    let sources = PathBuf::from(
        go(&module, &["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "go.universe.tf/metallb"])?.trim(),
    );
    let manifest = sources.join("config/manifests/metallb-native.yaml");
    let yaml = std::fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
    // Its webhook is called through a Service address, which on the control plane's host no kube-proxy serves.
    lab.host("router")?.run(&["ip", "route", "add", "10.96.0.0/16", "via", "192.0.2.11"])?;
    lab.apply(&yaml)?;
    rolled_out(lab, "metallb-system", "deployment/controller")?;
    rolled_out(lab, "metallb-system", "daemonset/speaker")?;
    let pool = format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: bench, namespace: metallb-system}}\nspec: {{addresses: [{addresses}]}}\n---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: bench, namespace: metallb-system}}\n"
    );
    // Its webhook answers a little after its pod is ready.
    wait::until_seen(LIMIT, "MetalLB to take its pool", || lab.apply(&pool))?;
    Ok(())
}

fn go(folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new("go")
        .args(arguments)
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .output()
        .context("run go")?;
    anyhow::ensure!(
        done.status.success(),
        "go {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8(done.stdout)?)
}

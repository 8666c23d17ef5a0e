//! Landfall's figures, measured in the lab: `bench` prints the tables of `docs/benchmarks.md`.
//!
//! - `bench latency`: from a Service created to its address in the status to the first answer at a client outside
//!   the cluster; for Landfall, and in the same lab, one after the other, for `MetalLB` with kube-proxy.
//! - `bench memory`: resident memory of controller and speaker with thousands of Services.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

mod client;
mod latency;
mod memory;
mod metallb;
mod stats;

use clap::{Parser, Subcommand};
use landfall_lab::{KubeProxy, Lab, Options, checkout, root};

#[derive(Parser)]
#[command(about = "Measures Landfall in a real cluster on this machine (root)")]
struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Clone)]
enum What {
    /// From a Service created to the first answer at a client.
    Latency {
        /// How many Services are made, one after the other.
        #[arg(long, default_value_t = 20)]
        rounds: usize,
        /// Leave the peer out.
        #[arg(long)]
        no_peer: bool,
    },
    /// Resident memory of controller and speaker.
    Memory {
        /// How many Services there are.
        #[arg(long, default_value_t = 10_000)]
        services: usize,
        /// How many endpoints each of them has.
        #[arg(long, default_value_t = 10)]
        endpoints: usize,
    },
}

fn main() -> anyhow::Result<()> {
    root()?;
    let both =
        [What::Latency { rounds: 20, no_peer: false }, What::Memory { services: 10_000, endpoints: 10 }];
    let chosen = Args::parse().what.map_or_else(|| both.to_vec(), |what| vec![what]);
    for what in chosen {
        match what {
            What::Latency { rounds, no_peer } => {
                in_lab(3, KubeProxy::Nftables, |lab| latency::run(lab, rounds, !no_peer))?;
            }
            What::Memory { services, endpoints } => {
                in_lab(1, KubeProxy::None, |lab| memory::run(lab, services, endpoints))?;
            }
        }
    }
    Ok(())
}

/// Runs a measurement in a lab of its own, which is taken down whatever comes of it.
fn in_lab(
    nodes: u8,
    kube_proxy: KubeProxy,
    work: impl FnOnce(&Lab) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name: landfall_lab::LabName = "bench".parse()?;
    let options = Options { nodes, kube_proxy, ..Options::named(name.clone()) };
    let lab = Lab::up(&checkout()?, &options, &|step| eprintln!("{step}"))?;
    let done = work(&lab);
    drop(lab);
    Lab::down(&name)?;
    done
}

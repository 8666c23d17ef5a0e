//! Landfall's figures, measured in the lab: `bench` prints the tables of `docs/benchmarks.md`.
//!
//! - `bench latency`: from a Service created to its address in the status to the first answer at a client outside
//!   the cluster; for Landfall, and in the same lab, one after the other, for `MetalLB` with kube-proxy.
//! - `bench memory`: resident memory of controller and speaker with thousands of Services.
//! - `bench allocation`: crowds of Services created at once: latency, rate, writes and CPU.
//! - `bench dataplane`: the data path beside kube-proxy's, with up to 50,000 Services.
//! - `bench takeover`: how long nobody allocates after the leader is gone.
//! - `bench ledger`: the decision alone, by the size of the pool and the addresses in use.
//! - `bench pool-size`: one allocation from pools of very different sizes.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

mod allocation;
mod client;
mod dataplane;
mod latency;
mod ledger;
mod memory;
mod metallb;
mod pool_size;
mod process;
mod stats;
mod takeover;

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
    /// Crowds of Services created at once.
    Allocation {
        /// How many Services each crowd has.
        #[arg(long, value_delimiter = ',', default_values_t = CROWDS)]
        services: Vec<usize>,
        /// How many Services the crowd has that the peer gets too; 0 leaves the peer out.
        #[arg(long, default_value_t = 1_000)]
        peer: usize,
    },
    /// The data path beside kube-proxy's.
    Dataplane {
        /// How many Services there are, one cluster each.
        #[arg(long, value_delimiter = ',', default_values_t = FULL)]
        services: Vec<usize>,
        /// How many endpoints each of them has.
        #[arg(long, default_value_t = 10)]
        endpoints: usize,
        /// How many seconds one percent of the endpoints change in each.
        #[arg(long, default_value_t = 60)]
        churn: u64,
        /// How many seconds each kind of traffic is measured.
        #[arg(long, default_value_t = 5)]
        traffic: u64,
        /// With more Services than these, kube-proxy's iptables mode is left out.
        #[arg(long, default_value_t = 10_000)]
        iptables_up_to: usize,
        /// Only data planes with this in their name: landfall, nftables or iptables.
        #[arg(long, default_value = "")]
        only: String,
    },
    /// From the leader's end to the next allocation.
    Takeover {
        /// How often the leader goes, in each way.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// The decision alone, without a cluster.
    Ledger,
    /// Allocation from pools of very different sizes.
    PoolSize {
        /// How many Services each pool serves, one after the other.
        #[arg(long, default_value_t = 200)]
        rounds: usize,
    },
}

const CROWDS: [usize; 3] = [100, 1_000, 10_000];
const FULL: [usize; 4] = [100, 1_000, 10_000, 50_000];

fn main() -> anyhow::Result<()> {
    root()?;
    let all = [
        What::Latency { rounds: 20, no_peer: false },
        What::Memory { services: 10_000, endpoints: 10 },
        What::Allocation { services: CROWDS.to_vec(), peer: 1_000 },
        What::Dataplane {
            services: FULL.to_vec(),
            endpoints: 10,
            churn: 60,
            traffic: 5,
            iptables_up_to: 10_000,
            only: String::new(),
        },
        What::Takeover { rounds: 5 },
        What::Ledger,
        What::PoolSize { rounds: 200 },
    ];
    let chosen = Args::parse().what.map_or_else(|| all.to_vec(), |what| vec![what]);
    for what in chosen {
        match what {
            What::Latency { rounds, no_peer } => {
                in_lab(3, KubeProxy::Nftables, |lab| latency::run(lab, rounds, !no_peer))?;
            }
            What::Memory { services, endpoints } => {
                in_lab(1, KubeProxy::None, |lab| memory::run(lab, services, endpoints))?;
            }
            What::Allocation { services, peer } => {
                in_lab(1, KubeProxy::None, |lab| allocation::run(lab, &services))?;
                if peer > 0 {
                    in_lab(1, KubeProxy::Nftables, |lab| allocation::compare(lab, peer))?;
                }
            }
            What::Dataplane { services, endpoints, churn, traffic, iptables_up_to, only } => {
                let plan = dataplane::Plan { endpoints, churn, traffic, iptables_up_to, only };
                for services in services {
                    dataplane::run(services, &plan)?;
                }
            }
            What::Takeover { rounds } => in_lab(3, KubeProxy::Nftables, |lab| takeover::run(lab, rounds))?,
            What::Ledger => ledger::run()?,
            What::PoolSize { rounds } => in_lab(1, KubeProxy::None, |lab| pool_size::run(lab, rounds))?,
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
    in_lab_like(|options| Options { nodes, kube_proxy, ..options }, work)
}

/// The same in a lab with other options.
fn in_lab_like<T>(
    change: impl FnOnce(Options) -> Options,
    work: impl FnOnce(&Lab) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let name: landfall_lab::LabName = std::env::var("LANDFALL_LAB").as_deref().unwrap_or("bench").parse()?;
    let options = change(Options::named(name.clone()));
    let lab = Lab::up(&checkout()?, &options, &|step| eprintln!("{step}"))?;
    let done = work(&lab);
    drop(lab);
    Lab::down(&name)?;
    done
}

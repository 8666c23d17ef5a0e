//! Landfall's data path and kube-proxy's, one after the other on equal nodes that read the same API server.

mod changes;
mod cluster;
mod report;
mod traffic;

use std::time::{Duration, Instant};

use anyhow::Context;
use landfall_lab::arena::Arena;
use landfall_lab::contender::Contender;
use landfall_lab::spawn::Process;
use landfall_lab::{KubeProxy, Options};

use cluster::{Cluster, FLIP, FRONT};
use report::Figures;

use crate::in_lab_like;

/// After this long a data plane is given up.
pub(crate) const WITHIN: Duration = Duration::from_mins(10);

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Endpoints of each Service.
    pub(crate) endpoints: usize,
    /// Seconds of the churn, and of each measurement of traffic.
    pub(crate) churn: u64,
    pub(crate) traffic: u64,
    /// The most Services with which kube-proxy runs in iptables mode too.
    pub(crate) iptables_up_to: usize,
    /// What the names of the data planes that are measured have in them.
    pub(crate) only: String,
}

/// Measures one data plane after the other, each with a copy of the same store.
pub(crate) fn run(services: usize, plan: &Plan) -> anyhow::Result<()> {
    let store = cluster::store(services, plan.endpoints)?;
    let mut all = Vec::new();
    for contender in [Contender::Landfall, Contender::Nftables, Contender::Iptables] {
        let too_many = contender == Contender::Iptables && services > plan.iptables_up_to;
        if too_many || !contender.to_string().contains(&plan.only) {
            continue;
        }
        eprintln!("{services} Services: {contender}");
        let bare = |options| Options {
            nodes: 0,
            kube_proxy: KubeProxy::None,
            store: Some(store.clone()),
            ..options
        };
        let figures = in_lab_like(bare, |lab| {
            lab.stop_managers()?;
            measure(&Cluster::of(lab, services, plan.endpoints), contender, plan)
        });
        let figures = figures.with_context(|| format!("{contender} with {services} Services"))?;
        figures.print(contender, services);
        all.push((contender, figures));
    }
    report::print_ratios(&all, services);
    Ok(())
}

fn measure(cluster: &Cluster<'_>, contender: Contender, plan: &Plan) -> anyhow::Result<Figures> {
    let arena = Arena::new(cluster.lab, 'a')?;
    traffic::serve(&arena)?;
    let mut figures =
        Figures { direct: traffic::measure(&arena, traffic::DIRECT, plan.traffic)?, ..Figures::default() };
    let begin = Instant::now();
    let process = arena.start(contender, &[])?;
    let done = measure_running(cluster, &arena, process, plan, begin, &mut figures);
    process.kill()?;
    done.map(|()| figures)
}

fn measure_running(
    cluster: &Cluster<'_>,
    arena: &Arena<'_>,
    process: Process,
    plan: &Plan,
    begin: Instant,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    // Whoever writes all in one transaction serves all at once; both do. The two Services looked at are the first and
    // the last in the order of the API.
    let served = traffic::wait_served(arena, &[FRONT, FLIP], WITHIN)?;
    let Some(served) = served else {
        figures.given_up = true;
        return Ok(());
    };
    figures.start = Some(served - begin);
    figures.start_cpu = Some(report::cpu(process)?);
    // What was put off until the first write is over, and memory has come down from its peak.
    std::thread::sleep(Duration::from_secs(5));
    figures.memory = Some(report::memory(process)?);
    figures.kernel = report::kernel_memory(arena);
    figures.through = Some(traffic::measure(arena, FRONT, plan.traffic)?);
    figures.change = changes::flips(cluster, arena, 20)?;
    figures.churn = Some(changes::churn(cluster, arena, process, plan.churn)?);
    figures.roll = Some(changes::roll(cluster, arena)?);
    Ok(())
}

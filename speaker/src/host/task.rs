//! The task that looks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use landfall_core::addr::Family;
use landfall_core::elect::Wanted;
use landfall_core::name::Iface;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Finding, Findings, Kind, Surroundings, Writable, foreign, sysctls};
use crate::link::Links;
use crate::metrics::Metrics;

/// How often is looked when nothing happens.
const LOOK: Duration = Duration::from_mins(1);

/// Looks are at least so far apart: interfaces of pods come and go all the time.
const PACE: Duration = Duration::from_secs(2);

/// What the user has decided, and how often is looked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where kernel parameters may be raised.
    pub writable: Writable,
    /// How often is looked when nothing happens.
    pub look: Duration,
}

impl Settings {
    /// Looks once a minute.
    #[must_use]
    pub const fn new(writable: Writable) -> Self {
        Self { writable, look: LOOK }
    }
}

/// What goes in and out.
#[derive(Debug)]
pub struct Ports {
    /// In: the load-balancer addresses of the cluster.
    pub wanted: watch::Receiver<Arc<Wanted>>,
    /// In: the interfaces of this node.
    pub links: watch::Receiver<Arc<Links>>,
    /// In: the networks of this node's pods.
    pub pods: watch::Receiver<Vec<IpNet>>,
    /// Out: what is wrong.
    pub findings: watch::Sender<Findings>,
}

/// Why it stopped.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    /// Nobody says what there is to look at.
    #[error("a sender of what the host is checked for ended")]
    Input,
    /// The look panicked.
    #[error("looking at the host failed")]
    Look(#[source] tokio::task::JoinError),
}

/// Looks until an input ends.
pub async fn run(settings: Settings, mut ports: Ports, metrics: Metrics) -> Result<(), Gone> {
    let mut known = BTreeSet::new();
    loop {
        let around = ports.surroundings();
        let wake = Instant::now() + settings.look;
        let writable = settings.writable.clone();
        // Reading files of the kernel may take a while on a busy machine; answers to ARP must not wait for it.
        let found = spawn_blocking({
            let around = around.clone();
            move || look(&around, &writable)
        });
        let found = found.await.map_err(Gone::Look)?;
        tell(&known, &found);
        for kind in Kind::ALL {
            let number = found.iter().filter(|finding| finding.kind == kind).count();
            metrics.set_host_findings(kind, number);
        }
        known.clone_from(&found);
        ports.findings.send_if_modified(|old| {
            let new = Some(found);
            let changed = *old != new;
            *old = new;
            changed
        });
        let pace = settings.look.min(PACE);
        sleep(pace).await;
        ports.until_other(&around, wake, pace).await?;
    }
}

/// Looks at everything once.
fn look(around: &Surroundings, writable: &Writable) -> BTreeSet<Finding> {
    let mut found = sysctls::check(around, writable);
    match foreign::check(around) {
        Ok(others) => found.extend(others),
        Err(error) => tracing::debug!(%error, "cannot read the filter tables of others"),
    }
    found
}

impl Ports {
    fn surroundings(&mut self) -> Surroundings {
        let pods = self.pods.borrow_and_update().clone();
        surroundings(&self.wanted.borrow_and_update().vips, &self.links.borrow_and_update(), pods)
    }

    /// Waits for other surroundings, or the time.
    async fn until_other(
        &mut self,
        around: &Surroundings,
        wake: Instant,
        pace: Duration,
    ) -> Result<(), Gone> {
        loop {
            tokio::select! {
                changed = self.wanted.changed() => changed.map_err(|_| Gone::Input)?,
                changed = self.links.changed() => changed.map_err(|_| Gone::Input)?,
                changed = self.pods.changed() => changed.map_err(|_| Gone::Input)?,
                () = sleep_until(wake) => return Ok(()),
            }
            let now = self.surroundings();
            if now != *around {
                return Ok(());
            }
            tokio::select! {
                () = sleep(pace) => {}
                () = sleep_until(wake) => return Ok(()),
            }
        }
    }
}

/// Says once what has come and what has gone.
fn tell(known: &BTreeSet<Finding>, found: &BTreeSet<Finding>) {
    for Finding { kind, breaks, message } in found.difference(known) {
        if *breaks {
            tracing::warn!(reason = kind.name(), "{message}");
        } else {
            tracing::info!(reason = kind.name(), "{message}");
        }
    }
    for Finding { kind, message, .. } in known.difference(found) {
        tracing::info!(reason = kind.name(), "no longer: {message}");
    }
}

fn surroundings<V>(vips: &BTreeMap<IpAddr, V>, links: &Links, pods: Vec<IpNet>) -> Surroundings {
    let mut families: BTreeSet<Family> = vips.keys().map(|vip| Family::of(*vip)).collect();
    // Pods need it whether there is a Service or not. An IPv6 address says nothing: most hosts give themselves one.
    let mut addresses = links.iter().flat_map(|link| &link.addresses).map(IpNet::addr);
    if addresses.any(|addr| addr.is_ipv4() && !addr.is_loopback()) {
        families.insert(Family::V4);
    }
    let segments = links.segments();
    let mut lan: BTreeMap<Family, BTreeSet<Iface>> = BTreeMap::new();
    for vip in vips.keys() {
        if let Some(iface) = segments.holding(*vip, |_| true) {
            lan.entry(Family::of(*vip)).or_default().insert(iface.clone());
        }
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Surroundings { families, lan, pods, processors: u64::try_from(processors).unwrap_or(u64::MAX) }
}

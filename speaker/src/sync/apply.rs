//! The data path's own thread: it writes what it is given to the kernel, tries again what the kernel refused, and
//! looks every few seconds whether the table still is as it was left.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::net::IpAddr;
use std::time::Duration;

use landfall_core::frontend::{Frontend, Route};
use landfall_core::name::ServiceKey;
use landfall_runtime::health::{Gate, Pulse};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{Batch, Report};
use crate::datapath::{Committed, DataPath, NodeNet};
use crate::kernel::{Kernel, chain};
use crate::metrics::Metrics;
use crate::view::Watermark;

/// How often the kernel's table is compared with what was written: a flush by somebody else is repaired within
/// this time.
const VERIFY: Duration = Duration::from_secs(2);

/// The first and the longest wait before a refused batch is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));

/// How long Services that the kernel does not take wait until they are tried again unchanged.
const TRY_REFUSED: Duration = Duration::from_secs(30);

/// At most so many Services are named when the kernel refuses: as many as a `SpeakerStatus` holds.
const NAMED: usize = 100;

/// The other end of a channel is gone.
#[derive(Debug, thiserror::Error)]
#[error("nobody gives work to the data path any more")]
pub struct ApplierStopped;

/// The thread's state.
#[derive(Debug)]
pub struct Applier<K: Kernel> {
    path: DataPath<K>,
    batches: mpsc::Receiver<Batch>,
    reports: mpsc::Sender<Report>,
    metrics: Metrics,
    /// Opened by the first commit.
    ready: Gate,
    pulse: Pulse,
    pending: Pending,
    commits: u64,
    /// The wait for packets that are under way, and the commit that they have met the rules before.
    grace: Option<(u64, JoinHandle<()>)>,
    /// How much of the API is in the kernel.
    reached: Watermark,
    /// The Services in the data path.
    services: HashMap<ServiceKey, Staged>,
    /// The Services that the kernel does not take, as they were reported last, and why.
    refused: BTreeMap<ServiceKey, String>,
    /// When they are tried again.
    try_refused: Instant,
}

/// A Service in the data path.
#[derive(Debug)]
struct Staged {
    /// How many endpoints it has, over all its front ends.
    endpoints: usize,
    /// Its addresses.
    vips: Vec<IpAddr>,
}

/// What the thread waits for.
enum Next {
    /// Work, or the end of it.
    Batch(Option<Batch>),
    /// Packets that had met the rules before that commit are through.
    Settled(u64),
    /// Time has passed.
    Woken,
}

/// What is staged and not in the kernel yet.
#[derive(Debug, Default)]
struct Pending {
    vips: Vec<(ServiceKey, Vec<IpAddr>)>,
    watermark: Watermark,
    since: Option<Instant>,
    /// How long to wait before the next attempt, when the last one was refused.
    retry: Option<Duration>,
}

impl<K: Kernel + 'static> Applier<K> {
    /// A thread that has written nothing yet; `ready` opens with its first commit.
    #[must_use]
    pub fn new(
        path: DataPath<K>,
        channels: (mpsc::Receiver<Batch>, mpsc::Sender<Report>),
        metrics: Metrics,
        ready: Gate,
        pulse: Pulse,
    ) -> Self {
        let (batches, reports) = channels;
        Self {
            path,
            batches,
            reports,
            metrics,
            ready,
            pulse,
            pending: Pending::default(),
            commits: 0,
            grace: None,
            reached: Watermark::default(),
            services: HashMap::new(),
            refused: BTreeMap::new(),
            try_refused: Instant::now(),
        }
    }

    /// Works until a channel closes. Blocks: give it a thread of its own. The kernel's table stays as it is.
    pub fn run(mut self, runtime: &Handle) -> Result<(), ApplierStopped> {
        let mut wake = Instant::now() + VERIFY;
        let mut verified = Instant::now();
        loop {
            self.pulse.beat();
            let mut due = match runtime.block_on(self.next(wake)) {
                Next::Batch(Some(batch)) => {
                    self.stage(batch);
                    self.stage_waiting()?;
                    // A kernel that refuses is not asked more often because more comes.
                    self.pending.retry.is_none()
                }
                Next::Batch(None) => return Err(ApplierStopped),
                Next::Settled(commit) => {
                    self.path.settled(commit);
                    self.pending.retry.is_none() && self.path.is_incomplete()
                }
                Next::Woken => self.pending.retry.is_some(),
            };
            if verified.elapsed() >= VERIFY && self.commits > 0 {
                verified = Instant::now();
                due |= self.found_changed();
                due |= self.refused_may_go_in();
            }
            if due {
                self.commit()?;
            }
            if self.grace.is_none()
                && let Some(commit) = self.path.unsettled()
            {
                self.grace = Some((commit, runtime.spawn_blocking(K::grace)));
            }
            // After new work that could not be tried yet the time of the next attempt stays as it was.
            if due || wake <= Instant::now() {
                wake = Instant::now() + self.pending.retry.unwrap_or(VERIFY);
            }
        }
    }

    /// Waits for the next thing to happen, until `wake` at most.
    async fn next(&mut self, wake: Instant) -> Next {
        let settled = async {
            match &mut self.grace {
                // That the wait ended is all that matters; it cannot fail but by the end of the runtime.
                Some((commit, wait)) => {
                    let _ = wait.await;
                    *commit
                }
                None => std::future::pending().await,
            }
        };
        let commit = tokio::select! {
            batch = self.batches.recv() => return Next::Batch(batch),
            commit = settled => commit,
            () = sleep_until(wake) => return Next::Woken,
        };
        self.grace = None;
        Next::Settled(commit)
    }

    fn stage(&mut self, batch: Batch) {
        self.path.set_node(NodeNet { pod_cidrs: batch.pod_cidrs });
        let pending = &mut self.pending;
        pending.watermark = batch.watermark;
        pending.since = Some(pending.since.map_or(batch.since, |since| since.min(batch.since)));
        // What goes makes room first: an address may have moved from one Service to another.
        let (going, staying): (Vec<_>, Vec<_>) =
            batch.changes.into_iter().partition(|c| c.frontends.is_none());
        for change in going.into_iter().chain(staying) {
            if let Some(frontends) = change.frontends {
                let endpoints = frontends.iter().map(|(_, front)| endpoints(front)).sum();
                let staged = Staged { endpoints, vips: change.vips.clone() };
                self.services.insert(change.key.clone(), staged);
                self.path.set_service(&change.key, frontends);
            } else {
                self.services.remove(&change.key);
                self.path.remove_service(&change.key);
            }
            pending.vips.push((change.key, change.vips));
        }
    }

    fn stage_waiting(&mut self) -> Result<(), ApplierStopped> {
        loop {
            match self.batches.try_recv() {
                Ok(batch) => self.stage(batch),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(ApplierStopped),
            }
        }
    }

    /// Whether somebody else changed or removed the table, or it cannot be told: the next commit then writes all.
    fn found_changed(&mut self) -> bool {
        match self.path.verify() {
            Ok(intact) => {
                if !intact {
                    tracing::warn!(
                        "the table in the kernel was changed or removed by somebody else, writing it anew"
                    );
                    self.metrics.foreign_changes.inc();
                }
                !intact
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the kernel does not say whether the table is intact");
                false
            }
        }
    }

    /// Whether the kernel would take now what it refused before.
    fn refused_may_go_in(&mut self) -> bool {
        if self.refused.is_empty() || Instant::now() < self.try_refused {
            return false;
        }
        self.try_refused = Instant::now() + TRY_REFUSED;
        if let Err(error) = self.path.retry_refused() {
            tracing::warn!(error = %chain(&error), "what the kernel refused cannot be tried again");
        }
        self.path.is_incomplete()
    }

    /// The Services that the kernel has begun or ceased to refuse, with the addresses it serves for them.
    fn note_refused(&mut self) {
        let now = self.path.refused();
        if *now != self.refused {
            let before = mem::replace(&mut self.refused, now.clone());
            let changed = before
                .keys()
                .chain(now.keys())
                .filter(|key| before.contains_key(key) != now.contains_key(key));
            let served = changed.filter_map(|key| Some((key.clone(), self.services.get(key)?.vips.clone())));
            self.pending.vips.extend(served);
            self.try_refused = Instant::now() + TRY_REFUSED;
        }
        for (key, vips) in &mut self.pending.vips {
            if self.refused.contains_key(key) {
                vips.clear();
            }
        }
    }

    fn commit(&mut self) -> Result<(), ApplierStopped> {
        let began = Instant::now();
        let report = match self.path.commit_ready() {
            Ok(committed) => {
                self.commits += 1;
                self.note_refused();
                self.measure(&committed, began);
                if self.pending.retry.is_some() {
                    tracing::info!("the kernel took the data path after all");
                }
                tracing::debug!(
                    operations = committed.operations,
                    bytes = committed.bytes,
                    full = committed.full,
                    micros = began.elapsed().as_micros(),
                    "committed"
                );
                self.ready.set(true);
                let mut pending = mem::take(&mut self.pending);
                // The watermark goes on from here when the next commit only repairs.
                self.pending.watermark = pending.watermark;
                if self.path.is_complete() {
                    self.reached = pending.watermark;
                } else {
                    // Those whose latest state waits are told of when it is in.
                    let waiting = self.path.waiting();
                    self.pending.since = pending.since;
                    self.pending.vips =
                        pending.vips.extract_if(.., |(key, _)| waiting.contains(key)).collect();
                }
                Report::Committed {
                    vips: pending.vips,
                    watermark: self.reached,
                    commits: self.commits,
                    refused: self.refused.clone(),
                }
            }
            Err(error) => {
                self.metrics.kernel_errors.inc();
                let wait = self.pending.retry.map_or(RETRY.0, |wait| (wait * 2).min(RETRY.1));
                self.pending.retry = Some(wait);
                let reason = chain(&error);
                tracing::error!(error = %reason, retry_in = ?wait, "the kernel refused the data path");
                let mut services: Vec<_> = self.pending.vips.iter().map(|(key, _)| key.clone()).collect();
                services.sort_unstable();
                services.dedup();
                services.truncate(NAMED);
                Report::Refused { services, reason }
            }
        };
        self.reports.blocking_send(report).map_err(|_| ApplierStopped)
    }

    fn measure(&self, committed: &Committed, began: Instant) {
        let metrics = &self.metrics;
        metrics.commits.inc();
        if committed.full {
            metrics.full_commits.inc();
        }
        metrics.batch_bytes.observe(f64::from(u32::try_from(committed.bytes).unwrap_or(u32::MAX)));
        metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        if let Some(since) = self.pending.since {
            metrics.sync_seconds.observe(since.elapsed().as_secs_f64());
        }
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.services.set(gauge(self.services.len() - self.refused.len()));
        metrics.frontends.set(gauge(self.path.len()));
        metrics.endpoints.set(gauge(self.services.values().map(|staged| staged.endpoints).sum()));
    }
}

/// How many endpoints a front end has for anybody.
fn endpoints(front: &Frontend) -> usize {
    match &front.route {
        Route::Cluster { targets } => targets.len(),
        Route::Local { everywhere, .. } => everywhere.len(),
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;

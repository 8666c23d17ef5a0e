//! The loop of the leader: watch events and results in, writes out.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use landfall_core::name::{PoolName, ServiceKey};
use landfall_runtime::health::Pulse;
use landfall_runtime::watch::Change;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::decision::{Note, Write};
use crate::index::{Choices, Failure, Index};
use crate::metrics::{Metrics, Reason};
use crate::seen::{SeenCidr, SeenNamespace, SeenNode, SeenPool, SeenReservation, SeenService, SeenSpeaker};
use crate::send::{SendError, Sender, Sent, event};

/// Writes on their way at the same time: enough to keep an API server of a few cores busy, few enough to leave it
/// room for others.
const MAX_WRITES: usize = 24;
/// Changes taken in before anything is decided: a burst of deletions wakes the waiting Services once, not each time.
const BATCH: usize = 256;
/// The least time between two looks at the status of the pools: with many allocations a second the numbers in it
/// lag by this much instead of costing a write each.
const POOL_PAUSE: Duration = Duration::from_millis(250);
/// How often the loop shows that it is alive.
const TICK: Duration = Duration::from_secs(1);

/// What the loop is given.
pub struct Inputs {
    /// Changes of Services.
    pub services: mpsc::Receiver<Change<SeenService>>,
    /// Changes of everything else.
    pub others: mpsc::Receiver<Observed>,
    /// Becomes true when the program is to end.
    pub stop: watch::Receiver<bool>,
}

/// A change of anything but a Service.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "pools are few, and so are those in the queue")]
pub enum Observed {
    /// Of a pool.
    Pool(Change<SeenPool>),
    /// Of a reservation.
    Reservation(Change<SeenReservation>),
    /// Of a namespace.
    Namespace(Change<SeenNamespace>),
    /// Of a Node.
    Node(Change<SeenNode>),
    /// Of a `ServiceCIDR`.
    Cidr(Change<SeenCidr>),
    /// Of what a speaker says.
    Speaker(Change<SeenSpeaker>),
}

/// Where the loop sends to.
pub struct Outputs {
    /// Writes.
    pub sender: Sender,
    /// Events.
    pub events: mpsc::Sender<Event>,
    /// The identity that Events name.
    pub instance: String,
    /// Numbers.
    pub metrics: Metrics,
    /// Sign of life.
    pub pulse: Pulse,
}

/// Why the loop ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// A watch is gone.
    #[error("the watch of {0} ended")]
    WatchEnded(&'static str),
}

struct Work {
    index: Index,
    outputs: Outputs,
    writes: JoinSet<Sent>,
    pool_writes: JoinSet<(PoolName, Result<SeenPool, SendError>)>,
    pools_on_their_way: BTreeSet<PoolName>,
    reservation_writes: JoinSet<(Box<str>, Result<SeenReservation, SendError>)>,
    reservations_on_their_way: BTreeSet<Box<str>>,
    retries: BTreeSet<(Instant, ServiceKey)>,
    /// When the pools may be looked at next, if that is due.
    pools_due: Option<Instant>,
    pools_looked_at: Instant,
}

/// Runs until `stop`, then waits for what is on its way.
pub async fn run(choices: Choices, mut inputs: Inputs, outputs: Outputs) -> Result<(), WorkError> {
    let mut work = Work {
        index: Index::new(choices),
        outputs,
        reservation_writes: JoinSet::new(),
        reservations_on_their_way: BTreeSet::new(),
        writes: JoinSet::new(),
        pool_writes: JoinSet::new(),
        pools_on_their_way: BTreeSet::new(),
        retries: BTreeSet::new(),
        pools_due: None,
        pools_looked_at: Instant::now(),
    };
    let mut tick = tokio::time::interval(TICK);
    loop {
        let retry_at = work.retries.first().map(|(at, _)| *at);
        let alarm = work.alarm();
        tokio::select! {
            biased;
            stopped = inputs.stop.wait_for(|stop| *stop) => {
                drop(stopped);
                break;
            }
            Some(sent) = work.writes.join_next() => if let Ok(sent) = sent { work.sent(sent) },
            Some(done) = work.pool_writes.join_next() => if let Ok((name, done)) = done { work.pool_sent(&name, done) },
            Some(done) = work.reservation_writes.join_next() => {
                if let Ok((name, done)) = done { work.reservation_sent(&name, done) }
            }
            change = inputs.others.recv() => {
                let Some(change) = change else { return Err(WorkError::WatchEnded("pools, nodes and more")) };
                work.observe(change);
                for _ in 0..BATCH {
                    let Ok(change) = inputs.others.try_recv() else { break };
                    work.observe(change);
                }
            }
            change = inputs.services.recv() => {
                let Some(change) = change else { return Err(WorkError::WatchEnded("Services")) };
                work.index.service(change);
                for _ in 0..BATCH {
                    let Ok(change) = inputs.services.try_recv() else { break };
                    work.index.service(change);
                }
            }
            () = sleep_until(retry_at) => work.retry(),
            () = sleep_until(alarm) => {}
            () = sleep_until(work.pools_due) => work.look_at_pools(),
            _ = tick.tick() => work.outputs.pulse.beat(),
        }
        work.dispatch();
    }
    while work.writes.join_next().await.is_some() {}
    while work.pool_writes.join_next().await.is_some() {}
    while work.reservation_writes.join_next().await.is_some() {}
    Ok(())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Work {
    fn observe(&mut self, change: Observed) {
        match change {
            Observed::Pool(change) => self.index.pool(change),
            Observed::Reservation(change) => self.index.reservation(change),
            Observed::Namespace(change) => self.index.namespace(change),
            Observed::Node(change) => self.index.node(change),
            Observed::Cidr(change) => self.index.cidr(change),
            Observed::Speaker(change) => self.index.speaker(change),
        }
    }

    /// When there is something to do although nothing happens.
    fn alarm(&self) -> Option<Instant> {
        if self.writes.len() >= MAX_WRITES {
            return None;
        }
        let wait = self.index.next_alarm()? - Timestamp::now().as_millisecond();
        Some(Instant::now() + Duration::from_millis(u64::try_from(wait).unwrap_or(0).max(1)))
    }

    fn dispatch(&mut self) {
        self.index.tick(Timestamp::now());
        for lost in self.index.take_lost() {
            tracing::warn!(service = %lost.key, addr = %lost.addr, holder = %lost.winner,
                "two Services had one address: the younger gets another");
        }
        while self.writes.len() < MAX_WRITES {
            let Some(write) = self.index.next_write(Timestamp::now()) else { break };
            tracing::debug!(%write, "writing");
            self.writes.spawn(self.outputs.sender.clone().write(write));
        }
        if self.pools_due.is_none() && self.index.started() {
            self.pools_due = Some(self.pools_looked_at + POOL_PAUSE);
        }
    }

    fn sent(&mut self, sent: Sent) {
        let Sent { write, seen, status_done, error, ports_refused } = sent;
        if status_done && let Some(note) = &write.note {
            self.told(&write, note);
        }
        if let Some(seen) = seen {
            self.index.written(seen);
        }
        if let Some(refused) = ports_refused {
            self.index.ports_refused(&write.key, refused);
        }
        let Some(error) = error else { return };
        if matches!(error, SendError::Conflict | SendError::Gone) {
            tracing::debug!(%write, %error, "not written");
        } else {
            tracing::warn!(%write, error = &error as &dyn std::error::Error, "not written");
        }
        if let Some(wait) = self.index.failed(&write.key, Failure::from(&error)) {
            self.retries.insert((Instant::now() + wait, write.key));
        }
    }

    fn told(&self, write: &Write, note: &Note) {
        let metrics = &self.outputs.metrics;
        if note.warning {
            metrics.denials.get_or_create(&Reason { reason: note.reason }).inc();
        } else if note.reason == "Released" {
            metrics.releases.inc();
        } else {
            metrics.allocations.inc();
        }
        tracing::info!(service = %write.key, reason = note.reason, "{}", note.message);
        if self.outputs.events.try_send(event(write, note, &self.outputs.instance, Timestamp::now())).is_err()
        {
            metrics.events_dropped.inc();
        }
    }

    fn retry(&mut self) {
        let now = Instant::now();
        while self.retries.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.retries.pop_first() {
                self.index.retry(&key);
            }
        }
    }

    fn look_at_pools(&mut self) {
        self.pools_due = None;
        self.pools_looked_at = Instant::now();
        self.outputs.metrics.observe(&self.index);
        for (seen, status) in self.index.pool_writes(Timestamp::now()) {
            if self.pools_on_their_way.insert(seen.name.clone()) {
                let (name, sender) = (seen.name.clone(), self.outputs.sender.clone());
                self.pool_writes.spawn(async move { (name, sender.write_pool(seen, status).await) });
            }
        }
        for (seen, status) in self.index.reservation_writes(Timestamp::now()) {
            if self.reservations_on_their_way.insert(seen.name.clone()) {
                let (name, sender) = (seen.name.clone(), self.outputs.sender.clone());
                self.reservation_writes
                    .spawn(async move { (name, sender.write_reservation(seen, status).await) });
            }
        }
    }

    fn reservation_sent(&mut self, name: &str, result: Result<SeenReservation, SendError>) {
        self.reservations_on_their_way.remove(name);
        match result {
            Ok(seen) => self.index.reservation(Change::Set(seen)),
            Err(SendError::Conflict | SendError::Gone) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(reservation = name, error, "status not written");
            }
        }
    }

    fn pool_sent(&mut self, name: &PoolName, result: Result<SeenPool, SendError>) {
        self.pools_on_their_way.remove(name);
        match result {
            Ok(seen) => self.index.pool(Change::Set(seen)),
            Err(SendError::Conflict | SendError::Gone) => {}
            Err(error) => {
                tracing::warn!(pool = %name, error = &error as &dyn std::error::Error, "status not written");
            }
        }
    }
}

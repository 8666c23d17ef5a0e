//! The loop between what is known and what is done: reports of the watches go into the view, changed Services go
//! to the data path, and what the data path has taken may be announced.
//!
//! The order is the point. An address is announced only after the kernel serves it; it leaves the kernel only
//! after the announcer has let go of it, or after a moment's grace when that hangs. The first report is acted on
//! at once; whatever comes while the kernel is busy goes into the next batch together.

mod apply;
mod health;
mod holds;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use landfall_core::elect::{Owned, Wanted};
use landfall_core::frontend::{Frontend, FrontendKey};
use landfall_core::name::{Iface, NodeName, ServiceKey};
use landfall_core::service::Service;
use landfall_runtime::health::Pulse;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

pub use apply::{Applier, ApplierStopped};
use holds::Holds;

use crate::health_check;
use crate::view::{Choices, View, Watermark};
use crate::watch::Arrived;

/// Batches that may wait for the data path: one, so that what comes while it works is taken together.
pub const BATCHES: usize = 1;

/// Results that may wait for the loop.
pub const REPORTS: usize = 4;

/// Notices that may wait to be told to users; more are dropped.
pub const NOTICES: usize = 256;

/// How often the loop shows that it is alive when nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// After what may be announced was said, so many times as long as that took nothing is said again, and at most so long:
/// less than a change waits for its announcement to stop.
const PUBLICATION_PAUSE: u32 = 20;
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A Service that changed.
#[derive(Debug)]
pub struct Change {
    /// Which one.
    pub key: ServiceKey,
    /// Its addresses; none when it is to go.
    pub vips: Vec<IpAddr>,
    /// Its front ends on this node; `None` when it is to go.
    pub frontends: Option<Vec<(FrontendKey, Frontend)>>,
}

/// Work for the data path.
#[derive(Debug)]
pub struct Batch {
    /// The networks of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// The Services that changed.
    pub changes: Vec<Change>,
    /// How much of the API the kernel has taken in after this batch.
    pub watermark: Watermark,
    /// When the oldest of the events behind it came.
    pub since: Instant,
}

/// What became of the work.
#[derive(Debug)]
pub enum Report {
    /// Everything handed over so far is in the kernel.
    Committed {
        /// The addresses of each Service of the batches.
        vips: Vec<(ServiceKey, Vec<IpAddr>)>,
        /// How much of the API that is.
        watermark: Watermark,
        /// Batches the kernel has taken since the start.
        commits: u64,
        /// The Services that the kernel does not take, and why; all others are in.
        refused: BTreeMap<ServiceKey, String>,
    },
    /// The kernel refused everything; it is being tried again.
    Refused {
        /// The Services that are not in the kernel as they should be.
        services: Vec<ServiceKey>,
        /// What the kernel said.
        reason: String,
    },
}

/// How far the kernel is, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// How much of the API is in the kernel; `None` before the first batch.
    pub watermark: Option<Watermark>,
    /// Batches the kernel has taken since the start.
    pub commits: u64,
    /// The Services that are not in the kernel as they should be, and why.
    pub refused: BTreeMap<ServiceKey, String>,
    /// The Services with an address that is not served on purpose, and why.
    pub left_out: BTreeMap<ServiceKey, String>,
}

/// An address that began or ceased to be announced from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The Service that has the address.
    pub service: ServiceKey,
    /// The uid of that Service.
    pub uid: Arc<str>,
    /// The address.
    pub addr: IpAddr,
    /// The interface it is announced on from now on; `None`: it is not any more.
    pub iface: Option<Iface>,
}

/// Something that users of a Service should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An address began or ceased to be announced from this node.
    Announcement(Transition),
    /// The kernel does not take the Service, and it is left out.
    Refused {
        /// Which one.
        service: ServiceKey,
        /// Its uid.
        uid: Arc<str>,
        /// What the kernel said.
        reason: String,
    },
    /// The health-check port of the Service cannot be opened.
    NoHealthCheck {
        /// Which one.
        service: ServiceKey,
        /// Its uid.
        uid: Arc<str>,
        /// Where.
        addr: SocketAddr,
        /// Why not.
        reason: String,
    },
}

impl Notice {
    /// The Service it is about.
    #[must_use]
    pub const fn service(&self) -> &ServiceKey {
        match self {
            Self::Announcement(Transition { service, .. })
            | Self::Refused { service, .. }
            | Self::NoHealthCheck { service, .. } => service,
        }
    }

    /// The uid of that Service.
    #[must_use]
    pub const fn uid(&self) -> &Arc<str> {
        match self {
            Self::Announcement(Transition { uid, .. })
            | Self::Refused { uid, .. }
            | Self::NoHealthCheck { uid, .. } => uid,
        }
    }
}

/// The channels of the loop.
#[derive(Debug)]
pub struct Ports {
    /// In: reports of the watches.
    pub arrived: mpsc::Receiver<Arrived>,
    /// Out: work for the data path.
    pub batches: mpsc::Sender<Batch>,
    /// In: what became of it.
    pub reports: mpsc::Receiver<Report>,
    /// Out: what may be announced, by whom.
    pub wanted: watch::Sender<Arc<Wanted>>,
    /// In: what this node answers for.
    pub answering: watch::Receiver<Arc<Owned>>,
    /// Out: how far the kernel is.
    pub state: watch::Sender<Arc<KernelState>>,
    /// Out: what users should know.
    pub notices: mpsc::Sender<Notice>,
    /// Out: what other load balancers may ask this node.
    pub health: watch::Sender<health_check::State>,
    /// Out: the networks of this node's pods.
    pub pods: watch::Sender<Vec<IpNet>>,
}

/// Why the loop stopped.
#[derive(Debug, thiserror::Error)]
#[error("the other end of {0} is gone")]
pub struct ChannelClosed(&'static str);

/// The loop's state.
#[derive(Debug)]
pub struct Sync {
    ports: Ports,
    view: View,
    /// Pod networks given by the user; they go before those of the Node object.
    cluster_cidrs: Vec<IpNet>,
    holds: Holds,
    wanted: Arc<Wanted>,
    published: bool,
    /// Before this nothing is published again.
    next_publication: Instant,
    answered: Arc<Owned>,
    /// The Services, with their uids, that were told of an address announced for them.
    told: HashMap<IpAddr, (ServiceKey, Arc<str>)>,
    /// When the oldest event came that no batch contains yet.
    oldest: Option<Instant>,
    /// The pod networks of the last batch; `None` before the first, which carries everything.
    sent_cidrs: Option<Vec<IpNet>>,
    sent_watermark: Watermark,
}

impl Sync {
    /// The loop of one node.
    #[must_use]
    pub fn new(node: NodeName, choices: Choices, cluster_cidrs: Vec<IpNet>, ports: Ports) -> Self {
        Self {
            ports,
            view: View::new(node, choices),
            cluster_cidrs,
            holds: Holds::default(),
            wanted: Arc::default(),
            published: false,
            next_publication: Instant::now(),
            answered: Arc::default(),
            told: HashMap::new(),
            oldest: None,
            sent_cidrs: None,
            sent_watermark: Watermark::default(),
        }
    }

    /// Runs until a channel closes.
    pub async fn run(mut self, pulse: Pulse) -> Result<(), ChannelClosed> {
        loop {
            pulse.beat();
            self.publish();
            let work = self.has_work(Instant::now());
            let publication = alarm(self.view.plans_stale(), self.next_publication, Instant::now());
            let wake = self.holds.next().into_iter().chain(publication).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + HEARTBEAT);
            tokio::select! {
                arrived = self.ports.arrived.recv() => self.take_in(arrived.ok_or(ChannelClosed("the watches"))?),
                report = self.ports.reports.recv() => {
                    self.learn(report.ok_or(ChannelClosed("the data path's results"))?);
                }
                changed = self.ports.answering.changed() => {
                    changed.map_err(|_| ChannelClosed("the announcer"))?;
                    self.note_announcements();
                }
                free = free(&self.ports.batches), if work => {
                    free?;
                    self.hand_over();
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Takes in a report and everything else that has come by now.
    fn take_in(&mut self, first: Arrived) {
        let at = first.at;
        self.view.apply(first.observed);
        // As many as fit in the queue: a flood must not keep the kernel waiting for ever.
        for _ in 0..crate::watch::QUEUE {
            let Ok(more) = self.ports.arrived.try_recv() else { break };
            self.view.apply(more.observed);
        }
        // Most reports change nothing, and no batch will come of them.
        self.oldest = self.view.dirty().next().is_some().then(|| self.oldest.unwrap_or(at));
        self.note_health();
    }

    /// Says what may be announced, once everything that decides about it is known and in the kernel.
    ///
    /// That means all addresses, and work for those who share them out and announce them: in a flood of changes it
    /// is said from time to time, so that most of the node's time is left for other things.
    fn publish(&mut self) {
        let started = self.ports.state.borrow().watermark.is_some();
        let begun = Instant::now();
        if !started || !self.view.ready_to_announce() || begun < self.next_publication {
            return;
        }
        if let Some(wanted) = self.view.take_plans() {
            // The first one is sent even when it is empty: it says that this node takes part.
            if !std::mem::replace(&mut self.published, true) || *self.wanted != wanted {
                self.wanted = Arc::new(wanted);
                self.ports.wanted.send_replace(Arc::clone(&self.wanted));
            }
            self.next_publication = begun + (begun.elapsed() * PUBLICATION_PAUSE).min(LONGEST_PAUSE);
        }
    }

    /// Whether there is something for the data path that need not wait.
    fn has_work(&mut self, now: Instant) -> bool {
        if !self.view.ready_to_program() {
            return false;
        }
        let answering = self.ports.answering.borrow();
        self.holds.update(now, self.view.dirty(), |key| {
            // Another Service may go on announcing an address that this one loses: nothing to wait for then.
            let going = |addr: &IpAddr| self.view.plans_stale() || !self.wanted.vips.contains_key(addr);
            let announced = |addr: &IpAddr| answering.vips.contains_key(addr) && going(addr);
            self.view.leaving(key).any(|addr| announced(&addr))
        });
        let cidrs = pod_cidrs(&self.view, &self.cluster_cidrs);
        self.sent_cidrs.as_deref() != Some(cidrs) || self.view.dirty().any(|key| !self.holds.holds(key))
    }

    /// Gives the data path everything that changed and need not wait.
    fn hand_over(&mut self) {
        let keys = self.view.take_dirty(|key| self.holds.holds(key));
        self.note_health_checks(&keys);
        // With something held back, the kernel will not be as far as the view is.
        if self.holds.is_empty() {
            self.sent_watermark = self.view.watermark();
        }
        let pod_cidrs = pod_cidrs(&self.view, &self.cluster_cidrs).to_vec();
        self.sent_cidrs = Some(pod_cidrs.clone());
        let change = |key| {
            let vips = self.view.vips(&key);
            let frontends = self.view.frontends(&key);
            Change { key, vips, frontends }
        };
        let batch = Batch {
            pod_cidrs,
            changes: keys.into_iter().map(change).collect(),
            watermark: self.sent_watermark,
            since: self.oldest.take().unwrap_or_else(Instant::now),
        };
        // There is room, as nobody else sends; a closed channel is noticed at the next turn.
        let _ = self.ports.batches.try_send(batch);
    }

    fn learn(&mut self, report: Report) {
        self.note_outcome(&report);
        match report {
            Report::Committed { vips, watermark, commits, refused } => {
                for (key, vips) in vips {
                    self.view.set_programmed(key, &vips);
                }
                let left_out = self.view.left_out().clone();
                self.tell_refused(&refused);
                let state = KernelState { watermark: Some(watermark), commits, refused, left_out };
                self.ports.state.send_replace(Arc::new(state));
            }
            Report::Refused { services, reason } => {
                self.ports.state.send_modify(|state| {
                    let refused = services.into_iter().map(|service| (service, reason.clone()));
                    Arc::make_mut(state).refused = refused.collect();
                });
            }
        }
    }

    /// Tells users of Services that the kernel has begun to refuse.
    fn tell_refused(&self, refused: &BTreeMap<ServiceKey, String>) {
        let before = &self.ports.state.borrow().refused;
        for (key, reason) in refused.iter().filter(|(key, _)| !before.contains_key(*key)) {
            if let Some(Service { uid, .. }) = self.view.service(key) {
                self.tell(Notice::Refused {
                    service: key.clone(),
                    uid: Arc::clone(uid),
                    reason: reason.clone(),
                });
            }
        }
    }

    fn tell(&self, notice: Notice) {
        // Full: users have enough to read, and the status tells the whole.
        let _ = self.ports.notices.try_send(notice);
    }

    /// Tells users which addresses this node has begun or ceased to announce.
    fn note_announcements(&mut self) {
        let now = Arc::clone(&self.ports.answering.borrow_and_update());
        let before = std::mem::replace(&mut self.answered, Arc::clone(&now));
        let gained = now.vips.iter().filter(|(addr, new)| before.vips.get(addr) != Some(new));
        let lost = before.vips.keys().filter(|addr| !now.vips.contains_key(addr));
        let changes = gained
            .map(|(addr, holding)| (*addr, Some(holding.iface.clone())))
            .chain(lost.map(|addr| (*addr, None)));
        for (addr, iface) in changes {
            tracing::info!(%addr, iface = iface.as_ref().map(tracing::field::display), "announcement changed");
            let holder =
                self.view.holder(addr).map(|Service { key, uid, .. }| (key.clone(), Arc::clone(uid)));
            // A Service that has just lost the address has it no more: it was remembered when it gained it.
            let remembered = self.told.remove(&addr);
            let Some((service, uid)) = holder.or(remembered) else { continue };
            if iface.is_some() {
                self.told.insert(addr, (service.clone(), Arc::clone(&uid)));
            }
            self.tell(Notice::Announcement(Transition { service, uid, addr, iface }));
        }
    }
}

/// The networks of this node's pods: those that the user gave, else those of the Node object.
fn pod_cidrs<'a>(view: &'a View, given: &'a [IpNet]) -> &'a [IpNet] {
    if given.is_empty() { view.pod_cidrs() } else { given }
}

/// When to publish what is stale. One whose time has come waits for something else, such as the first lists: that wakes
/// the loop by itself, and an alarm in the past would never let it rest.
fn alarm(stale: bool, next: Instant, now: Instant) -> Option<Instant> {
    (stale && next > now).then_some(next)
}

/// Waits for room for a batch.
async fn free(batches: &mpsc::Sender<Batch>) -> Result<(), ChannelClosed> {
    batches.reserve().await.map(drop).map_err(|_| ChannelClosed("the data path"))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod health_tests;

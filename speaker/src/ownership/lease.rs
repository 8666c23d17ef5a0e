//! Ownership by Leases: each speaker renews one every second, and the living share the addresses by rendezvous
//! hashing. The decisions are made in [`landfall_core::claim`]; here is what carries them.
//!
//! A speaker that ends leaves its Lease as it is: back within four seconds, nothing has moved; later, the others have
//! taken over. Handing over on the way out would move every address twice in each upgrade.

mod record;
mod renew;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher;
use kube::{Api, Client};
use landfall_core::claim::{Change, Claims, Publication};
use landfall_core::name::{Namespace, NodeName};
use landfall_core::roster::{Record, Timing};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::record::{SELECTOR, record, run_mark};
use self::renew::{Renewal, Renewer};
use super::{Peer, Peers, Ports, Wanted};

/// Who takes part, and where.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The namespace of the Leases: that of the installation.
    pub namespace: Namespace,
    /// The node this speaker runs on.
    pub node: NodeName,
    /// The uid of its Node object: makes the Lease go with the Node. `None` leaves it without an owner.
    pub node_uid: Option<String>,
}

/// Why ownership stopped.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// The side that says what is wanted, or the one that reports interfaces, is gone.
    #[error("the sender of {0} ended")]
    InputClosed(&'static str),
    /// The task that renews the Lease ended.
    #[error("the renewal of the Lease ended")]
    RenewalEnded,
}

/// Without this node's own renewals in the watch for so long, while they succeed, the watch is opened anew: its
/// connection may be dead without anybody noticing.
const WATCH_STALE: Duration = Duration::from_millis(1500);
/// Pause before a watch that failed is opened again.
const WATCH_RETRY: Duration = Duration::from_millis(250);
/// Outcomes of renewals that wait to be looked at; there is one in a second.
const OUTCOMES: usize = 4;

/// Takes part until dropped, from the first value sent on [`Ports::wanted`]. Dropping leaves the Lease as it is.
pub async fn run(identity: Identity, client: Client, mut ports: Ports) -> Result<Infallible, OwnershipError> {
    ports.wanted.changed().await.map_err(|_| OwnershipError::InputClosed("wanted addresses"))?;
    let run = Timestamp::now();
    let api: Api<Lease> = Api::namespaced(client, identity.namespace.as_str());
    let started = Instant::now();
    let claims = Claims::new(identity.node.clone(), run_mark(run), Timing::default());
    let (said, heard) = watch::channel(claims.publication(&ports.links.borrow().segments()));
    let (outcomes_in, outcomes) = mpsc::channel(OUTCOMES);
    let mut renewal = JoinSet::new();
    renewal.spawn(Renewer { identity, run, api: api.clone(), said: heard, outcomes: outcomes_in }.run());
    let watch = Watch { api, stream: None, opened: started, list: Vec::new() };
    let mut owner = Owner { ports, claims, said, started, watch };
    owner.run(outcomes).await
}

/// The task that decides.
struct Owner {
    ports: Ports,
    claims: Claims,
    said: watch::Sender<Publication>,
    /// The zero of the time that the decisions are made in.
    started: Instant,
    watch: Watch,
}

impl Owner {
    async fn run(&mut self, mut outcomes: mpsc::Receiver<Renewal>) -> Result<Infallible, OwnershipError> {
        loop {
            let next = self.claims.next_decision(self.now()).map(|at| self.started + at);
            tokio::select! {
                changed = self.ports.wanted.changed() => {
                    changed.map_err(|_| OwnershipError::InputClosed("wanted addresses"))?;
                }
                changed = self.ports.links.changed() => {
                    changed.map_err(|_| OwnershipError::InputClosed("interfaces"))?;
                }
                outcome = outcomes.recv() => {
                    self.on_renewal(outcome.ok_or(OwnershipError::RenewalEnded)?);
                }
                event = self.watch.next() => self.on_event(event),
                () = until(next) => {}
            }
            self.decide();
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The watch is opened with the first renewal that succeeds, and anew after an interruption: its first act is a
    /// fresh list, which says whether others have taken over in the meantime.
    fn on_renewal(&mut self, outcome: Renewal) {
        let Renewal::Done { after_failures } = outcome else { return };
        let seen = self.claims.roster().last_seen().map(|at| self.started + at);
        let sign_of_life = seen.unwrap_or(self.watch.opened).max(self.watch.opened);
        if self.watch.stream.is_none() || after_failures > 1 || sign_of_life.elapsed() > WATCH_STALE {
            self.watch.open();
        }
    }

    fn on_event(&mut self, event: Option<watcher::Result<watcher::Event<Lease>>>) {
        let now = self.now();
        match event {
            Some(Ok(watcher::Event::Init)) => self.watch.list.clear(),
            Some(Ok(watcher::Event::InitApply(lease))) => self.watch.list.extend(record(&lease)),
            Some(Ok(watcher::Event::InitDone)) => {
                let list = std::mem::take(&mut self.watch.list);
                self.claims.replace(list, now);
            }
            Some(Ok(watcher::Event::Apply(lease))) => {
                if let Some(seen) = record(&lease) {
                    self.claims.observe(seen, now);
                }
            }
            Some(Ok(watcher::Event::Delete(lease))) => {
                if let Some(seen) = record(&lease) {
                    self.claims.deleted(&seen.node);
                }
            }
            Some(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the watch of the Leases failed");
                self.watch.open_later();
            }
            None => self.watch.open_later(),
        }
    }

    fn decide(&mut self) {
        let now = self.now();
        let wanted: Arc<Wanted> = Arc::clone(&self.ports.wanted.borrow_and_update());
        let own = self.ports.links.borrow_and_update().segments();
        let changes = self.claims.decide(&wanted, &own, now);
        for change in &changes {
            log(change);
        }
        if !changes.is_empty() {
            let owned = Arc::new(self.claims.owned().clone());
            self.ports.owned.send_replace(owned);
        }
        // After what was lost has been let go of: the others act on it.
        let publication = self.claims.publication(&own);
        self.said.send_if_modified(|said| {
            let new = *said != publication;
            *said = publication;
            new
        });
        self.report(now);
    }

    fn report(&self, now: Duration) {
        let roster = self.claims.roster();
        let peer = |(node, peer): (&NodeName, &landfall_core::roster::Peer)| {
            let living = roster.alive(node);
            let last_signal = self.started + peer.last_signal();
            (node.clone(), Peer { living, last_signal, segments: peer.segments().clone() })
        };
        let peers = Peers {
            in_touch: roster.in_touch(now),
            standing: roster.standing(now),
            nodes: roster.peers().map(peer).collect(),
        };
        self.ports.peers.send_if_modified(|last| {
            for (node, peer) in &peers.nodes {
                let was = last.nodes.get(node).map(|peer| peer.living);
                if was != Some(peer.living) {
                    let state = if peer.living { "living" } else { "dead" };
                    tracing::info!(%node, state, "another speaker");
                }
            }
            if last.standing != peers.standing {
                let standing = peers.standing;
                tracing::info!(standing, "whether this node may announce");
            }
            let changed = **last != peers;
            if changed {
                *last = Arc::new(peers);
            }
            changed
        });
    }
}

fn log(change: &Change) {
    match change {
        Change::Gained(addr, interface, cause) => tracing::info!(%addr, %interface, %cause, "gained"),
        Change::Moved(addr, interface) => tracing::info!(%addr, %interface, "announced on another interface"),
        Change::Lost(addr, cause) => tracing::info!(%addr, %cause, "lost"),
    }
}

type Events = Pin<Box<dyn Stream<Item = watcher::Result<watcher::Event<Lease>>> + Send>>;

/// The watch of the Leases of all speakers.
struct Watch {
    api: Api<Lease>,
    stream: Option<Events>,
    /// When it was opened, or is to be.
    opened: Instant,
    /// The part of a list that has arrived.
    list: Vec<Record>,
}

impl Watch {
    /// Opens the watch, in place of the one there may be.
    fn open(&mut self) {
        let config = watcher::Config::default().labels(SELECTOR);
        self.stream = Some(Box::pin(watcher::watcher(self.api.clone(), config)));
        self.opened = Instant::now();
        self.list.clear();
    }

    fn open_later(&mut self) {
        self.open();
        self.opened += WATCH_RETRY;
    }

    async fn next(&mut self) -> Option<watcher::Result<watcher::Event<Lease>>> {
        // The watcher sends nothing before it is polled.
        sleep_until(self.opened).await;
        match &mut self.stream {
            Some(stream) => stream.next().await,
            None => std::future::pending().await,
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

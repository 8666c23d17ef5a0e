//! The task that answers and announces: one loop over changes, timers and frames, so that a change is in force
//! before the next frame is looked at.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::future::select_all;
use landfall_core::announce::{Announcer, Input, Output, Token};
use landfall_core::elect::Owned;
use tokio::time::{Instant, sleep_until};

use super::arp::{Arp, ETHERTYPE};
use super::responder::{Verdict, judge};
use super::socket::{Frame, PacketSocket};
use super::{Counters, L2Error, Ports, Settings};
use crate::link::{Link, Mac};

/// Frames taken from a socket before changes and timers get their turn again.
const DRAIN: usize = 256;
/// Addresses announced in one go, and the pause after it: two frames each, well inside a socket's send buffer.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(2);
/// Pause before a socket that failed is opened again. Most failures are an interface on its way out, and the event
/// that says so comes first.
const REOPEN: Duration = Duration::from_millis(100);

/// What an announcement says: the tenure, the interface's number, and its hardware address.
type Stamp = (u64, u32, Mac);

pub(super) struct Task {
    ports: Ports,
    counters: Arc<Counters>,
    stations: BTreeMap<u32, Station>,
    /// Addresses answered for, and the number of the interface each belongs to.
    held: BTreeMap<Ipv4Addr, u32>,
    announcer: Announcer<Stamp>,
    timers: BinaryHeap<Reverse<(Instant, IpAddr, Token)>>,
    /// Addresses to announce as soon as the pace allows.
    outbox: BTreeSet<Ipv4Addr>,
    outbox_opens: Instant,
    reopen: Option<Instant>,
}

/// An interface on which something is announced.
struct Station {
    socket: PacketSocket,
    mac: Mac,
}

impl Task {
    pub(super) fn new(settings: Settings, ports: Ports, counters: Arc<Counters>) -> Self {
        Self {
            ports,
            counters,
            stations: BTreeMap::new(),
            held: BTreeMap::new(),
            announcer: Announcer::new(settings.refresh, settings.seed),
            timers: BinaryHeap::new(),
            outbox: BTreeSet::new(),
            outbox_opens: Instant::now(),
            reopen: None,
        }
    }

    pub(super) async fn run(mut self) -> Result<Infallible, L2Error> {
        self.reconcile();
        loop {
            let next = self.next_timer();
            tokio::select! {
                // Changes first: what was given up must not be answered from a full socket.
                biased;
                changed = self.ports.owned.changed() => {
                    changed.map_err(|_| L2Error::InputClosed("owned addresses"))?;
                    self.reconcile();
                }
                changed = self.ports.links.changed() => {
                    changed.map_err(|_| L2Error::InputClosed("interfaces"))?;
                    self.reconcile();
                }
                () = until(next) => self.on_time(),
                (index, frame) = next_frame(&self.stations) => self.on_readable(index, frame),
            }
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let announcement = self.timers.peek().map(|Reverse((at, ..))| *at);
        let outbox = (!self.outbox.is_empty()).then_some(self.outbox_opens);
        [announcement, outbox, self.reopen].into_iter().flatten().min()
    }

    /// Brings sockets and held addresses in line with what is owned and which interfaces there are.
    fn reconcile(&mut self) {
        self.reopen = None;
        let owned = Arc::clone(&self.ports.owned.borrow_and_update());
        let links = Arc::clone(&self.ports.links.borrow_and_update());
        let mut wanted: BTreeMap<Ipv4Addr, (u64, &Link, Mac)> = BTreeMap::new();
        for (addr, holding) in &owned.vips {
            // IPv6 addresses are announced by neighbour discovery, which is not ARP's business.
            let IpAddr::V4(addr) = addr else { continue };
            let link = links.named(&holding.iface).filter(|link| link.announces());
            if let Some((link, mac)) = link.and_then(|link| Some((link, link.mac?))) {
                wanted.insert(*addr, (holding.epoch, link, mac));
            }
        }
        self.release_all_but(&wanted);
        let used: BTreeMap<u32, (&Link, Mac)> =
            wanted.values().map(|(_, link, mac)| (link.index, (*link, *mac))).collect();
        self.stations.retain(|index, _| used.contains_key(index));
        for (link, mac) in used.into_values() {
            self.station(link, mac);
        }
        for (addr, (epoch, link, mac)) in wanted {
            if self.stations.contains_key(&link.index) {
                self.held.insert(addr, link.index);
                let stamp = (epoch, link.index, mac);
                self.advance(Input::Hold { addr: IpAddr::V4(addr), stamp });
            }
        }
        self.ports.answering.send_if_modified(|answering| {
            let told = answered(owned);
            let changed = !Arc::ptr_eq(answering, &told) && *answering != told;
            *answering = told;
            changed
        });
        self.flush();
    }

    fn release_all_but(&mut self, wanted: &BTreeMap<Ipv4Addr, (u64, &Link, Mac)>) {
        self.held.retain(|addr, _| wanted.contains_key(addr));
        self.outbox.retain(|addr| wanted.contains_key(addr));
        let gone = |addr: &IpAddr| !matches!(addr, IpAddr::V4(v4) if wanted.contains_key(v4));
        let gone: Vec<IpAddr> = self.announcer.held().filter(gone).collect();
        for addr in gone {
            self.advance(Input::Release { addr });
        }
    }

    /// Opens the socket of an interface unless it is open, and notes its current hardware address.
    fn station(&mut self, link: &Link, mac: Mac) {
        if let Some(station) = self.stations.get_mut(&link.index) {
            station.mac = mac;
            return;
        }
        match PacketSocket::open(link.index, ETHERTYPE) {
            Ok(socket) => {
                tracing::debug!(interface = %link.name, index = link.index, %mac, "listening for ARP");
                self.stations.insert(link.index, Station { socket, mac });
            }
            Err(error) => {
                tracing::warn!(interface = %link.name, index = link.index, %error, "cannot listen for ARP");
                self.reopen = Some(Instant::now() + REOPEN);
            }
        }
    }

    fn advance(&mut self, input: Input<Stamp>) {
        let mut outputs = Vec::new();
        self.announcer.handle(input, &mut outputs);
        for output in outputs {
            match output {
                Output::Announce { addr: IpAddr::V4(addr) } => {
                    self.outbox.insert(addr);
                }
                Output::Announce { addr: IpAddr::V6(_) } => {}
                Output::Wake { after, addr, token } => {
                    self.timers.push(Reverse((Instant::now() + after, addr, token)));
                }
            }
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, addr, token))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            self.advance(Input::Due { addr, token });
        }
        self.flush();
        if self.reopen.is_some_and(|at| at <= now) {
            self.reconcile();
        }
    }

    /// Sends as many of the announcements that are due as the pace allows.
    fn flush(&mut self) {
        if self.outbox.is_empty() || Instant::now() < self.outbox_opens {
            return;
        }
        for _ in 0..BURST {
            let Some(addr) = self.outbox.pop_first() else { break };
            let station = self.held.get(&addr).and_then(|index| self.stations.get(index));
            let Some(Station { socket, mac }) = station else { continue };
            for arp in Arp::gratuitous(addr, *mac) {
                let sent = socket.send(&arp.encode(Mac::BROADCAST));
                count_sent(&self.counters, &self.counters.gratuitous, &sent);
            }
        }
        self.outbox_opens = Instant::now() + PAUSE;
    }

    fn on_readable(&mut self, index: u32, first: io::Result<Frame>) {
        let Some(station) = self.stations.get(&index) else { return };
        let mut next = first.map(Some);
        for _ in 0..DRAIN {
            match next {
                Ok(Some(frame)) => answer(station, index, &self.held, &self.counters, &frame),
                Ok(None) => return,
                Err(error) => {
                    // The interface went down or away (ENETDOWN); what follows comes as a link event.
                    tracing::debug!(index, %error, "an ARP socket failed");
                    self.stations.remove(&index);
                    self.reopen = Some(Instant::now() + REOPEN);
                    return;
                }
            }
            next = station.socket.try_receive();
        }
    }
}

/// What of the owned addresses is answered for here.
fn answered(owned: Arc<Owned>) -> Arc<Owned> {
    if owned.vips.keys().all(IpAddr::is_ipv4) {
        return owned;
    }
    // Nothing answers neighbour solicitations: nobody is to believe so.
    let of_ipv4 = owned.vips.iter().filter(|(addr, _)| addr.is_ipv4());
    Arc::new(Owned { vips: of_ipv4.map(|(addr, holding)| (*addr, holding.clone())).collect() })
}

fn answer(station: &Station, index: u32, held: &BTreeMap<Ipv4Addr, u32>, counters: &Counters, frame: &Frame) {
    match judge(frame.bytes(), station.mac, |addr| held.get(&addr) == Some(&index)) {
        Verdict::Answer(reply) => {
            counters.requests.fetch_add(1, Relaxed);
            count_sent(counters, &counters.replies, &station.socket.send(&reply));
        }
        Verdict::NotOurs => {
            counters.requests.fetch_add(1, Relaxed);
        }
        Verdict::Ignore => {}
        Verdict::Conflict { addr, mac } => {
            counters.conflicts.fetch_add(1, Relaxed);
            tracing::debug!(%addr, %mac, "another station uses an address announced here");
        }
        Verdict::Malformed(reason) => {
            counters.malformed.fetch_add(1, Relaxed);
            tracing::trace!(%reason, "a malformed ARP frame");
        }
    }
}

/// Counts a frame as sent, or as an error. A frame that cannot be sent is not kept: the asker asks again, and an
/// announcement is repeated.
fn count_sent(counters: &Counters, sent: &AtomicU64, outcome: &io::Result<()>) {
    match outcome {
        Ok(()) => sent.fetch_add(1, Relaxed),
        Err(_) => counters.send_errors.fetch_add(1, Relaxed),
    };
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn next_frame(stations: &BTreeMap<u32, Station>) -> (u32, io::Result<Frame>) {
    if stations.is_empty() {
        return pending().await;
    }
    let waiting = stations
        .iter()
        .map(|(index, station)| Box::pin(async move { (*index, station.socket.receive().await) }));
    select_all(waiting).await.0
}

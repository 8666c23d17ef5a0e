//! Which speakers live, judged from signs of life that travel through the API server, and whether this node may
//! count itself among them.
//!
//! No two clocks are ever compared: a sign of life is a *change* of a speaker's record, and its age is measured on
//! this node's own monotonic clock, which comes in as an argument (time since any fixed moment).
//!
//! What makes silence evidence of death is that the way signs travel works: this node sees its **own** sign come
//! back by the same way. While it does not, nobody is judged dead and the last judgement stands; when it does
//! again, everybody has the full time to be heard before being judged.
//!
//! A node that was away does not know whether others have taken over. So each speaker publishes whom it believes
//! dead, and a node that is on such a list holds nothing until it has been taken off: whoever takes it off has let
//! go first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::name::NodeName;
use crate::segment::Segments;

/// The times of the protocol. All speakers of a cluster must agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a speaker gives a sign of life.
    pub renew: Duration,
    /// A speaker that has given none for so long is dead.
    pub dead_after: Duration,
    /// Nobody is judged while this node's own last sign of life is older than this.
    pub fresh: Duration,
    /// When two of this node's own signs are further apart than this, everybody starts afresh.
    pub gap: Duration,
    /// How long this node has to be visible before it holds anything: the others see it, and let go of what is its.
    pub settle: Duration,
    /// How long a node waits for another living one to let go of an address.
    pub hand_over: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            renew: Duration::from_secs(1),
            dead_after: Duration::from_secs(4),
            fresh: Duration::from_millis(1500),
            gap: Duration::from_millis(2500),
            settle: Duration::from_millis(500),
            hand_over: Duration::from_millis(300),
        }
    }
}

/// The record of one speaker as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub node: NodeName,
    /// Changes with every sign of life, and only then.
    pub mark: Arc<str>,
    /// Which run of the speaker wrote it: another one after each start.
    pub run: Arc<str>,
    /// The subnets the speaker can announce in.
    pub segments: Segments,
    /// The speakers it believes dead.
    pub dead: BTreeSet<NodeName>,
}

/// Everything known about the speakers.
#[derive(Debug)]
pub struct Roster {
    me: NodeName,
    run: Arc<str>,
    timing: Timing,
    peers: BTreeMap<NodeName, Peer>,
    mine: Option<Mine>,
}

/// What is known about another speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    record: Record,
    /// When the record last changed, or was first seen.
    last_signal: Duration,
    /// Whether the record has ever changed while this node looked.
    proven: bool,
    /// The judgement; lags behind the silence while nobody is judged.
    dead: bool,
    /// The record is deleted.
    deleted: bool,
}

impl Peer {
    /// When it last gave a sign of life, on this node's clock.
    #[must_use]
    pub const fn last_signal(&self) -> Duration {
        self.last_signal
    }

    /// The subnets it can announce in.
    #[must_use]
    pub const fn segments(&self) -> &Segments {
        &self.record.segments
    }
}

/// This node as the others see it.
#[derive(Debug)]
struct Mine {
    mark: Arc<str>,
    segments: Segments,
    /// When this node's own sign of life last came back to it.
    seen: Duration,
    /// Since when its signs have come back without a gap.
    since: Duration,
    /// When it may hold something for the first time.
    settled: Duration,
}

impl Roster {
    /// A roster on which nobody is yet. `run` tells this run of the speaker from an earlier one on the same node.
    #[must_use]
    pub const fn new(me: NodeName, run: Arc<str>, timing: Timing) -> Self {
        Self { me, run, timing, peers: BTreeMap::new(), mine: None }
    }

    /// Takes note of a record as it is now. Seeing the same record again changes nothing.
    pub fn observe(&mut self, record: Record, now: Duration) {
        if record.node == self.me {
            self.observe_mine(record, now);
        } else {
            self.observe_peer(record, now);
        }
    }

    fn observe_mine(&mut self, record: Record, now: Duration) {
        // What an earlier run left behind says nothing about this one.
        if record.run != self.run {
            return;
        }
        let timing = self.timing;
        let fresh = |mine: &Mine| now.saturating_sub(mine.seen) <= timing.gap;
        match &mut self.mine {
            Some(mine) if mine.mark == record.mark => {}
            Some(mine) => {
                if !fresh(mine) {
                    mine.since = now;
                }
                mine.mark = record.mark;
                mine.segments = record.segments;
                mine.seen = now;
            }
            None => {
                let settled = now + timing.settle;
                let Record { mark, segments, .. } = record;
                self.mine = Some(Mine { mark, segments, seen: now, since: now, settled });
            }
        }
    }

    fn observe_peer(&mut self, record: Record, now: Duration) {
        let known = self.peers.get_mut(&record.node);
        if let Some(peer) = known
            && peer.record.mark == record.mark
        {
            peer.deleted = false;
            return;
        }
        let proven = self.peers.contains_key(&record.node);
        let node = record.node.clone();
        self.peers.insert(node, Peer { record, last_signal: now, proven, dead: false, deleted: false });
    }

    /// Takes note that a record is deleted. That alone is no death: a living speaker writes it anew.
    pub fn deleted(&mut self, node: &NodeName) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.deleted = true;
        }
    }

    /// Takes note of a complete list: records that are not in it are deleted.
    pub fn replace(&mut self, records: Vec<Record>, now: Duration) {
        let listed: BTreeSet<NodeName> = records.iter().map(|record| record.node.clone()).collect();
        for (node, peer) in &mut self.peers {
            peer.deleted |= !listed.contains(node);
        }
        for record in records {
            self.observe(record, now);
        }
    }

    /// Judges who is dead by now.
    pub fn judge(&mut self, now: Duration) {
        let dead_after = self.timing.dead_after;
        if let Some(since) = self.mine.as_ref().map(|mine| mine.since)
            && self.in_touch(now)
        {
            for peer in self.peers.values_mut() {
                peer.dead |= now.saturating_sub(peer.last_signal.max(since)) >= dead_after;
            }
        }
        self.peers.retain(|_, peer| !(peer.dead && peer.deleted));
    }

    /// When to judge again, unless something is observed before.
    #[must_use]
    pub fn next_judgement(&self, now: Duration) -> Option<Duration> {
        let mine = self.mine.as_ref()?;
        let silent = |peer: &Peer| peer.last_signal.max(mine.since) + self.timing.dead_after;
        let deaths = self.peers.values().filter(|peer| !peer.dead).map(silent);
        deaths.chain([mine.settled]).filter(|at| *at > now).min()
    }

    /// Whether signs of life get through, so that silence means something.
    #[must_use]
    pub fn in_touch(&self, now: Duration) -> bool {
        self.mine.as_ref().is_some_and(|mine| now.saturating_sub(mine.seen) <= self.timing.fresh)
    }

    /// When this node's own sign of life last came back to it.
    #[must_use]
    pub fn last_seen(&self) -> Option<Duration> {
        self.mine.as_ref().map(|mine| mine.seen)
    }

    /// Whether this node may hold anything: it has been visible for long enough, and no living speaker believes it
    /// dead.
    #[must_use]
    pub fn standing(&self, now: Duration) -> bool {
        let settled = self.mine.as_ref().is_some_and(|mine| now >= mine.settled);
        settled
            && !self.peers.iter().any(|(node, peer)| self.alive(node) && peer.record.dead.contains(&self.me))
    }

    /// Whether another speaker counts as living. One that has given no sign of its own since this node looks is
    /// believed dead when others say so: they have looked for longer.
    #[must_use]
    pub fn alive(&self, node: &NodeName) -> bool {
        self.peers.get(node).is_some_and(|peer| !peer.dead && (peer.proven || !self.accused(node, peer)))
    }

    fn accused(&self, node: &NodeName, accused: &Peer) -> bool {
        self.peers.iter().any(|(other, peer)| {
            // Two that believe each other dead cancel out: one of the records is old, and which is not known yet.
            peer.record.dead.contains(node) && !peer.dead && !accused.record.dead.contains(other)
        })
    }

    /// The other speakers.
    pub fn peers(&self) -> impl Iterator<Item = (&NodeName, &Peer)> {
        self.peers.iter()
    }

    /// The speakers this node believes dead: to be published with its next sign of life.
    #[must_use]
    pub fn dead(&self) -> BTreeSet<NodeName> {
        self.peers.keys().filter(|node| !self.alive(node)).cloned().collect()
    }

    /// The part of this node's own segments that the others know of. It may hold addresses in no other: they would
    /// not let go of them.
    #[must_use]
    pub fn visible(&self, own: &Segments) -> Segments {
        let seen = self.mine.as_ref().map(|mine| &mine.segments);
        own.iter().filter(|segment| seen.is_some_and(|seen| seen.reaches(segment.net))).cloned().collect()
    }

    /// This node's own name.
    #[must_use]
    pub const fn me(&self) -> &NodeName {
        &self.me
    }
}

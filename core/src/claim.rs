//! Which addresses this node holds, and how it comes to hold and lose them. At most one living node holds an
//! address: whoever loses it lets go at once, whoever gains it from a living node waits for that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::elect::{Choice, Holding, Owned, Wanted, choose};
use crate::name::{Iface, NodeName};
use crate::roster::{Record, Roster, Timing};
use crate::segment::Segments;

/// Why an address was gained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gained {
    /// Nobody else had it.
    Unclaimed,
    /// The node that had it is dead.
    Died(NodeName),
    /// The node that had it says that it is no longer connected to the subnet.
    Withdrew(NodeName),
    /// Another living node had it and has had the time to let go.
    HandedOver(NodeName),
}

/// Why an address was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nobody is to announce it any more.
    Unwanted,
    /// Another node is to announce it.
    Taken(NodeName),
    /// This node may not announce it any more, nor may any other.
    Ineligible,
    /// Others believe this node dead and may have taken its addresses.
    BelievedDead,
}

/// A change in what this node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The address is announced from now on.
    Gained(IpAddr, Iface, Gained),
    /// It is announced on another interface from now on.
    Moved(IpAddr, Iface),
    /// It is not announced any more.
    Lost(IpAddr, Lost),
}

impl fmt::Display for Gained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclaimed => f.write_str("nobody else had it"),
            Self::Died(node) => write!(f, "{node} is dead"),
            Self::Withdrew(node) => write!(f, "{node} is no longer connected to its subnet"),
            Self::HandedOver(node) => write!(f, "{node} has let go of it"),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwanted => f.write_str("nobody is to announce it"),
            Self::Taken(node) => write!(f, "{node} is to announce it"),
            Self::Ineligible => f.write_str("no node may announce it"),
            Self::BelievedDead => f.write_str("others believe this node dead"),
        }
    }
}

/// What a speaker publishes about itself with each sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// The subnets it can announce in.
    pub segments: Segments,
    /// The speakers it believes dead.
    pub dead: BTreeSet<NodeName>,
}

/// The whole decision of one node: who lives, and what this node holds.
#[derive(Debug)]
pub struct Claims {
    roster: Roster,
    hand_over: Duration,
    epoch: u64,
    owned: Owned,
    /// The node that each address was last seen with, this node included.
    last: HashMap<IpAddr, NodeName>,
    /// Addresses that are this node's as soon as another has had the time to let go, with that moment.
    waiting: BTreeMap<IpAddr, Duration>,
    basis: Option<Basis>,
}

/// What the last decision rested on. While it is unchanged, so is the decision.
#[derive(Debug)]
struct Basis {
    wanted: Arc<Wanted>,
    living: Vec<(NodeName, Segments)>,
    standing: bool,
}

impl Claims {
    /// A node that holds nothing and knows nobody.
    #[must_use]
    pub fn new(me: NodeName, run: Arc<str>, timing: Timing) -> Self {
        Self {
            roster: Roster::new(me, run, timing),
            hand_over: timing.hand_over,
            epoch: 0,
            owned: Owned::default(),
            last: HashMap::new(),
            waiting: BTreeMap::new(),
            basis: None,
        }
    }

    /// Takes note of a speaker's record; what follows from it comes with the next [`Claims::decide`].
    pub fn observe(&mut self, record: Record, now: Duration) {
        self.roster.observe(record, now);
    }

    /// Takes note of a complete list of records.
    pub fn replace(&mut self, records: Vec<Record>, now: Duration) {
        self.roster.replace(records, now);
    }

    /// Takes note that a speaker's record is deleted.
    pub fn deleted(&mut self, node: &NodeName) {
        self.roster.deleted(node);
    }

    /// What is known about the speakers.
    #[must_use]
    pub const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// What this node holds.
    #[must_use]
    pub const fn owned(&self) -> &Owned {
        &self.owned
    }

    /// What this node has to tell the others, given the segments it has now.
    #[must_use]
    pub fn publication(&self, own: &Segments) -> Publication {
        Publication { segments: own.clone(), dead: self.roster.dead() }
    }

    /// When to decide again, unless something changes before.
    #[must_use]
    pub fn next_decision(&self, now: Duration) -> Option<Duration> {
        self.roster.next_judgement(now).into_iter().chain(self.waiting.values().copied()).min()
    }

    /// Judges who lives, and gains and loses addresses accordingly. `own` are the segments of this node as the
    /// kernel has them now. Deciding again on the same facts changes nothing.
    pub fn decide(&mut self, wanted: &Arc<Wanted>, own: &Segments, now: Duration) -> Vec<Change> {
        self.roster.judge(now);
        let basis = self.basis(wanted, own, now);
        let due = self.waiting.values().any(|at| *at <= now);
        if !due && self.basis.as_ref().is_some_and(|last| last.same(&basis)) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        let unwanted = |addr: &IpAddr| !wanted.vips.contains_key(addr);
        for addr in self.owned.vips.keys().copied().filter(unwanted).collect::<Vec<_>>() {
            self.lose(addr, Lost::Unwanted, &mut changes);
        }
        self.last.retain(|addr, _| wanted.vips.contains_key(addr));
        self.waiting.retain(|addr, _| wanted.vips.contains_key(addr));
        for addr in wanted.vips.keys() {
            let living = basis.living.iter().map(|(node, segments)| (node, segments));
            self.decide_one(*addr, choose(*addr, wanted, living), &basis, now, &mut changes);
        }
        self.basis = Some(basis);
        changes
    }

    fn basis(&self, wanted: &Arc<Wanted>, own: &Segments, now: Duration) -> Basis {
        let peers = self.roster.peers().filter(|(node, _)| self.roster.alive(node));
        let peers = peers.map(|(node, peer)| (node.clone(), peer.segments().clone()));
        let me = (self.roster.me().clone(), self.roster.visible(own));
        Basis {
            wanted: Arc::clone(wanted),
            living: peers.chain([me]).collect(),
            standing: self.roster.standing(now),
        }
    }

    fn decide_one(
        &mut self,
        addr: IpAddr,
        choice: Option<Choice<'_>>,
        basis: &Basis,
        now: Duration,
        changes: &mut Vec<Change>,
    ) {
        match choice {
            Some(choice) if choice.node == self.roster.me() && basis.standing => {
                self.win(addr, choice.iface, basis, now, changes);
            }
            Some(choice) => {
                self.waiting.remove(&addr);
                let mine = choice.node == self.roster.me();
                let why = if mine { Lost::BelievedDead } else { Lost::Taken(choice.node.clone()) };
                self.last.insert(addr, choice.node.clone());
                self.lose(addr, why, changes);
            }
            None => {
                self.waiting.remove(&addr);
                self.last.remove(&addr);
                self.lose(addr, Lost::Ineligible, changes);
            }
        }
    }

    /// The address is this node's: takes it, or waits for another to let go.
    fn win(&mut self, addr: IpAddr, iface: &Iface, basis: &Basis, now: Duration, changes: &mut Vec<Change>) {
        if let Some(holding) = self.owned.vips.get_mut(&addr) {
            if holding.iface != *iface {
                self.epoch += 1;
                *holding = Holding { iface: iface.clone(), epoch: self.epoch };
                changes.push(Change::Moved(addr, iface.clone()));
            }
            return;
        }
        let why = match self.last.get(&addr) {
            None => Gained::Unclaimed,
            Some(node) if node == self.roster.me() => Gained::Unclaimed,
            Some(node) => match basis.living.iter().find(|(living, _)| living == node) {
                None => Gained::Died(node.clone()),
                Some((_, segments)) if segments.holding(addr, |_| true).is_none() => {
                    Gained::Withdrew(node.clone())
                }
                Some(_) => {
                    let due = *self.waiting.entry(addr).or_insert(now + self.hand_over);
                    if now < due {
                        return;
                    }
                    Gained::HandedOver(node.clone())
                }
            },
        };
        self.waiting.remove(&addr);
        self.last.insert(addr, self.roster.me().clone());
        self.epoch += 1;
        self.owned.vips.insert(addr, Holding { iface: iface.clone(), epoch: self.epoch });
        changes.push(Change::Gained(addr, iface.clone(), why));
    }

    fn lose(&mut self, addr: IpAddr, why: Lost, changes: &mut Vec<Change>) {
        if self.owned.vips.remove(&addr).is_some() {
            changes.push(Change::Lost(addr, why));
        }
    }
}

impl Basis {
    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.wanted, &other.wanted)
            && self.standing == other.standing
            && self.living == other.living
    }
}

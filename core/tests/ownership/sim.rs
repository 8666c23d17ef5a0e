//! Nodes, an API server and the ways between them, in steps of simulated time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::claim::{Change, Claims, Publication};
use landfall_core::elect::{AdRule, NodeSet, VipPlan, Wanted, choose};
use landfall_core::name::NodeName;
use landfall_core::roster::{Record, Timing};
use landfall_core::segment::Segments;

const STEP: Duration = Duration::from_millis(10);
/// A speaker that cannot reach the API server tries again after this.
const RETRY: Duration = Duration::from_millis(250);
/// How long after a heal two holders are put down to the cut: a retry, a list, and the way of the answers.
const HEALING: Duration = Duration::from_millis(600);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The speaker ends without a word.
    Stop(usize),
    /// It starts anew.
    Start(usize),
    /// Frames vanish; the node does not know.
    Cut(usize),
    /// They pass again.
    Heal(usize),
    /// The node's interface loses carrier, and the node knows; the API server is still reached.
    CarrierDown(usize),
    CarrierUp(usize),
    DeleteRecord(usize),
    ServerDown,
    ServerUp,
}

#[derive(Clone)]
enum Event {
    List(Vec<Record>),
    Changed(Record),
    Deleted(NodeName),
}

struct Node {
    name: NodeName,
    claims: Claims,
    running: bool,
    cut: bool,
    carrier: bool,
    /// When the cut ended, while what follows from it may still be seen.
    healed: Option<Duration>,
    latency: Duration,
    run: u64,
    renew_at: Duration,
    published: Option<Publication>,
    /// Events on their way from the server; `None` while nothing is watched.
    watch: Option<VecDeque<(Duration, Event)>>,
    gains: usize,
}

pub(crate) struct Sim {
    now: Duration,
    up: bool,
    wanted: Arc<Wanted>,
    nodes: Vec<Node>,
    records: BTreeMap<NodeName, Record>,
    version: u64,
    overlap: Duration,
    longest_overlap: Duration,
    last_overlap: Option<Duration>,
}

fn name(i: usize) -> NodeName {
    NodeName::new(format!("n{}", i + 1))
}

impl Sim {
    /// A cluster of so many nodes that all start now. Latencies are in milliseconds, one for each node.
    pub(crate) fn new(nodes: usize, vips: &[IpAddr], latencies: &[u64]) -> Self {
        let rules: Arc<[AdRule]> = Arc::from(vec![AdRule::everywhere()]);
        let plan = VipPlan { pool: None, rules, endpoints: NodeSet::Any };
        let vips = vips.iter().map(|vip| (*vip, plan.clone())).collect();
        let node = |i: usize| Node {
            name: name(i),
            claims: Claims::new(name(i), Arc::from("0"), Timing::default()),
            running: true,
            cut: false,
            carrier: true,
            healed: None,
            latency: Duration::from_millis(latencies[i]),
            run: 0,
            renew_at: Duration::from_millis(137) * u32::try_from(i).unwrap(),
            published: None,
            watch: None,
            gains: 0,
        };
        Self {
            now: Duration::ZERO,
            up: true,
            wanted: Arc::new(Wanted { vips, barred: BTreeSet::new() }),
            nodes: (0..nodes).map(node).collect(),
            records: BTreeMap::new(),
            version: 0,
            overlap: Duration::ZERO,
            longest_overlap: Duration::ZERO,
            last_overlap: None,
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            for i in 0..self.nodes.len() {
                self.step(i);
            }
            self.look_for_overlap();
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Stop(i) if self.nodes[i].running => {
                let node = &mut self.nodes[i];
                node.running = false;
                node.watch = None;
            }
            Fault::Start(i) if !self.nodes[i].running => {
                let node = &mut self.nodes[i];
                node.run += 1;
                node.running = true;
                node.claims = Claims::new(name(i), node.run.to_string().into(), Timing::default());
                (node.renew_at, node.published) = (now, None);
            }
            Fault::Cut(i) => {
                self.nodes[i].cut = true;
                self.nodes[i].watch = None;
            }
            Fault::Heal(i) if self.nodes[i].cut => {
                self.nodes[i].cut = false;
                self.nodes[i].healed = Some(now);
            }
            Fault::CarrierDown(i) => self.nodes[i].carrier = false,
            Fault::CarrierUp(i) => self.nodes[i].carrier = true,
            Fault::DeleteRecord(i) => {
                if self.records.remove(&name(i)).is_some() {
                    self.broadcast(&Event::Deleted(name(i)));
                }
            }
            Fault::ServerDown => {
                self.up = false;
                self.nodes.iter_mut().for_each(|node| node.watch = None);
            }
            Fault::ServerUp => self.up = true,
            Fault::Stop(_) | Fault::Start(_) | Fault::Heal(_) => {}
        }
    }

    pub(crate) fn heal_everything(&mut self) {
        self.fault(Fault::ServerUp);
        for i in 0..self.nodes.len() {
            for fault in [Fault::Heal(i), Fault::CarrierUp(i), Fault::Start(i)] {
                self.fault(fault);
            }
        }
    }

    /// Keeps a node from announcing, as a label on its Node object does; everybody sees it within 50 ms.
    pub(crate) fn bar(&mut self, i: usize, barred: bool) {
        let mut wanted = Wanted::clone(&self.wanted);
        if barred {
            wanted.barred.insert(name(i))
        } else {
            wanted.barred.remove(&name(i))
        };
        self.wanted = Arc::new(wanted);
    }

    fn step(&mut self, i: usize) {
        let (now, up, wanted) = (self.now, self.up, Arc::clone(&self.wanted));
        let node = &mut self.nodes[i];
        if !node.running {
            return;
        }
        while let Some(queue) = &mut node.watch
            && queue.front().is_some_and(|(at, _)| *at <= now)
        {
            match queue.pop_front().unwrap().1 {
                Event::List(records) => node.claims.replace(records, now),
                Event::Changed(record) => node.claims.observe(record, now),
                Event::Deleted(name) => node.claims.deleted(&name),
            }
        }
        let own = node.segments();
        let changes = node.claims.decide(&wanted, &own, now);
        node.gains += changes.iter().filter(|change| matches!(change, Change::Gained(..))).count();
        let publication = node.claims.publication(&own);
        if now >= node.renew_at
            || node.published.as_ref() != Some(&publication) && now + RETRY >= node.renew_at
        {
            let reachable = up && !node.cut;
            node.renew_at = now + if reachable { secs(1) } else { RETRY };
            if reachable {
                self.renew(i, publication);
            }
        }
    }

    fn renew(&mut self, i: usize, publication: Publication) {
        self.version += 1;
        let node = &mut self.nodes[i];
        let record = Record {
            node: node.name.clone(),
            mark: self.version.to_string().into(),
            run: node.run.to_string().into(),
            segments: publication.segments.clone(),
            dead: publication.dead.clone(),
        };
        node.published = Some(publication);
        self.records.insert(record.node.clone(), record.clone());
        self.broadcast(&Event::Changed(record));
        let records = self.records.values().cloned().collect();
        let node = &mut self.nodes[i];
        if node.watch.is_none() {
            node.watch = Some(VecDeque::from([(self.now + node.latency, Event::List(records))]));
        }
    }

    fn broadcast(&mut self, event: &Event) {
        for node in &mut self.nodes {
            if let Some(queue) = &mut node.watch {
                queue.push_back((self.now + node.latency, event.clone()));
            }
        }
    }

    /// Adds up how long two nodes have held an address for another reason than a cut.
    fn look_for_overlap(&mut self) {
        let now = self.now;
        if !self.up {
            // Nobody can learn what happened during a cut before the server is back.
            let healing = self.nodes.iter_mut().filter_map(|node| node.healed.as_mut());
            healing.filter(|at| now < **at + HEALING).for_each(|at| *at = now);
        }
        let two = |vip: &IpAddr| self.holders(*vip).len() > 1;
        if !self.wanted.vips.keys().any(two) {
            self.overlap = Duration::ZERO;
            return;
        }
        self.last_overlap = Some(now);
        let cut = |node: &Node| node.cut || node.healed.is_some_and(|at| now < at + HEALING);
        if !self.nodes.iter().any(cut) {
            self.overlap += STEP;
            self.longest_overlap = self.longest_overlap.max(self.overlap);
        }
    }

    pub(crate) fn longest_overlap(&self) -> Duration {
        self.longest_overlap
    }

    pub(crate) fn last_overlap(&self) -> Option<Duration> {
        self.last_overlap
    }

    pub(crate) fn gains(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.gains).collect()
    }

    /// The nodes that answer for the address, cut off or not.
    pub(crate) fn holders(&self, vip: IpAddr) -> Vec<usize> {
        let holds = |i: &usize| {
            let node = &self.nodes[*i];
            node.running && node.claims.owned().vips.contains_key(&vip)
        };
        (0..self.nodes.len()).filter(holds).collect()
    }

    pub(crate) fn ownership(&self) -> BTreeMap<IpAddr, Vec<usize>> {
        self.wanted.vips.keys().map(|vip| (*vip, self.holders(*vip))).collect()
    }

    /// Every address is with the one node that the choice among the running ones gives.
    pub(crate) fn assert_settled(&self) {
        for vip in self.wanted.vips.keys() {
            let segments: Vec<_> = self.nodes.iter().map(Node::segments).collect();
            let running = self.nodes.iter().zip(&segments).filter(|(node, _)| node.running);
            let choice = choose(*vip, &self.wanted, running.map(|(node, segments)| (&node.name, segments)));
            let expected: Vec<_> = choice.into_iter().map(|choice| choice.node.clone()).collect();
            let holders: Vec<_> = self.holders(*vip).into_iter().map(name).collect();
            assert_eq!(holders, expected, "{vip} at {:?}", self.now);
        }
    }
}

impl Node {
    fn segments(&self) -> Segments {
        let text = if self.carrier { "eth0=192.0.2.0/24 eth0=2001:db8:50::/64" } else { "" };
        text.parse().unwrap()
    }
}

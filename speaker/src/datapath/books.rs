//! What is in the kernel, kept beside it so that it never has to be read back, and the operations that lead from
//! there to what is wanted.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use landfall_core::addr::{AddrRange, Family};
use landfall_core::diff::{Change, Dispatch, Entry, Slot, Space, diff};
use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, Frontend, FrontendKey, Route};
use landfall_core::name::ServiceKey;

use super::Claim;
use super::counts::Counts;
use super::keys;
use super::layout::{Bank, Chain, Map, PLAN, RECORDS, Timer, source_nat};
use super::rules::Builder;
use crate::nft::model::{Bytes, Element, Op, Value, Verdict};

/// A hash of the kernel is made anew when it is filled beyond this part of its size (in percent): nothing waits
/// for the moment when an element no longer fits.
const FULL_PERCENT: usize = 75;
/// The least size of a hash; small enough to cost nothing, large enough that a small cluster never outgrows it.
const LEAST_SIZE: u32 = 1024;

/// A front end as it is in the kernel.
#[derive(Clone, Debug)]
struct Installed {
    /// The Service that has it.
    service: ServiceKey,
    front: Arc<Frontend>,
    bank: Bank,
}

/// Everything that is in the kernel.
#[derive(Debug, Default)]
pub(super) struct Books {
    installed: HashMap<FrontendKey, Installed>,
    chains: Counts<Chain>,
    timers: Counts<Timer>,
    vips: Counts<IpAddr>,
    pings: Counts<IpAddr>,
    doors: Counts<IpAddr>,
    shut: Counts<FrontendKey>,
    hairpins: Counts<IpAddr>,
    pods: Vec<IpNet>,
    /// How many elements each map has, and how many the kernel lets it have.
    filled: HashMap<(Map, Family), usize>,
    sizes: HashMap<(Map, Family), u32>,
}

type Elements = BTreeMap<(Map, Family), Vec<Element>>;

/// Changes of the kernel, sorted by when they may happen.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What nothing leads to any more.
    sweep: Elements,
    /// Sources that must be there before a dispatch leads to them.
    early: Elements,
    remove: Elements,
    insert: Elements,
    chains_new: Vec<Chain>,
    chains_old: Vec<Chain>,
    timers_new: Vec<Timer>,
    timers_old: Vec<Timer>,
    /// Sources and endpoints that packets may be led to that have met the old dispatch.
    late: Elements,
}

/// Elements that go once no packet can be led to them any more.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Elements);

impl Leftovers {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These as well.
    pub(super) fn append(&mut self, more: Self) {
        for ((map, family), elements) in more.0 {
            add(&mut self.0, map, family, elements);
        }
    }
}

impl Books {
    /// The front end in the kernel.
    pub(super) fn get(&self, key: &FrontendKey) -> Option<&Arc<Frontend>> {
        self.installed.get(key).map(|installed| &installed.front)
    }

    /// How many front ends are in the kernel.
    pub(super) fn len(&self) -> usize {
        self.installed.len()
    }

    /// Whether a front end in the kernel has affinity.
    pub(super) fn has_affinity(&self) -> bool {
        !self.timers.is_empty()
    }

    /// Plans the change of a front end to `new`, or its removal.
    pub(super) fn set(&mut self, key: FrontendKey, new: Option<&Claim>, plan: &mut Plan) {
        let owner = new.map(|claim| &claim.service);
        let new = new.map(|claim| &claim.front);
        let family = key.family();
        let old = self.installed.remove(&key);
        let old_ranges = ranges(old.as_ref().map(|installed| &*installed.front));
        let new_ranges = ranges(new.map(|front| &**front));
        let old_bank = old.as_ref().map_or(Bank::A, |installed| installed.bank);
        let moved = old_ranges != new_ranges;
        let bank = if moved { old_bank.other() } else { old_bank };
        if moved {
            let elements = |ranges: &[AddrRange]| -> Vec<Element> {
                ranges.iter().map(|range| keys::source(key, *range)).collect()
            };
            add(&mut plan.early, Map::Source(bank), family, elements(new_ranges));
            add(&mut plan.late, Map::Source(old_bank), family, elements(old_ranges));
        }

        let old_front = old.as_ref().map(|installed| &*installed.front);
        let changes = diff(old_front, new.map(|front| &**front));
        let stays = |space| new.map_or(0, |front| targets(front, space).len());
        let stays = |space, index: u32| usize::try_from(index).is_ok_and(|index| index < stays(space));
        for change in &changes {
            match *change {
                Change::Remove(Slot::Endpoint(space, index), Entry::Target(target))
                    // No other endpoint comes in its place.
                    if !stays(space, index) =>
                {
                    let element =
                        Element::of(keys::endpoint(key, space, index), Value::Data(keys::target(target)));
                    add(&mut plan.late, Map::Endpoint, family, vec![element]);
                }
                change => self.entry(key, change, (old_bank, bank), owner, plan),
            }
        }
        // The name of the Service stands beside its dispatch.
        let renamed = old.as_ref().is_some_and(|old| owner.is_some_and(|owner| *owner != old.service));
        if (moved || renamed)
            && let (Some(old_front), Some(_)) = (old_front, new)
        {
            // A guarded dispatch that stays what it is still has to lead to the other set of sources.
            for (slot, entry) in landfall_core::diff::entries(old_front) {
                let touched = changes.contains(&Change::Remove(slot, entry));
                let guarded = matches!(entry, Entry::Dispatch(Dispatch { guarded: true, .. }));
                let named = matches!((slot, entry), (Slot::External, Entry::Dispatch(_)));
                if !touched && (moved && guarded || renamed && named) {
                    self.entry(key, Change::Remove(slot, entry), (old_bank, bank), owner, plan);
                    self.entry(key, Change::Insert(slot, entry), (old_bank, bank), owner, plan);
                }
            }
        }
        self.users(key, old_front, false);
        self.users(key, new.map(|front| &**front), true);
        if let Some((front, owner)) = new.zip(owner) {
            let installed = Installed { service: owner.clone(), front: Arc::clone(front), bank };
            self.installed.insert(key, installed);
        }
    }

    /// One entry of a front end; the banks are the one it had and the one it gets.
    fn entry(
        &mut self,
        key: FrontendKey,
        change: Change,
        banks: (Bank, Bank),
        owner: Option<&ServiceKey>,
        plan: &mut Plan,
    ) {
        let (slot, entry, bank, target) = match change {
            Change::Remove(slot, entry) => (slot, entry, banks.0, &mut plan.remove),
            Change::Insert(slot, entry) => (slot, entry, banks.1, &mut plan.insert),
        };
        let inserted = matches!(change, Change::Insert(..));
        let map = match (slot, entry) {
            (Slot::External, _) => Map::Service,
            (Slot::Internal, _) => Map::Internal,
            (_, Entry::SourceNat(decision)) => source_nat(decision),
            (Slot::Endpoint(..), _) => Map::Endpoint,
            (Slot::Record, _) => Map::Record,
            (Slot::Source(_) | Slot::SourceNat, _) => return,
        };
        let (at, value) = match (slot, entry) {
            (Slot::Endpoint(space, index), Entry::Target(target)) => {
                (keys::endpoint(key, space, index), Value::Data(keys::target(target)))
            }
            (_, Entry::Dispatch(dispatch)) => {
                let chain = Chain::of(dispatch, bank);
                self.use_chain(chain, inserted);
                (keys::front(key), Value::Data(class(chain)))
            }
            (_, Entry::Record(timeout_s)) => {
                let timer = Timer { family: key.family(), timeout_s };
                if inserted {
                    self.timers.hold(timer);
                } else {
                    self.timers.release(timer);
                }
                (keys::front(key), Value::Verdict(Verdict::Jump(timer.name())))
            }
            (_, Entry::SourceNat(_)) => (keys::front(key), Value::None),
            _ => return,
        };
        let mut element = Element::of(at, value);
        if let (Map::Service, true, Some(owner)) = (map, inserted, owner) {
            element = element.commented(owner.to_string().into());
        }
        target.entry((map, key.family())).or_default().push(element);
    }

    fn use_chain(&mut self, chain: Chain, inserted: bool) {
        for chain in [Some(chain), chain.behind()].into_iter().flatten().filter(|chain| !chain.fixed()) {
            if inserted { self.chains.hold(chain) } else { self.chains.release(chain) }
        }
    }

    /// What front ends have in common: addresses, and endpoints that may reach themselves.
    fn users(&mut self, key: FrontendKey, front: Option<&Frontend>, inserted: bool) {
        let Some(front) = front else { return };
        let count = |counts: &mut Counts<IpAddr>, addr| {
            if inserted { counts.hold(addr) } else { counts.release(addr) }
        };
        match (front.owned, front.has_endpoints()) {
            (true, true) => {
                count(&mut self.vips, key.addr);
                count(&mut self.pings, key.addr);
            }
            (true, false) => count(&mut self.vips, key.addr),
            (false, true) => count(&mut self.doors, key.addr),
            (false, false) => {
                count(&mut self.doors, key.addr);
                if inserted { self.shut.hold(key) } else { self.shut.release(key) }
            }
        }
        if let Route::Local { local, .. } = &front.route {
            local.iter().for_each(|target| count(&mut self.hairpins, target.addr));
        }
    }

    /// Plans the change of the prefixes of this node's pods.
    pub(super) fn set_pods(&mut self, pods: &[IpNet], plan: &mut Plan) {
        if self.pods != pods {
            for family in [Family::V4, Family::V6] {
                let (old, new) = (keys::ranges(&self.pods, family), keys::ranges(pods, family));
                if old != new {
                    add(&mut plan.remove, Map::Pods, family, old);
                    add(&mut plan.insert, Map::Pods, family, new);
                }
            }
            self.pods = pods.to_vec();
        }
    }

    /// Adds to the plan what came and went because of its other changes, and counts the elements.
    pub(super) fn settle(&mut self, plan: &mut Plan) {
        let (came, went) = self.chains.settle();
        plan.chains_new = came;
        plan.chains_old = went;
        (plan.timers_new, plan.timers_old) = self.timers.settle();
        let (came, went) = self.shut.settle();
        for (keys, elements) in [(came, &mut plan.insert), (went, &mut plan.remove)] {
            for key in keys {
                let element = Element::of(keys::front(key), Value::None);
                add(elements, Map::Shut, key.family(), vec![element]);
            }
        }
        for (counts, map) in [
            (&mut self.vips, Map::Vip),
            (&mut self.pings, Map::Ping),
            (&mut self.doors, Map::Door),
            (&mut self.hairpins, Map::Hairpin),
        ] {
            let element = |addr: IpAddr| {
                let key = if map == Map::Hairpin { keys::hairpin(addr) } else { keys::address(addr) };
                vec![Element::of(key, Value::None)]
            };
            let (came, went) = counts.settle();
            for addr in came {
                add(&mut plan.insert, map, Family::of(addr), element(addr));
            }
            for addr in went {
                add(&mut plan.remove, map, Family::of(addr), element(addr));
            }
        }
        for (at, elements) in plan.insert.iter().chain(&plan.early) {
            *self.filled.entry(*at).or_default() += elements.len();
        }
        for (at, elements) in plan.remove.iter().chain(&plan.sweep) {
            let filled = self.filled.entry(*at).or_default();
            *filled = filled.saturating_sub(elements.len());
        }
    }

    /// Adds to the plan that elements go which nothing leads to any more; before [`Books::settle`].
    pub(super) fn sweep(leftovers: Leftovers, plan: &mut Plan) {
        for ((map, family), elements) in leftovers.0 {
            add(&mut plan.sweep, map, family, elements);
        }
    }

    /// Whether a map has outgrown its size.
    pub(super) fn outgrown(&self) -> bool {
        self.filled.iter().any(|((map, family), filled)| {
            let size = self.sizes.get(&(*map, *family)).copied().unwrap_or(0);
            map.sized() && filled * 100 > FULL_PERCENT * usize::try_from(size).unwrap_or(usize::MAX)
        })
    }

    /// Fixes the size of every map for what it holds now: half filled, so that it can grow.
    pub(super) fn fix_sizes(&mut self) {
        for map in Map::ALL {
            for family in [Family::V4, Family::V6] {
                let filled = self.filled.get(&(map, family)).copied().unwrap_or(0);
                let size = u32::try_from(filled * 2).ok().and_then(u32::checked_next_power_of_two);
                self.sizes.insert((map, family), size.unwrap_or(u32::MAX).max(LEAST_SIZE));
            }
        }
    }

    /// The size of a map.
    pub(super) fn size(&self, map: Map, family: Family) -> u32 {
        if map == Map::Affinity {
            return RECORDS;
        }
        self.sizes.get(&(map, family)).copied().unwrap_or(LEAST_SIZE)
    }
}

impl Plan {
    /// The whole plan as operations behind a table that has just been made.
    pub(super) fn into_full(mut self, builder: &mut Builder) {
        self.insert.append(&mut self.early);
        dynamic_chains(builder, &self.chains_new);
        self.timers_new.iter().for_each(|timer| builder.timer(*timer));
        insert(builder, self.insert);
    }

    /// The plan as up to three batches, and what is to go later. First goes what nothing leads to, since something
    /// equal may come; then come the chains and sources that the last batch leads to: a packet that began before a batch sees the rules of a chain as they were then, and a chain that
    /// came with that very batch had none (`nft_do_chain` in `net/netfilter/nf_tables_core.c` picks the generation
    /// of the rules once, at its start).
    pub(super) fn into_batches(self, seed: u32) -> (Vec<Vec<Op>>, Leftovers) {
        let mut sweep = Builder::new(seed);
        remove(&mut sweep, self.sweep);
        let mut early = Builder::new(seed);
        dynamic_chains(&mut early, &self.chains_new);
        self.timers_new.iter().for_each(|timer| early.timer(*timer));
        insert(&mut early, self.early);
        let mut main = Builder::new(seed);
        remove(&mut main, self.remove);
        insert(&mut main, self.insert);
        // Guards before the chains they lead to.
        let (guards, others): (Vec<Chain>, Vec<Chain>) =
            self.chains_old.into_iter().partition(|chain| chain.guard.is_some());
        let old: Vec<Chain> = guards.into_iter().chain(others).collect();
        if !old.is_empty() {
            main.push(Op::Remove { set: PLAN.into(), elements: old.iter().copied().map(lead).collect() });
        }
        for chain in old {
            main.push(Op::DeleteChain(chain.name()));
        }
        for timer in self.timers_old {
            main.push(Op::DeleteChain(timer.name()));
        }
        let batches = [sweep, early, main].into_iter().map(Builder::into_ops).filter(|ops| !ops.is_empty());
        (batches.collect(), Leftovers(self.late))
    }
}

/// New chains, those that others lead to first.
fn dynamic_chains(builder: &mut Builder, chains: &[Chain]) {
    let (guards, others): (Vec<Chain>, Vec<Chain>) = chains.iter().partition(|chain| chain.guard.is_some());
    others.into_iter().chain(guards).for_each(|chain| builder.dynamic_chain(chain));
    if !chains.is_empty() {
        let elements = chains.iter().copied().map(lead).collect();
        builder.push(Op::Insert { set: PLAN.into(), id: None, elements });
    }
}

/// The element that leads from a chain's number to the chain.
pub(super) fn lead(chain: Chain) -> Element {
    Element::of(class(chain), Value::Verdict(Verdict::Goto(chain.name())))
}

fn class(chain: Chain) -> Bytes {
    Bytes::EMPTY.with(&chain.class().to_ne_bytes())
}

fn insert(builder: &mut Builder, elements: Elements) {
    for ((map, family), elements) in elements {
        builder.push(Op::Insert { set: map.name(family), id: None, elements });
    }
}

fn remove(builder: &mut Builder, elements: Elements) {
    for ((map, family), elements) in elements {
        builder.push(Op::Remove { set: map.name(family), elements });
    }
}

fn add(elements: &mut Elements, map: Map, family: Family, mut more: Vec<Element>) {
    if !more.is_empty() {
        elements.entry((map, family)).or_default().append(&mut more);
    }
}

/// The endpoints of a front end in one of its lists.
fn targets(front: &Frontend, space: Space) -> &[Target] {
    match (&front.route, space) {
        (Route::Cluster { targets }, Space::Everywhere) => targets,
        (Route::Cluster { .. }, Space::Local) => &[],
        (Route::Local { everywhere, .. }, Space::Everywhere) => everywhere,
        (Route::Local { local, .. }, Space::Local) => local,
    }
}

fn ranges(front: Option<&Frontend>) -> &[AddrRange] {
    match front.map(|front| &front.admission) {
        Some(Admission::Ranges(ranges)) => ranges,
        _ => &[],
    }
}

//! The data path of this node: what is wanted, what is in the kernel, and the batches in between.
//!
//! Calls that say what is wanted only stage it; [`DataPath::commit`] brings the kernel there. The first commit, and
//! any after a failure or after somebody else touched the table, replaces the whole table in one transaction;
//! every other one sends only what changed, computed against books kept here and never read back from the kernel.
//! Nothing is removed when a [`DataPath`] is dropped: traffic goes on, and the next process replaces the table in
//! one step.

mod affinity;
mod books;
mod connections;
mod counts;
mod isolate;
mod keys;
pub mod layout;
mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem;
use std::sync::Arc;

use ipnet::IpNet;
use landfall_core::frontend::{Frontend, FrontendKey};
use landfall_core::name::ServiceKey;

use self::books::{Books, Leftovers, Plan};
use self::layout::Map;
pub(crate) use self::layout::TABLE;
use self::rules::Builder;
use crate::kernel::{ApplyError, Inspection, Kernel, Owner, chain};
use crate::nft::conntrack::Gone;
use crate::nft::model::{Batch, Op};

/// The network of the node as far as the data path needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNet {
    /// The prefixes of this node's pods: traffic from there is internal.
    pub pod_cidrs: Vec<IpNet>,
}

/// A commit that the kernel has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// How many single operations it took, elements counted one by one.
    pub operations: usize,
    /// How many bytes were sent.
    pub bytes: usize,
    /// The generation of the namespace's rule set afterwards.
    pub generation: u32,
    /// Whether the whole table was replaced.
    pub full: bool,
}

/// A front end that is wanted, and by whom.
#[derive(Debug)]
struct Claim {
    service: ServiceKey,
    front: Arc<Frontend>,
}

/// The data path of a node, on a kernel.
#[derive(Debug)]
pub struct DataPath<K> {
    kernel: K,
    seed: u32,
    node: NodeNet,
    /// The front ends each Service claims, whether it has them or not.
    services: HashMap<ServiceKey, Vec<FrontendKey>>,
    wanted: HashMap<FrontendKey, Claim>,
    /// Claims on front ends that another Service has: allocation prevents them, a user's edit of a status may not.
    contested: HashMap<FrontendKey, BTreeMap<ServiceKey, Arc<Frontend>>>,
    /// Front ends that may differ from what is in the kernel.
    dirty: BTreeSet<FrontendKey>,
    /// Services that the kernel does not take, and why; they are left out.
    refused: BTreeMap<ServiceKey, String>,
    /// What is in the kernel; nothing is known before the first commit and after a failure.
    books: Option<Books>,
    seen: Option<Inspection>,
    /// What the last commits left behind, oldest first.
    wakes: VecDeque<Wake>,
    /// The front ends those commits changed, with the last commit that did.
    settling: HashMap<FrontendKey, u64>,
    /// What the next commit takes away.
    leftovers: Leftovers,
    /// Whether records of clients were deleted a while ago, and a list may have lacked some.
    recheck: bool,
    /// How many commits the kernel has taken.
    commits: u64,
}

/// What a commit leaves behind for as long as packets are under way that have met the rules before it.
///
/// A packet looks twice at each map whose entries are exchanged, so that it finds the old entry or the new one; it
/// could miss both only if the entry were exchanged twice while it is under way. So a front end that was changed
/// is not changed again, and what its old entries lead to stays, until the kernel has been waited for.
#[derive(Debug, Default)]
struct Wake {
    /// Which commit.
    commit: u64,
    /// Elements that only such packets are led to.
    leftovers: Leftovers,
    /// Connections to delete; such packets may still make some.
    gone: Gone,
    /// Whether there may be records of clients that lead nowhere; such packets may still make some.
    stranded: bool,
}

impl<K: Kernel> DataPath<K> {
    /// A data path that has not written anything yet. `seed` goes into every choice of an endpoint and has to be
    /// the same on all nodes and at all times.
    pub fn new(kernel: K, seed: u32) -> Self {
        Self {
            kernel,
            seed,
            node: NodeNet::default(),
            services: HashMap::new(),
            wanted: HashMap::new(),
            contested: HashMap::new(),
            dirty: BTreeSet::new(),
            refused: BTreeMap::new(),
            books: None,
            seen: None,
            wakes: VecDeque::new(),
            settling: HashMap::new(),
            leftovers: Leftovers::default(),
            recheck: false,
            commits: 0,
        }
    }

    /// Stages the network of the node.
    pub fn set_node(&mut self, node: NodeNet) {
        self.node = node;
    }

    /// Stages all front ends of a Service; those it had and that are not among them go.
    pub fn set_service(&mut self, service: &ServiceKey, fronts: Vec<(FrontendKey, Frontend)>) {
        let mut keys: Vec<FrontendKey> = fronts.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let old = self.services.insert(service.clone(), keys.clone()).unwrap_or_default();
        for key in old.iter().filter(|key| keys.binary_search(key).is_err()) {
            self.release(*key, service);
        }
        for (key, front) in fronts {
            self.claim(key, service, front);
        }
        // It is another one now.
        self.readmit(service);
    }

    /// Stages the removal of a Service and all its front ends.
    pub fn remove_service(&mut self, service: &ServiceKey) {
        self.refused.remove(service);
        for key in self.services.remove(service).unwrap_or_default() {
            self.release(key, service);
        }
    }

    /// Whether the kernel has this front end, as of the last commit.
    #[must_use]
    pub fn owns(&self, key: &FrontendKey) -> bool {
        self.books.as_ref().is_some_and(|books| books.get(key).is_some())
    }

    /// How many front ends the kernel has, as of the last commit.
    #[must_use]
    pub fn len(&self) -> usize {
        self.books.as_ref().map_or(0, Books::len)
    }

    /// Whether the kernel has no front end, as of the last commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kernel, for tests that look behind the scenes.
    pub const fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Gives the kernel back and leaves everything in it as it is.
    pub fn into_kernel(self) -> K {
        self.kernel
    }

    fn claim(&mut self, key: FrontendKey, service: &ServiceKey, front: Frontend) {
        match self.wanted.get_mut(&key) {
            Some(claim) if claim.service == *service => {
                if *claim.front == front {
                    return;
                }
                claim.front = Arc::new(front);
            }
            Some(claim) => {
                tracing::warn!(front = %key, held_by = %claim.service, claimed_by = %service, "two Services claim a front end");
                self.contested.entry(key).or_default().insert(service.clone(), Arc::new(front));
                return;
            }
            None => {
                self.wanted.insert(key, Claim { service: service.clone(), front: Arc::new(front) });
            }
        }
        self.dirty.insert(key);
    }

    fn release(&mut self, key: FrontendKey, service: &ServiceKey) {
        let others = self.contested.get_mut(&key);
        if self.wanted.get(&key).is_some_and(|claim| claim.service == *service) {
            let heir = others.and_then(BTreeMap::pop_first);
            match heir {
                Some((service, front)) => self.wanted.insert(key, Claim { service, front }),
                None => self.wanted.remove(&key),
            };
            self.dirty.insert(key);
        } else if let Some(others) = others {
            others.remove(service);
        }
        if self.contested.get(&key).is_some_and(BTreeMap::is_empty) {
            self.contested.remove(&key);
        }
    }

    /// Brings the kernel to what is staged, and waits until nothing of the old is left. Nothing staged is lost when it
    /// fails: the next commit, which then replaces everything, has it all.
    pub fn commit(&mut self) -> Result<Committed, ApplyError> {
        let mut committed = self.commit_ready()?;
        while self.is_incomplete() {
            if let Some(commit) = self.unsettled() {
                K::grace();
                self.settled(commit);
            }
            let more = self.commit_ready()?;
            committed = Committed {
                operations: committed.operations + more.operations,
                bytes: committed.bytes + more.bytes,
                generation: more.generation,
                full: committed.full || more.full,
            };
        }
        Ok(committed)
    }

    /// Brings the kernel to what is staged, except for front ends that were changed a moment ago: those wait for
    /// [`DataPath::settled`]. Nothing staged is lost when it fails, as with [`DataPath::commit`].
    pub fn commit_ready(&mut self) -> Result<Committed, ApplyError> {
        let Some(mut books) = self.books.take() else { return self.commit_full() };
        let mut plan = Plan::default();
        Books::sweep(mem::take(&mut self.leftovers), &mut plan);
        let (waiting, ready): (BTreeSet<_>, BTreeSet<_>) =
            mem::take(&mut self.dirty).into_iter().partition(|key| self.settling.contains_key(key));
        self.dirty = waiting;
        let commit = self.commits + 1;
        let mut gone = Gone::new();
        let mut stranded = false;
        let before = self.settling.len();
        for key in ready.iter().copied() {
            let new = self.wanted.get(&key).filter(|claim| !self.refused.contains_key(&claim.service));
            if let Some(old) = books.get(&key) {
                stranded |= affinity::strands(old, new.map(|claim| &*claim.front));
                gone.extend(
                    connections::abandoned(key, old, new.map(|claim| &*claim.front)).map(|stay| (key, stay)),
                );
                self.settling.insert(key, commit);
            }
            books.set(key, new, &mut plan);
        }
        books.set_pods(&self.node.pod_cidrs, &mut plan);
        books.settle(&mut plan);
        let (batches, leftovers) = plan.into_batches(self.seed);
        if self.settling.len() > before {
            self.wakes.push_back(Wake { commit, leftovers, gone, stranded });
        }
        if books.outgrown() {
            tracing::info!("a map of the data path has outgrown its size, replacing the table");
            // Both are made anew, and are too big to be there twice.
            drop((books, batches));
            return self.commit_full();
        }
        match self.apply(batches) {
            Ok(committed) => {
                self.books = Some(books);
                self.commits = commit;
                if stranded {
                    self.purge();
                }
                Ok(committed)
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "an update of the data path failed, replacing the table");
                if error.is_verdict() {
                    let claims = ready.iter().filter_map(|key| self.wanted.get(key));
                    let suspects: BTreeSet<_> = claims.map(|claim| claim.service.clone()).collect();
                    self.isolate(suspects.into_iter().collect())?;
                }
                self.commit_full()
            }
        }
    }

    /// Whether everything staged is in the kernel.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Whether something is staged that waits, or something that is not wanted any more is in the kernel.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        !self.dirty.is_empty() || !self.leftovers.is_empty() || self.wakes.iter().any(Wake::holds)
    }

    /// The last commit that packets may be under way around; [`DataPath::settled`] wants it back once the kernel
    /// has been waited for ([`Kernel::grace`]). `None`: there is nothing to wait for.
    #[must_use]
    pub fn unsettled(&self) -> Option<u64> {
        self.wakes.back().map(|wake| wake.commit)
    }

    /// No packet is under way any more that has met the rules before that commit. What waited for it goes with the
    /// next commit.
    pub fn settled(&mut self, commit: u64) {
        let mut stranded = false;
        while let Some(wake) = self.wakes.pop_front_if(|wake| wake.commit <= commit) {
            self.leftovers.append(wake.leftovers);
            self.forget(&wake.gone);
            stranded |= wake.stranded;
        }
        if stranded {
            self.purge();
            self.recheck = true;
        }
        self.settling.retain(|_, of| *of > commit);
    }

    /// The Services whose latest state is not in the kernel yet because a front end of theirs waits.
    #[must_use]
    pub fn waiting(&self) -> BTreeSet<ServiceKey> {
        self.dirty.iter().filter_map(|key| self.wanted.get(key)).map(|claim| claim.service.clone()).collect()
    }

    fn apply(&mut self, batches: Vec<Vec<Op>>) -> Result<Committed, ApplyError> {
        let mut committed = Committed { operations: 0, bytes: 0, generation: 0, full: false };
        let idle = batches.is_empty();
        for ops in batches {
            let batch = Batch { table: Arc::from(TABLE), ops };
            committed.operations += batch.operations();
            committed.bytes += self.kernel.apply(&batch)?.bytes;
        }
        committed.generation = match &self.seen {
            Some(seen) if idle => seen.generation,
            _ => self.look()?.generation,
        };
        Ok(committed)
    }

    /// Replaces the table, or makes it; without the Services that the kernel does not take.
    fn commit_full(&mut self) -> Result<Committed, ApplyError> {
        match self.replace() {
            Err(error) if error.is_verdict() => {
                let known = self.services.keys().filter(|service| !self.refused.contains_key(service));
                let suspects = known.cloned().collect();
                if self.isolate(suspects)? { self.replace() } else { Err(error) }
            }
            outcome => outcome,
        }
    }

    /// Replaces the table, or makes it, in one transaction.
    fn replace(&mut self) -> Result<Committed, ApplyError> {
        let mut books = Books::default();
        let mut plan = Plan::default();
        let taken = self.wanted.iter().filter(|(_, claim)| !self.refused.contains_key(&claim.service));
        for (key, claim) in taken {
            books.set(*key, Some(claim), &mut plan);
        }
        books.set_pods(&self.node.pod_cidrs, &mut plan);
        books.settle(&mut plan);
        books.fix_sizes();

        let flags = self.kernel.table_flags();
        let mut builder = Builder::new(self.seed);
        // An orphan has to be taken over before it can be deleted; a table without an owner must not get one.
        match self.kernel.inspect(TABLE)?.table.map(|table| table.owner) {
            None => {}
            Some(Owner::Anybody) => builder.push(Op::DeleteTable),
            Some(Owner::Us | Owner::Other | Owner::Orphan) => {
                builder.push(Op::AddTable(flags));
                builder.push(Op::DeleteTable);
            }
        }
        builder.push(Op::AddTable(flags));
        builder.maps(|map, family| books.size(map, family));
        builder.fixed_chains();
        plan.into_full(&mut builder);
        for (family, elements) in self.records(&books) {
            builder.push(Op::Insert { set: Map::Affinity.name(family), id: None, elements });
        }
        builder.base_chains();
        let mut committed = self.apply(vec![builder.into_ops()])?;
        committed.full = true;
        self.dirty.clear();
        let stranded = books.has_affinity();
        self.books = Some(books);
        self.commits += 1;
        // The old table took everything with it that its packets could still be led to.
        self.settling.clear();
        self.leftovers = Leftovers::default();
        for wake in mem::take(&mut self.wakes) {
            self.forget(&wake.gone);
        }
        if stranded {
            // A packet that has met the old table may be recorded in the new one.
            self.wakes.push_back(Wake { commit: self.commits, stranded, ..Wake::default() });
        }
        // What changed while nobody was here is seen by the connections alone.
        if self.commits == 1 {
            let found = |(key, claim): (&FrontendKey, &Claim)| {
                connections::outdated(*key, &claim.front).map(|stay| (*key, stay))
            };
            let gone = self.wanted.iter().filter_map(found).collect();
            self.forget(&gone);
        }
        Ok(committed)
    }

    /// Remembers how the table looks from outside, to notice when it changes.
    fn look(&mut self) -> Result<Inspection, ApplyError> {
        let seen = self.kernel.inspect(TABLE)?;
        self.seen = Some(seen);
        Ok(seen)
    }

    /// Whether the table still is as the last commit left it. If not, the next commit replaces it.
    pub fn verify(&mut self) -> Result<bool, ApplyError> {
        let Some(known) = self.seen else { return Ok(false) };
        let found = self.kernel.inspect(TABLE)?;
        let intact = found.table.is_some() && found.table == known.table && !found.foreign;
        if intact {
            self.seen = Some(found);
            if mem::take(&mut self.recheck) {
                self.purge();
            }
        } else {
            self.books = None;
            self.seen = None;
        }
        Ok(intact)
    }

    /// Deletes connections that must not stay. That it fails does not undo the commit.
    fn forget(&mut self, gone: &Gone) {
        if !gone.is_empty()
            && let Err(error) = self.kernel.forget(gone)
        {
            tracing::warn!(%error, fronts = gone.len(), "cannot delete connections that must not stay");
        }
    }
}

impl Wake {
    fn holds(&self) -> bool {
        !self.leftovers.is_empty() || !self.gone.is_empty() || self.stranded
    }
}

#[cfg(test)]
#[path = "datapath/tests.rs"]
mod tests;

//! A kernel in memory that keeps the real one's rules: what it refuses, the real one refuses, with the same error.
//! For tests; one suite (`kernel_contract`) holds both to the same expectations.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use nix::errno::Errno;

use crate::kernel::{Applied, ApplyError, Inspection, Kernel, Owner, TableState};
use landfall_core::frontend::FrontendKey;

use crate::nft::conntrack::{Gone, Stay};
use crate::nft::encode;
use crate::nft::model::{Base, Batch, Bytes, Data, Element, Expr, Field, Name, Op, Set, TableFlags, Value};

/// A set and what is in it.
#[derive(Clone, Debug)]
pub struct FakeSet {
    /// Its declaration.
    pub declared: Set,
    /// Its elements by key. The ends of ranges are keys too, told apart by the flag.
    pub elements: BTreeMap<(Bytes, bool), Element>,
}

/// A chain and its rules.
#[derive(Clone, Debug)]
pub struct FakeChain {
    /// Where the kernel calls it, if it does.
    pub base: Option<Base>,
    /// Its rules.
    pub rules: Vec<Vec<Expr>>,
}

/// A table.
#[derive(Clone, Debug)]
pub struct FakeTable {
    /// Its handle.
    pub handle: u64,
    /// Its flags.
    pub flags: TableFlags,
    /// Its sets and maps by name.
    pub sets: BTreeMap<Name, FakeSet>,
    /// Its chains by name.
    pub chains: BTreeMap<Name, FakeChain>,
}

/// A kernel in memory.
#[derive(Debug)]
pub struct FakeKernel {
    tables: BTreeMap<Name, FakeTable>,
    generation: u32,
    handles: u64,
    anonymous: u32,
    flags: TableFlags,
    fail: Option<Errno>,
    /// Expressions it does not know.
    lacks: BTreeSet<&'static str>,
    /// Tables that somebody else changed.
    foreign: BTreeSet<Name>,
    /// Every batch that was applied, oldest first.
    pub applied: Vec<Batch>,
    /// Every request to forget connections, oldest first.
    pub forgotten: Vec<(FrontendKey, Stay)>,
}

impl Default for FakeKernel {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeKernel {
    /// A kernel without tables that takes the flags owner and persist.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tables: BTreeMap::new(),
            generation: 1,
            handles: 0,
            anonymous: 0,
            flags: TableFlags { owner: true, persist: true },
            fail: None,
            lacks: BTreeSet::new(),
            foreign: BTreeSet::new(),
            applied: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    /// The same, but one that knows no ownership, as those before 6.9 do not.
    #[must_use]
    pub fn without_ownership() -> Self {
        Self { flags: TableFlags { owner: false, persist: false }, ..Self::new() }
    }

    /// The same, but without an expression.
    #[must_use]
    pub fn without(mut self, expression: &'static str) -> Self {
        self.lacks.insert(expression);
        self
    }

    /// Somebody else's batch, if the table is not ours alone.
    pub fn stranger(&mut self, batch: &Batch) -> Result<(), ApplyError> {
        let owned = self.tables.get(&batch.table).is_some_and(|table| table.flags.owner);
        let outcome = if owned { Err((0, Errno::EPERM)) } else { self.run(batch) };
        self.tables = outcome.map_err(|(index, errno)| rejected(batch, index, errno))?;
        self.generation += 1;
        self.foreign.insert(batch.table.clone());
        Ok(())
    }

    /// The next batch fails with this error, whatever it is.
    pub const fn fail_next(&mut self, errno: Errno) {
        self.fail = Some(errno);
    }

    /// A table as it is.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&FakeTable> {
        self.tables.get(name)
    }

    /// Somebody else deletes a table.
    pub fn delete_table(&mut self, name: &str) {
        self.tables.remove(name);
        self.generation += 1;
    }

    fn run(&mut self, batch: &Batch) -> Result<BTreeMap<Name, FakeTable>, (usize, Errno)> {
        let mut tables = self.tables.clone();
        let mut ids: BTreeMap<u32, Name> = BTreeMap::new();
        for (index, op) in batch.ops.iter().enumerate() {
            self.operation(&mut tables, &mut ids, &batch.table, op).map_err(|errno| (index, errno))?;
        }
        Ok(tables)
    }

    fn operation(
        &mut self,
        tables: &mut BTreeMap<Name, FakeTable>,
        ids: &mut BTreeMap<u32, Name>,
        name: &Name,
        op: &Op,
    ) -> Result<(), Errno> {
        match op {
            Op::AddTable(flags) => {
                if let Some(table) = tables.get(name) {
                    // Ownership is not given to a table that is there, nor taken from it.
                    return if table.flags == *flags { Ok(()) } else { Err(Errno::EOPNOTSUPP) };
                }
                self.handles += 1;
                let table = FakeTable {
                    handle: self.handles,
                    flags: *flags,
                    sets: BTreeMap::new(),
                    chains: BTreeMap::new(),
                };
                tables.insert(name.clone(), table);
                return Ok(());
            }
            Op::DeleteTable => return tables.remove(name).map(|_| ()).ok_or(Errno::ENOENT),
            _ => {}
        }
        let table = tables.get_mut(name).ok_or(Errno::ENOENT)?;
        if let Op::AddRule(_, exprs) = op
            && exprs.iter().any(|expr| self.lacks.contains(expr.name()))
        {
            return Err(Errno::ENOENT);
        }
        match op {
            Op::AddTable(_) | Op::DeleteTable => Ok(()),
            Op::AddSet(set) => {
                let mut set = set.clone();
                if set.anonymous {
                    set.name = format!("__set{}", self.anonymous).into();
                    self.anonymous += 1;
                }
                ids.insert(set.id, set.name.clone());
                vacant(table.sets.contains_key(&set.name))?;
                table.sets.insert(set.name.clone(), FakeSet { declared: set, elements: BTreeMap::new() });
                Ok(())
            }
            Op::AddChain(chain, base) => {
                vacant(table.chains.contains_key(chain))?;
                table.chains.insert(chain.clone(), FakeChain { base: *base, rules: Vec::new() });
                Ok(())
            }
            Op::DeleteChain(chain) => table.delete_chain(chain),
            Op::AddRule(chain, exprs) => table.add_rule(ids, chain, exprs),
            Op::Insert { set, id, elements } => {
                let named = id.and_then(|id| ids.get(&id)).unwrap_or(set).clone();
                elements.iter().try_for_each(|element| table.insert(&named, element))
            }
            Op::Remove { set, elements } => {
                let set = table.sets.get_mut(set).ok_or(Errno::ENOENT)?;
                elements.iter().try_for_each(|element| {
                    set.elements.remove(&(element.key, element.range_end)).map(|_| ()).ok_or(Errno::ENOENT)
                })
            }
        }
    }
}

impl FakeTable {
    /// A set of this table.
    #[must_use]
    pub fn set(&self, name: &str) -> Option<&FakeSet> {
        self.sets.get(name)
    }

    /// How many objects it has; anonymous sets do not count, they are part of their rule.
    fn uses(&self) -> u32 {
        let sets = self.sets.values().filter(|set| !set.declared.anonymous).count();
        u32::try_from(sets + self.chains.len()).unwrap_or(u32::MAX)
    }

    /// Every chain that a rule or an element leads to.
    fn led_to(&self) -> BTreeSet<Name> {
        let elements = self.sets.values().flat_map(|set| set.elements.values()).filter_map(|element| {
            match &element.value {
                Value::Verdict(verdict) => verdict.chain(),
                _ => None,
            }
        });
        let rules =
            self.chains.values().flat_map(|chain| chain.rules.iter().flatten()).filter_map(
                |expr| match expr {
                    Expr::Verdict(verdict) => verdict.chain(),
                    _ => None,
                },
            );
        elements.chain(rules).cloned().collect()
    }

    fn delete_chain(&mut self, name: &Name) -> Result<(), Errno> {
        if !self.chains.contains_key(name) {
            return Err(Errno::ENOENT);
        }
        if self.led_to().contains(name) {
            return Err(Errno::EBUSY);
        }
        // A rule's anonymous sets go with it.
        for expr in self.chains.remove(name).into_iter().flat_map(|chain| chain.rules).flatten() {
            if let Expr::Lookup { set, .. } = expr
                && self.sets.get(&set).is_some_and(|set| set.declared.anonymous)
            {
                self.sets.remove(&set);
            }
        }
        Ok(())
    }

    fn add_rule(&mut self, ids: &BTreeMap<u32, Name>, chain: &Name, exprs: &[Expr]) -> Result<(), Errno> {
        let mut rule = exprs.to_vec();
        for expr in &mut rule {
            match expr {
                Expr::Lookup { set, id, .. } => {
                    if let Some(named) = id.and_then(|id| ids.get(&id)) {
                        set.clone_from(named);
                    }
                    if !self.sets.contains_key(set) {
                        return Err(Errno::ENOENT);
                    }
                }
                Expr::Renew { map, .. } => {
                    let declared = &self.sets.get(map).ok_or(Errno::ENOENT)?.declared;
                    if !declared.dynamic {
                        return Err(Errno::EOPNOTSUPP);
                    }
                }
                Expr::Verdict(verdict) if verdict.chain().is_some_and(|to| !self.chains.contains_key(to)) => {
                    return Err(Errno::ENOENT);
                }
                Expr::Hash { modulus: 0, .. } => return Err(Errno::ERANGE),
                _ => {}
            }
        }
        self.chains.get_mut(chain).ok_or(Errno::ENOENT)?.rules.push(rule);
        Ok(())
    }

    fn insert(&mut self, name: &Name, element: &Element) -> Result<(), Errno> {
        if let Value::Verdict(verdict) = &element.value
            && verdict.chain().is_some_and(|chain| !self.chains.contains_key(chain))
        {
            return Err(Errno::ENOENT);
        }
        let set = self.sets.get_mut(name).ok_or(Errno::ENOENT)?;
        let fits = match (&set.declared.data, &element.value) {
            (None, Value::None) | (Some(Data::Verdict), Value::Verdict(_)) => true,
            (Some(Data::Fields(fields)), Value::Data(data)) => data.as_slice().len() == length(fields),
            _ => false,
        };
        if !fits || element.key.as_slice().len() != length(&set.declared.key) {
            return Err(Errno::EINVAL);
        }
        if element.life.is_some() && !set.declared.dynamic {
            return Err(Errno::EINVAL);
        }
        vacant(set.elements.contains_key(&(element.key, element.range_end)))?;
        if let Some(last) = &element.last {
            vacant(set.elements.values().any(|other| overlap(&set.declared.key, element, last, other)))?;
        }
        let size = set.declared.size.and_then(|size| usize::try_from(size).ok());
        if size.is_some_and(|size| set.elements.len() >= size) {
            return Err(Errno::ENFILE);
        }
        set.elements.insert((element.key, element.range_end), element.clone());
        Ok(())
    }
}

/// Whether two ranges of several fields share a key: they do when every field's ranges meet.
fn overlap(fields: &[Field], element: &Element, last: &Bytes, other: &Element) -> bool {
    let Some(other_last) = &other.last else { return false };
    let mut at = 0;
    fields.iter().all(|field| {
        let end = at + usize::try_from(field.width().next_multiple_of(4)).unwrap_or(0);
        let part = |bytes: &Bytes| bytes.as_slice().get(at..end).map(<[u8]>::to_vec).unwrap_or_default();
        let meets = part(&element.key) <= part(other_last) && part(&other.key) <= part(last);
        at = end;
        meets
    })
}

fn length(fields: &[Field]) -> usize {
    let total: u32 = match fields {
        [only] => only.width(),
        _ => fields.iter().map(|field| field.width().next_multiple_of(4)).sum(),
    };
    usize::try_from(total).unwrap_or(usize::MAX)
}

const fn vacant(taken: bool) -> Result<(), Errno> {
    if taken { Err(Errno::EEXIST) } else { Ok(()) }
}

fn rejected(batch: &Batch, index: usize, errno: Errno) -> ApplyError {
    ApplyError::Rejected {
        index,
        operation: batch.ops.get(index).map(ToString::to_string).unwrap_or_default(),
        detail: None,
        source: io::Error::from(errno),
    }
}

impl Kernel for FakeKernel {
    fn apply(&mut self, batch: &Batch) -> Result<Applied, ApplyError> {
        let bytes = encode::batch(batch).len();
        let outcome = match self.fail.take() {
            Some(errno) => Err((0, errno)),
            None => self.run(batch),
        };
        let handle = |tables: &BTreeMap<Name, FakeTable>| tables.get(&batch.table).map(|table| table.handle);
        match outcome {
            Ok(tables) => {
                let made = handle(&tables) != handle(&self.tables);
                self.tables = tables;
                self.generation += 1;
                if made {
                    self.foreign.remove(&batch.table);
                }
                self.applied.push(batch.clone());
                Ok(Applied { bytes })
            }
            Err((index, errno)) => Err(rejected(batch, index, errno)),
        }
    }

    fn inspect(&mut self, name: &str) -> Result<Inspection, ApplyError> {
        let table = self.tables.get(name).map(|table| TableState {
            handle: table.handle,
            uses: table.uses(),
            owner: if table.flags.owner { Owner::Us } else { Owner::Anybody },
        });
        let foreign = self.foreign.contains(name);
        Ok(Inspection { generation: self.generation, table, foreign })
    }

    fn elements(&mut self, table: &str, set: &str) -> Result<Vec<Element>, ApplyError> {
        let set = self.tables.get(table).and_then(|table| table.set(set));
        Ok(set.map(|set| set.elements.values().cloned().collect()).unwrap_or_default())
    }

    fn table_flags(&self) -> TableFlags {
        self.flags
    }

    /// No packet ever passes here.
    fn grace() {}

    fn forget(&mut self, gone: &Gone) -> Result<(), ApplyError> {
        self.forgotten.extend(gone.iter().map(|(front, stay)| (*front, stay.clone())));
        Ok(())
    }
}

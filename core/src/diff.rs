//! The kernel's view of a front end, entry by entry, and the difference between two of them.
//!
//! The table in the kernel is flat: per front end a few entries in maps that all front ends share. A [`Slot`] is a
//! place in one of these maps, an [`Entry`] what stands there. Changing a front end means removing and inserting
//! only the entries that differ.

use std::collections::BTreeMap;

use crate::addr::AddrRange;
use crate::endpoints::Target;
use crate::frontend::{Admission, Frontend, Route, Spread};

/// Which of a front end's two lists of endpoints an index counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// The endpoints on all nodes.
    Everywhere,
    /// The endpoints on this node.
    Local,
}

/// What happens to a new connection that is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// One of `count` endpoints is chosen by hash; `count` is never zero.
    Forward {
        /// The list the choice is made from.
        space: Space,
        /// What is hashed.
        spread: Spread,
        /// How many endpoints the list has.
        count: u32,
    },
    /// Refused at once: TCP reset, or ICMP port unreachable.
    Reject,
    /// Dropped without a word.
    Drop,
}

/// The decision about new connections of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dispatch {
    /// Whether the source must be in one of the front end's ranges first; others are dropped.
    pub guarded: bool,
    /// What happens then.
    pub outcome: Outcome,
}

/// What becomes of the source address of a translated connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceNat {
    /// Always replaced by an address of the node.
    Masquerade,
    /// Kept, except where the answer would not come back: an endpoint that reaches itself, and the node itself.
    Keep,
}

/// A place in the kernel's maps, below one front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The decision about traffic from outside, and about all traffic when there is no [`Slot::Internal`].
    External,
    /// The decision about traffic from this node and its pods.
    Internal,
    /// What becomes of the source address.
    SourceNat,
    /// An endpoint by its index, from 0.
    Endpoint(Space, u32),
    /// Whether it is recorded where a client went. Only for front ends with affinity.
    Record,
    /// A range of admitted sources.
    Source(AddrRange),
}

/// What stands in a [`Slot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In [`Slot::External`] and [`Slot::Internal`].
    Dispatch(Dispatch),
    /// In [`Slot::SourceNat`].
    SourceNat(SourceNat),
    /// In [`Slot::Endpoint`].
    Target(Target),
    /// In [`Slot::Record`]: for how many seconds a record is kept.
    Record(u32),
    /// In [`Slot::Source`]: being there is all it says.
    Admitted,
}

/// One step from one set of entries to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The entry goes; what it was is said because the kernel wants to know for some maps.
    Remove(Slot, Entry),
    /// The entry comes; its slot is empty at this point.
    Insert(Slot, Entry),
}

/// All entries of a front end.
#[must_use]
pub fn entries(front: &Frontend) -> BTreeMap<Slot, Entry> {
    let mut made = BTreeMap::new();
    match &front.route {
        Route::Cluster { targets } => {
            made.insert(Slot::External, dispatch(front, forward(targets, Space::Everywhere, front.spread)));
            made.insert(Slot::SourceNat, Entry::SourceNat(SourceNat::Masquerade));
            insert_targets(&mut made, targets, Space::Everywhere);
        }
        Route::Local { local, everywhere } => {
            let inside = forward(everywhere, Space::Everywhere, front.spread);
            let outside = match forward(local, Space::Local, front.spread) {
                // Elsewhere there is an endpoint: silence lets the client try again and meet that node.
                Outcome::Reject if !everywhere.is_empty() => Outcome::Drop,
                outcome => outcome,
            };
            made.insert(Slot::External, dispatch(front, outside));
            made.insert(Slot::Internal, dispatch(front, inside));
            made.insert(Slot::SourceNat, Entry::SourceNat(SourceNat::Keep));
            insert_targets(&mut made, local, Space::Local);
            insert_targets(&mut made, everywhere, Space::Everywhere);
        }
    }
    if let Some(timeout_s) = front.affinity {
        made.insert(Slot::Record, Entry::Record(timeout_s));
    }
    if let Admission::Ranges(ranges) = &front.admission {
        made.extend(ranges.iter().map(|range| (Slot::Source(*range), Entry::Admitted)));
    }
    made
}

/// The steps from `old` to `new`: first all removals, then all insertions, each in the order of the slots. `None`
/// stands for a front end that does not exist.
#[must_use]
pub fn diff(old: Option<&Frontend>, new: Option<&Frontend>) -> Vec<Change> {
    let old = old.map(entries).unwrap_or_default();
    let new = new.map(entries).unwrap_or_default();
    let removed = old.iter().filter(|(slot, entry)| new.get(slot) != Some(entry));
    let inserted = new.iter().filter(|(slot, entry)| old.get(slot) != Some(entry));
    removed
        .map(|(slot, entry)| Change::Remove(*slot, *entry))
        .chain(inserted.map(|(slot, entry)| Change::Insert(*slot, *entry)))
        .collect()
}

fn forward(targets: &[Target], space: Space, spread: Spread) -> Outcome {
    match u32::try_from(targets.len()) {
        Ok(0) | Err(_) => Outcome::Reject,
        Ok(count) => Outcome::Forward { space, spread, count },
    }
}

fn dispatch(front: &Frontend, outcome: Outcome) -> Entry {
    Entry::Dispatch(match front.admission {
        Admission::Anyone => Dispatch { guarded: false, outcome },
        Admission::Nobody => Dispatch { guarded: false, outcome: Outcome::Drop },
        // A drop needs no guard: it treats everybody alike.
        Admission::Ranges(_) => Dispatch { guarded: outcome != Outcome::Drop, outcome },
    })
}

fn insert_targets(made: &mut BTreeMap<Slot, Entry>, targets: &[Target], space: Space) {
    made.extend(
        (0u32..).zip(targets).map(|(index, target)| (Slot::Endpoint(space, index), Entry::Target(*target))),
    );
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;

//! Session affinity: the records the kernel keeps of where a client went.
//!
//! The kernel makes them, renews them and lets them go when their time is over; none of that comes through here. What
//! it cannot know is that an endpoint is gone. A record that leads to one is deleted when the endpoint goes, and once
//! more when no packet is under way any more that could have brought it back. While the kernel makes more room in a map,
//! a list of it may lack some elements, so there is a third look when the table is next verified.

use std::collections::BTreeMap;
use std::net::IpAddr;

use landfall_core::addr::Family;
use landfall_core::endpoints::Target;
use landfall_core::frontend::Frontend;
use nix::errno::Errno;

use super::books::Books;
use super::keys::{self, Record};
use super::layout::{Map, RECORDS, TABLE};
use super::{DataPath, NodeNet};
use crate::kernel::{ApplyError, Kernel};
use crate::nft::model::{Batch, Bytes, Element, Op};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Records deleted at once. One of them may have ended by itself meanwhile, and then they are deleted singly.
const CHUNK: usize = 1000;

/// A list that is read while packets change the map may lack a record, so it is read until nothing wrong is in it, but
/// not for ever.
const MOST_PASSES: usize = 8;

/// Whether a change may leave records that lead where the front end does not lead any more.
pub(super) fn strands(old: &Frontend, new: Option<&Frontend>) -> bool {
    let Some(new) = new.filter(|new| new.affinity.is_some()) else { return old.affinity.is_some() };
    let lost = |target: Target| {
        [false, true].into_iter().any(|inside| old.offers(target, inside) && !new.offers(target, inside))
    };
    old.affinity.is_some() && old.held().any(lost)
}

/// Whether a record leads where its front end leads.
fn stands(record: &Record, books: &Books, node: &NodeNet) -> bool {
    let inside = |client: IpAddr| node.pod_cidrs.iter().any(|net| net.contains(&client));
    books
        .get(&record.front)
        .is_some_and(|front| front.affinity.is_some() && front.offers(record.target, inside(record.client)))
}

impl<K: Kernel> DataPath<K> {
    /// The records in the kernel that agree with the books, as elements for a new table. Without them clients only
    /// go where they would go for the first time, so no error is made of it.
    pub(super) fn records(&mut self, books: &Books) -> Vec<(Family, Vec<Element>)> {
        let mut kept = Vec::new();
        for family in FAMILIES.into_iter().filter(|_| books.has_affinity()) {
            let found = match self.kernel.elements(TABLE, &Map::Affinity.name(family)) {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "cannot read which clients keep which endpoints, beginning anew");
                    continue;
                }
            };
            let mut once: BTreeMap<Bytes, Element> = BTreeMap::new();
            for mut element in found {
                let alive = element.life.as_mut().is_some_and(|life| {
                    life.left_ms = life.left_ms.min(life.timeout_ms);
                    life.left_ms > 0
                });
                let stands = keys::record(family, &element).is_some_and(|it| stands(&it, books, &self.node));
                if alive && stands {
                    once.insert(element.key, element);
                }
            }
            let elements: Vec<Element> = once.into_values().take(RECORDS as usize).collect();
            if !elements.is_empty() {
                kept.push((family, elements));
            }
        }
        kept
    }

    /// Deletes the records that do not agree with the books. That it fails does not undo a commit.
    pub(super) fn purge(&mut self) {
        for family in FAMILIES {
            for _ in 0..MOST_PASSES {
                match self.purge_once(family) {
                    Ok(0) => break,
                    Ok(deleted) => tracing::debug!(%family, deleted, "clients lost the endpoint they kept"),
                    Err(error) => {
                        tracing::warn!(%error, "cannot delete which clients keep an endpoint that is gone");
                        break;
                    }
                }
            }
        }
    }

    fn purge_once(&mut self, family: Family) -> Result<usize, ApplyError> {
        let Some(books) = &self.books else { return Ok(0) };
        let set = Map::Affinity.name(family);
        let mut gone: Vec<Element> = self.kernel.elements(TABLE, &set)?;
        gone.retain(|element| {
            !keys::record(family, element).is_some_and(|record| stands(&record, books, &self.node))
        });
        gone.sort_unstable_by_key(|element| element.key);
        gone.dedup_by_key(|element| element.key);
        let removal = |elements: &[Element]| Batch {
            table: TABLE.into(),
            ops: vec![Op::Remove { set: set.clone(), elements: elements.to_vec() }],
        };
        for chunk in gone.chunks(CHUNK) {
            if !missing(self.kernel.apply(&removal(chunk)))? {
                continue;
            }
            for single in chunk.chunks(1) {
                missing(self.kernel.apply(&removal(single)))?;
            }
        }
        Ok(gone.len())
    }
}

/// Whether something was not there that was to be removed.
fn missing<T>(applied: Result<T, ApplyError>) -> Result<bool, ApplyError> {
    match applied {
        Ok(_) => Ok(false),
        Err(ApplyError::Rejected { source, .. })
            if source.raw_os_error().map(Errno::from_raw) == Some(Errno::ENOENT) =>
        {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "affinity_tests.rs"]
mod tests;

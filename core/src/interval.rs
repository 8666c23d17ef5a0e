//! Sets of numbers kept as intervals: a /8 or a /64 is one entry, however many addresses it holds.

use std::collections::BTreeMap;

use crate::steps::Counted;

mod map;

pub use map::IntervalMap;

/// A set of numbers as disjoint intervals that do not touch, in order.
///
/// Every operation but the constructors costs O(log n) in the number of intervals, plus the intervals removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    /// First number of each interval to its last.
    parts: BTreeMap<Counted<u128>, u128>,
}

impl Intervals {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `first..=last`; what is there already stays. A reversed interval adds nothing.
    pub fn insert(&mut self, first: u128, last: u128) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first, last);
        // Whatever overlaps or touches melts into the new interval. Taken from behind, so that each step is one
        // look-up of the last interval that begins at or before the end of the new one.
        while let Some((begin, end)) = self.begins_by(last.saturating_add(1)) {
            if end < first.saturating_sub(1) {
                break;
            }
            self.parts.remove(&Counted(begin));
            first = first.min(begin);
            last = last.max(end);
        }
        self.parts.insert(Counted(first), last);
    }

    /// Removes `first..=last`; what is not there is ignored.
    pub fn remove(&mut self, first: u128, last: u128) {
        if last < first {
            return;
        }
        while let Some((begin, end)) = self.begins_by(last) {
            if end < first {
                break;
            }
            self.parts.remove(&Counted(begin));
            if end > last {
                self.parts.insert(Counted(last + 1), end);
            }
            if begin < first {
                self.parts.insert(Counted(begin), first - 1);
                break;
            }
        }
    }

    /// Removes everything that the other set holds.
    pub fn subtract(&mut self, other: &Self) {
        for (first, last) in other.iter() {
            self.remove(first, last);
        }
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, number: u128) -> bool {
        self.around(number).is_some()
    }

    /// The interval that holds the number.
    #[must_use]
    pub fn around(&self, number: u128) -> Option<(u128, u128)> {
        self.begins_by(number).filter(|&(_, end)| number <= end)
    }

    /// The lowest number of the set.
    #[must_use]
    pub fn lowest(&self) -> Option<u128> {
        self.parts.first_key_value().map(|(first, _)| first.0)
    }

    /// Whether the set holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether the two sets have a number in common.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        let (few, many) = if self.parts.len() <= other.parts.len() { (self, other) } else { (other, self) };
        few.iter().any(|(first, last)| many.begins_by(last).is_some_and(|(_, end)| end >= first))
    }

    /// The intervals in order, both ends included.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.parts.iter().map(|(first, &last)| (first.0, last))
    }

    /// The last interval that begins at the number or before it.
    fn begins_by(&self, number: u128) -> Option<(u128, u128)> {
        self.parts.range(..=Counted(number)).next_back().map(|(begin, &end)| (begin.0, end))
    }

    /// How many numbers the set holds; `None` when it is every number there is (2^128 does not fit).
    #[must_use]
    pub fn count(&self) -> Option<u128> {
        self.iter().try_fold(0_u128, |sum, (first, last)| sum.checked_add((last - first).checked_add(1)?))
    }
}

#[cfg(test)]
mod tests;

//! Sets of numbers kept as intervals: a /8 or a /64 is one entry, however many addresses it holds.

use std::collections::BTreeMap;

/// A set of numbers as disjoint intervals that do not touch, in order.
///
/// Every operation but the constructors costs O(log n) in the number of intervals, plus the intervals removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    /// First number of each interval to its last.
    parts: BTreeMap<u128, u128>,
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
        while let Some((&begin, &end)) = self.parts.range(..=last.saturating_add(1)).next_back() {
            if end < first.saturating_sub(1) {
                break;
            }
            self.parts.remove(&begin);
            first = first.min(begin);
            last = last.max(end);
        }
        self.parts.insert(first, last);
    }

    /// Removes `first..=last`; what is not there is ignored.
    pub fn remove(&mut self, first: u128, last: u128) {
        if last < first {
            return;
        }
        while let Some((&begin, &end)) = self.parts.range(..=last).next_back() {
            if end < first {
                break;
            }
            self.parts.remove(&begin);
            if end > last {
                self.parts.insert(last + 1, end);
            }
            if begin < first {
                self.parts.insert(begin, first - 1);
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
        self.parts.range(..=number).next_back().map(|(&a, &b)| (a, b)).filter(|&(_, end)| number <= end)
    }

    /// The lowest number of the set.
    #[must_use]
    pub fn lowest(&self) -> Option<u128> {
        self.parts.first_key_value().map(|(&first, _)| first)
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
        few.iter()
            .any(|(first, last)| many.parts.range(..=last).next_back().is_some_and(|(_, &end)| end >= first))
    }

    /// The intervals in order, both ends included.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.parts.iter().map(|(&first, &last)| (first, last))
    }

    /// How many numbers the set holds; `None` when it is every number there is (2^128 does not fit).
    #[must_use]
    pub fn count(&self) -> Option<u128> {
        self.iter().try_fold(0_u128, |sum, (first, last)| sum.checked_add((last - first).checked_add(1)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn touching_intervals_become_one() {
        let mut set = Intervals::new();
        set.insert(5, 9);
        set.insert(0, 3);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 3), (5, 9)]);
        set.insert(4, 4);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 9)]);
    }

    #[test]
    fn the_ends_of_the_number_line_are_no_exception() {
        let mut set = Intervals::new();
        set.insert(0, u128::MAX);
        assert_eq!(set.count(), None);
        set.remove(0, 0);
        set.remove(u128::MAX, u128::MAX);
        assert_eq!(set.count(), Some(u128::MAX - 1));
        set.insert(u128::MAX, u128::MAX);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(1, u128::MAX)]);
    }

    #[test]
    fn a_reversed_interval_changes_nothing() {
        let mut set = Intervals::new();
        set.insert(3, 7);
        set.insert(9, 8);
        set.remove(5, 4);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(3, 7)]);
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set_of_numbers(steps in prop::collection::vec((any::<bool>(), 0_u8..60, 0_u8..12), 0..60)) {
            let mut set = Intervals::new();
            let mut model = BTreeSet::new();
            for (insert, first, length) in steps {
                let (first, last) = (u128::from(first), u128::from(first) + u128::from(length));
                if insert {
                    set.insert(first, last);
                    model.extend(first..=last);
                } else {
                    set.remove(first, last);
                    model.retain(|n| !(first..=last).contains(n));
                }
            }
            prop_assert_eq!(set.count(), Some(model.len() as u128));
            prop_assert_eq!(set.lowest(), model.first().copied());
            for number in 0..80 {
                prop_assert_eq!(set.contains(number), model.contains(&number));
            }
            let parts: Vec<_> = set.iter().collect();
            prop_assert!(parts.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?} touch", parts);
        }

        #[test]
        fn two_sets_intersect_when_a_number_is_in_both(
            a in prop::collection::vec((0_u8..50, 0_u8..5), 0..6),
            b in prop::collection::vec((0_u8..50, 0_u8..5), 0..6),
        ) {
            let build = |parts: &[(u8, u8)]| {
                let mut set = Intervals::new();
                for &(first, length) in parts {
                    set.insert(first.into(), u128::from(first + length));
                }
                set
            };
            let (left, right) = (build(&a), build(&b));
            let common = (0..60).any(|n| left.contains(n) && right.contains(n));
            prop_assert_eq!(left.intersects(&right), common);
            prop_assert_eq!(right.intersects(&left), common);
            let mut rest = left.clone();
            rest.subtract(&right);
            for n in 0..60 {
                prop_assert_eq!(rest.contains(n), left.contains(n) && !right.contains(n));
            }
        }
    }
}

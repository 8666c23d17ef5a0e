//! Which of many disjoint intervals a number lies in.

use std::collections::BTreeMap;

use crate::steps::Counted;

/// Disjoint intervals, each with a value: a look-up is O(log n) in their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalMap<V> {
    /// First number of each interval to its last number and its value.
    parts: BTreeMap<Counted<u128>, (u128, V)>,
}

impl<V> Default for IntervalMap<V> {
    fn default() -> Self {
        Self { parts: BTreeMap::new() }
    }
}

impl<V: Clone> IntervalMap<V> {
    /// Gives the value to those numbers of `first..=last` that have none yet. A reversed interval changes nothing.
    pub fn insert(&mut self, first: u128, last: u128, value: &V) {
        let mut next = Some(first);
        while let Some(begin) = next.filter(|begin| *begin <= last) {
            if let Some((end, _)) = self.around(begin) {
                next = end.checked_add(1);
                continue;
            }
            let behind = self.parts.range(Counted(begin)..=Counted(last)).next().map(|(first, _)| first.0);
            let end = behind.map_or(last, |behind| behind - 1);
            self.parts.insert(Counted(begin), (end, value.clone()));
            next = end.checked_add(1);
        }
    }

    /// The value of the number.
    #[must_use]
    pub fn get(&self, number: u128) -> Option<&V> {
        self.around(number).map(|(_, value)| value)
    }

    fn around(&self, number: u128) -> Option<(u128, &V)> {
        let (_, (end, value)) = self.parts.range(..=Counted(number)).next_back()?;
        (number <= *end).then_some((*end, value))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_the_number_line_are_no_exception() {
        let mut map = IntervalMap::default();
        map.insert(u128::MAX, u128::MAX, &'a');
        map.insert(0, u128::MAX, &'b');
        map.insert(5, 4, &'c');
        assert_eq!(
            (map.get(0), map.get(u128::MAX - 1), map.get(u128::MAX)),
            (Some(&'b'), Some(&'b'), Some(&'a'))
        );
    }

    proptest! {
        #[test]
        fn the_first_value_of_a_number_counts(parts in prop::collection::vec((0_u8..60, 0_u8..12), 0..12)) {
            let mut map = IntervalMap::default();
            let mut model = BTreeMap::new();
            for (value, (first, length)) in parts.into_iter().enumerate() {
                let (first, last) = (u128::from(first), u128::from(first) + u128::from(length));
                map.insert(first, last, &value);
                (first..=last).for_each(|number| { model.entry(number).or_insert(value); });
            }
            for number in 0..80 {
                prop_assert_eq!(map.get(number), model.get(&number));
            }
        }
    }
}

//! Compared with sets of single numbers.

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

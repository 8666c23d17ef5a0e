//! Keys that count how often they are compared: the proof that no operation searches.

use std::cmp::Ordering;

/// A key of an ordered map. In tests every comparison is counted; otherwise it is the key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted<T>(pub(crate) T);

impl<T: Ord> PartialOrd for Counted<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> Ord for Counted<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        #[cfg(test)]
        STEPS.set(STEPS.get() + 1);
        self.0.cmp(&other.0)
    }
}

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The number of comparisons that `work` makes.
#[cfg(test)]
pub(crate) fn count<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = STEPS.get();
    let result = work();
    (result, STEPS.get() - before)
}

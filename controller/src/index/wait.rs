//! Who waits for what, so that a change wakes those it may help and nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use landfall_core::allocate::Obstacle;

use super::fair::Place;

/// Services by what is in their way.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_obstacle: BTreeMap<Obstacle, BTreeSet<Place>>,
    woken: BTreeSet<Obstacle>,
}

impl Waiting {
    /// The Service waits for these from now on, and no longer for what it waited for before.
    pub(super) fn set(&mut self, place: &Place, before: &[Obstacle], now: &[Obstacle]) {
        if before == now {
            return;
        }
        for obstacle in before {
            if let Some(places) = self.by_obstacle.get_mut(obstacle) {
                places.remove(place);
                if places.is_empty() {
                    self.by_obstacle.remove(obstacle);
                }
            }
        }
        for obstacle in now.iter().filter(|obstacle| **obstacle != Obstacle::Never) {
            self.by_obstacle.entry(obstacle.clone()).or_default().insert(place.clone());
        }
    }

    /// Something has changed there.
    pub(super) fn wake(&mut self, obstacle: Obstacle) {
        if self.by_obstacle.contains_key(&obstacle) {
            self.woken.insert(obstacle);
        }
    }

    /// One of those that changed.
    pub(super) fn pop_woken(&mut self) -> Option<Obstacle> {
        self.woken.pop_first()
    }

    /// The oldest one that waits for this, behind another one.
    pub(super) fn after(&self, obstacle: &Obstacle, last: Option<&Place>) -> Option<Place> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_obstacle.get(obstacle)?.range((from, Bound::Unbounded)).next().cloned()
    }
}

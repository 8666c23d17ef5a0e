//! What is free in each pool, and how many addresses each namespace has of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::addr::{Family, number};
use crate::interval::Intervals;
use crate::name::Namespace;
use crate::pool::{AddressSet, UsablePool, buggy};

/// Numbers of addresses of one family of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Addresses that the pool can give in all.
    pub capacity: u128,
    /// Addresses of those that Services hold; a shared one counts once.
    pub assigned: u128,
    /// Addresses that nobody holds and that rest.
    pub quarantined: u128,
    /// Addresses that nobody holds, that do not rest and that are held for a reservation.
    pub reserved: u128,
}

impl Usage {
    /// Addresses that anybody may get.
    #[must_use]
    pub const fn available(&self) -> u128 {
        self.capacity - self.assigned - self.quarantined - self.reserved
    }
}

/// What an address of a pool is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Anybody may get it.
    Free,
    /// At least one Service holds it.
    Assigned,
    /// Freed a short while ago.
    Resting,
    /// Held for a reservation.
    Reserved,
}

/// One family of one pool.
///
/// No interval of `numbers` begins or ends with an address that is left out as "buggy", so the lowest number is
/// always one that may be given and no search is ever needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) numbers: Intervals,
    avoid_buggy: bool,
    pub(super) usage: Usage,
}

impl Free {
    pub(super) fn new(set: &AddressSet) -> Self {
        let mut free = Self {
            numbers: set.numbers.clone(),
            avoid_buggy: set.avoid_buggy,
            usage: Usage { capacity: set.capacity(), ..Usage::default() },
        };
        if free.avoid_buggy {
            let ends: Vec<_> = set.numbers.iter().collect();
            for (first, last) in ends {
                free.trim(first);
                free.trim(last);
            }
        }
        free
    }

    /// Takes `number` away if it is there and "buggy", and its neighbour, which is too if it ends in 255 or 0.
    fn trim(&mut self, number: u128) {
        for number in [number, number.saturating_add(1), number.saturating_sub(1)] {
            if buggy(number) && self.at_an_edge(number) {
                self.numbers.remove(number, number);
            }
        }
    }

    fn at_an_edge(&self, number: u128) -> bool {
        self.numbers.around(number).is_some_and(|(first, last)| number == first || number == last)
    }

    /// An address that the pool can give was `from` and is `to` now.
    pub(super) fn shift(&mut self, number: u128, from: State, to: State) {
        if from == to {
            return;
        }
        match from {
            State::Free => {
                self.numbers.remove(number, number);
                if self.avoid_buggy {
                    self.trim(number.saturating_add(1));
                    self.trim(number.saturating_sub(1));
                }
            }
            State::Assigned => self.usage.assigned -= 1,
            State::Resting => self.usage.quarantined -= 1,
            State::Reserved => self.usage.reserved -= 1,
        }
        match to {
            State::Free => self.numbers.insert(number, number),
            State::Assigned => self.usage.assigned += 1,
            State::Resting => self.usage.quarantined += 1,
            State::Reserved => self.usage.reserved += 1,
        }
    }
}

/// The books of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    families: [Free; 2],
    /// Addresses that Services of a namespace hold, each once; namespaces without any are not there.
    pub(super) namespaces: BTreeMap<Namespace, u32>,
}

impl Books {
    pub(super) fn new(usable: &UsablePool) -> Self {
        let families = [Family::V4, Family::V6].map(|family| Free::new(usable.set(family)));
        Self { families, namespaces: BTreeMap::new() }
    }

    pub(super) const fn family(&self, family: Family) -> &Free {
        let [v4, v6] = &self.families;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    pub(super) const fn family_mut(&mut self, family: Family) -> &mut Free {
        let [v4, v6] = &mut self.families;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    pub(super) fn shift(&mut self, addr: IpAddr, from: State, to: State) {
        self.family_mut(Family::of(addr)).shift(number(addr), from, to);
    }

    /// A Service of the namespace is the first there to hold an address.
    pub(super) fn joins(&mut self, namespace: &Namespace) {
        *self.namespaces.entry(namespace.clone()).or_default() += 1;
    }

    /// The last Service of the namespace that held an address does not any more.
    pub(super) fn leaves(&mut self, namespace: &Namespace) {
        if let Some(count) = self.namespaces.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(namespace);
            }
        }
    }
}

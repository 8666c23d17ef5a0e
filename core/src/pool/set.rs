//! The addresses of one family that a pool can give.

use std::net::IpAddr;

use crate::addr::number;
use crate::interval::Intervals;

/// The addresses of one family that a pool can give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// As numbers, addresses that are left out as "buggy" still included.
    pub(crate) numbers: Intervals,
    /// Whether numbers that end in 0 or 255 do not count.
    pub(crate) avoid_buggy: bool,
    capacity: u128,
}

/// Whether the last octet is 0 or 255.
pub(crate) const fn buggy(number: u128) -> bool {
    matches!(number & 0xff, 0 | 0xff)
}

impl AddressSet {
    /// Whether the address is one of them.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let number = number(addr);
        self.numbers.contains(number) && !(self.avoid_buggy && buggy(number))
    }

    /// How many addresses there are. The one set that has 2^128 says one less.
    #[must_use]
    pub const fn capacity(&self) -> u128 {
        self.capacity
    }

    pub(super) fn new(numbers: Intervals, avoid_buggy: bool) -> Self {
        let mut capacity = numbers.count().unwrap_or(u128::MAX);
        if avoid_buggy {
            // Of the numbers below n, those that end in 0 or 255: two in each full 256, and the 0 of the last part.
            let below = |n: u128| n / 256 * 2 + u128::from(!n.is_multiple_of(256));
            capacity -= numbers.iter().map(|(first, last)| below(last + 1) - below(first)).sum::<u128>();
        }
        Self { numbers, avoid_buggy, capacity }
    }
}

//! The choice of `NodePort`s for Services that leave it to us.

use std::fmt;
use std::str::FromStr;

/// A range of ports, both ends included, none of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text or a pair of numbers is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// Port 0, or above 65535.
    #[error("a port lies between 1 and 65535")]
    Outside,
    /// The last port comes before the first.
    #[error("the range ends at {last}, before it begins at {first}")]
    Reversed {
        /// The first end as given.
        first: u16,
        /// The last end as given.
        last: u16,
    },
    /// Neither a port nor `first-last`.
    #[error("{0:?} is neither a port (31000) nor a range of ports (31000-31009)")]
    Syntax(String),
}

impl PortRange {
    /// From `first` to `last`, both included.
    pub const fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        if first == 0 {
            return Err(PortRangeError::Outside);
        }
        if last < first {
            return Err(PortRangeError::Reversed { first, last });
        }
        Ok(Self { first, last })
    }

    /// The first port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many ports it has.
    #[must_use]
    pub fn len(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Never: a range has at least one port.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Whether the port lies inside.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    /// Reads a port (`31000`) or a range (`31000-31009`).
    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let syntax = || PortRangeError::Syntax(text.chars().take(64).collect());
        let port = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if !digits {
                return Err(syntax());
            }
            part.parse::<u16>().map_err(|_| PortRangeError::Outside)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(port(first.trim())?, port(last.trim())?)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Ports, each with how often it is in use: TCP and UDP of one Service may have the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet {
    /// One bit for each port that is in use.
    words: Box<[u64]>,
    /// Uses of each port beyond the first; few ports have any.
    more: std::collections::BTreeMap<u16, u32>,
}

const WORDS: u16 = 1024;

impl Default for PortSet {
    fn default() -> Self {
        Self { words: vec![0; usize::from(WORDS)].into(), more: std::collections::BTreeMap::new() }
    }
}

impl PortSet {
    /// Whether the port is in use.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.words.get(usize::from(port / 64)).is_some_and(|word| word >> (port % 64) & 1 == 1)
    }

    /// One use more.
    pub fn add(&mut self, port: u16) {
        if self.contains(port) {
            *self.more.entry(port).or_default() += 1;
        } else if let Some(word) = self.words.get_mut(usize::from(port / 64)) {
            *word |= 1 << (port % 64);
        }
    }

    /// One use less; a port that is not in use stays so.
    pub fn remove(&mut self, port: u16) {
        if let Some(more) = self.more.get_mut(&port) {
            *more -= 1;
            if *more == 0 {
                self.more.remove(&port);
            }
        } else if let Some(word) = self.words.get_mut(usize::from(port / 64)) {
            *word &= !(1 << (port % 64));
        }
    }

    /// The lowest port of the range that is not in use. At most one step per 64 ports.
    #[must_use]
    pub fn lowest_free(&self, range: PortRange) -> Option<u16> {
        (range.first / 64..=range.last / 64).find_map(|at| {
            let base = at * 64;
            let below = range.first.saturating_sub(base);
            // Ports before the range count as used.
            let before = if below == 0 { 0 } else { u64::MAX >> (64 - u32::from(below.min(64))) };
            let word = self.words.get(usize::from(at)).copied().unwrap_or(u64::MAX) | before;
            let bit = u16::try_from(word.trailing_ones()).ok().filter(|bit| *bit < 64)?;
            Some(base + bit).filter(|port| range.contains(*port))
        })
    }
}

/// The reason of a Service that has its address, but lacks `NodePort`s because there are none left.
pub const EXHAUSTED: &str = "NodePortsExhausted";
/// The reason of a Service that has its address, but whose range of `NodePort`s the API server does not accept.
pub const RANGE_INVALID: &str = "NodePortRangeInvalid";

/// There are fewer free ports than wanted. None is given then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} NodePorts are needed and {free} are left of the {all} in {range}: widen the range or delete a Service", all = range.len())]
pub struct Exhausted {
    /// The range.
    pub range: PortRange,
    /// How many ports were wanted.
    pub wanted: usize,
    /// How many are free.
    pub free: usize,
}

/// Chooses that many different free ports: the lowest ones from `hint` on, then, if the range ends, the lowest
/// ones from its beginning. A hint outside the range is none.
pub fn choose(
    range: PortRange,
    used: &PortSet,
    count: usize,
    hint: Option<u16>,
) -> Result<Vec<u16>, Exhausted> {
    let hint = hint.filter(|hint| range.contains(*hint)).unwrap_or(range.first);
    let mut parts = vec![PortRange { first: hint, last: range.last }];
    if hint > range.first {
        parts.push(PortRange { first: range.first, last: hint - 1 });
    }
    let mut found = Vec::with_capacity(count);
    for part in parts {
        let mut rest = Some(part);
        while let Some(part) = rest.filter(|_| found.len() < count) {
            let Some(port) = used.lowest_free(part) else { break };
            found.push(port);
            rest = port.checked_add(1).and_then(|first| PortRange::new(first, part.last).ok());
        }
    }
    if found.len() < count {
        return Err(Exhausted { range, wanted: count, free: found.len() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> PortRange {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_read_or_refused_with_its_reason() {
        assert_eq!((range("31000-31009").first(), range("31000-31009").last()), (31000, 31009));
        assert_eq!(range("31000").to_string(), "31000-31000");
        assert_eq!(range("1-65535").len(), 65535);
        for (text, wanted) in [
            ("31009-31000", "the range ends at 31000, before it begins at 31009"),
            ("0-9", "a port lies between 1 and 65535"),
            ("31000-65536", "a port lies between 1 and 65535"),
            ("31000-", "\"31000-\" is neither a port (31000) nor a range of ports (31000-31009)"),
            ("+1-2", "\"+1-2\" is neither a port (31000) nor a range of ports (31000-31009)"),
            ("", "\"\" is neither a port (31000) nor a range of ports (31000-31009)"),
        ] {
            assert_eq!(text.parse::<PortRange>().unwrap_err().to_string(), wanted, "{text}");
        }
    }

    #[test]
    fn the_lowest_free_ports_are_chosen_from_the_hint_on() {
        // A72, A73
        let mut used = PortSet::default();
        for port in [31000, 31002, 31002, 31009] {
            used.add(port);
        }
        let all = range("31000-31009");
        assert_eq!(choose(all, &used, 2, None), Ok(vec![31001, 31003]));
        assert_eq!(choose(all, &used, 2, Some(31008)), Ok(vec![31008, 31001]), "it goes on at the beginning");
        assert_eq!(choose(all, &used, 2, Some(30000)), Ok(vec![31001, 31003]), "a hint outside is none");
        used.remove(31002);
        assert_eq!(choose(all, &used, 2, None), Ok(vec![31001, 31003]), "TCP is gone, UDP is still there");
        used.remove(31002);
        assert_eq!(choose(all, &used, 2, None), Ok(vec![31001, 31002]));
        assert_eq!(choose(all, &used, 0, None), Ok(vec![]));
    }

    #[test]
    fn a_range_without_enough_ports_gives_none_and_says_so() {
        // A73
        let mut used = PortSet::default();
        (31000..31009).for_each(|port| used.add(port));
        let error = choose(range("31000-31009"), &used, 2, Some(31005)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 NodePorts are needed and 1 are left of the 10 in 31000-31009: widen the range or delete a Service"
        );
        used.add(31009);
        assert_eq!(choose(range("31000-31009"), &used, 1, None).unwrap_err().free, 0);
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_what_a_search_one_by_one_finds(
            ports in prop::collection::vec(65_300_u16..=65_535, 0..300),
            (first, length) in (65_300_u16..=65_535, 0_u16..100),
            count in 0_usize..20,
            hint in 65_250_u16..=65_535,
        ) {
            let mut used = PortSet::default();
            for port in &ports {
                used.add(*port);
            }
            let range = PortRange::new(first, first.saturating_add(length)).unwrap();
            let start = if range.contains(hint) { hint } else { first };
            let order = (start..=range.last()).chain(first..start);
            let wanted: Vec<u16> = order.filter(|port| !ports.contains(port)).take(count).collect();
            match choose(range, &used, count, Some(hint)) {
                Ok(found) => prop_assert_eq!(found, wanted),
                Err(error) => prop_assert!(error.free == wanted.len() && wanted.len() < count),
            }
            let mut seen = ports.clone();
            for port in ports {
                used.remove(port);
                seen.remove(seen.iter().position(|other| *other == port).unwrap());
                prop_assert_eq!(used.contains(port), seen.contains(&port));
            }
            prop_assert_eq!(used, PortSet::default());
        }
    }
}

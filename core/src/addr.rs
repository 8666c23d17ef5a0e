//! IP addresses as numbers: families and ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// One of the two IP families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address of this family that has the given number, or `None` when the number does not fit.
    #[must_use]
    pub fn address(self, number: u128) -> Option<IpAddr> {
        match self {
            Self::V4 => u32::try_from(number).ok().map(|n| IpAddr::V4(Ipv4Addr::from(n))),
            Self::V6 => Some(IpAddr::V6(Ipv6Addr::from(number))),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The address as a number: an IPv4 address uses the low 32 bits.
#[must_use]
pub fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// A range of addresses of one family, both ends included. A reversed or mixed range cannot exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddrRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text or a pair of addresses is not a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The two ends are of different families.
    #[error("{first} and {last} are of different IP families")]
    MixedFamilies {
        /// The first end as given.
        first: IpAddr,
        /// The last end as given.
        last: IpAddr,
    },
    /// The last address comes before the first.
    #[error("the range ends at {last}, before it begins at {first}")]
    Reversed {
        /// The first end as given.
        first: IpAddr,
        /// The last end as given.
        last: IpAddr,
    },
    /// Neither a CIDR nor `first-last` nor an address.
    #[error("{0:?} is neither a CIDR (192.0.2.0/24) nor a range (192.0.2.10-192.0.2.20)")]
    Syntax(String),
}

impl AddrRange {
    /// A range from `first` to `last`, both included.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err(RangeError::MixedFamilies { first, last });
        }
        if last < first {
            return Err(RangeError::Reversed { first, last });
        }
        Ok(Self { first, last })
    }

    /// The first address of the range.
    #[must_use]
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address of the range.
    #[must_use]
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// The family of all its addresses.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Whether the address lies inside.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        Family::of(addr) == self.family() && self.first <= addr && addr <= self.last
    }

    /// Whether the two ranges share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family() == other.family() && self.first <= other.last && other.first <= self.last
    }
}

impl From<IpNet> for AddrRange {
    /// Every address of the prefix, network and broadcast address included; host bits are ignored.
    fn from(net: IpNet) -> Self {
        Self { first: net.network(), last: net.broadcast() }
    }
}

impl FromStr for AddrRange {
    type Err = RangeError;

    /// Reads a CIDR (`192.0.2.0/24`) or a range (`192.0.2.10-192.0.2.20`, blanks around the dash allowed).
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let syntax = || RangeError::Syntax(text.to_owned());
        if let Some((first, last)) = text.split_once('-') {
            let first = first.trim().parse().map_err(|_| syntax())?;
            let last = last.trim().parse().map_err(|_| syntax())?;
            return Self::new(first, last);
        }
        text.trim().parse::<IpNet>().map(Self::from).map_err(|_| syntax())
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_is_the_range_of_all_its_addresses() {
        for (text, first, last) in [
            ("192.0.2.0/30", "192.0.2.0", "192.0.2.3"),
            ("192.0.2.1/30", "192.0.2.0", "192.0.2.3"),
            ("2001:db8::/126", "2001:db8::", "2001:db8::3"),
            ("2001:db8::7/128", "2001:db8::7", "2001:db8::7"),
        ] {
            let range: AddrRange = text.parse().unwrap();
            assert_eq!(
                (range.first(), range.last()),
                (first.parse().unwrap(), last.parse().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_range_keeps_both_ends() {
        for (text, inside, outside) in [
            ("192.0.2.10-192.0.2.20", "192.0.2.20", "192.0.2.21"),
            ("2001:db8::1 - 2001:db8::9", "2001:db8::1", "2001:db8::a"),
        ] {
            let range: AddrRange = text.parse().unwrap();
            assert!(range.contains(inside.parse().unwrap()), "{text}");
            assert!(!range.contains(outside.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn an_impossible_range_is_refused_with_its_reason() {
        let reversed = "192.0.2.9-192.0.2.1".parse::<AddrRange>().unwrap_err();
        assert_eq!(reversed.to_string(), "the range ends at 192.0.2.1, before it begins at 192.0.2.9");
        let mixed = "192.0.2.9-2001:db8::1".parse::<AddrRange>().unwrap_err();
        assert!(matches!(mixed, RangeError::MixedFamilies { .. }));
        for text in ["", "192.0.2.1", "192.0.2.0/33", "nonsense", "192.0.2.1-", "2001:db8::/129"] {
            assert!(matches!(text.parse::<AddrRange>(), Err(RangeError::Syntax(_))), "{text:?}");
        }
    }

    #[test]
    fn families_never_overlap_or_contain_each_other() {
        let all_v4: AddrRange = "0.0.0.0/0".parse().unwrap();
        let all_v6: AddrRange = "::/0".parse().unwrap();
        assert!(!all_v4.overlaps(&all_v6));
        assert!(!all_v6.contains("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_number_goes_back_to_its_address() {
        for addr in ["192.0.2.1", "255.255.255.255", "2001:db8::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
        {
            let addr: IpAddr = addr.parse().unwrap();
            assert_eq!(Family::of(addr).address(number(addr)), Some(addr));
        }
        assert_eq!(Family::V4.address(1 << 32), None);
    }
}

//! The subnets a node is connected to, and through which interface: what makes it able to announce an address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::name::Iface;

/// A subnet that one interface of a node is connected to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The interface.
    pub iface: Iface,
    /// The subnet; host bits are zero.
    pub net: IpNet,
}

/// Everything one node is connected to, sorted, without repetition. Two equal sets compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments(Vec<Segment>);

/// The text of a set of segments is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form INTERFACE=SUBNET")]
pub struct SegmentError(String);

impl Segments {
    /// The interface whose subnet holds the address, among those that `allowed` lets pass: the longest prefix
    /// wins, then the first name.
    pub fn holding(&self, addr: IpAddr, allowed: impl Fn(&Iface) -> bool) -> Option<&Iface> {
        self.0
            .iter()
            .filter(|segment| segment.net.contains(&addr) && allowed(&segment.iface))
            .min_by(|a, b| b.net.prefix_len().cmp(&a.net.prefix_len()).then_with(|| a.iface.cmp(&b.iface)))
            .map(|segment| &segment.iface)
    }

    /// Whether some interface is connected to exactly this subnet.
    #[must_use]
    pub fn reaches(&self, net: IpNet) -> bool {
        self.0.iter().any(|segment| segment.net == net)
    }

    /// The segments in order.
    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.0.iter()
    }
}

impl FromIterator<Segment> for Segments {
    fn from_iter<T: IntoIterator<Item = Segment>>(segments: T) -> Self {
        let trunc = |Segment { iface, net }| Segment { iface, net: net.trunc() };
        let mut segments: Vec<_> = segments.into_iter().map(trunc).collect();
        segments.sort();
        segments.dedup();
        Self(segments)
    }
}

impl fmt::Display for Segments {
    /// `eth0=192.0.2.0/24 eth0=2001:db8:50::/64`. A blank separates, since an interface name may hold anything
    /// but blanks, slashes and colons (`dev_valid_name` in the kernel's net/core/dev.c).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Segment { iface, net }) in self.0.iter().enumerate() {
            write!(f, "{}{iface}={net}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl FromStr for Segments {
    type Err = SegmentError;

    fn from_str(text: &str) -> Result<Self, SegmentError> {
        let segment = |word: &str| {
            // An interface name may contain an equals sign, a subnet never does.
            let (iface, net) = word.rsplit_once('=')?;
            Some(Segment { iface: Iface::new(iface), net: net.parse().ok()? })
        };
        text.split_whitespace()
            .map(|word| segment(word).ok_or_else(|| SegmentError(word.to_owned())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(text: &str) -> Segments {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_then_the_first_name_holds_an_address() {
        let all = segments(
            "lan0=192.0.2.0/24 lan1=192.0.2.128/25 lan2=2001:db8::/32 lan1=2001:db8:50::/64 b=10.0.0.0/8 a=10.0.0.0/8",
        );
        for (addr, iface) in [
            ("192.0.2.7", Some("lan0")),
            ("192.0.2.200", Some("lan1")),
            ("198.51.100.1", None),
            ("10.1.2.3", Some("a")),
            ("2001:db8:50::7", Some("lan1")),
            ("2001:db8:51::7", Some("lan2")),
            ("2001:db9::7", None),
        ] {
            let found = all.holding(addr.parse().unwrap(), |_| true);
            assert_eq!(found.map(Iface::as_str), iface, "{addr}");
        }
    }

    #[test]
    fn only_an_allowed_interface_holds_an_address() {
        let all = segments("lan0=192.0.2.0/24 lan1=192.0.2.0/25 lan0=2001:db8::/64 lan1=2001:db8::/80");
        for addr in ["192.0.2.7", "2001:db8::7"] {
            let found = all.holding(addr.parse().unwrap(), |iface| iface.as_str() == "lan0");
            assert_eq!(found.map(Iface::as_str), Some("lan0"), "{addr}");
        }
    }

    #[test]
    fn the_text_form_goes_there_and_back() {
        for text in ["", "eth0=192.0.2.0/24", "a=b;c=192.0.2.0/24 eth0=192.0.2.0/24 eth0=2001:db8:50::/64"] {
            assert_eq!(segments(text).to_string(), text);
        }
        assert_eq!(segments("e=192.0.2.9/24 e=192.0.2.1/24").to_string(), "e=192.0.2.0/24");
    }

    #[test]
    fn damaged_text_is_refused_with_the_word_that_is_wrong() {
        for (text, word) in
            [("eth0", "eth0"), ("eth0=192.0.2.0/24 x=y", "x=y"), ("e=2001:db8::/129", "e=2001:db8::/129")]
        {
            assert_eq!(text.parse::<Segments>(), Err(SegmentError(word.to_owned())));
        }
    }
}

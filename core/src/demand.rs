//! What a Service asks for: families, addresses, a pool.

use std::net::IpAddr;

use crate::addr::Family;
use crate::name::PoolName;

/// Which families a Service wants, in the order of its `spec.ipFamilies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// One family only.
    One(Family),
    /// Both, the given one first; one alone is better than none (`PreferDualStack`).
    Prefer(Family),
    /// Both or nothing, the given one first (`RequireDualStack`).
    Require(Family),
}

impl Families {
    /// The families in order.
    #[must_use]
    pub fn list(self) -> &'static [Family] {
        match self {
            Self::One(Family::V4) => &[Family::V4],
            Self::One(Family::V6) => &[Family::V6],
            Self::Prefer(Family::V4) | Self::Require(Family::V4) => &[Family::V4, Family::V6],
            Self::Prefer(Family::V6) | Self::Require(Family::V6) => &[Family::V6, Family::V4],
        }
    }

    /// Whether an address of the family is wanted.
    #[must_use]
    pub fn wants(self, family: Family) -> bool {
        self.list().contains(&family)
    }
}

/// The addresses and the pool a Service asks for; both empty for most Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// At most one address of each family, each of a family that the Service has.
    pub addresses: Vec<IpAddr>,
    /// The pool that every address has to come from.
    pub pool: Option<PoolName>,
}

impl Request {
    /// The address asked for in that family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|addr| Family::of(*addr) == family)
    }
}

/// What a Service asks for, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The families.
    pub families: Families,
    /// The addresses and the pool, or why they cannot be read.
    pub request: Result<Request, RequestError>,
}

/// Why what a Service asks for makes no sense. The text names the field or annotation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not an IP address.
    #[error("{field}: {text:?} is not an IP address")]
    NotAnAddress {
        /// The field or annotation.
        field: &'static str,
        /// The text as given, cut off when long.
        text: String,
    },
    /// Two addresses of one family.
    #[error("{field} asks for more than one {family} address")]
    TwoOfOneFamily {
        /// The field or annotation.
        field: &'static str,
        /// The family.
        family: Family,
    },
    /// An address of a family that the Service does not have.
    #[error("{field} asks for {addr}, but spec.ipFamilies of the Service has no {family}", family = Family::of(*addr))]
    ForeignFamily {
        /// The field or annotation.
        field: &'static str,
        /// The address.
        addr: IpAddr,
    },
    /// The address is asked for in two places.
    #[error("spec.loadBalancerIP and {annotation} are both set: remove one of them")]
    AskedTwice {
        /// The annotation.
        annotation: &'static str,
    },
    /// `RequireDualStack` with one cluster IP.
    #[error("spec.ipFamilyPolicy is RequireDualStack, but the Service has a cluster IP of one family only")]
    NotDualStack,
}

/// The fields of a Service that say what it asks for, as texts. `None` and empty mean the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawDemand<'a> {
    /// `spec.ipFamilies`, those that are known.
    pub families: &'a [Family],
    /// `spec.ipFamilyPolicy`.
    pub policy: Option<&'a str>,
    /// `spec.loadBalancerIP`.
    pub load_balancer_ip: Option<&'a str>,
    /// The annotation that lists addresses, with its name.
    pub addresses: Option<(&'static str, &'a str)>,
    /// The annotation that names a pool.
    pub pool: Option<&'a str>,
}

/// The most of a user's text that is repeated in a message.
const QUOTED: usize = 64;

impl RawDemand<'_> {
    /// Reads the texts.
    #[must_use]
    pub fn parse(&self) -> Demand {
        let first = self.families.first().copied().unwrap_or(Family::V4);
        let dual = self.families.len() > 1;
        let (families, policy_error) = match self.policy {
            Some("RequireDualStack") if dual => (Families::Require(first), None),
            Some("RequireDualStack") => (Families::One(first), Some(RequestError::NotDualStack)),
            _ if dual => (Families::Prefer(first), None),
            _ => (Families::One(first), None),
        };
        let request = match policy_error {
            Some(error) => Err(error),
            None => self.request(families),
        };
        Demand { families, request }
    }

    fn request(&self, families: Families) -> Result<Request, RequestError> {
        let set = |text: &&str| !text.trim().is_empty();
        let pool = self.pool.filter(set).map(|name| PoolName::new(name.trim()));
        let (field, text) =
            match (self.load_balancer_ip.filter(set), self.addresses.filter(|(_, text)| set(text))) {
                (None, None) => return Ok(Request { addresses: Vec::new(), pool }),
                (Some(_), Some((annotation, _))) => return Err(RequestError::AskedTwice { annotation }),
                (Some(text), None) => ("spec.loadBalancerIP", text),
                (None, Some(annotation)) => annotation,
            };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let Ok(addr) = part.parse::<IpAddr>() else {
                return Err(RequestError::NotAnAddress { field, text: part.chars().take(QUOTED).collect() });
            };
            let family = Family::of(addr);
            if !families.wants(family) {
                return Err(RequestError::ForeignFamily { field, addr });
            }
            if addresses.iter().any(|other| Family::of(*other) == family) {
                return Err(RequestError::TwoOfOneFamily { field, family });
            }
            addresses.push(addr);
        }
        Ok(Request { addresses, pool })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNOTATION: &str = "landfall.dev/addresses";

    fn demand(families: &[Family], policy: &str, ip: Option<&str>, annotation: Option<&str>) -> Demand {
        let addresses = annotation.map(|text| (ANNOTATION, text));
        RawDemand { families, policy: Some(policy), load_balancer_ip: ip, addresses, pool: None }.parse()
    }

    #[test]
    fn families_follow_the_service() {
        // A33, A34, A39: the order is that of ipFamilies; a single-stack cluster IP makes PreferDualStack single.
        use Family::{V4, V6};
        for (families, policy, wanted) in [
            (&[][..], "SingleStack", Families::One(V4)),
            (&[V4], "SingleStack", Families::One(V4)),
            (&[V6], "SingleStack", Families::One(V6)),
            (&[V6], "PreferDualStack", Families::One(V6)),
            (&[V4, V6], "PreferDualStack", Families::Prefer(V4)),
            (&[V6, V4], "PreferDualStack", Families::Prefer(V6)),
            (&[V4, V6], "RequireDualStack", Families::Require(V4)),
            (&[V6, V4], "RequireDualStack", Families::Require(V6)),
        ] {
            let parsed = demand(families, policy, None, None);
            assert_eq!(
                parsed,
                Demand { families: wanted, request: Ok(Request::default()) },
                "{families:?} {policy}"
            );
        }
    }

    #[test]
    fn addresses_are_read_from_the_field_or_the_annotation() {
        // A17, A18
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
        let both = [Family::V4, Family::V6];
        for (ip, annotation, wanted) in [
            (Some("192.0.2.7"), None, vec![v4]),
            (Some("2001:db8::7"), None, vec![v6]),
            (None, Some("192.0.2.7"), vec![v4]),
            (None, Some(" 2001:db8::7 , 192.0.2.7 "), vec![v6, v4]),
            (Some(""), Some(" "), vec![]),
        ] {
            let request = demand(&both, "PreferDualStack", ip, annotation).request.unwrap();
            assert_eq!(request.addresses, wanted, "{ip:?} {annotation:?}");
        }
    }

    #[test]
    fn requests_that_make_no_sense_are_explained() {
        let both = &[Family::V4, Family::V6][..];
        for (families, policy, ip, annotation, wanted) in [
            // A20
            (both, "", Some("nonsense"), None, r#"spec.loadBalancerIP: "nonsense" is not an IP address"#),
            (both, "", None, Some("192.0.2.1,"), r#"landfall.dev/addresses: "" is not an IP address"#),
            // A19
            (
                both,
                "",
                Some("192.0.2.1"),
                Some("192.0.2.1"),
                "spec.loadBalancerIP and landfall.dev/addresses are both set: remove one of them",
            ),
            // A22
            (
                both,
                "",
                None,
                Some("192.0.2.1,192.0.2.2"),
                "landfall.dev/addresses asks for more than one IPv4 address",
            ),
            (
                both,
                "",
                None,
                Some("2001:db8::1,2001:db8::2"),
                "landfall.dev/addresses asks for more than one IPv6 address",
            ),
            // A30
            (
                &[Family::V4],
                "",
                Some("2001:db8::1"),
                None,
                "spec.loadBalancerIP asks for 2001:db8::1, but spec.ipFamilies of the Service has no IPv6",
            ),
            (
                &[Family::V6],
                "",
                None,
                Some("192.0.2.1"),
                "landfall.dev/addresses asks for 192.0.2.1, but spec.ipFamilies of the Service has no IPv4",
            ),
            // A31
            (
                &[Family::V6],
                "RequireDualStack",
                None,
                None,
                "spec.ipFamilyPolicy is RequireDualStack, but the Service has a cluster IP of one family only",
            ),
        ] {
            let error = demand(families, policy, ip, annotation).request.unwrap_err();
            assert_eq!(error.to_string(), wanted);
        }
    }

    #[test]
    fn a_long_text_is_not_repeated_in_full() {
        let text = "ä".repeat(100_000);
        let error = demand(&[Family::V4], "", Some(&text), None).request.unwrap_err();
        assert!(error.to_string().chars().count() < 120);
    }
}

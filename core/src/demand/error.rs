//! What is wrong with what a Service asks for.

use std::net::IpAddr;

use crate::addr::Family;

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
    #[error("{field} asks for more than one {family} address: {addr} too", family = Family::of(*addr))]
    TwoOfOneFamily {
        /// The field or annotation.
        field: &'static str,
        /// The second one.
        addr: IpAddr,
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
    /// Not a name that a pool can have.
    #[error("{annotation}: {text:?} is not the name of an AddressPool")]
    NotAName {
        /// The annotation.
        annotation: &'static str,
        /// The text as given, cut off when long.
        text: String,
    },
    /// A sharing key that is too long.
    #[error("{annotation} is longer than {LONGEST_KEY} characters: choose a shorter key")]
    KeyTooLong {
        /// The annotation.
        annotation: &'static str,
    },
    /// Neither `true` nor `false`.
    #[error("{annotation}: {text:?} is neither true nor false")]
    NotAFlag {
        /// The annotation.
        annotation: &'static str,
        /// The text as given, cut off when long.
        text: String,
    },
}

/// Longest sharing key, in characters.
pub(super) const LONGEST_KEY: usize = 253;

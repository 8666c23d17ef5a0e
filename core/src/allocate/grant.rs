//! What a Service gets, and what it lacks beside that.

use std::fmt;
use std::net::IpAddr;

use super::{Denied, Obstacle};
use crate::name::PoolName;

/// Addresses given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// At least one address, in the order of the Service's families. The ledger takes each of them on the terms of
    /// the demand that was decided.
    pub addresses: Vec<IpAddr>,
    /// What is not as the Service wants it, what matters most first; empty for most Services.
    pub lacking: Vec<Lacking>,
}

impl Grant {
    pub(super) fn new(addresses: Vec<IpAddr>, mut lacking: Vec<Lacking>) -> Self {
        lacking.sort_by_key(Lacking::rank);
        Self { addresses, lacking }
    }

    /// The reason of the condition, which is `True`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.lacking.first().map_or(Lacking::ALLOCATED, Lacking::reason)
    }

    /// What would have to change for the Service to get what it lacks.
    #[must_use]
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let mut all: Vec<Obstacle> = self.lacking.iter().flat_map(Lacking::obstacles).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// What is not as a Service wants it although it has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// It changed its key or a port and clashes with another Service on its address since.
    SharingConflict {
        /// The clash.
        clash: Denied,
    },
    /// It has an address of one family and wants two.
    SecondFamily(Denied),
    /// It keeps its address and asks for another one, or for one of another pool.
    Requested(Denied),
    /// Its address is in no usable pool any more.
    OutsidePool {
        /// The address.
        addr: IpAddr,
        /// How that came.
        why: Outside,
    },
}

/// How an address that is in use came to be in no usable pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Its pool, if that is known, does not exist any more.
    Gone(Option<PoolName>),
    /// Its pool does not hold it any more.
    Shrunk(PoolName),
    /// Its pool cannot be used.
    Broken {
        /// The pool.
        pool: PoolName,
        /// The reason, as its condition says it.
        why: String,
    },
    /// It belongs to the cluster itself by now.
    Taken {
        /// Whose it is.
        by: Box<str>,
    },
}

impl Lacking {
    /// The reason of a Service that has what it asks for.
    pub const ALLOCATED: &'static str = "Allocated";
    /// Every reason with which the condition is `True`, as far as addresses go.
    pub const REASONS: [&'static str; 5] = [
        Self::ALLOCATED,
        "SharingConflict",
        "SecondFamilyUnavailable",
        "RequestedAddressUnavailable",
        "OutsidePool",
    ];

    /// The reason in one word.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::SharingConflict { .. } => "SharingConflict",
            Self::SecondFamily(_) => "SecondFamilyUnavailable",
            Self::Requested(_) => "RequestedAddressUnavailable",
            Self::OutsidePool { .. } => "OutsidePool",
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::SharingConflict { .. } => 0,
            Self::OutsidePool { .. } => 1,
            Self::SecondFamily(_) => 2,
            Self::Requested(_) => 3,
        }
    }

    /// What would have to change.
    #[must_use]
    pub fn obstacles(&self) -> Vec<Obstacle> {
        match self {
            Self::SharingConflict { clash: denied }
            | Self::SecondFamily(denied)
            | Self::Requested(denied) => denied.obstacles(),
            Self::OutsidePool { .. } => vec![Obstacle::AnyPool],
        }
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharingConflict { clash: denied }
            | Self::SecondFamily(denied)
            | Self::Requested(denied) => {
                write!(f, "{denied}")
            }
            Self::OutsidePool { addr, why } => {
                match why {
                    Outside::Gone(Some(pool)) => write!(f, "pool {pool} of {addr} is gone")?,
                    Outside::Gone(None) => write!(f, "{addr} is in no pool")?,
                    Outside::Shrunk(pool) => write!(f, "pool {pool} does not hold {addr} any more")?,
                    Outside::Broken { pool, why } => {
                        write!(f, "pool {pool} of {addr} cannot be used: {why}")?;
                    }
                    Outside::Taken { by } => write!(f, "{addr} belongs to the cluster itself, to {by}")?,
                }
                f.write_str("; it stays with this Service and nobody else gets it")
            }
        }
    }
}

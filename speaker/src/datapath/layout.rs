//! What the table is made of: its maps and sets, and the chains that come and go with the numbers of endpoints.
//!
//! `docs/dataplane.md` says why it looks like this. Everything here can be printed by `nft list ruleset` and loaded
//! again from what was printed; a test holds it to that.

use std::sync::Arc;

use landfall_core::addr::Family;
use landfall_core::diff::{Dispatch, Outcome, SourceNat, Space};
use landfall_core::frontend::Spread;

use crate::nft::model::{Data, Field, Name, Set};
use crate::nft::userdata;

/// The name of the table, in the family `inet`.
pub const TABLE: &str = "landfall";

/// The map from a [`Chain::class`] to its chain.
///
/// Front ends name their chain by a number, and this map leads on from there: inserting an element that leads to a
/// chain makes the kernel check the whole table for loops (`nft_table_validate`), which walks every such element as
/// often as rules look into its map. Here there are as many as there are chains, not as many as there are front ends.
pub const PLAN: &str = "plan";

/// The greatest number of records of where a client went, in each family. A client beyond it goes where its address
/// leads, as long as the endpoints stay the same: that is the same endpoint each time. A record takes some 150 bytes.
pub const RECORDS: u32 = 1 << 18;

/// One of the two sets of admitted sources. A front end whose ranges change moves from one to the other, since
/// the kernel does not exchange elements of a set of ranges at the same instant as all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bank {
    /// The first one.
    A,
    /// The second one.
    B,
}

impl Bank {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A map or set of the table, in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// Front end -> what happens to traffic from outside, or to all of it.
    Service,
    /// Front end -> what happens to traffic from this node and its pods, where that differs.
    Internal,
    /// Front end and index -> endpoint.
    Endpoint,
    /// Front ends whose connections get a source address of the node.
    Masquerade,
    /// Front ends whose connections keep their source address.
    Keep,
    /// Front end and client -> endpoint, made by the kernel itself.
    Affinity,
    /// Front end -> how long it is recorded where a client went.
    Record,
    /// Front end and source, admitted.
    Source(Bank),
    /// The addresses of all front ends.
    Vip,
    /// Those of them that answer ping.
    Ping,
    /// Addresses that have front ends and are not ours alone: the node's own, and external IPs.
    Door,
    /// Front ends of those that have no endpoints.
    Shut,
    /// Endpoints that may reach themselves.
    Hairpin,
    /// The addresses of this node's pods.
    Pods,
}

impl Map {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Service,
        Self::Internal,
        Self::Endpoint,
        Self::Masquerade,
        Self::Keep,
        Self::Affinity,
        Self::Record,
        Self::Source(Bank::A),
        Self::Source(Bank::B),
        Self::Vip,
        Self::Ping,
        Self::Door,
        Self::Shut,
        Self::Hairpin,
        Self::Pods,
    ];

    /// Its name in the kernel.
    #[must_use]
    pub fn name(self, family: Family) -> Name {
        let number = match family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        Arc::from(match self {
            Self::Service => format!("svc{number}"),
            Self::Internal => format!("int{number}"),
            Self::Endpoint => format!("ep{number}"),
            Self::Masquerade => format!("masq{number}"),
            Self::Keep => format!("keep{number}"),
            Self::Affinity => format!("aff{number}"),
            Self::Record => format!("rec{number}"),
            Self::Source(Bank::A) => format!("src{number}a"),
            Self::Source(Bank::B) => format!("src{number}b"),
            Self::Vip => format!("vip{number}"),
            Self::Ping => format!("ping{number}"),
            Self::Door => format!("door{number}"),
            Self::Shut => format!("shut{number}"),
            Self::Hairpin => format!("hair{number}"),
            Self::Pods => format!("pod{number}"),
        })
    }

    /// Whether it is a hash of fixed size.
    #[must_use]
    pub const fn sized(self) -> bool {
        !matches!(self, Self::Source(_) | Self::Pods)
    }

    /// The declaration, for that many elements at most.
    #[must_use]
    pub fn declare(self, family: Family, id: u32, size: u32) -> Set {
        let addr = match family {
            Family::V4 => Field::Ipv4,
            Family::V6 => Field::Ipv6,
        };
        let front = vec![addr, Field::Protocol, Field::Port];
        let (key, data) = match self {
            Self::Service | Self::Internal => (front, Some(Data::Fields(vec![Field::Class]))),
            Self::Record => (front, Some(Data::Verdict)),
            Self::Endpoint => {
                ([front, vec![Field::Integer]].concat(), Some(Data::Fields(vec![addr, Field::Port])))
            }
            Self::Affinity => ([front, vec![addr]].concat(), Some(Data::Fields(vec![addr, Field::Port]))),
            Self::Source(_) => ([front, vec![addr]].concat(), None),
            Self::Masquerade | Self::Keep | Self::Shut => (front, None),
            Self::Vip | Self::Ping | Self::Door | Self::Pods => (vec![addr], None),
            Self::Hairpin => (vec![addr, addr], None),
        };
        let userdata = match self {
            Self::Endpoint => userdata::endpoints(family),
            Self::Service | Self::Internal => userdata::to_classes(),
            _ => Vec::new(),
        };
        Set {
            name: self.name(family),
            id,
            key,
            data,
            interval: !self.sized(),
            dynamic: self == Self::Affinity,
            anonymous: false,
            size: self.sized().then_some(size),
            userdata,
        }
    }
}

/// A chain that exists while something leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// Whether sources are looked at first, and in which set.
    pub guard: Option<Bank>,
    /// What happens to what is admitted.
    pub outcome: Outcome,
}

impl Chain {
    /// The chain that carries out a dispatch of a front end whose ranges are in `bank`.
    #[must_use]
    pub fn of(dispatch: Dispatch, bank: Bank) -> Self {
        Self { guard: dispatch.guarded.then_some(bank), outcome: dispatch.outcome }
    }

    /// The chain behind the guard, if there is a guard.
    #[must_use]
    pub fn behind(self) -> Option<Self> {
        self.guard.map(|_| Self { guard: None, outcome: self.outcome })
    }

    /// Whether it is one of the fixed chains, which are always there.
    #[must_use]
    pub fn fixed(self) -> bool {
        self.guard.is_none() && matches!(self.outcome, Outcome::Reject | Outcome::Drop)
    }

    /// The number by which [`Map::Service`] and [`Map::Internal`] name it, as [`PLAN`] knows it: a letter's worth of kind
    /// in the highest byte, the number of endpoints below.
    #[must_use]
    pub fn class(self) -> u32 {
        const REJECT: u32 = 1;
        const DROP: u32 = 2;
        let (kind, number) = match self.outcome {
            Outcome::Forward { space, spread, count } => {
                let kind = match (space, spread) {
                    (Space::Everywhere, Spread::Flow) => 1,
                    (Space::Everywhere, Spread::Client) => 2,
                    (Space::Local, Spread::Flow) => 3,
                    (Space::Local, Spread::Client) => 4,
                };
                (kind, count)
            }
            Outcome::Reject => (5, REJECT),
            Outcome::Drop => (5, DROP),
        };
        let guard: u32 = match self.guard {
            None => 0,
            Some(Bank::A) => 0x10,
            Some(Bank::B) => 0x20,
        };
        (guard + kind) << 24 | number
    }

    /// Its name: `n5` chooses one of five endpoints, `h5` the one the client had or one by its address alone, `l5` and `lh5` among those
    /// on this node; `fwa_n5` looks at the source first.
    #[must_use]
    pub fn name(self) -> Name {
        let then = match self.outcome {
            Outcome::Forward { space, spread, count } => {
                let prefix = match (space, spread) {
                    (Space::Everywhere, Spread::Flow) => "n",
                    (Space::Everywhere, Spread::Client) => "h",
                    (Space::Local, Spread::Flow) => "l",
                    (Space::Local, Spread::Client) => "lh",
                };
                format!("{prefix}{count}")
            }
            Outcome::Reject => "rej".to_owned(),
            Outcome::Drop => "deny".to_owned(),
        };
        Arc::from(match self.guard {
            None => then,
            Some(Bank::A) => format!("fwa_{then}"),
            Some(Bank::B) => format!("fwb_{then}"),
        })
    }
}

/// The set of the front ends for whose connections that is decided.
#[must_use]
pub const fn source_nat(decision: SourceNat) -> Map {
    match decision {
        SourceNat::Masquerade => Map::Masquerade,
        SourceNat::Keep => Map::Keep,
    }
}

/// A chain that records where clients went; it exists while a front end uses it. One per family, since `nft` 1.0.6
/// lists the rule of IPv6 and cannot load it again: where there is no such front end there is no such rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timer {
    /// The family of the front ends.
    pub family: Family,
    /// For how many seconds a record is kept.
    pub timeout_s: u32,
}

impl Timer {
    /// Its name.
    #[must_use]
    pub fn name(self) -> Name {
        let number = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        Arc::from(format!("t{number}_{}", self.timeout_s))
    }
}

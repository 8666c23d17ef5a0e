//! Why a Service gets no address, or not the one it asks for.

use std::net::IpAddr;

mod message;

use super::Obstacle;
use crate::addr::Family;
use crate::demand::{Port, RequestError};
use crate::ledger::{Clash, Usage};
use crate::name::{Namespace, PoolName, ServiceKey};

/// Why a Service gets no address, or not the one it asks for. Every variant names what is in the way.
///
/// [`Denied::reason`] is the reason of the condition, of the Event and of the metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no pool.
    NoPool,
    /// No pool that assigns by itself holds addresses of the family.
    NoPoolForFamily {
        /// The family.
        family: Family,
    },
    /// There are pools that assign by themselves and hold addresses of the family, but none serves this Service.
    NoMatchingPool {
        /// The family.
        family: Family,
        /// The namespace of the Service.
        namespace: Namespace,
    },
    /// Every pool that could serve the family is full.
    PoolsFull {
        /// The family.
        family: Family,
        /// Those pools, each with how its addresses are used.
        pools: Vec<(PoolName, Usage)>,
    },
    /// The namespace holds as many addresses of a pool as it may, and every other pool is full or closed likewise.
    QuotaExceeded {
        /// The family.
        family: Family,
        /// The first pool that is closed by its limit.
        pool: PoolName,
        /// The namespace of the Service.
        namespace: Namespace,
        /// How many addresses of that pool the namespace holds.
        held: u32,
        /// How many it may hold.
        limit: u32,
        /// Other pools that could serve the family, if they were not full or closed.
        others: Vec<PoolName>,
    },
    /// The pool asked for does not exist.
    UnknownPool {
        /// Its name.
        pool: PoolName,
    },
    /// The pool asked for cannot be used.
    PoolNotReady {
        /// Its name.
        pool: PoolName,
        /// The reason, as its condition says it.
        why: String,
    },
    /// The pool asked for, or the pool of the address asked for, does not serve this Service.
    PoolNotAllowed {
        /// Its name.
        pool: PoolName,
        /// The namespace of the Service.
        namespace: Namespace,
    },
    /// The pool asked for holds no address of the family.
    PoolLacksFamily {
        /// Its name.
        pool: PoolName,
        /// The family.
        family: Family,
    },
    /// The address asked for lies in no pool.
    AddressOutsidePools {
        /// The address.
        addr: IpAddr,
    },
    /// The address asked for does not lie in the pool asked for.
    AddressNotInPool {
        /// The address.
        addr: IpAddr,
        /// The pool asked for.
        pool: PoolName,
    },
    /// The address asked for is left out by its pool.
    AddressLeftOut {
        /// The address.
        addr: IpAddr,
        /// The pool.
        pool: PoolName,
    },
    /// The address asked for belongs to the cluster itself.
    AddressTaken {
        /// The address.
        addr: IpAddr,
        /// Whose it is: `the address of node n1`.
        by: Box<str>,
    },
    /// The address asked for is held for somebody else.
    AddressReserved {
        /// The address.
        addr: IpAddr,
        /// The name of the reservation.
        reservation: Box<str>,
        /// For whom it is: `shop/cart`.
        whom: Box<str>,
    },
    /// The address asked for rests.
    AddressQuarantined {
        /// The address.
        addr: IpAddr,
        /// Until when, in Unix milliseconds.
        until: i64,
    },
    /// Another Service has the address asked for, and one of the two does not share.
    AddressInUse {
        /// The address.
        addr: IpAddr,
        /// The Service that has it.
        holder: ServiceKey,
    },
    /// Another Service has the address, under another sharing key.
    SharingKeyDiffers {
        /// The address.
        addr: IpAddr,
        /// The Service that has it.
        holder: ServiceKey,
    },
    /// Another Service with the same sharing key has the same port.
    SharingPortConflict {
        /// The address.
        addr: IpAddr,
        /// The Service that has it.
        holder: ServiceKey,
        /// The port that both have.
        port: Port,
    },
    /// Services of another namespace share the address, and the pool does not allow that.
    SharingNotAllowed {
        /// The address.
        addr: IpAddr,
        /// The Service that has it.
        holder: ServiceKey,
    },
    /// What the Service asks for makes no sense.
    InvalidRequest(RequestError),
}

impl Denied {
    /// Every reason there is, for those who list them (metrics, documentation).
    pub const REASONS: [&'static str; 20] = [
        "NoPool",
        "NoPoolForFamily",
        "NoMatchingPool",
        "PoolsFull",
        "QuotaExceeded",
        "UnknownPool",
        "PoolNotReady",
        "PoolNotAllowed",
        "PoolLacksFamily",
        "AddressOutsidePools",
        "AddressNotInPool",
        "AddressLeftOut",
        "AddressTaken",
        "AddressReserved",
        "AddressQuarantined",
        "AddressInUse",
        "SharingKeyDiffers",
        "SharingPortConflict",
        "SharingNotAllowed",
        "InvalidRequest",
    ];

    /// The reason in one word.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoPool => "NoPool",
            Self::NoPoolForFamily { .. } => "NoPoolForFamily",
            Self::NoMatchingPool { .. } => "NoMatchingPool",
            Self::PoolsFull { .. } => "PoolsFull",
            Self::QuotaExceeded { .. } => "QuotaExceeded",
            Self::UnknownPool { .. } => "UnknownPool",
            Self::PoolNotReady { .. } => "PoolNotReady",
            Self::PoolNotAllowed { .. } => "PoolNotAllowed",
            Self::PoolLacksFamily { .. } => "PoolLacksFamily",
            Self::AddressOutsidePools { .. } => "AddressOutsidePools",
            Self::AddressNotInPool { .. } => "AddressNotInPool",
            Self::AddressLeftOut { .. } => "AddressLeftOut",
            Self::AddressTaken { .. } => "AddressTaken",
            Self::AddressReserved { .. } => "AddressReserved",
            Self::AddressQuarantined { .. } => "AddressQuarantined",
            Self::AddressInUse { .. } => "AddressInUse",
            Self::SharingKeyDiffers { .. } => "SharingKeyDiffers",
            Self::SharingPortConflict { .. } => "SharingPortConflict",
            Self::SharingNotAllowed { .. } => "SharingNotAllowed",
            Self::InvalidRequest(_) => "InvalidRequest",
        }
    }

    /// What is between a Service and the address of another one.
    pub(super) fn clash(addr: IpAddr, clash: Clash) -> Self {
        match clash {
            Clash::InUse { holder } => Self::AddressInUse { addr, holder },
            Clash::Key { holder } => Self::SharingKeyDiffers { addr, holder },
            Clash::Port { holder, port } => Self::SharingPortConflict { addr, holder, port },
            Clash::Namespace { holder } => Self::SharingNotAllowed { addr, holder },
        }
    }

    /// What would have to change for another answer. A change of the Service itself always counts.
    #[must_use]
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let pool = |name: &PoolName, family| Obstacle::Pool(name.clone(), family);
        match self {
            Self::InvalidRequest(_) => vec![Obstacle::Never],
            Self::NoPool
            | Self::NoPoolForFamily { .. }
            | Self::UnknownPool { .. }
            | Self::PoolNotReady { .. }
            | Self::PoolLacksFamily { .. }
            | Self::AddressOutsidePools { .. }
            | Self::AddressNotInPool { .. }
            | Self::AddressLeftOut { .. }
            | Self::AddressTaken { .. } => vec![Obstacle::AnyPool],
            Self::NoMatchingPool { namespace, .. } | Self::PoolNotAllowed { namespace, .. } => {
                vec![Obstacle::AnyPool, Obstacle::Namespace(namespace.clone())]
            }
            Self::PoolsFull { family, pools } => {
                pools.iter().map(|(name, _)| pool(name, *family)).chain([Obstacle::AnyPool]).collect()
            }
            Self::QuotaExceeded { family, pool: first, namespace, others, .. } => {
                let pools = std::iter::once(first).chain(others).map(|name| pool(name, *family));
                pools.chain([Obstacle::AnyPool, Obstacle::Namespace(namespace.clone())]).collect()
            }
            Self::AddressReserved { addr, .. } => vec![Obstacle::Reservations, Obstacle::Address(*addr)],
            Self::AddressQuarantined { addr, .. }
            | Self::AddressInUse { addr, .. }
            | Self::SharingKeyDiffers { addr, .. }
            | Self::SharingPortConflict { addr, .. }
            | Self::SharingNotAllowed { addr, .. } => vec![Obstacle::Address(*addr), Obstacle::AnyPool],
        }
    }
}

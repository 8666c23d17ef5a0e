//! Why a Service gets no address, or not the one it asks for.

use std::fmt;
use std::net::IpAddr;

use super::Obstacle;
use crate::addr::Family;
use crate::clock::utc;
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

/// Most pools that one message names.
const NAMED: usize = 4;

fn full(f: &mut fmt::Formatter<'_>, family: Family, pools: &[(PoolName, Usage)]) -> fmt::Result {
    for (name, usage) in pools.iter().take(NAMED) {
        let Usage { capacity, assigned, quarantined, reserved } = usage;
        write!(f, "pool {name} is full: {assigned} of {capacity} {family} addresses in use")?;
        if *reserved > 0 {
            write!(f, ", {reserved} reserved")?;
        }
        if *quarantined > 0 {
            write!(f, ", {quarantined} in quarantine")?;
        }
        f.write_str("; ")?;
    }
    if pools.len() > NAMED {
        write!(f, "so are {} more; ", pools.len() - NAMED)?;
    }
    f.write_str("add addresses or delete a Service")
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => f.write_str("there is no AddressPool that can be used: create one"),
            Self::NoPoolForFamily { family } => write!(
                f,
                "no AddressPool with autoAssign holds {family} addresses: add some to a pool or name a pool"
            ),
            Self::NoMatchingPool { family, namespace } => write!(
                f,
                "no AddressPool with {family} addresses serves namespace {namespace} and the labels of this \
                 Service: see namespaces, namespaceSelector and serviceSelectors of the pools"
            ),
            Self::PoolsFull { family, pools } => full(f, *family, pools),
            Self::QuotaExceeded { pool, namespace, held, limit, .. } => write!(
                f,
                "namespace {namespace} holds {held} of {limit} addresses that it may have of pool {pool}: delete a \
                 Service there, share an address or raise maxAddressesPerNamespace"
            ),
            Self::UnknownPool { pool } => {
                write!(f, "there is no AddressPool {pool}: create it or ask for another")
            }
            Self::PoolNotReady { pool, why } => write!(f, "pool {pool} cannot be used: {why}"),
            Self::PoolNotAllowed { pool, namespace } => write!(
                f,
                "pool {pool} does not serve namespace {namespace} or the labels of this Service: ask for another, or \
                 change namespaces, namespaceSelector or serviceSelectors of the pool"
            ),
            Self::PoolLacksFamily { pool, family } => {
                write!(f, "pool {pool} holds no {family} addresses: add some or ask for another pool")
            }
            Self::InvalidRequest(error) => write!(f, "{error}"),
            Self::AddressOutsidePools { .. }
            | Self::AddressNotInPool { .. }
            | Self::AddressLeftOut { .. }
            | Self::AddressTaken { .. }
            | Self::AddressReserved { .. }
            | Self::AddressQuarantined { .. }
            | Self::AddressInUse { .. }
            | Self::SharingKeyDiffers { .. }
            | Self::SharingPortConflict { .. }
            | Self::SharingNotAllowed { .. } => self.about_an_address(f),
        }
    }
}

impl Denied {
    fn about_an_address(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressOutsidePools { addr } => {
                write!(f, "{addr} is in no AddressPool: add it to a pool or ask for another address")
            }
            Self::AddressNotInPool { addr, pool } => {
                write!(f, "{addr} is not in pool {pool}: ask for an address of that pool or for no pool")
            }
            Self::AddressLeftOut { addr, pool } => write!(
                f,
                "{addr} is left out by exclude or avoidBuggyIPs of pool {pool}: ask for another address"
            ),
            Self::AddressTaken { addr, by } => {
                write!(f, "{addr} belongs to the cluster itself, to {by}: ask for another address")
            }
            Self::AddressReserved { addr, reservation, whom } => write!(
                f,
                "{addr} is reserved for {whom} by AddressReservation {reservation}: ask for another address"
            ),
            Self::AddressQuarantined { addr, until } => {
                write!(f, "{addr} was freed and rests until {}: wait or ask for another address", utc(*until))
            }
            Self::AddressInUse { addr, holder } => write!(
                f,
                "{addr} is in use by Service {holder}: ask for another address or delete that Service"
            ),
            Self::SharingKeyDiffers { addr, holder } => write!(
                f,
                "{addr} is shared by Service {holder} under another key: use its key or another address"
            ),
            Self::SharingPortConflict { addr, holder, port: (protocol, port) } => write!(
                f,
                "{addr} has {protocol} port {port} of Service {holder} already: change the port or the sharing key"
            ),
            Self::SharingNotAllowed { addr, holder } => write!(
                f,
                "{addr} is shared by Service {holder} of another namespace, which its pool does not allow: use \
                 another address or set sharing: Cluster in the pool"
            ),
            _ => Ok(()),
        }
    }
}

//! What a refusal says to the user: the obstacle by its name, and what to do.

use std::fmt;

use super::Denied;
use crate::addr::Family;
use crate::clock::utc;
use crate::ledger::Usage;
use crate::name::PoolName;

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

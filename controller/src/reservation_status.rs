//! What should stand in the status of an `AddressReservation`.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use landfall_core::ledger::{Ledger, Standing};
use landfall_core::name::ServiceKey;
use landfall_core::pool::Pools;
use landfall_core::reservation::Held;
use landfall_core::selector::Labels;
use landfall_crds::AddressReservationStatus;
use serde_json::{Value, json};

use crate::pool_status::{Verdict, condition, replaced};
use crate::seen::SeenReservation;

/// What should stand there now. `since` says since when a Service has an address, in Unix milliseconds.
#[must_use]
pub fn desired(
    seen: &SeenReservation,
    pools: &Pools,
    ledger: &Ledger,
    since: impl Fn(&ServiceKey, IpAddr) -> Option<i64>,
    now: Timestamp,
) -> AddressReservationStatus {
    let standing = ledger.standing(pools, &seen.name);
    let whom = seen.reservation.as_ref().map(|reservation| reservation.whom.to_string()).unwrap_or_default();
    let mine = |holders: &[ServiceKey]| -> Option<ServiceKey> {
        let reservation = seen.reservation.as_ref().ok()?;
        let is_for = |key: &&ServiceKey| match &reservation.whom.selector {
            // Who has it by a label got it because of that; the labels may have changed since.
            Some(_) => reservation.whom.namespace.as_ref().is_none_or(|of| *of == key.namespace),
            None => reservation.whom.includes(key, &Labels::none()),
        };
        holders.iter().find(is_for).cloned()
    };
    let mut status = AddressReservationStatus::default();
    let (is_true, reason, message): Verdict = match (&seen.reservation, standing) {
        (Err(error), _) => (false, "InvalidSpec", error.to_string()),
        (Ok(_), None) => (false, "InvalidSpec", "the reservation has not been read yet".to_owned()),
        (Ok(_), Some(Standing::Held(addr))) => {
            status.address = Some(addr.to_string());
            (true, "Held", format!("{addr} is held for {whom}"))
        }
        (Ok(_), Some(Standing::Used(addr, holders))) => {
            status.address = Some(addr.to_string());
            if let Some(key) = mine(holders) {
                status.used_by = Some(key.to_string());
                status.since = since(&key, addr).and_then(|ms| whole(Timestamp::from_millisecond(ms).ok()?));
                (true, "InUse", format!("{addr} is in use by Service {key}"))
            } else {
                let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
                let message = format!(
                    "{addr} is in use by Service {}, which keeps it; it is held for {whom} once it is free",
                    names.join(", ")
                );
                (false, "AddressInUse", message)
            }
        }
        (Ok(_), Some(Standing::OutsidePools(addr))) => {
            let message = format!("{addr} is in no AddressPool that can give it: add it to one");
            (false, "AddressOutsidePools", message)
        }
        (Ok(_), Some(Standing::ReservedBefore(addr, older))) => {
            let message = format!("{addr} is held by the older AddressReservation {}", older.name);
            (false, "AddressReserved", message)
        }
        (Ok(_), Some(Standing::UnknownPool)) => {
            (false, "UnknownPool", format!("pool {} does not exist or cannot be used", of_pool(seen)))
        }
        (Ok(_), Some(Standing::PoolFull)) => {
            (false, "PoolFull", format!("pool {} has no free address of the family", of_pool(seen)))
        }
    };
    let old = &seen.status.conditions;
    status.conditions = vec![condition(old, seen.generation, "Ready", (is_true, reason, message), now)];
    status
}

/// The pool of which it wants an address.
fn of_pool(seen: &SeenReservation) -> &str {
    match seen.reservation.as_ref().map(|reservation| &reservation.held) {
        Ok(Held::Any { pool, .. }) => pool.as_str(),
        _ => "of spec.pool",
    }
}

/// In whole seconds, as the API server keeps times.
fn whole(at: Timestamp) -> Option<Time> {
    Timestamp::from_second(at.as_second()).ok().map(Time)
}

/// The whole status as a JSON patch on the status subresource.
#[must_use]
pub fn patch(seen: &SeenReservation, status: &AddressReservationStatus) -> Value {
    replaced(&seen.version, &json!(status))
}

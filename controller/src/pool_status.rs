//! What should stand in the status of an `AddressPool`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use landfall_core::addr::Family;
use landfall_core::ledger::{Ledger, Usage};
use landfall_core::pool::{Pools, UsablePool};
use landfall_crds::convert::resting;
use landfall_crds::{AddressCount, AddressPoolStatus};
use serde_json::{Value, json};

use crate::seen::{SeenPool, Version};

/// Things of the cluster that are named in a message at most.
const NAMED: usize = 5;

/// What should stand there now. Conditions that do not change keep their time.
#[must_use]
pub fn desired(seen: &SeenPool, pools: &Pools, ledger: &Ledger, now: Timestamp) -> AddressPoolStatus {
    let usable = pools.get(&seen.name);
    let of = |family| {
        let usable = usable?;
        let declared = usable.pool.addresses.iter().any(|range| range.family() == family);
        declared.then(|| ledger.usage(&seen.name, family))
    };
    let (v4, v6) = (of(Family::V4), of(Family::V6));
    let (ready, overlapping) = verdicts(seen, usable);
    let conflict = (
        false,
        "NoConflict",
        "the nodes do not look for foreign devices that use an address of it yet".to_owned(),
    );
    let resting = ledger
        .resting()
        .filter(|(addr, _)| pools.of(*addr).is_some_and(|usable| usable.pool.name == seen.name));
    let told = [
        ("AddressConflict", conflict),
        ("Exhausted", exhausted([(Family::V4, v4), (Family::V6, v6)])),
        ("Overlapping", overlapping),
        ("Ready", ready),
    ];
    AddressPoolStatus {
        ipv4: v4.map(counts),
        ipv6: v6.map(counts),
        resting: resting::write(resting),
        conditions: told
            .into_iter()
            .map(|(type_, verdict)| condition(&seen.status.conditions, seen.generation, type_, verdict, now))
            .collect(),
    }
}

fn counts(usage: Usage) -> AddressCount {
    AddressCount {
        capacity: usage.capacity.to_string(),
        assigned: usage.assigned.to_string(),
        available: usage.available().to_string(),
        quarantined: usage.quarantined.to_string(),
        reserved: usage.reserved.to_string(),
        conflicting: "0".to_owned(),
    }
}

/// Status, reason and message of a condition.
pub(crate) type Verdict = (bool, &'static str, String);

fn exhausted(families: [(Family, Option<Usage>); 2]) -> Verdict {
    let none_left = |(family, usage): (Family, Option<Usage>)| {
        let usage = usage.filter(|usage| usage.capacity > 0 && usage.available() == 0)?;
        Some(format!("no {family} address is left of {}", usage.capacity))
    };
    let full: Vec<String> = families.iter().copied().filter_map(none_left).collect();
    if families.iter().all(|(_, usage)| usage.is_none_or(|usage| usage.capacity == 0)) {
        (true, "NoAddressLeft", "it has no address that can be given: see Ready".to_owned())
    } else if full.is_empty() {
        (false, "AddressesLeft", "there are addresses left".to_owned())
    } else {
        (true, "NoAddressLeft", full.join("; "))
    }
}

fn verdicts(seen: &SeenPool, usable: Option<&UsablePool>) -> (Verdict, Verdict) {
    let none = (false, "NoOverlap", "none of its addresses belongs to anybody else".to_owned());
    let usable = match (&seen.pool, usable) {
        (Err(error), _) => return ((false, "InvalidAddresses", error.to_string()), none),
        (Ok(_), None) => {
            return ((false, "InvalidAddresses", "the pool has not been read yet".to_owned()), none);
        }
        (Ok(_), Some(usable)) => usable,
    };
    let cluster = || {
        let few: Vec<&str> = usable.taken.iter().take(NAMED).map(|taken| &*taken.by).collect();
        let more = usable.taken.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("holds {}{more}, which is never given: leave it out by exclude", few.join(", "))
    };
    let overlapping = if usable.overlaps.is_empty() && usable.taken.is_empty() {
        none
    } else if usable.overlaps.is_empty() {
        (true, "ClusterAddresses", cluster())
    } else {
        let names: Vec<&str> = usable.overlaps.iter().map(landfall_core::name::PoolName::as_str).collect();
        let mut message = format!(
            "shares addresses with the older pool {}, which keeps them: remove them from one of the pools",
            names.join(", ")
        );
        if !usable.taken.is_empty() {
            message = format!("{message}; {}", cluster());
        }
        (true, "SharesAddresses", message)
    };
    let ready = if usable.serves(Family::V4) || usable.serves(Family::V6) {
        (true, "Ready", "the pool can be used".to_owned())
    } else {
        let message = "every address of it is left out by exclude or avoidBuggyIPs, or belongs to an older pool or to the \
                       cluster itself";
        (false, "NoAddresses", message.to_owned())
    };
    (ready, overlapping)
}

/// A condition; one that does not turn keeps its time.
pub(crate) fn condition(
    old: &[Condition],
    generation: Option<i64>,
    type_: &str,
    (is_true, reason, message): Verdict,
    now: Timestamp,
) -> Condition {
    let status = if is_true { "True" } else { "False" };
    let old = old.iter().find(|old| old.type_ == type_ && old.status == status);
    // Whole seconds, as the API server keeps them: else the next comparison finds a difference.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: old.map_or(Time(now), |old| old.last_transition_time.clone()),
    }
}

/// The whole status as a JSON patch on the status subresource.
#[must_use]
pub fn patch(seen: &SeenPool, status: &AddressPoolStatus) -> Value {
    replaced(&seen.version, &json!(status))
}

/// A JSON patch (RFC 6902) that puts this status in the place of whatever stands there: nobody else writes it, and what a
/// hand has added goes. Another object of the same name is not touched.
pub(crate) fn replaced(version: &Version, status: &Value) -> Value {
    json!([
        {"op": "test", "path": "/metadata/uid", "value": &*version.uid},
        {"op": "add", "path": "/status", "value": status},
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use landfall_core::ledger::Terms;
    use landfall_core::name::ServiceKey;
    use landfall_crds::{AddressPool, AddressPoolSpec, AddressText};

    use super::*;

    fn seen(name: &str, created: &str, addresses: &[&str]) -> SeenPool {
        let spec = AddressPoolSpec {
            addresses: addresses.iter().copied().map(AddressText::from).collect(),
            auto_assign: true,
            ..AddressPoolSpec::default()
        };
        let mut object = AddressPool::new(name, spec);
        object.metadata.generation = Some(3);
        object.metadata.creation_timestamp = Some(Time(created.parse().unwrap()));
        SeenPool::new(&object)
    }

    fn pools(list: &[&SeenPool]) -> Pools {
        Pools::new(list.iter().filter_map(|seen| seen.pool.clone().ok()), BTreeMap::new(), &[])
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:10.75Z".parse().unwrap()
    }

    fn told(status: &AddressPoolStatus, type_: &str) -> (String, String, String) {
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        (condition.status.clone(), condition.reason.clone(), condition.message.clone())
    }

    #[test]
    fn a_pool_is_counted_exactly_in_both_families() {
        // A50, A53
        let pool = seen("lan", "2026-01-01T00:00:00Z", &["192.0.2.0/30", "2001:db8::/64"]);
        let pools = pools(&[&pool]);
        let mut ledger = Ledger::default();
        ledger.set_pools(&pools);
        for addr in ["192.0.2.1", "2001:db8::7"] {
            let key = ServiceKey::new("a", "b");
            ledger.take(&pools, &key, addr.parse().unwrap(), &Terms::default()).unwrap();
        }
        let status = desired(&pool, &pools, &ledger, now());
        let count = |capacity: &str, assigned: &str, available: &str| {
            Some(AddressCount {
                capacity: capacity.into(),
                assigned: assigned.into(),
                available: available.into(),
                ..AddressCount::default()
            })
        };
        assert_eq!(status.ipv4, count("4", "1", "3"));
        assert_eq!(status.ipv6, count("18446744073709551616", "1", "18446744073709551615"));
        assert_eq!(told(&status, "Ready"), ("True".into(), "Ready".into(), "the pool can be used".into()));
        assert_eq!(status.conditions[0].last_transition_time.0.to_string(), "2026-01-01T00:00:10Z");
        assert_eq!(status.conditions[0].observed_generation, Some(3));
    }

    #[test]
    fn nothing_changes_by_looking_again() {
        let mut pool = seen("lan", "2026-01-01T00:00:00Z", &["192.0.2.0/30"]);
        let pools = pools(&[&pool]);
        let mut ledger = Ledger::default();
        ledger.set_pools(&pools);
        pool.status = desired(&pool, &pools, &ledger, now());
        assert_eq!(desired(&pool, &pools, &ledger, "2027-01-01T00:00:00Z".parse().unwrap()), pool.status);
    }

    #[test]
    fn a_reversed_ipv6_range_is_named_with_its_field() {
        let pool = seen("lan", "2026-01-01T00:00:00Z", &["2001:db8::9-2001:db8::1"]);
        let status = desired(&pool, &Pools::default(), &Ledger::default(), now());
        let message = "spec.addresses[0]: the range ends at 2001:db8::1, before it begins at 2001:db8::9";
        assert_eq!(told(&status, "Ready"), ("False".into(), "InvalidAddresses".into(), message.into()));
        assert_eq!((status.ipv4, status.ipv6), (None, None));
    }

    #[test]
    fn the_younger_of_two_overlapping_pools_says_so_and_names_the_other() {
        for (inside, whole) in [("192.0.2.8/29", "192.0.2.0/24"), ("2001:db8::8/125", "2001:db8::/120")] {
            let old = seen("old", "2026-01-01T00:00:00Z", &[whole]);
            let young = seen("a-young", "2026-01-02T00:00:00Z", &[inside]);
            let pools = pools(&[&young, &old]);
            let mut ledger = Ledger::default();
            ledger.set_pools(&pools);
            let status = desired(&old, &pools, &ledger, now());
            assert_eq!((&*told(&status, "Ready").0, &*told(&status, "Overlapping").0), ("True", "False"));
            let status = desired(&young, &pools, &ledger, now());
            assert_eq!(told(&status, "Ready").1, "NoAddresses");
            let message = "shares addresses with the older pool old, which keeps them: remove them from one of the pools";
            assert_eq!(
                told(&status, "Overlapping"),
                ("True".into(), "SharesAddresses".into(), message.into())
            );
        }
    }
}

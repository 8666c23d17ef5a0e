//! Patches, compared whole.

use landfall_core::addr::Family;

use landfall_core::name::ServiceKey;
use landfall_core::pool::Pool;

use landfall_core::allocate::{Lacking, Outside};

use super::*;
use crate::seen::SeenCondition;

fn pools() -> Pools {
    let pool = |name: &str, addresses: &[&str]| {
        Pool::new(name, 1, addresses.iter().map(|text| text.parse().unwrap()))
    };
    Pools::new(
        [pool("lan", &["192.0.2.0/24", "2001:db8::/64"]), pool("dmz", &["2001:db8:1::/64"])],
        [].into(),
        &[],
    )
}

fn seen() -> SeenService {
    SeenService {
        key: ServiceKey::new("shop", "web"),
        version: Version { uid: "u1".into(), resource: "42".into() },
        created: 0,
        demand: None,
        deleting: false,
        ingress: vec![],
        foreign_ingress: false,
        condition: None,
        allocated_from: None,
    }
}

fn grant(addresses: &[&str], lacking: Option<Lacking>) -> Grant {
    let lacking = lacking.into_iter().collect();
    Grant { addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(), lacking }
}

fn now() -> Timestamp {
    "2026-01-01T12:00:00.5Z".parse().unwrap()
}

/// The Service as it is after the write.
fn after(desired: &Desired, before: &SeenService) -> SeenService {
    SeenService {
        ingress: desired.addresses.clone(),
        foreign_ingress: false,
        condition: Some(SeenCondition {
            is_true: !desired.addresses.is_empty(),
            reason: desired.reason.into(),
            message: desired.message.as_str().into(),
            since: "2026-01-01T12:00:00Z".parse().unwrap(),
        }),
        allocated_from: desired.allocated_from.clone(),
        ..before.clone()
    }
}

#[test]
fn a_first_address_is_one_status_and_one_metadata_write_on_the_version_read() {
    for addr in ["192.0.2.7", "2001:db8::7"] {
        let desired = Desired::granted(&grant(&[addr], None), &pools(), &seen());
        let write = desired.diff(&seen(), now()).unwrap();
        assert_eq!(
            write.status_patch().unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "42"},
                "status": {
                    "loadBalancer": {"ingress": [{"ip": addr, "ipMode": "VIP"}]},
                    "conditions": [{
                        "type": "landfall.dev/Allocated",
                        "status": "True",
                        "reason": "Allocated",
                        "message": format!("{addr} from pool lan"),
                        "lastTransitionTime": "2026-01-01T12:00:00Z",
                    }],
                },
            })
        );
        let newer = Version { uid: "u1".into(), resource: "43".into() };
        assert_eq!(
            write.metadata_patch(&newer).unwrap(),
            json!({"metadata": {
                "uid": "u1", "resourceVersion": "43", "annotations": {"landfall.dev/allocated-from": "lan"},
            }})
        );
        let message = format!("{addr} from pool lan");
        assert_eq!(write.note, Some(Note { warning: false, reason: "Allocated", message }));
    }
}

#[test]
fn a_service_that_is_as_it_should_be_is_left_alone() {
    let cases = [
        Desired::granted(&grant(&["192.0.2.7"], None), &pools(), &seen()),
        Desired::granted(&grant(&["2001:db8::7"], None), &pools(), &seen()),
        Desired::denied(&Denied::NoPool),
    ];
    for desired in cases {
        assert_eq!(desired.diff(&after(&desired, &seen()), now()), None);
    }
}

#[test]
fn a_refusal_says_why_and_takes_rubbish_out_of_the_status() {
    let rubbish = SeenService { foreign_ingress: true, ..seen() };
    let write = Desired::denied(&Denied::NoPool).diff(&rubbish, now()).unwrap();
    assert_eq!(
        write.status.unwrap(),
        json!({
            "loadBalancer": {"ingress": []},
            "conditions": [{
                "type": "landfall.dev/Allocated",
                "status": "False",
                "reason": "NoPool",
                "message": "there is no AddressPool that can be used: create one",
                "lastTransitionTime": "2026-01-01T12:00:00Z",
            }],
        })
    );
    assert_eq!(write.metadata, None);
    assert!(write.note.unwrap().warning);
}

#[test]
fn the_time_of_a_condition_is_that_of_its_last_turn() {
    let first = Desired::denied(&Denied::NoPool);
    let refused = after(&first, &seen());
    let later = "2026-01-02T00:00:00Z".parse().unwrap();
    let time = |write: Write| write.status.unwrap()["conditions"][0]["lastTransitionTime"].clone();
    let other = Desired::denied(&Denied::UnknownPool { pool: "x".into() });
    assert_eq!(time(other.diff(&refused, later).unwrap()), "2026-01-01T12:00:00Z");
    let given = Desired::granted(&grant(&["192.0.2.7"], None), &pools(), &refused);
    assert_eq!(time(given.diff(&refused, later).unwrap()), "2026-01-02T00:00:00Z");
}

#[test]
fn what_lacks_is_said_beside_what_is_given() {
    let denied = Denied::NoPoolForFamily { family: Family::V6 };
    let half = Desired::granted(
        &grant(&["192.0.2.7"], Some(Lacking::SecondFamily(denied.clone()))),
        &pools(),
        &seen(),
    );
    assert_eq!((half.reason, half.is_true()), ("SecondFamilyUnavailable", true));
    assert!(
        half.message
            .starts_with("192.0.2.7 from pool lan; no AddressPool with autoAssign holds IPv6 addresses")
    );
    let kept = Desired::granted(&grant(&["192.0.2.7"], Some(Lacking::Requested(denied))), &pools(), &seen());
    assert_eq!(kept.reason, "RequestedAddressUnavailable");
}

#[test]
fn two_pools_are_named_in_the_order_of_the_addresses() {
    let both = grant(&["2001:db8:1::1", "192.0.2.7"], None);
    let desired = Desired::granted(&both, &pools(), &seen());
    assert_eq!(desired.allocated_from.as_deref(), Some("dmz,lan"));
    let one = grant(&["192.0.2.7", "2001:db8::1"], None);
    let desired = Desired::granted(&one, &pools(), &seen());
    assert_eq!(desired.allocated_from.as_deref(), Some("lan"));
}

#[test]
fn an_address_whose_pool_is_gone_stays_and_its_pool_is_remembered() {
    // A48, A69
    for addr in ["10.0.0.1", "fd00::1"] {
        let before = SeenService { allocated_from: Some("gone".into()), ..seen() };
        let why = Outside::Gone(Some("gone".into()));
        let lacking = Lacking::OutsidePool { addr: addr.parse().unwrap(), why };
        let desired = Desired::granted(&grant(&[addr], Some(lacking)), &pools(), &before);
        assert_eq!((desired.reason, desired.allocated_from.as_deref()), ("OutsidePool", Some("gone")));
        assert!(desired.message.contains("pool gone"), "{}", desired.message);
    }
}

#[test]
fn a_service_that_is_not_ours_any_more_is_left_without_a_trace() {
    // A1
    let ours = SeenService {
        allocated_from: Some("lan".into()),
        ..after(&Desired::denied(&Denied::NoPool), &seen())
    };
    let write = clear(&SeenService { allocated_from: Some("lan".into()), ..ours }).unwrap();
    assert_eq!(write.status_patch().unwrap()["status"], json!({}));
    let patch = write.metadata_patch(&write.version).unwrap();
    assert_eq!(patch["metadata"]["annotations"], json!({"landfall.dev/allocated-from": null}));
    assert_eq!(clear(&seen()), None);
}

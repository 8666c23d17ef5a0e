//! Patches as they are sent.

use k8s_openapi::api::core::v1::Service;
use landfall_core::addr::Family;
use landfall_core::pool::Pool;
use landfall_crds::class::ServiceClass;

use super::*;

fn pools() -> Pools {
    let pool = |name: &str, addresses: &[&str]| {
        Pool::new(name, 1, addresses.iter().map(|text| text.parse().unwrap()))
    };
    Pools::new([pool("lan", &["192.0.2.0/24", "2001:db8::/64"])], [].into(), &[])
}

fn now() -> Timestamp {
    "2026-01-01T12:00:00.5Z".parse().unwrap()
}

fn seen(change: &Value) -> SeenService {
    let mut object = json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": "u", "resourceVersion": "7"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"]},
    });
    json_patch::merge(&mut object, change);
    let class = ServiceClass { name: "landfall.dev/landfall".into(), is_default: true };
    SeenService::new(&serde_json::from_value::<Service>(object).unwrap(), &class)
}

fn granted(addr: &str) -> Desired {
    let grant = Grant { addresses: vec![addr.parse().unwrap()], lacking: Vec::new() };
    let origin = Origin { pools: vec!["lan".into()], on_removal: vec![OnRemoval::Keep] };
    Desired::granted(&grant, &pools(), &origin)
}

#[test]
fn a_first_address_is_one_metadata_write_and_then_one_status_write_on_the_version_read() {
    for addr in ["192.0.2.7", "2001:db8::7"] {
        let write = granted(addr).diff(&seen(&json!({})), now()).unwrap();
        assert!(!write.status_first && !write.fold);
        assert_eq!(
            write.metadata_patch(&write.version, true).unwrap(),
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "u"},
                {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "add", "path": "/metadata/finalizers", "value": ["service.kubernetes.io/load-balancer-cleanup"]},
                {"op": "add", "path": "/metadata/annotations", "value": {}},
                {"op": "add", "path": "/metadata/annotations/landfall.dev~1allocated-from", "value": "lan"},
                {"op": "add", "path": "/metadata/annotations/landfall.dev~1on-removal", "value": "Keep"},
            ])
        );
        let newer = Version { uid: "u".into(), resource: "8".into() };
        assert_eq!(
            write.status_patch(&newer).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "8"},
                "status": {
                    "loadBalancer": {"ingress": [{"ip": addr, "ipMode": "VIP"}]},
                    "conditions": [{
                        "type": "landfall.dev/Allocated", "status": "True", "reason": "Allocated",
                        "message": format!("{addr} from pool lan"), "lastTransitionTime": "2026-01-01T12:00:00Z",
                    }],
                },
            })
        );
        let note = write.note.unwrap();
        assert_eq!((note.warning, note.reason), (false, "Allocated"));
    }
}

#[test]
fn what_stands_there_already_is_left_alone() {
    let desired = granted("192.0.2.7");
    let write = desired.diff(&seen(&json!({})), now()).unwrap();
    let before = json!({
        "metadata": {
            "finalizers": ["other", "service.kubernetes.io/load-balancer-cleanup"],
            "annotations": {"landfall.dev/allocated-from": "lan", "landfall.dev/on-removal": "Keep", "mine": "x"},
        },
        "status": write.status.unwrap(),
    });
    assert_eq!(desired.diff(&seen(&before), now()), None);
    // A refusal takes it all off: the status first, and of the finalizers ours alone.
    let refused = Desired::denied(&Denied::NoPoolForFamily { family: Family::V4 });
    let write = refused.diff(&seen(&before), now()).unwrap();
    assert!(write.status_first && write.note.as_ref().unwrap().warning);
    let patch = write.metadata_patch(&write.version, true).unwrap();
    assert_eq!(patch[3], json!({"op": "remove", "path": "/metadata/finalizers/1"}));
    assert_eq!(
        patch[4],
        json!({"op": "remove", "path": "/metadata/annotations/landfall.dev~1allocated-from"})
    );
}

#[test]
fn a_condition_keeps_its_time_until_it_turns() {
    let status = |is_true: &str, reason: &str| {
        json!({"status": {"conditions": [{
            "type": "landfall.dev/Allocated", "status": is_true, "reason": reason, "message": "m",
            "lastTransitionTime": "2025-01-01T00:00:00Z",
        }]}})
    };
    let time = |desired: &Desired, before: &Value| {
        let write = desired.diff(&seen(before), now()).unwrap();
        write.status.unwrap()["conditions"][0]["lastTransitionTime"].clone()
    };
    let refused = Desired::denied(&Denied::NoPool);
    assert_eq!(time(&refused, &status("False", "PoolsFull")), "2025-01-01T00:00:00Z");
    assert_eq!(time(&granted("192.0.2.7"), &status("False", "PoolsFull")), "2026-01-01T12:00:00Z");
}

#[test]
fn what_only_tells_what_speakers_report_can_wait() {
    let mut desired = granted("192.0.2.7");
    let write = desired.diff(&seen(&json!({})), now()).unwrap();
    let before = json!({
        "metadata": {
            "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
            "annotations": {"landfall.dev/allocated-from": "lan", "landfall.dev/on-removal": "Keep"},
        },
        "status": write.status.unwrap(),
    });
    let told = Told { is_true: true, reason: "Announced", message: "by n1".to_owned() };
    desired.others = Some(vec![("landfall.dev/Announced", told)]);
    let write = desired.diff(&seen(&before), now()).unwrap();
    assert!(write.fold && write.note.is_none() && write.metadata.is_none());
}

#[test]
fn a_service_of_somebody_else_is_not_touched() {
    let theirs = json!({
        "metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup"]},
        "spec": {"loadBalancerClass": "example.com/other"},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
    });
    assert_eq!(clear(&seen(&theirs)), None);
}

#[test]
fn a_message_is_cut_and_an_events_text_fits_in_bytes() {
    assert_eq!(cut("ä".repeat(5_000)).chars().count(), LONGEST + 1);
    assert_eq!(cut("short".to_owned()), "short");
}

//! What is given back, and what becomes of it.

use landfall_lab::objects::{ALLOCATED, Object};
use landfall_lab::product::condition;
use serde_json::json;

use crate::{pinned, space};

// A1
#[test]
fn a_service_that_becomes_internal_gives_its_address_to_the_one_that_waits() {
    let ns = space("a1");
    let _pool = Object::pool("a1", &pinned(&[&ns], &["198.18.1.1/32"], &json!({})));
    let first = ns.service("first", &json!({}), &json!({}));
    first.wait_addresses(&["198.18.1.1"]);
    let second = ns.service("second", &json!({}), &json!({}));
    let message = second.wait("False", "PoolsFull");
    assert!(message.contains("a1"), "names the pool: {message}");
    first.merge(&json!({"spec": {"type": "ClusterIP", "allocateLoadBalancerNodePorts": null}}));
    first.wait_released();
    second.wait_addresses(&["198.18.1.1"]);
}

// A2
#[test]
fn the_address_of_a_deleted_service_goes_to_the_oldest_that_waits() {
    let ns = space("a2");
    let pool = pinned(&[&ns], &["198.18.2.1/32", "2001:db8:2::1/128"], &json!({}));
    let _pool = Object::pool("a2", &pool);
    for (family, addr) in [("IPv4", "198.18.2.1"), ("IPv6", "2001:db8:2::1")] {
        let of_family = json!({"ipFamilies": [family]});
        let name = |n: u8| format!("{}-{n}", family.to_lowercase());
        let holder = ns.service(&name(0), &json!({}), &of_family);
        holder.wait_addresses(&[addr]);
        let second = ns.service(&name(1), &json!({}), &of_family);
        second.wait("False", "PoolsFull");
        let third = ns.service(&name(2), &json!({}), &of_family);
        third.wait("False", "PoolsFull");
        holder.delete_and_wait();
        second.wait_addresses(&[addr]);
        ns.fence();
        assert!(third.addresses().is_empty(), "the younger one waits on");
    }
}

// A8 A70
#[test]
fn with_reassign_the_address_goes_with_the_last_pool_and_the_service_says_so() {
    let ns = space("a8");
    let spec = pinned(&[&ns], &["198.18.8.0/30"], &json!({"onRemoval": "Reassign"}));
    let pool = Object::pool("a8", &spec);
    let service = ns.service("web", &json!({}), &json!({}));
    service.wait_addresses(&["198.18.8.0"]);
    pool.delete();
    let message = service.wait("False", "NoPool");
    assert!(message.contains("AddressPool"), "{message}");
    assert!(service.addresses().is_empty());
}

// A9 A70
#[test]
fn with_reassign_another_pool_takes_over_when_the_pool_goes() {
    let ns = space("a9");
    let first = pinned(&[&ns], &["198.18.9.0/30"], &json!({"onRemoval": "Reassign", "priority": 1}));
    let first = Object::pool("a9-first", &first);
    let _second = Object::pool("a9-second", &pinned(&[&ns], &["198.18.9.8/30"], &json!({})));
    let service = ns.service("web", &json!({}), &json!({}));
    service.wait_addresses(&["198.18.9.0"]);
    assert_eq!(service.annotation("landfall.dev/on-removal").as_deref(), Some("Reassign"));
    first.delete();
    service.wait_addresses(&["198.18.9.8"]);
    service.wait("True", "Allocated");
    assert_eq!(service.annotation("landfall.dev/allocated-from").as_deref(), Some("a9-second"));
}

// A51 S83
#[test]
fn a_service_of_another_class_is_left_alone() {
    let ns = space("a51");
    let _pool = Object::pool("a51", &pinned(&[&ns], &["198.18.51.0/30"], &json!({})));
    let other = ns.service("other", &json!({}), &json!({"loadBalancerClass": "example.com/other"}));
    let ours = ns.service("ours", &json!({}), &json!({"loadBalancerClass": "landfall.dev/landfall"}));
    ours.wait_addresses(&["198.18.51.0"]);
    ns.fence();
    other.wait_released();
    assert!(condition(&other.read(), ALLOCATED).is_none());
    // Nothing has to be handed over: a class is for as long as the type.
    let unset = ns.service("unset", &json!({}), &json!({}));
    for (service, class) in [
        (&other, json!("landfall.dev/landfall")),
        (&ours, json!("example.com/other")),
        (&unset, json!("example.com/other")),
        (&ours, json!(null)),
    ] {
        let refused = service.try_merge(&json!({"spec": {"loadBalancerClass": class}})).unwrap_err();
        assert!(format!("{refused:?}").contains("may not change once set"), "{class}: {refused:?}");
    }
}

// S86
#[test]
fn the_health_check_port_comes_and_goes_with_the_policy_and_the_address_stays() {
    let ns = space("s86");
    let pool = pinned(&[&ns], &["198.18.86.0/32", "2001:db8:86::/128"], &json!({}));
    let _pool = Object::pool("s86", &pool);
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "externalTrafficPolicy": "Local"});
    let service = ns.service("web", &json!({}), &spec);
    let addresses = ["198.18.86.0", "2001:db8:86::"];
    service.wait_addresses(&addresses);
    let port = || service.read()["spec"]["healthCheckNodePort"].as_u64();
    let given = port().expect("the API server gives one");
    let other = json!({"spec": {"healthCheckNodePort": given ^ 1}});
    assert!(service.try_merge(&other).is_err(), "not while it is needed");
    service.merge(&json!({"spec": {"externalTrafficPolicy": "Cluster"}}));
    assert_eq!(port(), None);
    service.merge(&json!({"spec": {"externalTrafficPolicy": "Local", "healthCheckNodePort": given}}));
    assert_eq!(port(), Some(given));
    ns.fence();
    service.wait_addresses(&addresses);
}

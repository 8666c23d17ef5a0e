//! Addresses held for somebody, addresses that rest, and how many one may have.

use std::time::{Duration, Instant};

use landfall_lab::objects::{Object, restart_controllers};
use landfall_lab::product::{SOON, cluster, eventually, eventually_seen};
use serde_json::{Value, json};

use crate::{pinned, space};

const ADDRESSES: &str = "landfall.dev/addresses";

// A66
#[test]
fn a_reserved_address_comes_back_to_its_service_and_nobody_else_gets_it_meanwhile() {
    let ns = space("a66");
    let _pool = Object::pool("a66", &pinned(&[&ns], &["198.18.66.0/31", "2001:db8:66::/127"], &json!({})));
    for (family, [reserved, other]) in
        [("IPv4", ["198.18.66.0", "198.18.66.1"]), ("IPv6", ["2001:db8:66::", "2001:db8:66::1"])]
    {
        let of_family = json!({"ipFamilies": [family]});
        let name = |part: &str| format!("{part}-{}", family.to_lowercase());
        let whom = json!({"namespace": ns.name(), "name": name("cart")});
        let spec = json!({"address": reserved, "service": whom});
        let reservation = Object::reservation(&name("a66"), &spec);
        reservation.wait("Ready", "True", "Held");
        ns.service(&name("other"), &json!({}), &of_family).wait_addresses(&[other]);
        let full = ns.service(&name("full"), &json!({}), &of_family);
        full.wait("False", "PoolsFull");
        let thief = ns.service(&name("thief"), &json!({ADDRESSES: reserved}), &of_family);
        let message = thief.wait("False", "AddressReserved");
        let beneficiary = format!("{}/{}", ns.name(), name("cart"));
        assert!(message.contains(reserved) && message.contains(&beneficiary), "{message}");
        let cart = ns.service(&name("cart"), &json!({}), &of_family);
        cart.wait_addresses(&[reserved]);
        reservation.wait("Ready", "True", "InUse");
        reservation.wait_status("/usedBy", &beneficiary);
        reservation.wait_status("/address", reserved);
        cart.delete_and_wait();
        reservation.wait("Ready", "True", "Held");
        ns.fence();
        assert!(full.addresses().is_empty() && thief.addresses().is_empty(), "nobody else gets it");
        ns.service(&name("cart"), &json!({}), &of_family).wait_addresses(&[reserved]);
        ns.existing(&name("cart")).delete_and_wait();
        reservation.delete();
        eventually(SOON, "the address to be given once it is not held any more", || {
            (!full.addresses().is_empty() || !thief.addresses().is_empty()).then_some(())
        });
    }
}

// A66
#[test]
fn a_place_in_a_pool_is_held_for_the_services_of_a_label() {
    let ns = space("a66-any");
    let pool = Object::pool("a66-any", &pinned(&[&ns], &["198.18.67.0/31"], &json!({})));
    let spec = json!({"pool": "a66-any", "family": "IPv4", "namespace": ns.name(),
                      "serviceSelector": {"matchLabels": {"app": "cart"}}});
    let reservation = Object::reservation("a66-any", &spec);
    reservation.wait("Ready", "True", "Held");
    let held = eventually(SOON, "the address that is held", || {
        reservation.read().pointer("/status/address").and_then(Value::as_str).map(str::to_owned)
    });
    let first = ns.service("first", &json!({}), &json!({}));
    assert_ne!(first.address().to_string(), held);
    let second = ns.service("second", &json!({}), &json!({}));
    second.wait("False", "PoolsFull");
    second.merge(&json!({"metadata": {"labels": {"app": "cart"}}}));
    second.wait_addresses(&[&held]);
    pool.wait_status("/ipv4/assigned", "2");
}

// A67
#[test]
fn a_freed_address_rests_before_it_is_given_again() {
    let ns = space("a67");
    // Five seconds instead of thirty: the clock is the same.
    let rest = Duration::from_secs(5);
    let spec = pinned(&[&ns], &["198.18.68.0/32", "2001:db8:68::/128"], &json!({"quarantine": "5s"}));
    let pool = Object::pool("a67", &spec);
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let both = ["198.18.68.0", "2001:db8:68::"];
    let first = ns.service("first", &json!({}), &dual);
    first.wait_addresses(&both);
    let before = Instant::now();
    first.delete_and_wait();
    let second = ns.service("second", &json!({}), &dual);
    let asks = json!({ADDRESSES: "198.18.68.0"});
    let message = ns.service("asks", &asks, &json!({})).wait("False", "AddressQuarantined");
    assert!(message.contains("198.18.68.0"), "{message}");
    ns.existing("asks").delete_and_wait();
    pool.wait_status("/ipv4/quarantined", "1");
    pool.wait_status("/ipv6/quarantined", "1");
    eventually_seen(rest + SOON, "the addresses after their rest", || {
        let found = second.addresses();
        if found.is_empty() {
            return Err(second.read()["status"].to_string());
        }
        assert!(before.elapsed() >= rest, "given after {:?}", before.elapsed());
        Ok(())
    });
    second.wait_addresses(&both);
    pool.wait_status("/ipv4/quarantined", "0");
}

// A67
#[test]
fn an_address_rests_on_while_its_pools_controllers_are_exchanged() {
    let ns = space("a67-on");
    let spec = pinned(&[&ns], &["198.18.69.0/31", "2001:db8:69::/127"], &json!({"quarantine": "5m"}));
    let pool = Object::pool("a67-on", &spec);
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let first = ns.service("first", &json!({}), &dual);
    first.wait_addresses(&["198.18.69.0", "2001:db8:69::"]);
    first.delete_and_wait();
    pool.wait_status("/ipv4/quarantined", "1");
    pool.wait_status("/ipv6/quarantined", "1");
    restart_controllers(cluster());
    ns.service("second", &json!({}), &dual).wait_addresses(&["198.18.69.1", "2001:db8:69::1"]);
    let message = ns.service("third", &json!({}), &dual).wait("False", "PoolsFull");
    assert!(message.contains("a67-on"), "{message}");
    pool.wait_status("/ipv4/quarantined", "1");
    pool.wait_status("/ipv6/quarantined", "1");
}

// A68
#[test]
fn a_namespace_gets_as_many_addresses_of_a_pool_as_the_pool_says() {
    let (ns, other) = (space("a68"), space("a68-other"));
    let limit = json!({"maxAddressesPerNamespace": 2});
    let _pool = Object::pool("a68", &pinned(&[&ns, &other], &["198.18.70.0/29"], &limit));
    let first = ns.service("first", &json!({}), &json!({}));
    first.wait_addresses(&["198.18.70.0"]);
    let second = ns.service("second", &json!({}), &json!({}));
    second.wait_addresses(&["198.18.70.1"]);
    let third = ns.service("third", &json!({}), &json!({}));
    let message = third.wait("False", "QuotaExceeded");
    for part in ["a68", ns.name(), "2 of 2"] {
        assert!(message.contains(part), "names {part}: {message}");
    }
    other.service("web", &json!({}), &json!({})).wait_addresses(&["198.18.70.2"]);
    first.wait_addresses(&["198.18.70.0"]);
    second.wait_addresses(&["198.18.70.1"]);
    second.delete_and_wait();
    third.wait_addresses(&["198.18.70.1"]);
}

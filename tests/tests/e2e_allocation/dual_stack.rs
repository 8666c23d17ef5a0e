//! One family or two.

use landfall_lab::objects::Object;
use serde_json::{Value, json};

use crate::{pinned, space};

fn prefer() -> Value {
    json!({"ipFamilyPolicy": "PreferDualStack"})
}

// A32
#[test]
fn both_addresses_come_from_the_pool_that_has_both_families() {
    let ns = space("a32");
    let _four = Object::pool("a32-a", &pinned(&[&ns], &["198.18.32.0/30"], &json!({})));
    let _six = Object::pool("a32-b", &pinned(&[&ns], &["2001:db8:32::/126"], &json!({})));
    let both = ["198.18.32.8/30", "2001:db8:32::8/126"];
    let _both = Object::pool("a32-c", &pinned(&[&ns], &both, &json!({})));
    let service = ns.service("web", &json!({}), &prefer());
    service.wait_addresses(&["198.18.32.8", "2001:db8:32::8"]);
    assert_eq!(service.annotation("landfall.dev/allocated-from").as_deref(), Some("a32-c"));
}

// A33 A34
#[test]
fn a_service_of_one_family_gets_one_address_of_that_family() {
    let ns = space("a33");
    let _four = Object::pool("a33-four", &pinned(&[&ns], &["198.18.33.0/30"], &json!({})));
    let _six = Object::pool("a33-six", &pinned(&[&ns], &["2001:db8:33::/126"], &json!({})));
    ns.service("unset", &json!({}), &json!({})).wait_addresses(&["198.18.33.0"]);
    ns.service("six", &json!({}), &json!({"ipFamilies": ["IPv6"]})).wait_addresses(&["2001:db8:33::"]);
}

// A36
#[test]
fn an_address_in_use_stays_when_two_become_required_and_the_second_comes_when_it_can() {
    let ns = space("a36");
    let _four = Object::pool("a36-four", &pinned(&[&ns], &["198.18.36.0/30"], &json!({})));
    let service = ns.service("web", &json!({}), &prefer());
    service.wait_addresses(&["198.18.36.0"]);
    service.merge(&json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}}));
    let message = service.wait("True", "SecondFamilyUnavailable");
    assert!(message.contains("IPv6"), "says what lacks: {message}");
    service.wait_addresses(&["198.18.36.0"]);
    let _six = Object::pool("a36-six", &pinned(&[&ns], &["2001:db8:36::/126"], &json!({})));
    service.wait_addresses(&["198.18.36.0", "2001:db8:36::"]);
    service.wait("True", "Allocated");
}

// A37
#[test]
fn the_second_family_is_added_when_a_pool_for_it_appears() {
    let ns = space("a37");
    let addresses = ["198.18.37.0/30"];
    let _four = Object::pool("a37-four", &pinned(&[&ns], &addresses, &json!({})));
    let first = ns.service("first", &json!({}), &prefer());
    first.wait_addresses(&["198.18.37.0"]);
    first.wait("True", "SecondFamilyUnavailable");
    // A pool with both families: the address in use is not exchanged for one of it.
    let both = ["198.18.37.8/30", "2001:db8:37::/126"];
    let _both = Object::pool("a37-both", &pinned(&[&ns], &both, &json!({})));
    first.wait_addresses(&["198.18.37.0", "2001:db8:37::"]);
    first.wait("True", "Allocated");
}

// A40
#[test]
fn two_pools_give_one_address_each_unless_one_of_them_is_named() {
    let ns = space("a40");
    let _four = Object::pool("a40-four", &pinned(&[&ns], &["198.18.40.0/29"], &json!({})));
    let _six = Object::pool("a40-six", &pinned(&[&ns], &["2001:db8:40::/125"], &json!({})));
    let require = json!({"ipFamilyPolicy": "RequireDualStack"});
    ns.service("plain", &json!({}), &require).wait_addresses(&["198.18.40.0", "2001:db8:40::"]);
    let both = json!({"landfall.dev/addresses": "2001:db8:40::5,198.18.40.5"});
    ns.service("explicit", &both, &require).wait_addresses(&["198.18.40.5", "2001:db8:40::5"]);
    let six_first = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]});
    ns.service("six-first", &json!({}), &six_first).wait_addresses(&["2001:db8:40::1", "198.18.40.1"]);
    let named = json!({"landfall.dev/pool": "a40-four"});
    let message = ns.service("named", &named, &require).wait("False", "PoolLacksFamily");
    assert!(message.contains("a40-four") && message.contains("IPv6"), "{message}");
}

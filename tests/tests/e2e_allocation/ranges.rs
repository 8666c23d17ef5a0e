//! What ranges hold, and what of it is given.

use landfall_lab::objects::Object;
use serde_json::json;

use crate::{pinned, space};

// A41
#[test]
fn buggy_addresses_are_not_given_and_not_granted_on_request() {
    let ns = space("a41");
    let spec = pinned(&[&ns], &["198.18.41.0/31", "198.18.41.254/31"], &json!({"avoidBuggyIPs": true}));
    let pool = Object::pool("a41", &spec);
    ns.service("first", &json!({}), &json!({})).wait_addresses(&["198.18.41.1"]);
    ns.service("second", &json!({}), &json!({})).wait_addresses(&["198.18.41.254"]);
    let message = ns.service("third", &json!({}), &json!({})).wait("False", "PoolsFull");
    assert!(message.contains("a41"), "{message}");
    for (name, buggy) in [("zero", "198.18.41.0"), ("last", "198.18.41.255")] {
        let asks = json!({"landfall.dev/addresses": buggy});
        let message = ns.service(name, &asks, &json!({})).wait("False", "AddressLeftOut");
        assert!(message.contains(buggy) && message.contains("a41"), "{message}");
    }
    pool.wait_status("/ipv4/capacity", "2");
    pool.wait_status("/ipv4/available", "0");
}

// A50
#[test]
fn capacities_are_exact_whatever_the_size() {
    let ns = space("a50");
    let addresses = ["198.18.50.0/24", "198.18.51.0/25", "2001:db8:50:50::/64"];
    let pool = Object::pool("a50", &pinned(&[&ns], &addresses, &json!({"avoidBuggyIPs": true})));
    pool.wait_status("/ipv4/capacity", "381");
    pool.wait_status("/ipv6/capacity", "18446744073709551616");
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    ns.service("web", &json!({}), &dual).wait_addresses(&["198.18.50.1", "2001:db8:50:50::"]);
    pool.wait_status("/ipv4/assigned", "1");
    pool.wait_status("/ipv4/available", "380");
    pool.wait_status("/ipv6/available", "18446744073709551615");
}

// A62
#[test]
fn the_one_address_that_is_left_of_a_great_pool_is_found() {
    let ns = space("a62");
    let ranges = ["203.0.112.0/20", "2001:db8:62::/64"];
    let left_out = json!({"exclude": [
        "203.0.112.0-203.0.127.253", "203.0.127.255/32",
        "2001:db8:62::-2001:db8:62:0:ffff:ffff:ffff:fffd", "2001:db8:62:0:ffff:ffff:ffff:ffff/128",
    ]});
    let pool = Object::pool("a62", &pinned(&[&ns], &ranges, &left_out));
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let first = ns.service("first", &json!({}), &dual);
    first.wait_addresses(&["203.0.127.254", "2001:db8:62:0:ffff:ffff:ffff:fffe"]);
    ns.service("second", &json!({}), &dual).wait("False", "PoolsFull");
    pool.wait_status("/ipv4/capacity", "1");
    pool.wait_status("/ipv6/capacity", "1");
}

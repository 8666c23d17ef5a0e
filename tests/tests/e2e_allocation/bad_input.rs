//! Input that makes no sense is refused, or shown on that object only, while everything else goes on.

use landfall_lab::objects::{ALLOCATED, Object, has_finalizer};
use landfall_lab::product::{SOON, condition, eventually_seen};
use serde_json::json;

use crate::{pinned, space};

/// Most bytes that the annotations of an object may have together (`TotalAnnotationSizeLimitB` of apimachinery).
const ANNOTATIONS: usize = 256 * 1024;

#[test]
fn annotations_of_the_greatest_size_trouble_nobody_else() {
    let ns = space("huge");
    let _pool = Object::pool("huge", &pinned(&[&ns], &["198.18.90.0/28"], &json!({})));
    // As a request it makes no sense, and is told in a message of bearable length.
    let asks = json!({"landfall.dev/addresses": "9".repeat(ANNOTATIONS - 1_000)});
    let message = ns.service("asks", &asks, &json!({})).wait("False", "InvalidRequest");
    assert!(message.len() < 2_000, "{} bytes", message.len());
    let key = json!({"landfall.dev/sharing-key": "k".repeat(ANNOTATIONS - 1_000)});
    let shares = ns.service("shares", &key, &json!({}));
    // No room for what the controller records on a Service it serves.
    let filler = json!({"example.com/filler": "x".repeat(ANNOTATIONS - "example.com/filler".len())});
    let full = ns.service("full", &filler, &json!({}));
    ns.service("plain", &json!({}), &json!({})).wait("True", "Allocated");
    for service in [&shares, &full] {
        eventually_seen(SOON, &format!("{} to be told", service.name), || {
            let object = service.read();
            condition(&object, ALLOCATED).map(|_| ()).ok_or_else(|| object["status"].to_string())
        });
    }
    // A80: it is guarded as any other, and says what could not be recorded.
    full.address();
    let object = full.read();
    assert!(has_finalizer(&object), "{}", object["metadata"]["finalizers"]);
    let (_, _, message) = condition(&object, ALLOCATED).expect("told");
    assert!(message.contains("leave no room"), "{message}");
    full.merge(&json!({"metadata": {"annotations": {"example.com/filler": null}}}));
    full.wait("True", "Allocated");
    full.address();
}

#[test]
fn unicode_is_no_address_and_a_lawful_key() {
    let ns = space("unicode");
    let _pool = Object::pool("unicode", &pinned(&[&ns], &["198.18.91.0/28"], &json!({})));
    for (n, text) in
        ["\u{ff11}98.18.91.1", "198.18.91.1\u{200b}", "адрес", "\u{202e}198.18.91.1", "🛬", "198.18.91.1\n,"]
            .into_iter()
            .enumerate()
    {
        let asks = json!({"landfall.dev/addresses": text});
        ns.service(&format!("address-{n}"), &asks, &json!({})).wait("False", "InvalidRequest");
        let asks = json!({"landfall.dev/pool": text});
        let pool = ns.service(&format!("pool-{n}"), &asks, &json!({}));
        eventually_seen(SOON, "a refusal", || {
            let object = pool.read();
            match condition(&object, ALLOCATED) {
                Some((status, reason, _))
                    if status == "False" && ["InvalidRequest", "UnknownPool"].contains(&reason.as_str()) =>
                {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        });
    }
    let key = json!({"landfall.dev/sharing-key": "ключ 🛬"});
    for (name, port) in [("a", 80), ("b", 81)] {
        let ports = json!({"ports": [{"port": port}]});
        ns.service(name, &key, &ports).wait_addresses(&["198.18.91.0"]);
    }
}

#[test]
fn names_of_the_greatest_length_are_served_and_told() {
    // A label of DNS: 63 characters; a subdomain: 253.
    let ns = space(&"n".repeat(63));
    let label = "p".repeat(61);
    let name = format!("{label}.{label}.{label}.{label}.{}", "p".repeat(5));
    assert_eq!(name.len(), 253);
    let _pool = Object::pool(&name, &pinned(&[&ns], &["198.18.92.0/32"], &json!({})));
    let service = ns.service(&"s".repeat(63), &json!({}), &json!({}));
    service.wait_addresses(&["198.18.92.0"]);
    service.wait("True", "Allocated");
    assert_eq!(service.annotation("landfall.dev/allocated-from"), Some(name.clone()));
    service.wait_one_event("Allocated");
    let second = ns.service(&"t".repeat(63), &json!({}), &json!({}));
    let message = second.wait("False", "PoolsFull");
    assert!(message.contains(&name), "{message}");
    second.wait_one_event("PoolsFull");
}

#[test]
fn the_clusters_own_addresses_are_never_given() {
    let ns = space("own");
    // n1 to n3 are .11 to .13; the router .1; pods 10.244.N.0/24, Services 10.96.0.0/16 and their IPv6 fellows.
    let nodes = ["192.0.2.10-192.0.2.14", "2001:db8:50::10-2001:db8:50::14"];
    let pool = Object::pool("own-nodes", &pinned(&[&ns], &nodes, &json!({})));
    let message = pool.wait("Overlapping", "True", "ClusterAddresses");
    assert!(message.contains("n1"), "names a node: {message}");
    pool.wait("Ready", "True", "Ready");
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    ns.service("a", &json!({}), &dual).wait_addresses(&["192.0.2.10", "2001:db8:50::10"]);
    ns.service("b", &json!({}), &dual).wait_addresses(&["192.0.2.14", "2001:db8:50::14"]);
    ns.service("c", &json!({}), &dual).wait("False", "PoolsFull");
    let networks = [
        "10.244.1.255-10.244.4.0",
        "10.96.255.255-10.97.0.0",
        "fd00:96::10:0-fd00:96::10:1",
        "fd00:244:1::5/128",
    ];
    let pool = Object::pool("own-networks", &pinned(&[&ns], &networks, &json!({"autoAssign": false})));
    let message = pool.wait("Overlapping", "True", "ClusterAddresses");
    assert!(message.contains("10.244.") || message.contains("pod"), "{message}");
    for (n, (addr, family)) in [
        ("192.0.2.12", "IPv4"),
        ("2001:db8:50::13", "IPv6"),
        ("10.244.2.7", "IPv4"),
        ("10.96.255.255", "IPv4"),
        ("fd00:244:1::5", "IPv6"),
    ]
    .into_iter()
    .enumerate()
    {
        let asks = json!({"landfall.dev/addresses": addr});
        let service = ns.service(&format!("asks-{n}"), &asks, &json!({"ipFamilies": [family]}));
        let message = service.wait("False", "AddressTaken");
        assert!(message.contains(addr), "{message}");
    }
    let asks = json!({"landfall.dev/addresses": "10.97.0.0"});
    ns.service("beyond", &asks, &json!({})).wait_addresses(&["10.97.0.0"]);
}

// A78
#[test]
fn a_pool_that_makes_no_sense_says_so_and_the_others_work_on() {
    let ns = space("a78");
    // What CEL cannot compare: the order of two IPv6 addresses.
    let bad = Object::pool("a78-bad", &pinned(&[&ns], &["2001:db8:78::9-2001:db8:78::1"], &json!({})));
    let message = bad.wait("Ready", "False", "InvalidAddresses");
    assert!(message.contains("2001:db8:78::9"), "{message}");
    let good =
        Object::pool("a78-good", &pinned(&[&ns], &["198.18.93.0/30", "2001:db8:78::/126"], &json!({})));
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    ns.service("web", &json!({}), &dual).wait_addresses(&["198.18.93.0", "2001:db8:78::"]);
    let asks = json!({"landfall.dev/pool": "a78-bad"});
    let message = ns.service("asks", &asks, &json!({})).wait("False", "PoolNotReady");
    assert!(message.contains("a78-bad"), "{message}");
    for refused in [
        json!({"addresses": ["198.18.93.9-198.18.93.1"]}),
        json!({"addresses": ["198.18.93.1-2001:db8::1"]}),
        json!({"addresses": ["198.18.93.1/30"]}),
    ] {
        let says = bad.try_set(&refused).expect_err("refused by the API server").to_string();
        assert!(says.contains("spec.addresses"), "{refused}: names the field: {says}");
    }
    good.wait("Ready", "True", "Ready");
}

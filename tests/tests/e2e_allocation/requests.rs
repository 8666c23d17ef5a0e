//! What a Service can ask for, what it is told, and what hands do to its status.

use landfall_lab::objects::{Object, leader_metrics, metric};
use landfall_lab::product::{SOON, cluster, eventually, eventually_seen};
use serde_json::{Value, json};

use crate::{pinned, space};

// A74
#[test]
fn the_annotations_of_metallb_mean_the_same_and_ours_win() {
    let ns = space("a74");
    let spec = pinned(&[&ns], &["198.18.74.0/28", "2001:db8:74::/124"], &json!({}));
    let _pool = Object::pool("a74", &spec);
    let _other = Object::pool("a74-z", &pinned(&[&ns], &["198.18.75.0/30"], &json!({})));
    for (n, prefix) in ["metallb.io", "metallb.universe.tf"].into_iter().enumerate() {
        let name = |part: &str| format!("{part}-{n}");
        let key = |part: &str| format!("{prefix}/{part}");
        let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
        let (four, six) = (format!("198.18.74.{}", 4 + n), format!("2001:db8:74::{}", 4 + n));
        let wish = json!({key("loadBalancerIPs"): format!("{four},{six}")});
        ns.service(&name("addresses"), &wish, &dual).wait_addresses(&[&four, &six]);
        let wish = json!({key("address-pool"): "a74-z"});
        let from_pool = ns.service(&name("pool"), &wish, &json!({}));
        assert!(from_pool.address().to_string().starts_with("198.18.75."), "{:?}", from_pool.addresses());
        let shared = format!("198.18.74.{}", 8 + n);
        let wish = json!({key("allow-shared-ip"): "k", key("loadBalancerIPs"): &shared});
        for (part, port) in [("share-a", 80), ("share-b", 81)] {
            let ports = json!({"ports": [{"port": port}]});
            ns.service(&name(part), &wish, &ports).wait_addresses(&[&shared]);
        }
        let ours = format!("198.18.74.{}", 12 + n);
        let wish = json!({key("loadBalancerIPs"): "198.18.74.15", "landfall.dev/addresses": &ours,
                          key("address-pool"): "a74-z", "landfall.dev/pool": "a74"});
        ns.service(&name("ours"), &wish, &json!({})).wait_addresses(&[&ours]);
    }
}

/// A refusal: the Service's name, annotations, spec, and what the message has to name.
type Row = (&'static str, Value, Value, &'static str, &'static str);

fn rows() -> Vec<Row> {
    let asks = |addr: &str| json!({"landfall.dev/addresses": addr});
    let pool = |name: &str| json!({"landfall.dev/pool": name});
    let six = json!({"ipFamilies": ["IPv6"]});
    let none = json!({});
    let both = json!({"landfall.dev/addresses": "198.18.76.9", "landfall.dev/pool": "a75"});
    let legacy = json!({"loadBalancerIP": "198.18.76.2"});
    let shared = json!({"landfall.dev/sharing-key": "k", "landfall.dev/addresses": "198.18.76.0"});
    vec![
        // A19 A20 A21 A22 A25 A30
        ("both-ways", asks("198.18.76.3"), legacy, "InvalidRequest", "loadBalancerIP"),
        ("garbage", asks("nonsense"), none.clone(), "InvalidRequest", "nonsense"),
        (
            "two-of-a-family",
            asks("198.18.76.2,198.18.76.3"),
            none.clone(),
            "InvalidRequest",
            "more than one IPv4",
        ),
        ("wrong-family", asks("2001:db8:76::1"), none.clone(), "InvalidRequest", "2001:db8:76::1"),
        ("wrong-family-6", asks("198.18.76.2"), six.clone(), "InvalidRequest", "198.18.76.2"),
        ("outside", asks("198.18.76.99"), none.clone(), "AddressOutsidePools", "198.18.76.99"),
        ("unknown-pool", pool("nowhere"), none.clone(), "UnknownPool", "nowhere"),
        ("other-pool", both, none.clone(), "AddressNotInPool", "a75"),
        ("not-for-us", pool("a75-theirs"), none.clone(), "PoolNotAllowed", "a75-theirs"),
        ("no-family", pool("a75-kept"), six, "PoolLacksFamily", "a75-kept"),
        ("in-use", asks("198.18.76.0"), none.clone(), "AddressInUse", "a75/holder"),
        ("left-out", asks("198.18.76.7"), none.clone(), "AddressLeftOut", "exclude"),
        ("reserved", asks("198.18.76.1"), none.clone(), "AddressReserved", "a75/cart"),
        ("another-key", shared, none.clone(), "SharingKeyDiffers", "a75/holder"),
        ("of-a-node", asks("192.0.2.11"), none.clone(), "AddressTaken", "n1"),
        ("full", pool("a75-kept"), none, "PoolsFull", "a75-kept"),
    ]
}

// A75
#[test]
fn every_refusal_is_a_condition_one_event_and_a_metric_and_names_the_obstacle() {
    let ns = space("a75");
    let exclude = json!({"exclude": ["198.18.76.7/32"]});
    let _pool = Object::pool("a75", &pinned(&[&ns], &["198.18.76.0/29"], &exclude));
    let _other = Object::pool("a75-other", &pinned(&[&ns], &["198.18.76.8/30", "192.0.2.11/32"], &json!({})));
    let _kept = Object::pool("a75-kept", &pinned(&[&ns], &["198.18.77.0/32"], &json!({"autoAssign": false})));
    let theirs = json!({"addresses": ["198.18.77.4/30"], "namespaces": ["nobody"]});
    let _theirs = Object::pool("a75-theirs", &theirs);
    let whom = json!({"namespace": ns.name(), "name": "cart"});
    let cart = Object::reservation("a75", &json!({"address": "198.18.76.1", "service": whom}));
    cart.wait("Ready", "True", "Held");
    let holds = json!({"landfall.dev/addresses": "198.18.76.0", "landfall.dev/sharing-key": "other"});
    ns.service("holder", &holds, &json!({"ports": [{"port": 7}]})).wait_addresses(&["198.18.76.0"]);
    let fills = json!({"landfall.dev/pool": "a75-kept"});
    ns.service("fills", &fills, &json!({})).wait_addresses(&["198.18.77.0"]);
    let before = leader_metrics(cluster());
    let denials = |text: &str, reason: &str| {
        metric(text, "landfall_controller_denials_total", &[&format!("reason=\"{reason}\"")])
    };
    for (name, annotations, spec, reason, obstacle) in rows() {
        let service = ns.service(name, &annotations, &spec);
        let message = service.wait("False", reason);
        assert!(message.contains(obstacle), "{name} names {obstacle}: {message}");
        assert!(service.addresses().is_empty(), "{name}");
    }
    // Looked at again, a refusal that is the same is not told again.
    for (name, ..) in rows() {
        ns.existing(name).merge(&json!({"metadata": {"labels": {"touched": "yes"}}}));
    }
    ns.fence();
    for (name, _, _, reason, _) in rows() {
        ns.existing(name).wait_one_event(reason);
    }
    for (_, _, _, reason, _) in rows() {
        let told = rows().iter().filter(|row| row.3 == reason).count();
        eventually_seen(SOON, &format!("{told} denials {reason}"), || {
            let after = leader_metrics(cluster());
            let counted = denials(&after, reason) - denials(&before, reason);
            if (counted - f64::from(u32::try_from(told).unwrap())).abs() < 0.5 {
                Ok(())
            } else {
                Err(counted)
            }
        });
    }
    // A transition to another reason is told once, and so is the happy end.
    let service = ns.existing("unknown-pool");
    service.annotate("landfall.dev/pool", Some("a75-theirs"));
    service.wait("False", "PoolNotAllowed");
    service.annotate("landfall.dev/pool", None);
    service.wait("True", "Allocated");
    for reason in ["UnknownPool", "PoolNotAllowed", "Allocated"] {
        service.wait_one_event(reason);
    }
}

// A76 A27
#[test]
fn a_status_written_by_hand_is_adopted_when_it_is_lawful_and_replaced_when_it_is_not() {
    let ns = space("a76");
    let pool = Object::pool("a76", &pinned(&[&ns], &["198.18.78.0/29"], &json!({})));
    let holder = ns.service("holder", &json!({}), &json!({}));
    holder.wait_addresses(&["198.18.78.0"]);
    let by_hand = |entry: Value| json!({"loadBalancer": {"ingress": [entry]}});
    let service = ns.service("web", &json!({}), &json!({}));
    service.wait_addresses(&["198.18.78.1"]);
    service.wait("True", "Allocated");
    service.merge_status(&by_hand(json!({"ip": "198.18.78.5"})));
    eventually(SOON, "the free address to be adopted", || {
        ns.fence();
        (service.addresses() == ["198.18.78.5".parse::<std::net::IpAddr>().unwrap()]).then_some(())
    });
    service.wait("True", "Allocated");
    pool.wait_status("/ipv4/assigned", "2");
    for rubbish in [
        json!({"ip": "203.0.113.9"}),
        json!({"hostname": "lb.example.com"}),
        // What another Service has.
        json!({"ip": "198.18.78.0"}),
    ] {
        service.merge_status(&by_hand(rubbish.clone()));
        eventually_seen(SOON, &format!("{rubbish} to be replaced"), || {
            let found = service.addresses();
            let ingress = service.read()["status"]["loadBalancer"].to_string();
            let ours = |ip: &std::net::IpAddr| ip.to_string().starts_with("198.18.78.");
            let good = found.len() == 1
                && found.iter().all(ours)
                && found != holder.addresses()
                && !ingress.contains("hostname");
            if good { Ok(()) } else { Err(ingress) }
        });
    }
    holder.wait_addresses(&["198.18.78.0"]);
    pool.wait_status("/ipv4/assigned", "2");
}

// A53
#[test]
fn the_counters_of_a_pool_are_exact_and_come_back_when_edited() {
    let ns = space("a53");
    let spec = |four: &str, six: &str| pinned(&[&ns], &[four, six], &json!({}));
    let pool = Object::pool("a53", &spec("198.18.53.0/30", "2001:db8:53::/126"));
    let counts = |expected: [&str; 6]| {
        let places = ["/ipv4/capacity", "/ipv4/assigned", "/ipv4/available"].into_iter();
        let places = places.chain(["/ipv6/capacity", "/ipv6/assigned", "/ipv6/available"]);
        for (place, text) in places.zip(expected) {
            pool.wait_status(place, text);
        }
    };
    counts(["4", "0", "4", "4", "0", "4"]);
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let service = ns.service("web", &json!({}), &dual);
    service.address();
    counts(["4", "1", "3", "4", "1", "3"]);
    pool.set(&spec("198.18.53.0/29", "2001:db8:53::/64"));
    counts(["8", "1", "7", "18446744073709551616", "1", "18446744073709551615"]);
    let path = "/apis/landfall.dev/v1beta1/addresspools/a53/status";
    let edit = json!({"status": {"ipv4": {"assigned": "7"}}});
    cluster().api("PATCH", path, Some(("application/merge-patch+json", &edit))).unwrap();
    counts(["8", "1", "7", "18446744073709551616", "1", "18446744073709551615"]);
    service.delete_and_wait();
    counts(["8", "0", "8", "18446744073709551616", "0", "18446744073709551616"]);
}

// A53 A76
#[test]
fn what_a_hand_adds_to_a_status_goes_and_then_nothing_more_is_written() {
    let ns = space("forged");
    let pool = Object::pool("forged", &pinned(&[&ns], &["198.18.99.0/29"], &json!({})));
    let whom = json!({"namespace": ns.name(), "name": "later"});
    let held = Object::reservation("forged", &json!({"address": "198.18.99.7", "service": whom}));
    held.wait("Ready", "True", "Held");
    pool.wait_status("/ipv4/reserved", "1");
    let waits = ns.service("waits", &json!({"landfall.dev/pool": "none-such"}), &json!({}));
    waits.wait("False", "UnknownPool");
    let edit = |kind: &str, status: Value| {
        let path = format!("/apis/landfall.dev/v1beta1/{kind}/forged/status");
        let change = json!({"status": status});
        let answer = cluster().api("PATCH", &path, Some(("application/merge-patch+json", &change))).unwrap();
        landfall_lab::objects::success(&answer).unwrap();
    };
    let resting = json!([{"address": "198.18.99.1", "until": "2099-01-01T00:00:00Z"}]);
    let count = json!({"capacity": "9", "assigned": "5", "available": "4", "quarantined": "0", "reserved": "0",
                       "conflicting": "0"});
    edit("addresspools", json!({"resting": resting, "ipv6": count}));
    edit("addressreservations", json!({"usedBy": "evil/one", "since": "2020-01-01T00:00:00Z"}));
    let mut conditions = waits.read()["status"]["conditions"].clone();
    for kind in ["landfall.dev/Announced", "landfall.dev/SourceRangesEnforced"] {
        conditions.as_array_mut().unwrap().push(json!({"type": kind, "status": "True", "reason": "Forged",
            "message": "by hand", "lastTransitionTime": "2026-01-01T00:00:00Z"}));
    }
    waits.merge_status(&json!({"conditions": conditions}));
    let clean = || {
        let (pool, held, waits) = (pool.read(), held.read(), waits.read());
        let bad = [
            pool["status"]["resting"].as_array().is_some_and(|list| !list.is_empty()),
            !pool["status"]["ipv6"].is_null(),
            !held["status"]["usedBy"].is_null(),
            !held["status"]["since"].is_null(),
            waits["status"]["conditions"].to_string().contains("Forged"),
        ];
        let versions = [&pool, &held, &waits].map(|object| object["metadata"]["resourceVersion"].to_string());
        if bad.contains(&true) { Err(format!("{bad:?}")) } else { Ok(versions) }
    };
    let versions = eventually_seen(SOON, "what was added to go", clean);
    for _ in 0..3 {
        ns.fence();
    }
    assert_eq!(clean(), Ok(versions), "written once and no more");
}

//! Pools that change while Services hold their addresses.

use std::time::{SystemTime, UNIX_EPOCH};

use landfall_lab::objects::{Object, restart_controllers};
use landfall_lab::product::{SOON, cluster, condition, eventually};
use serde_json::json;

use crate::{pinned, space};

const FROM: &str = "landfall.dev/allocated-from";

/// Waits until another second has begun: the API server notes when a Service was created in whole seconds.
fn later_second() {
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let begin = second();
    eventually(SOON, "another second", || (second() > begin).then_some(()));
}

// A46
#[test]
fn a_pool_that_grows_or_is_written_again_moves_nobody_and_serves_those_who_wait() {
    let ns = space("a46");
    let spec = |addresses: &[&str]| pinned(&[&ns], addresses, &json!({}));
    let pool = Object::pool("a46", &spec(&["198.18.46.4/31"]));
    let holders = ["a", "b"].map(|name| ns.service(name, &json!({}), &json!({})));
    holders[0].wait_addresses(&["198.18.46.4"]);
    holders[1].wait_addresses(&["198.18.46.5"]);
    // In order of creation, whatever their names are.
    let waiting = ["z", "m", "c"].map(|name| {
        let service = ns.service(name, &json!({}), &json!({}));
        service.wait("False", "PoolsFull");
        later_second();
        service
    });
    pool.set(&spec(&["198.18.46.0/29"]));
    for (service, addr) in waiting.iter().zip(["198.18.46.0", "198.18.46.1", "198.18.46.2"]) {
        service.wait_addresses(&[addr]);
    }
    pool.set(&spec(&["198.18.46.0-198.18.46.7"]));
    pool.wait_observed();
    ns.fence();
    holders[0].wait_addresses(&["198.18.46.4"]);
    holders[1].wait_addresses(&["198.18.46.5"]);
    pool.wait_status("/ipv4/assigned", "5");
    pool.wait_status("/ipv4/available", "3");
}

// A47
#[test]
fn an_address_stays_when_its_pool_is_renamed_or_split() {
    let ns = space("a47");
    let spec = |addresses: &[&str]| pinned(&[&ns], addresses, &json!({}));
    let old = Object::pool("a47-old", &spec(&["198.18.47.0/31", "2001:db8:47::/127"]));
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let all = ["a", "b"].map(|name| ns.service(name, &json!({}), &dual));
    let expected = [["198.18.47.0", "2001:db8:47::"], ["198.18.47.1", "2001:db8:47::1"]];
    for (service, addresses) in all.iter().zip(expected) {
        service.wait_addresses(&addresses);
    }
    let from = |n: usize, pool: &str| {
        eventually(SOON, &format!("{pool} recorded on {n}"), || {
            (all[n].annotation(FROM).as_deref() == Some(pool)).then_some(())
        });
        all[n].wait("True", "Allocated");
        all[n].wait_addresses(&expected[n]);
    };
    // Renamed: the new one is there before the old one goes, then the other way round.
    let new = Object::pool("a47-new", &spec(&["198.18.47.0/31", "2001:db8:47::/127"]));
    old.delete();
    from(0, "a47-new");
    from(1, "a47-new");
    new.delete();
    all[0].wait("True", "OutsidePool");
    let _first = Object::pool("a47-first", &spec(&["198.18.47.0/32", "2001:db8:47::/128"]));
    let _second = Object::pool("a47-second", &spec(&["198.18.47.1/32", "2001:db8:47::1/128"]));
    from(0, "a47-first");
    from(1, "a47-second");
}

// A48
#[test]
fn an_address_that_its_pool_lost_stays_or_is_exchanged_as_the_pool_says() {
    let ns = space("a48");
    for (mode, net) in [("Keep", "198.18.48"), ("Reassign", "198.18.49")] {
        let name = |part: &str| format!("{part}-{}", mode.to_lowercase());
        let spec = |last: u8| {
            let range = format!("{net}.0-{net}.{last}");
            pinned(&[&ns], &[&range], &json!({"onRemoval": mode, "autoAssign": false}))
        };
        let pool = Object::pool(&name("a48"), &spec(2));
        let asks = json!({"landfall.dev/pool": name("a48")});
        let addr = |last: u8| format!("{net}.{last}");
        let all = ["a", "b", "c"].map(|part| {
            let service = ns.service(&name(part), &asks, &json!({}));
            service.address();
            service
        });
        all[2].wait_addresses(&[&addr(2)]);
        all[0].delete_and_wait();
        pool.set(&spec(1));
        let next = ns.service(&name("next"), &asks, &json!({}));
        if mode == "Keep" {
            let message = all[2].wait("True", "OutsidePool");
            assert!(message.contains(&addr(2)), "{message}");
            next.wait_addresses(&[&addr(0)]);
            let full = ns.service(&name("full"), &asks, &json!({}));
            full.wait("False", "PoolsFull");
            all[2].wait_addresses(&[&addr(2)]);
        } else {
            all[2].wait_addresses(&[&addr(0)]);
            next.wait("False", "PoolsFull");
        }
        all[1].wait_addresses(&[&addr(1)]);
    }
}

// A60
#[test]
fn of_two_overlapping_pools_the_younger_says_so_and_the_older_works_on() {
    let ns = space("a60");
    let spec = |addresses: &[&str]| pinned(&[&ns], addresses, &json!({}));
    let older = Object::pool("a60-a", &spec(&["198.18.60.0-198.18.60.9", "2001:db8:60::-2001:db8:60::9"]));
    let bystander = Object::pool("a60-b", &spec(&["198.18.61.0/30"]));
    let younger = Object::pool("a60-c", &spec(&["198.18.60.8/29", "2001:db8:60::8/125"]));
    let message = younger.wait("Overlapping", "True", "SharesAddresses");
    assert!(message.contains("a60-a"), "names the older: {message}");
    older.wait("Overlapping", "False", "NoOverlap");
    bystander.wait("Overlapping", "False", "NoOverlap");
    for pool in [&older, &bystander, &younger] {
        pool.wait("Ready", "True", "Ready");
    }
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let asks = json!({"landfall.dev/pool": "a60-c"});
    ns.service("young", &asks, &dual).wait_addresses(&["198.18.60.10", "2001:db8:60::a"]);
    ns.service("old", &json!({}), &dual).wait_addresses(&["198.18.60.0", "2001:db8:60::"]);
    // Edited into an overlap, the younger is told as well; out of it, it is free of it.
    younger.set(&spec(&["198.18.60.10-198.18.60.15"]));
    younger.wait("Overlapping", "False", "NoOverlap");
    bystander.set(&spec(&["198.18.61.0/30", "198.18.60.9/32"]));
    let message = bystander.wait("Overlapping", "True", "SharesAddresses");
    assert!(message.contains("a60-a"), "{message}");
}

// A69
#[test]
fn an_address_whose_pool_is_gone_stays_over_a_restart_of_the_controller() {
    let ns = space("a69");
    let pool = Object::pool("a69", &pinned(&[&ns], &["198.18.69.0/30", "2001:db8:69::/126"], &json!({})));
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let service = ns.service("web", &json!({}), &dual);
    let has = ["198.18.69.0", "2001:db8:69::"];
    service.wait_addresses(&has);
    service.wait("True", "Allocated");
    assert_eq!(service.annotation(FROM).as_deref(), Some("a69"));
    assert_eq!(service.annotation("landfall.dev/on-removal").as_deref(), Some("Keep"));
    pool.delete();
    let message = service.wait("True", "OutsidePool");
    assert!(message.contains("198.18.69.0"), "{message}");
    // What speakers report is told a little later than the address.
    eventually(SOON, "every node to have it", || {
        condition(&service.read(), "landfall.dev/Programmed").filter(|(status, ..)| status == "True")
    });
    ns.fence();
    let version = ns.version();
    restart_controllers(cluster());
    let next = ns.service("next", &json!({}), &dual);
    next.wait("False", "NoPool");
    service.wait_addresses(&has);
    service.wait("True", "OutsidePool");
    let history = ns.history(&version).into_iter();
    let touched: Vec<_> = history.filter(|(_, object)| object["metadata"]["name"] == "web").collect();
    assert!(
        touched.is_empty(),
        "a restart writes nothing to a Service that is as it should be: {touched:#?}"
    );
}

//! `NodePort`s: by default none of ours; with the annotation from the pool's range.

use std::collections::BTreeSet;

use landfall_lab::objects::{Object, Service, has_finalizer, node_ports, service_object};
use landfall_lab::product::{HELLO, POD, SOON, cluster, eventually_seen, wait_served};
use serde_json::{Value, json};

use crate::{pinned, space};

fn wants() -> Value {
    json!({"landfall.dev/node-ports": "true"})
}

fn two_ports() -> Value {
    json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080},
                     {"name": "https", "port": 443, "targetPort": 8080}]})
}

/// Waits until every port of the Service has a `NodePort`, and returns them in the order of the ports.
fn wait_ports(service: &Service<'_>) -> Vec<u64> {
    eventually_seen(SOON, &format!("NodePorts of {}", service.name), || {
        let found: Vec<u64> = service.node_ports().into_iter().map(|(_, node_port)| node_port).collect();
        if found.contains(&0) { Err(service.read().to_string()) } else { Ok(found) }
    })
}

// A71
#[test]
fn without_the_annotation_no_node_port_is_written_and_the_address_works() {
    let ns = space("a71");
    let range = json!({"nodePortRange": "30040-30049"});
    let _pool = Object::pool("a71", &pinned(&[&ns], &["192.0.2.141/32"], &range));
    ns.apply(HELLO.split("---").next().unwrap()).unwrap();
    let service = ns.service("web", &json!({}), &json!({}));
    service.wait_addresses(&["192.0.2.141"]);
    let _ = wait_served(cluster(), "client", "192.0.2.141".parse().unwrap(), 80, POD);
    assert_eq!(service.node_ports(), [(80, 0)]);
}

// A72
#[test]
fn node_ports_come_from_the_range_of_the_pool_all_distinct() {
    let ns = space("a72");
    let range = json!({"nodePortRange": "31000-31009"});
    let pool = Object::pool("a72", &pinned(&[&ns], &["198.18.72.0/29"], &range));
    let preset = json!({"ports": [{"name": "http", "port": 80, "nodePort": 31003},
                                  {"name": "https", "port": 443}]});
    let services = [("a", two_ports()), ("b", preset), ("c", two_ports())]
        .map(|(name, spec)| ns.service(name, &wants(), &spec));
    let all: Vec<u64> = services.iter().flat_map(wait_ports).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 6, "distinct: {all:?}");
    assert!(all.iter().all(|port| (31000..=31009).contains(port)), "{all:?}");
    assert_eq!(wait_ports(&services[1])[0], 31003, "a port that is set is not changed");
    for service in &services {
        service.address();
        service.wait("True", "Allocated");
    }
    // A pool's new range changes no port that is there.
    let before: Vec<Vec<u64>> = services.iter().map(wait_ports).collect();
    pool.set(&pinned(&[&ns], &["198.18.72.0/29"], &json!({"nodePortRange": "30050-30059"})));
    pool.wait_observed();
    ns.fence();
    assert_eq!(services.iter().map(wait_ports).collect::<Vec<_>>(), before);
}

// A72
#[test]
fn a_user_who_applies_server_side_can_still_remove_a_port() {
    let ns = space("a72-apply");
    let range = json!({"nodePortRange": "31020-31023"});
    let _pool = Object::pool("a72-apply", &pinned(&[&ns], &["198.18.72.8/29"], &range));
    let service = ns.existing("web");
    let mut object = service_object("web", &wants(), &two_ports());
    service.apply("user", &object).unwrap();
    let given = wait_ports(&service);
    assert_eq!(given.len(), 2);
    let address = service.address();
    object["spec"]["ports"].as_array_mut().unwrap().pop();
    service.apply("user", &object).expect("the user's later apply is accepted");
    assert_eq!(service.node_ports(), [(80, given[0])]);
    // Its number is free for another one: there are four, and three more want one.
    let others: Vec<_> = (0..3).map(|n| ns.service(&format!("other-{n}"), &wants(), &json!({}))).collect();
    let numbers: BTreeSet<u64> = others.iter().flat_map(wait_ports).collect();
    assert!(numbers.len() == 3 && numbers.contains(&given[1]), "{numbers:?} and {given:?}");
    for other in &others {
        other.delete_and_wait();
    }
    // And one that adds it again.
    let object = service_object("web", &wants(), &two_ports());
    service.apply("user", &object).expect("the user's later apply is accepted");
    let again = wait_ports(&service);
    assert_eq!(again[0], given[0]);
    assert_eq!(service.addresses(), [address]);
}

// A73
#[test]
fn without_a_free_or_valid_node_port_the_address_stays_and_the_reason_is_said() {
    let ns = space("a73");
    let pool = |name: &str, addresses: &str, range: &str| {
        let more = json!({"nodePortRange": range, "autoAssign": false});
        Object::pool(name, &pinned(&[&ns], &[addresses], &more))
    };
    let asks = |pool: &str| {
        let mut all = wants();
        all["landfall.dev/pool"] = json!(pool);
        all
    };
    // Exhausted by our own Services.
    let _small = pool("a73-small", "198.18.73.0/30", "30060-30061");
    let first = ns.service("first", &asks("a73-small"), &two_ports());
    assert_eq!(wait_ports(&first).iter().collect::<BTreeSet<_>>(), [30060, 30061].iter().collect());
    let second = ns.service("second", &asks("a73-small"), &json!({}));
    let message = second.wait("True", "NodePortsExhausted");
    assert!(message.contains("30060-30061"), "names the range: {message}");
    second.wait_addresses(&["198.18.73.1"]);
    // Taken by a Service that is not ours.
    let _taken = pool("a73-taken", "198.18.73.4/30", "30062-30062");
    let theirs = json!({"type": "NodePort", "allocateLoadBalancerNodePorts": null,
                        "ports": [{"port": 80, "nodePort": 30062}]});
    ns.service("theirs", &json!({}), &theirs);
    let third = ns.service("third", &asks("a73-taken"), &json!({}));
    third.wait("True", "NodePortsExhausted");
    third.wait_addresses(&["198.18.73.4"]);
    // Outside the API server's range, which is the default one in the lab.
    let outside = pool("a73-outside", "198.18.73.8/30", "20000-20009");
    let fourth = ns.service("fourth", &asks("a73-outside"), &json!({}));
    let message = fourth.wait("True", "NodePortRangeInvalid");
    assert!(message.contains("20000-20009"), "names the range: {message}");
    fourth.wait_addresses(&["198.18.73.8"]);
    for service in [&second, &third, &fourth] {
        assert_eq!(service.node_ports(), [(80, 0)], "{}", service.name);
        assert!(has_finalizer(&service.read()), "{} is guarded all the same", service.name);
    }
    // The obstacle goes.
    first.delete_and_wait();
    // Either of the two: the API server frees them one after the other.
    assert!([[30060], [30061]].iter().any(|port| wait_ports(&second) == *port));
    second.wait("True", "Allocated");
    ns.existing("theirs").delete();
    assert_eq!(wait_ports(&third), [30062]);
    outside.set(&pinned(
        &[&ns],
        &["198.18.73.8/30"],
        &json!({"nodePortRange": "30063-30063", "autoAssign": false}),
    ));
    assert_eq!(wait_ports(&fourth), [30063]);
}

// A81
#[test]
fn node_ports_that_a_replace_wiped_come_back_with_the_same_numbers() {
    let ns = space("a81");
    let range = json!({"nodePortRange": "30070-30079"});
    let _pool = Object::pool("a81", &pinned(&[&ns], &["198.18.81.0/29"], &range));
    let first = ns.service("first", &wants(), &two_ports());
    let second = ns.service("second", &wants(), &two_ports());
    for service in [&second, &first] {
        let given = wait_ports(service);
        let address = service.address();
        // The API server itself keeps the numbers of ports whose names stay: other names wipe them.
        let mut object = service.read();
        for port in object["spec"]["ports"].as_array_mut().unwrap() {
            let fields = port.as_object_mut().unwrap();
            fields.remove("nodePort");
            let name = format!("new-{}", fields["name"].as_str().unwrap());
            fields.insert("name".into(), json!(name));
        }
        object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let answer = cluster().api("PUT", &service.path(), Some(("application/json", &object))).unwrap();
        let replaced = landfall_lab::objects::success(&answer).unwrap();
        assert!(node_ports(&replaced).iter().all(|(_, port)| *port == 0), "wiped: {replaced}");
        assert_eq!(wait_ports(service), given);
        assert_eq!(service.addresses(), [address]);
    }
}

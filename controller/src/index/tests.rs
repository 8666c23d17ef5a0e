//! The index against an API server in memory.

use landfall_runtime::watch::Change;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::seen::{SeenNamespace, SeenNode, SeenSpeaker};
use crate::send::PortsRefused;

mod model;
mod sharing;
mod world;

use world::{Server, key, namespace, spec, v4, v6};

/// One address of each family.
const ONE_EACH: &[&str] = &["192.0.2.1-192.0.2.1", "2001:db8::1-2001:db8::1"];
const MANY: &[&str] = &["192.0.2.0/25", "2001:db8::/64"];

/// A spec of each family, and the first two addresses of [`MANY`] and [`ONE_EACH`] in it.
fn families() -> [(Value, &'static str); 2] {
    [(v4(), "192.0.2.1"), (v6(), "2001:db8::1")]
}

type Step = (&'static str, fn(&mut Index));

#[test]
fn nothing_is_decided_before_every_list_is_complete() {
    let mut world = Server::new(ONE_EACH);
    world.put("a", v4());
    world.index = Index::new(Choices { finalizer: true, node_ports: "30000-32767".parse().unwrap() });
    world.index.service(Change::Listing);
    world.tell();
    world.index.service(Change::Listed);
    let mut steps: Vec<Step> = vec![
        ("pools", |index| index.pool(Change::Listed)),
        ("reservations", |index| index.reservation(Change::Listed)),
        ("namespaces", |index| index.namespace(Change::Listed)),
        ("nodes", |index| index.node(Change::Listed)),
        ("ServiceCIDRs", |index| index.cidr(Change::Listed)),
    ];
    while let Some((what, step)) = steps.pop() {
        assert_eq!(world.next(), None, "{what} are not listed");
        assert!(!world.index.started());
        step(&mut world.index);
    }
    assert!(world.next().is_some());
}

#[test]
fn a_freed_address_goes_to_the_oldest_that_waits() {
    // A1, A2
    for (spec, addr) in families() {
        for delete in [true, false] {
            let mut world = Server::new(ONE_EACH);
            for name in ["c", "b", "a"] {
                world.put(name, spec.clone());
            }
            world.settle();
            assert_eq!((world.addresses("c"), world.reason("b")), (vec![addr.into()], "PoolsFull".into()));
            if delete {
                world.delete("c");
            } else {
                world.put("c", json!({"type": "ClusterIP", "clusterIP": "10.96.0.1"}));
            }
            world.settle();
            assert_eq!(world.addresses("b"), [addr]);
            assert!(world.addresses("a").is_empty());
            if !delete {
                let left = world.seen("c");
                assert!(!left.has_trace() && left.ingress.is_empty() && left.finalizers.count == 0);
            }
        }
    }
}

#[test]
fn who_waits_goes_before_who_has_just_come_also_after_a_gap_of_the_watch() {
    let mut world = Server::new(&["192.0.2.0-192.0.2.1"]);
    for name in ["a", "b", "waits"] {
        world.put(name, v4());
    }
    world.settle();
    assert!(world.addresses("waits").is_empty());
    // Unseen: two go, one comes.
    for name in ["a", "b"] {
        world.edit(name, |object| object["metadata"]["finalizers"] = json!([]));
        world.delete(name);
    }
    world.put("z-unseen", v4());
    world.list();
    world.settle();
    assert_eq!(world.addresses("waits"), ["192.0.2.0"]);
    assert_eq!(world.addresses("z-unseen"), ["192.0.2.1"]);
}

#[test]
fn a_pool_that_grows_serves_the_oldest_who_wait() {
    let mut world = Server::new(&["192.0.2.0-192.0.2.0"]);
    for n in 0..40 {
        world.put(&format!("s{n:02}"), v4());
    }
    world.settle();
    world.put_pool("lan", &json!({"addresses": ["192.0.2.0-192.0.2.9"]}));
    world.settle();
    for n in 0..40 {
        assert_eq!(world.addresses(&format!("s{n:02}")).len(), usize::from(n < 10), "s{n:02}");
    }
    world.delete("s03");
    world.settle();
    assert_eq!(world.addresses("s10"), ["192.0.2.3"], "the oldest gets what is freed");
}

#[test]
fn a_pool_that_goes_takes_nothing_or_everything_as_it_says() {
    // A8, A48, A69, A70
    for (removal, kept) in [("Keep", true), ("Reassign", false)] {
        let mut world = Server::new(&[]);
        world.put("four", v4());
        world.put("six", v6());
        world.settle();
        assert_eq!((world.reason("four"), world.reason("six")), ("NoPool".into(), "NoPool".into()));
        world.put_pool("lan", &json!({"addresses": ONE_EACH, "onRemoval": removal}));
        world.settle();
        assert_eq!(world.seen("six").on_removal.as_deref(), Some(removal));
        world.delete_pool("lan");
        world.settle();
        world.restart();
        world.settle();
        for (name, addr) in [("four", "192.0.2.1"), ("six", "2001:db8::1")] {
            if kept {
                assert_eq!(
                    (world.addresses(name), world.reason(name)),
                    (vec![addr.into()], "OutsidePool".into())
                );
                assert_eq!(world.seen(name).allocated_from.as_deref(), Some("lan"));
            } else {
                assert_eq!((world.addresses(name), world.reason(name)), (vec![], "NoPool".into()));
                let left = world.seen(name);
                assert!(left.allocated_from.is_none() && left.on_removal.is_none());
                assert_eq!(left.finalizers.count, 0, "A80: nothing to clean up");
            }
        }
    }
}

#[test]
fn each_service_takes_one_unit_of_work_and_a_restart_none() {
    // A3
    let mut world = Server::new(&["192.0.2.0/24", "2001:db8::/64"]);
    for n in 0..50 {
        world.put(&format!("s{n}"), if n % 2 == 0 { v4() } else { v6() });
    }
    assert_eq!(world.settle(), 50, "metadata and status of a Service are one unit of work");
    assert_eq!(world.quiet(), 50, "what speakers say, and that none has said anything, comes later");
    for _ in 0..5 {
        world.restart();
        assert_eq!(world.quiet(), 0);
        world.list();
        assert_eq!(world.quiet(), 0);
    }
}

#[test]
fn the_finalizer_stands_before_the_address_and_goes_with_it() {
    // A80, S92
    for (spec, addr) in families() {
        let mut world = Server::new(ONE_EACH);
        world.put("s", spec);
        world.tell();
        let write = world.next().unwrap();
        assert!(!write.status_first && write.metadata_patch(&write.version, true).is_some());
        world.send(&write, 0);
        assert_eq!((world.addresses("s"), world.seen("s").finalizers.ours), (vec![addr.into()], Some(0)));
        world.edit("s", |object| {
            object["metadata"]["finalizers"] =
                json!(["other", "service.kubernetes.io/load-balancer-cleanup"]);
        });
        world.delete("s");
        world.settle();
        let left = world.seen("s");
        assert_eq!((left.finalizers.ours, left.finalizers.count), (None, 1), "somebody else's stays");
        assert!(left.ingress.is_empty(), "and the address is given back");
        world.put("next", if addr.contains(':') { v6() } else { v4() });
        world.settle();
        assert_eq!(world.addresses("next"), [addr]);
    }
}

#[test]
fn a_deleted_service_goes_with_one_write_and_frees_its_address() {
    // A80
    let mut world = Server::new(ONE_EACH);
    world.put("s", v4());
    world.settle();
    world.delete("s");
    assert_eq!(world.settle(), 1);
    assert!(world.services.is_empty());
    world.put("t", v4());
    world.settle();
    assert_eq!(world.addresses("t"), ["192.0.2.1"]);
}

#[test]
fn of_two_with_one_address_the_older_keeps_it() {
    // A77
    for (spec, _) in families() {
        let mut world = Server::new(MANY);
        for name in ["old", "a-young"] {
            world.put(name, spec.clone());
        }
        world.settle();
        let addr = world.addresses("old");
        world.edit("a-young", |object| {
            object["status"]["loadBalancer"]["ingress"] = json!([{"ip": addr[0], "ipMode": "VIP"}]);
        });
        world.restart();
        assert_eq!(world.index.take_lost().len(), 1);
        world.settle();
        assert_eq!(world.addresses("old"), addr);
        assert_eq!(world.addresses("a-young").len(), 1);
        assert_ne!(world.addresses("a-young"), addr);
    }
}

#[test]
fn a_status_edited_by_hand_is_put_right() {
    // A27, A53, A76
    let mut world = Server::new(MANY);
    world.put("s", v4());
    world.settle();
    let before = world.addresses("s");
    for ingress in [
        json!([]),
        json!([{"ip": "203.0.113.9", "ipMode": "VIP"}]),
        json!([{"hostname": "rubbish"}]),
        json!([{"ip": before[0]}]),
    ] {
        world.quiet();
        world.later(Duration::from_secs(1));
        world.edit("s", |object| object["status"]["loadBalancer"]["ingress"] = ingress.clone());
        assert_eq!(world.settle(), 1, "{ingress}");
        assert_eq!(world.addresses("s"), before, "{ingress}");
    }
}

#[test]
fn an_address_somebody_wrote_is_adopted_where_it_might_have_been_asked_for() {
    // A27, A76
    for (ip, adopted) in [("192.0.2.77", true), ("203.0.113.7", false)] {
        let mut world = Server::new(MANY);
        world.put("s", v4());
        world.edit("s", |object| {
            object["status"] = json!({"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]}});
        });
        world.settle();
        assert_eq!(world.addresses("s") == [ip], adopted, "{ip}");
        assert_eq!(world.reason("s"), "Allocated");
    }
    // Not one that is held for somebody else.
    let mut world = Server::new(MANY);
    world.put_reservation(
        "r",
        &json!({"address": "192.0.2.77", "service": {"namespace": "test", "name": "other"}}),
    );
    world.put("s", v4());
    world.edit("s", |object| {
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.77", "ipMode": "VIP"}]}});
    });
    world.settle();
    assert_ne!(world.addresses("s"), ["192.0.2.77"]);
}

#[test]
fn a_reservation_outlives_its_service() {
    // A66
    let mut world = Server::new(&["192.0.2.0-192.0.2.1"]);
    world.put_reservation(
        "r",
        &json!({"address": "192.0.2.0", "service": {"namespace": "test", "name": "cart"}}),
    );
    world.put("other", v4());
    world.put("cart", v4());
    world.settle();
    assert_eq!(
        (world.addresses("other"), world.addresses("cart")),
        (vec!["192.0.2.1".into()], vec!["192.0.2.0".into()])
    );
    world.delete("cart");
    world.put("third", v4());
    world.settle();
    assert!(world.addresses("third").is_empty() && world.reason("third") == "PoolsFull");
    world.put("cart", v4());
    world.settle();
    assert_eq!(world.addresses("cart"), ["192.0.2.0"]);
    let writes = world.index.reservation_writes(world.time);
    assert_eq!(writes[0].1.used_by.as_deref(), Some("test/cart"));
    assert!(writes[0].1.since.is_some());
    world.delete_reservation("r");
    world.delete("cart");
    world.settle();
    assert_eq!(world.addresses("third"), ["192.0.2.0"], "looked at when the obstacle is gone");
}

#[test]
fn a_freed_address_rests_and_goes_on_by_itself_also_over_a_restart() {
    // A67
    let mut world = Server::new(&[]);
    world.put_pool("lan", &json!({"addresses": ONE_EACH, "quarantine": "30s"}));
    world.put("a", v4());
    world.put("b", v4());
    world.settle();
    world.delete("a");
    world.settle();
    assert!(world.addresses("b").is_empty());
    let (_, status) = world.index.pool_writes(world.time).remove(0);
    assert_eq!(status.resting.len(), 1);
    world.pools.get_mut(&PoolName::new("lan")).unwrap()["status"] = serde_json::to_value(&status).unwrap();
    world.restart();
    world.settle();
    assert!(world.addresses("b").is_empty(), "not forgotten by a restart");
    assert!(world.index.next_alarm().is_some());
    world.later(Duration::from_secs(31));
    world.settle();
    assert_eq!(world.addresses("b"), ["192.0.2.1"]);
}

#[test]
fn node_ports_are_given_on_request_and_come_back_when_wiped() {
    // A71, A72, A73, A81
    let mut world = Server::new(&[]);
    world.put_pool("lan", &json!({"addresses": MANY, "nodePortRange": "31000-31002"}));
    let spec = |asked: bool| {
        let mut spec = v4();
        spec["allocateLoadBalancerNodePorts"] = json!(false);
        spec["ports"] = json!([{"name": "a", "port": 80, "protocol": "TCP"}, {"name": "b", "port": 81, "protocol": "TCP"}]);
        (spec, if asked { json!({"landfall.dev/node-ports": "true"}) } else { json!({}) })
    };
    let ports = |world: &Server, name: &str| world.seen(name).node_ports.to_vec();
    let (plain, nothing) = spec(false);
    world.put_with("plain", plain, &nothing);
    let (asks, yes) = spec(true);
    world.put_with("one", asks.clone(), &yes);
    world.settle();
    assert_eq!(ports(&world, "plain"), [0_u16; 0]);
    assert_eq!(ports(&world, "one"), [31000, 31001]);
    // A user replaces the object: the same numbers come back.
    world.edit("one", |object| object["spec"] = asks.clone());
    world.settle();
    assert_eq!(ports(&world, "one"), [31000, 31001]);
    world.put_with("two", asks.clone(), &yes);
    world.settle();
    assert_eq!((world.addresses("two").len(), world.reason("two")), (1, "NodePortsExhausted".into()));
    world.delete("one");
    world.settle();
    world.edit("two", |object| object["metadata"]["labels"] = json!({"look": "again"}));
    world.settle();
    assert_eq!((ports(&world, "two").len(), world.reason("two")), (2, "Allocated".into()));
}

#[test]
fn a_port_that_the_api_server_refuses_is_another_one_next_time() {
    // A73
    let mut world = Server::new(&[]);
    world.put_pool("lan", &json!({"addresses": MANY, "nodePortRange": "31000-31009"}));
    let mut asks = v4();
    asks["allocateLoadBalancerNodePorts"] = json!(false);
    world.put_with("s", asks, &json!({"landfall.dev/node-ports": "true"}));
    world.tell();
    let write = world.next().unwrap();
    let offered = |write: &Write| write.metadata.as_ref().unwrap().node_ports[1]["value"].as_u64();
    assert_eq!(offered(&write), Some(31000));
    world.index.ports_refused(&key("s"), PortsRefused::Taken);
    world.index.failed(&key("s"), Failure::Other);
    world.index.retry(&key("s"));
    let write = world.next().unwrap();
    assert_eq!(offered(&write), Some(31001));
    world.index.ports_refused(&key("s"), PortsRefused::OutOfRange);
    world.index.failed(&key("s"), Failure::Other);
    world.index.retry(&key("s"));
    world.settle();
    assert_eq!((world.reason("s"), world.addresses("s").len()), ("NodePortRangeInvalid".into(), 1));
}

#[test]
fn a_port_that_a_user_removes_gives_its_number_back() {
    // A71, A72
    let mut world = Server::new(&[]);
    world.put_pool("lan", &json!({"addresses": MANY, "nodePortRange": "31000-31001"}));
    let asks = |ports: &[u16]| {
        let mut spec = v4();
        spec["allocateLoadBalancerNodePorts"] = json!(false);
        let port = |port: &u16| json!({"name": port.to_string(), "port": port, "protocol": "TCP"});
        spec["ports"] = ports.iter().map(port).collect();
        spec
    };
    let yes = json!({"landfall.dev/node-ports": "true"});
    world.put_with("one", asks(&[80, 81]), &yes);
    world.put_with("two", asks(&[80]), &yes);
    world.settle();
    assert_eq!(world.reason("two"), "NodePortsExhausted");
    world.edit("one", |object| {
        object["spec"]["ports"].as_array_mut().unwrap().pop();
    });
    world.settle();
    assert_eq!(
        (world.reason("two"), world.seen("two").node_ports.to_vec()),
        ("Allocated".into(), vec![31001])
    );
    assert_eq!(world.seen("one").node_ports.to_vec(), [31000]);
}

#[test]
fn another_range_is_another_chance_where_the_first_was_not_accepted() {
    // A73
    let mut world = Server::new(&[]);
    world.put_pool("lan", &json!({"addresses": MANY, "nodePortRange": "40000-40009"}));
    let mut asks = v4();
    asks["allocateLoadBalancerNodePorts"] = json!(false);
    world.put_with("s", asks, &json!({"landfall.dev/node-ports": "true"}));
    world.tell();
    world.next().unwrap();
    world.index.ports_refused(&key("s"), PortsRefused::OutOfRange);
    world.index.failed(&key("s"), Failure::Other);
    world.settle();
    assert_eq!(world.reason("s"), "NodePortRangeInvalid");
    world.put_pool("lan", &json!({"addresses": MANY, "nodePortRange": "31000-31009"}));
    world.settle();
    assert_eq!((world.reason("s"), world.seen("s").node_ports.to_vec()), ("Allocated".into(), vec![31000]));
}

#[test]
fn of_two_created_in_one_second_the_first_goes_first() {
    let mut world = Server::new(&[]);
    for name in ["z", "a"] {
        world.put(name, v4());
        world.untold.clear();
        world.edit(name, |object| object["metadata"]["creationTimestamp"] = json!("2025-12-31T23:59:00Z"));
        world.settle();
    }
    world.put_pool("lan", &json!({"addresses": ["192.0.2.7/32"]}));
    world.settle();
    assert_eq!((world.addresses("z").len(), world.addresses("a").len()), (1, 0));
}

#[test]
fn a_service_whose_annotations_are_full_gets_its_address_and_its_finalizer() {
    // A80
    let mut world = Server::new(MANY);
    world.put_with("full", v4(), &json!({"x": "y".repeat(256 * 1024 - 20)}));
    world.put_with("nearly", v4(), &json!({"x": "y".repeat(256 * 1024 - 100)}));
    world.settle();
    for (name, recorded) in [("full", false), ("nearly", true)] {
        let seen = world.seen(name);
        assert_eq!((seen.ingress.len(), seen.allocated_from.is_some()), (1, recorded), "{name}");
        assert!(seen.finalizers.ours.is_some(), "{name}");
        assert_eq!(world.message(name).contains("leave no room"), !recorded, "{}", world.message(name));
        assert!(seen.annotated.unwrap() <= 256 * 1024);
    }
    assert_eq!(world.settle(), 0, "and there it stays");
}

#[test]
fn a_refused_port_is_tried_again_after_a_while_that_grows() {
    // A73: a deleted Service is gone for watches before the API server frees its ports.
    let mut world = Server::new(&[]);
    world.put_pool("lan", &json!({"addresses": MANY, "nodePortRange": "31000-31000"}));
    let mut asks = v4();
    asks["allocateLoadBalancerNodePorts"] = json!(false);
    world.put_with("s", asks, &json!({"landfall.dev/node-ports": "true"}));
    world.tell();
    world.next().unwrap();
    for waited in [500, 1_000, 2_000] {
        world.index.ports_refused(&key("s"), PortsRefused::Taken);
        world.index.failed(&key("s"), Failure::Other);
        world.settle();
        assert_eq!(world.reason("s"), "NodePortsExhausted");
        let at = world.time + Duration::from_millis(waited);
        assert_eq!(world.index.refused_ports.next_expiry(), Some(at.as_millisecond()));
        assert!(world.index.next_alarm().is_some_and(|alarm| alarm <= at.as_millisecond()));
        // The status is written once a second.
        world.later(Duration::from_millis(waited.max(1_000)));
        assert!(world.next().is_some(), "tried again after {waited} ms");
    }
    world.index.failed(&key("s"), Failure::Other);
    world.index.retry(&key("s"));
    world.settle();
    assert_eq!((world.reason("s"), world.seen("s").node_ports.to_vec()), ("Allocated".into(), vec![31000]));
}

#[test]
fn labels_of_a_namespace_open_and_close_a_pool_for_those_who_wait() {
    // A12
    let mut world = Server::new(&[]);
    world
        .put_pool("lan", &json!({"addresses": MANY, "namespaceSelector": {"matchLabels": {"team": "shop"}}}));
    world.put("s", v4());
    world.settle();
    assert_eq!(world.reason("s"), "NoMatchingPool");
    world.index.namespace(Change::Set(SeenNamespace::new(&namespace(&json!({"team": "shop"})))));
    world.settle();
    let addresses = world.addresses("s");
    assert_eq!(addresses.len(), 1);
    world.index.namespace(Change::Set(SeenNamespace::new(&namespace(&json!({})))));
    world.settle();
    assert_eq!(world.addresses("s"), addresses, "what is in use stays");
}

#[test]
fn an_address_of_a_node_is_never_given() {
    let mut world = Server::new(&["192.0.2.250-192.0.2.251"]);
    world.put("s", v4());
    world.put("t", spec(&["IPv4"], "SingleStack", Some("192.0.2.250")));
    world.settle();
    assert_eq!(world.addresses("s"), ["192.0.2.251"]);
    assert_eq!(world.reason("t"), "AddressTaken");
    assert!(world.message("t").contains("node n1"), "{}", world.message("t"));
    let (_, status) = world.index.pool_writes(world.time).remove(0);
    let told = status.conditions.iter().find(|condition| condition.type_ == "Overlapping").unwrap();
    assert_eq!((&*told.status, &*told.reason), ("True", "ClusterAddresses"));
    assert!(told.message.contains("node n1"), "{}", told.message);
}

#[test]
fn what_speakers_report_is_folded_in_once_and_late() {
    let mut world = Server::new(MANY);
    world.put("s", v4());
    assert_eq!(world.settle(), 1);
    let speaker = |node: &str, owned: &[(&str, &str)], services: u64| SeenSpeaker {
        node: node.into(),
        owned: owned.iter().map(|(addr, iface)| (addr.parse().unwrap(), (*iface).into())).collect(),
        services,
        exceptions: BTreeMap::new(),
    };
    let addr = world.addresses("s")[0].clone();
    world.index.speaker(Change::Set(speaker("n1", &[(&addr, "eth0")], 1_000)));
    assert_eq!(world.settle(), 0, "not within a second of the last write");
    world.later(Duration::from_secs(2));
    assert_eq!(world.settle(), 1);
    let told = world.seen("s").conditions.others;
    let words: Vec<_> = told.iter().map(|(type_, told)| (*type_, told.is_true, &*told.message)).collect();
    let by = format!("{addr} by n1 on eth0");
    assert_eq!(words[0], ("landfall.dev/Announced", true, &*by));
    assert_eq!((words[1].0, words[1].1), ("landfall.dev/Programmed", true));
    world.later(Duration::from_secs(2));
    world.index.speaker(Change::Set(speaker("n1", &[(&addr, "eth0")], 2_000)));
    assert_eq!(world.settle(), 0, "our own writes are no news for speakers");
    world.index.speaker(Change::Set(speaker("n1", &[], 2_000)));
    assert_eq!(world.settle(), 1);
    assert!(!world.seen("s").conditions.others[0].1.is_true);
    // Ranges are not called enforced before every speaker has them.
    let mut restricted = v4();
    restricted["loadBalancerSourceRanges"] = json!(["192.0.2.0/24"]);
    world.later(Duration::from_secs(2));
    world.put("s", restricted);
    world.index.speaker(Change::Set(speaker("n1", &[], 2)));
    world.settle();
    let others = world.seen("s").conditions.others;
    assert_eq!((others[2].0, others[2].1.is_true), ("landfall.dev/SourceRangesEnforced", false));
    assert!(others[2].1.message.contains("n1"), "{}", others[2].1.message);
}

#[test]
fn a_speaker_that_goes_on_is_news_only_for_those_it_reaches() {
    let mut world = Server::new(MANY);
    world.put("four", v4());
    world.put("six", v6());
    let speaker = |services| SeenSpeaker { node: "n1".into(), services, ..SeenSpeaker::default() };
    world.index.speaker(Change::Set(speaker(1)));
    world.quiet();
    let lagging = |world: &Server, name| {
        !world.message(name).is_empty() && !world.seen(name).conditions.others[1].1.is_true
    };
    assert!(lagging(&world, "four") && lagging(&world, "six"));
    let settled = |world: &Server, name: &str| world.index.services[&key(name)].settled_at;
    let (first, second) = (settled(&world, "four"), settled(&world, "six"));
    assert!(first < second);
    let due = |world: &Server| world.index.due.iter().map(|(_, key)| key.clone()).collect::<Vec<_>>();
    world.index.speaker(Change::Set(speaker(first - 1)));
    assert_eq!(due(&world), []);
    world.index.speaker(Change::Set(speaker(first)));
    assert_eq!(due(&world), [key("four")]);
    world.quiet();
    assert!(!lagging(&world, "four") && lagging(&world, "six"));
    world.index.speaker(Change::Set(speaker(second)));
    assert_eq!(due(&world), [key("six")]);
    world.quiet();
    assert!(!lagging(&world, "six"));
}

#[test]
fn what_speakers_report_stands_in_line_once_and_leaves_with_its_service() {
    let mut world = Server::new(MANY);
    for n in 0..20 {
        world.put(&format!("s{n}"), if n % 2 == 0 { v4() } else { v6() });
    }
    world.settle();
    for services in 1..50 {
        world.index.speaker(Change::Set(SeenSpeaker {
            node: "n1".into(),
            services,
            ..SeenSpeaker::default()
        }));
        world.settle();
        assert_eq!(world.index.folds.len(), 20);
    }
    for n in 0..20 {
        world.delete(&format!("s{n}"));
    }
    world.settle();
    assert!(world.index.folds.is_empty() && world.index.unprogrammed.is_empty());
}

#[test]
fn an_address_given_up_is_not_given_on_before_the_status_says_so() {
    // A26
    let mut world = Server::new(&["192.0.2.1-192.0.2.2", "2001:db8::1-2001:db8::2"]);
    for (family, first, second) in
        [("IPv4", "192.0.2.1", "192.0.2.2"), ("IPv6", "2001:db8::1", "2001:db8::2")]
    {
        let (mover, waiter) = (format!("mover{family}"), format!("waiter{family}"));
        let asks = |addr| spec(&[family], "SingleStack", Some(addr));
        world.put(&mover, asks(first));
        world.settle();
        world.later(Duration::from_secs(1));
        world.put(&mover, asks(second));
        world.put(&waiter, asks(first));
        world.tell();
        let write = world.next().unwrap();
        assert_eq!(write.key, key(&mover));
        let refused = world.next().unwrap();
        assert_eq!(refused.note.as_ref().unwrap().reason, "AddressInUse");
        world.send(&write, 0);
        world.send(&refused, 0);
        world.settle();
        assert_eq!(
            (world.addresses(&mover), world.addresses(&waiter)),
            (vec![second.to_owned()], vec![first.to_owned()])
        );
    }
}

#[test]
fn the_status_of_a_service_is_written_once_a_second_but_a_first_address_at_once() {
    let mut world = Server::new(&[]);
    world.put("s", v4());
    world.settle();
    assert_eq!(world.reason("s"), "NoPool");
    world.put_pool("lan", &json!({"addresses": MANY}));
    let write = world.next().expect("its first address");
    world.send(&write, 0);
    world.tell();
    // Asked for one after another within the second: only the last is written, when the second is over.
    for last in 7..15 {
        world.put("s", spec(&["IPv4"], "SingleStack", Some(&format!("192.0.2.{last}"))));
        world.tell();
        world.later(Duration::from_millis(100));
        assert!(world.next().is_none(), "192.0.2.{last}");
    }
    world.later(Duration::from_millis(200));
    let write = world.next().expect("the last one");
    world.send(&write, 0);
    assert_eq!(world.addresses("s"), ["192.0.2.14"]);
}

#[test]
fn an_address_that_becomes_free_wakes_those_for_whom_it_is_held() {
    for whom in [
        json!({"service": {"namespace": "test", "name": "late"}}),
        json!({"namespace": "test", "serviceSelector": {"matchLabels": {"app": "late"}}}),
    ] {
        let mut world = Server::new(&["192.0.2.7/32", "2001:db8::7/128"]);
        for (family, addr) in [("IPv4", "192.0.2.7"), ("IPv6", "2001:db8::7")] {
            let spec = spec(&[family], "SingleStack", None);
            world.put("first", spec.clone());
            world.settle();
            let mut held = whom.clone();
            held["address"] = json!(addr);
            world.put_reservation("r", &held);
            world.put("late", spec);
            world.edit("late", |object| object["metadata"]["labels"] = json!({"app": "late"}));
            world.settle();
            assert!(world.addresses("late").is_empty());
            world.delete("first");
            world.settle();
            assert_eq!(world.addresses("late"), [addr], "{whom}");
            world.delete("late");
            world.settle();
        }
    }
}

#[test]
fn an_object_that_cannot_be_written_waits_longer_each_time_and_blocks_nobody() {
    let mut world = Server::new(MANY);
    world.put("bad", v4());
    world.put("good", v6());
    world.tell();
    let bad = world.next().unwrap();
    assert_eq!(bad.key, key("bad"));
    let waits: Vec<_> =
        (0..9).map(|_| world.index.failed(&bad.key, Failure::Other).unwrap().as_millis()).collect();
    assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(world.next().unwrap().key, key("good"));
}

#[test]
fn a_service_made_anew_under_the_same_name_is_another_one() {
    let mut world = Server::new(ONE_EACH);
    for (spec, addr) in families() {
        world.put("s", spec.clone());
        world.tell();
        let late = world.next().unwrap();
        world.delete("s");
        world.put("s", spec);
        world.send(&late, 0);
        world.settle();
        assert_eq!(world.addresses("s"), [addr]);
        world.delete("s");
        world.settle();
    }
}

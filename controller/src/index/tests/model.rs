//! Random histories: whatever is lost, late or doubled on the way, no two Services have one address, none moves
//! without cause, nothing leaks, and in the end everybody who can have an address has one.

use std::collections::BTreeSet;

use super::*;
use crate::seen::SeenService;

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Put { service: u8, kind: u8, asks: Option<u8> },
    NotOurs { service: u8 },
    Delete { service: u8 },
    Pool { size: u8, reassign: bool },
    NoPool,
    Reserve { last: u8, service: u8 },
    NoReservation,
    Label { set: bool },
    Tell,
    Work { fate: u8, hold: bool },
    Restart,
    List,
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u8..6, 0_u8..4, prop::option::weighted(0.2, 0_u8..6))
            .prop_map(|(service, kind, asks)| Step::Put { service, kind, asks }),
        1 => (0_u8..6).prop_map(|service| Step::NotOurs { service }),
        2 => (0_u8..6).prop_map(|service| Step::Delete { service }),
        1 => (1_u8..5, any::<bool>()).prop_map(|(size, reassign)| Step::Pool { size, reassign }),
        1 => Just(Step::NoPool),
        1 => (0_u8..4, 0_u8..6).prop_map(|(last, service)| Step::Reserve { last, service }),
        1 => Just(Step::NoReservation),
        1 => any::<bool>().prop_map(|set| Step::Label { set }),
        5 => Just(Step::Tell),
        9 => (0_u8..8, any::<bool>()).prop_map(|(fate, hold)| Step::Work { fate, hold }),
        1 => Just(Step::Restart),
        1 => Just(Step::List),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 0..32)
}

fn all(world: &Server) -> Vec<SeenService> {
    world.services.values().map(world::seen).collect()
}

fn duplicates(world: &Server) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    let all = all(world);
    let addresses =
        all.iter().filter(|service| service.demand.is_some()).flat_map(|service| &service.ingress);
    addresses.filter(|addr| !seen.insert(**addr)).copied().collect()
}

/// How many histories: more by an environment variable, for a long run.
fn cases() -> u32 {
    let asked = std::env::var("LANDFALL_HISTORIES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(10_000)
}

fn pool(size: u8, reassign: bool) -> Value {
    let (v4, v6) = (format!("192.0.2.0-192.0.2.{size}"), format!("2001:db8::-2001:db8::{size}"));
    json!({"addresses": [v4, v6], "onRemoval": if reassign { "Reassign" } else { "Keep" }})
}

fn service(kind: u8, asks: Option<u8>) -> Value {
    let asked = asks.map(|n| format!("192.0.2.{n}"));
    match kind {
        0 => spec(&["IPv4"], "SingleStack", asked.as_deref()),
        1 => spec(&["IPv6"], "SingleStack", None),
        2 => spec(&["IPv4", "IPv6"], "PreferDualStack", asked.as_deref()),
        _ => spec(&["IPv4", "IPv6"], "RequireDualStack", asked.as_deref()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// A27, A61, A77, A79: see the head of this file.
    #[test]
    fn no_address_twice_and_all_served_in_the_end(steps in steps()) {
        let mut world = Server::new(&["192.0.2.0-192.0.2.3", "2001:db8::-2001:db8::3"]);
        let mut held: Vec<(Write, u8)> = Vec::new();
        for step in steps {
            match step {
                Step::Put { service: n, kind, asks } => world.put(&format!("s{n}"), service(kind, asks)),
                Step::NotOurs { service } => {
                    if world.services.contains_key(&key(&format!("s{service}"))) {
                        world.put(&format!("s{service}"), json!({"type": "ClusterIP", "clusterIP": "10.96.0.1"}));
                    }
                }
                Step::Delete { service } => world.delete(&format!("s{service}")),
                Step::Pool { size, reassign } => world.put_pool("lan", &pool(size, reassign)),
                Step::NoPool => world.delete_pool("lan"),
                Step::Reserve { last, service } => {
                    let whom = json!({"namespace": "test", "name": format!("s{service}")});
                    world.put_reservation("r", &json!({"address": format!("192.0.2.{last}"), "service": whom}));
                }
                Step::NoReservation => world.delete_reservation("r"),
                Step::Label { set } => {
                    let labels = if set { json!({"a": "b"}) } else { json!({}) };
                    world.index.namespace(Change::Set(SeenNamespace::new(&namespace(&labels))));
                }
                Step::Tell => world.tell(),
                Step::Work { fate, hold } => {
                    if let Some(write) = world.next() {
                        held.push((write, fate));
                    }
                    if !hold {
                        for (write, fate) in std::mem::take(&mut held) {
                            world.send(&write, fate);
                            prop_assert!(duplicates(&world).is_empty());
                        }
                    }
                }
                // What the old one has sent is over before the new one begins: that is what the Lease is for.
                Step::Restart => {
                    held.clear();
                    world.restart();
                }
                Step::List => world.list(),
                Step::Wait => world.later(Duration::from_secs(2)),
            }
            prop_assert!(duplicates(&world).is_empty());
        }
        for (write, fate) in held {
            world.send(&write, fate);
        }
        world.quiet();
        prop_assert!(duplicates(&world).is_empty());
        // A restart looks at everybody anew: what a refusal names may be fresher then, but no address moves, and
        // the next restart finds nothing to do.
        let held = |world: &Server| -> Vec<_> {
            all(world).into_iter().map(|service| (service.key, service.ingress)).collect()
        };
        let before = held(&world);
        world.restart();
        world.quiet();
        prop_assert_eq!(before, held(&world));
        world.restart();
        prop_assert_eq!(world.quiet(), 0, "a restart writes");
        for service in all(&world) {
            match &service.demand {
                Some(_) => {
                    let told = service.conditions.allocated.as_ref();
                    prop_assert!(told.is_some_and(|told| told.is_true != service.ingress.is_empty()));
                    prop_assert_eq!(service.finalizers.ours.is_some(), !service.ingress.is_empty());
                }
                None => prop_assert!(!service.has_trace() && service.finalizers.ours.is_none()),
            }
        }
        // Nothing leaks: what no status names is free.
        let used: BTreeSet<IpAddr> = all(&world).into_iter().flat_map(|service| service.ingress).collect();
        for last in 0..=255_u8 {
            for addr in [IpAddr::from([192, 0, 2, last]), format!("2001:db8::{last:x}").parse().unwrap()] {
                prop_assert!(world.index.ledger.holders(addr).is_empty() || used.contains(&addr), "{} leaked", addr);
            }
        }
        // Room for all: nobody is left waiting but those who ask for what another one has.
        world.put_pool("more", &json!({"addresses": ["198.51.100.0/24", "2001:db8:1::/64"]}));
        world.settle();
        for service in all(&world).iter().filter(|service| service.demand.is_some()) {
            let reason = &*service.conditions.allocated.as_ref().unwrap().reason;
            let served = matches!(reason, "Allocated" | "OutsidePool");
            let asked = matches!(
                reason,
                "AddressInUse" | "AddressOutsidePools" | "AddressReserved" | "RequestedAddressUnavailable"
                    | "SecondFamilyUnavailable"
            );
            prop_assert!(served || asked, "{}: {}", service.key, reason);
        }
    }
}

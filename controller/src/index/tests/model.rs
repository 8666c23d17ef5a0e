//! Random histories: whatever is lost, late or doubled on the way, no two Services have one address, none moves
//! without cause, nothing leaks, and in the end everybody who can have an address has one.

use std::collections::{BTreeMap, BTreeSet};

use landfall_crds::class::annotation;

use super::*;
use crate::seen::SeenService;

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Put { service: u8, wish: Wish },
    NotOurs { service: u8 },
    Delete { service: u8 },
    Pool { size: u8, reassign: bool, rests: bool },
    NoPool,
    Reserve { last: u8, service: u8 },
    NoReservation,
    Label { set: bool },
    Tell,
    Work { fate: u8, hold: bool },
    Restart,
    List,
    Wait,
    Quiet,
}

/// What a Service wants.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    kind: u8,
    asks: Option<u8>,
    shares: bool,
    node_ports: bool,
}

fn wishes() -> impl Strategy<Value = Wish> {
    let asks = prop::option::weighted(0.2, 0_u8..6);
    (0_u8..4, asks, prop::bool::weighted(0.3), prop::bool::weighted(0.3))
        .prop_map(|(kind, asks, shares, node_ports)| Wish { kind, asks, shares, node_ports })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u8..6, wishes()).prop_map(|(service, wish)| Step::Put { service, wish }),
        1 => (0_u8..6).prop_map(|service| Step::NotOurs { service }),
        2 => (0_u8..6).prop_map(|service| Step::Delete { service }),
        1 => (1_u8..5, prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(size, reassign, rests)| Step::Pool { size, reassign, rests }),
        1 => Just(Step::NoPool),
        1 => (0_u8..4, 0_u8..6).prop_map(|(last, service)| Step::Reserve { last, service }),
        1 => Just(Step::NoReservation),
        1 => any::<bool>().prop_map(|set| Step::Label { set }),
        5 => Just(Step::Tell),
        9 => (0_u8..8, any::<bool>()).prop_map(|(fate, hold)| Step::Work { fate, hold }),
        1 => Just(Step::Restart),
        1 => Just(Step::List),
        1 => Just(Step::Wait),
        1 => Just(Step::Quiet),
    ];
    prop::collection::vec(step, 0..32)
}

fn all(world: &Server) -> Vec<SeenService> {
    world.services.values().map(world::seen).collect()
}

/// Addresses with two Services that never agreed to share them.
fn duplicates(world: &Server, shared: &BTreeSet<ServiceKey>) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    let all = all(world);
    let alone = all.iter().filter(|service| service.demand.is_some() && !shared.contains(&service.key));
    let sharing = all.iter().filter(|service| service.demand.is_some() && shared.contains(&service.key));
    let first: BTreeSet<IpAddr> = sharing.flat_map(|service| service.ingress.clone()).collect();
    let addresses = first.into_iter().chain(alone.flat_map(|service| service.ingress.clone()));
    addresses.filter(|addr| !seen.insert(*addr)).collect()
}

/// `NodePorts` that two Services have.
fn double_ports(world: &Server) -> Vec<u16> {
    let mut seen = BTreeSet::new();
    let ports = all(world).into_iter().flat_map(|service| service.node_ports.to_vec());
    ports.filter(|port| *port != 0 && !seen.insert(*port)).collect()
}

/// Which address each Service has, for as long as nothing happened that may change it.
#[derive(Debug, Default)]
struct Watched {
    had: BTreeMap<ServiceKey, Vec<IpAddr>>,
    /// Wants something else than it has: no promise until all is quiet.
    unsettled: BTreeSet<ServiceKey>,
    /// A pool wants its addresses back: no promise any more.
    off: bool,
}

impl Watched {
    /// Services that lost an address without cause since the last look.
    fn moved(&mut self, world: &Server) -> Vec<String> {
        let services = all(world).into_iter().filter(|service| service.demand.is_some() && !service.deleting);
        let now: BTreeMap<_, _> = services.map(|service| (service.key, service.ingress)).collect();
        let gone = |(key, had): &(&ServiceKey, &Vec<IpAddr>)| {
            let new = now.get(*key).filter(|_| !self.unsettled.contains(*key));
            new.is_some_and(|new| had.iter().any(|addr| !new.contains(addr)))
        };
        let moved =
            self.had.iter().filter(gone).map(|(key, had)| format!("{key} had {had:?}, {:?}", now.get(key)));
        let moved = if self.off { Vec::new() } else { moved.collect() };
        self.had = now;
        moved
    }
}

/// How many histories: more by an environment variable, for a long run.
fn cases() -> u32 {
    let asked = std::env::var("LANDFALL_HISTORIES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(10_000)
}

fn pool(size: u8, reassign: bool, rests: bool) -> Value {
    let (v4, v6) = (format!("192.0.2.0-192.0.2.{size}"), format!("2001:db8::-2001:db8::{size}"));
    json!({
        "addresses": [v4, v6], "onRemoval": if reassign { "Reassign" } else { "Keep" },
        "quarantine": if rests { "2s" } else { "0s" }, "nodePortRange": PORTS,
    })
}

const PORTS: &str = "31000-31004";

/// The spec and the annotations of a Service; `n` and the next one have different ports.
fn service(n: u8, wish: &Wish) -> (Value, Value) {
    let asked = wish.asks.map(|n| format!("192.0.2.{n}"));
    let mut spec = match wish.kind {
        0 => spec(&["IPv4"], "SingleStack", asked.as_deref()),
        1 => spec(&["IPv6"], "SingleStack", None),
        2 => spec(&["IPv4", "IPv6"], "PreferDualStack", asked.as_deref()),
        _ => spec(&["IPv4", "IPv6"], "RequireDualStack", asked.as_deref()),
    };
    spec["ports"][0]["port"] = json!(80 + n % 2);
    spec["allocateLoadBalancerNodePorts"] = json!(!wish.node_ports);
    let key = if wish.shares { json!("key") } else { json!(null) };
    let ports = if wish.node_ports { json!("true") } else { json!(null) };
    (spec, json!({annotation::SHARING_KEY: key, annotation::NODE_PORTS: ports}))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// A27, A61, A77, A79: see the head of this file.
    #[test]
    fn no_address_twice_and_all_served_in_the_end(steps in steps()) {
        let mut world = Server::new(&["192.0.2.0-192.0.2.3", "2001:db8::-2001:db8::3"]);
        world.put_pool("lan", &pool(3, false, false));
        let mut held: Vec<(Write, u8)> = Vec::new();
        let mut wishes: BTreeMap<u8, Wish> = BTreeMap::new();
        let mut shared = BTreeSet::new();
        let mut watched = Watched::default();
        for step in steps {
            match step {
                Step::Put { service: n, wish } => {
                    let name = format!("s{n}");
                    let (spec, annotations) = service(n, &wish);
                    world.put_with(&name, spec, &annotations);
                    shared.extend(wish.shares.then(|| key(&name)));
                    if wishes.insert(n, wish.clone()).is_some_and(|before| before != wish) {
                        watched.unsettled.insert(key(&name));
                    }
                }
                Step::NotOurs { service } => {
                    watched.unsettled.insert(key(&format!("s{service}")));
                    if world.services.contains_key(&key(&format!("s{service}"))) {
                        world.put(&format!("s{service}"), json!({"type": "ClusterIP", "clusterIP": "10.96.0.1"}));
                    }
                }
                Step::Delete { service } => world.delete(&format!("s{service}")),
                Step::Pool { size, reassign, rests } => {
                    watched.off |= reassign;
                    world.put_pool("lan", &pool(size, reassign, rests));
                }
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
                            prop_assert!(duplicates(&world, &shared).is_empty());
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
                Step::Quiet => {
                    for (write, fate) in std::mem::take(&mut held) {
                        world.send(&write, fate);
                    }
                    world.quiet();
                    prop_assert_eq!(watched.moved(&world), Vec::<String>::new());
                    watched.unsettled.clear();
                }
            }
            prop_assert!(duplicates(&world, &shared).is_empty());
            prop_assert!(double_ports(&world).is_empty(), "{:?}", double_ports(&world));
            prop_assert_eq!(watched.moved(&world), Vec::<String>::new());
        }
        for (write, fate) in held {
            world.send(&write, fate);
        }
        world.quiet();
        // Whatever rests has rested.
        world.later(Duration::from_secs(10));
        world.quiet();
        prop_assert!(duplicates(&world, &shared).is_empty());
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
                    | "SecondFamilyUnavailable" | "SharingConflict" | "SharingKeyDiffers" | "SharingPortConflict"
                    | "NodePortsExhausted"
            );
            prop_assert!(served || asked, "{}: {}", service.key, reason);
        }
    }
}

//! The index against a small model of the API server.

use std::collections::BTreeSet;
use std::net::IpAddr;

use landfall_core::demand::{Demand, Families, Request};
use landfall_crds::{AddressPool, AddressPoolSpec, AddressText};
use proptest::prelude::*;

use super::*;
use crate::seen::{SeenCondition, Version};

/// The objects as the API server has them, and who looks at them.
#[derive(Default)]
struct Server {
    services: BTreeMap<ServiceKey, SeenService>,
    pools: BTreeMap<PoolName, SeenPool>,
    clock: u64,
    index: Index,
    /// Changes of Services that the watch has not told yet.
    untold: Vec<Change<SeenService>>,
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("test", name)
}

fn demand(families: Families, address: Option<&str>) -> Demand {
    let addresses = address.into_iter().map(|text| text.parse().unwrap()).collect();
    Demand { request: Ok(Request { addresses, pool: None }), ..Demand::plain(families) }
}

const V4: Families = Families::One(Family::V4);
const V6: Families = Families::One(Family::V6);

impl Server {
    fn tick(&mut self) -> Box<str> {
        self.clock += 1;
        self.clock.to_string().into()
    }

    /// Creates or changes a Service.
    fn put(&mut self, name: &str, demand: impl Into<Option<Demand>>) {
        let resource = self.tick();
        let created = i64::try_from(self.clock).unwrap();
        let fresh = || SeenService {
            key: key(name),
            version: Version { uid: format!("uid-{resource}").into(), resource: resource.clone() },
            created,
            demand: None,
            deleting: false,
            ingress: vec![],
            foreign_ingress: false,
            condition: None,
            allocated_from: None,
        };
        let service = self.services.entry(key(name)).or_insert_with(fresh);
        service.version.resource.clone_from(&resource);
        service.demand = demand.into();
        self.untold.push(Change::Set(service.clone()));
    }

    fn delete(&mut self, name: &str) {
        if let Some(mut service) = self.services.remove(&key(name)) {
            service.version.resource = self.tick();
            self.untold.push(Change::Gone(service));
        }
    }

    fn put_pool(&mut self, name: &str, addresses: &[&str]) {
        let spec = AddressPoolSpec {
            addresses: addresses.iter().copied().map(AddressText::from).collect(),
            auto_assign: true,
            ..AddressPoolSpec::default()
        };
        let mut object = AddressPool::new(name, spec);
        object.metadata.uid = Some(format!("uid-{name}"));
        object.metadata.resource_version = Some(self.tick().into());
        let seen = SeenPool::new(&object);
        self.pools.insert(seen.name.clone(), seen.clone());
        self.index.pool(Change::Set(seen));
    }

    fn delete_pool(&mut self, name: &str) {
        if let Some(seen) = self.pools.remove(&PoolName::new(name)) {
            self.index.pool(Change::Gone(seen));
        }
    }

    /// A new controller: it lists everything.
    fn restart(&mut self) {
        self.untold.clear();
        self.index = Index::default();
        self.list();
    }

    fn list(&mut self) {
        self.untold.clear();
        self.index.pool(Change::Listing);
        self.pools.values().for_each(|seen| self.index.pool(Change::Set(seen.clone())));
        self.index.pool(Change::Listed);
        self.index.service(Change::Listing);
        self.services.values().for_each(|seen| self.index.service(Change::Set(seen.clone())));
        self.index.service(Change::Listed);
    }

    fn tell(&mut self) {
        for change in std::mem::take(&mut self.untold) {
            self.index.service(change);
        }
    }

    /// What the API server does with a write.
    fn receive(&mut self, write: &Write) -> Result<SeenService, Failure> {
        let found = self.services.get(&write.key).ok_or(Failure::Gone)?;
        if found.version != write.version {
            return Err(Failure::Conflict);
        }
        let resource = self.tick();
        let service = self.services.get_mut(&write.key).ok_or(Failure::Gone)?;
        service.version.resource = resource;
        if let Some(status) = &write.status {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let ingress = status["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
            service.ingress = ingress.iter().map(|entry| text(&entry["ip"]).parse().unwrap()).collect();
            service.foreign_ingress = false;
            service.condition = status.get("conditions").map(|list| SeenCondition {
                is_true: list[0]["status"] == "True",
                reason: text(&list[0]["reason"]).into(),
                message: text(&list[0]["message"]).into(),
                since: text(&list[0]["lastTransitionTime"]).parse().unwrap(),
            });
        }
        if let Some(value) = &write.metadata {
            service.allocated_from.clone_from(value);
        }
        let service = service.clone();
        self.untold.push(Change::Set(service.clone()));
        Ok(service)
    }

    /// Sends one write, with a fate: 0 to 5 it arrives, 6 it is lost, 7 its answer is lost.
    fn send(&mut self, write: &Write, fate: u8) {
        let result = if fate == 6 { Err(Failure::Other) } else { self.receive(write) };
        match result {
            Ok(seen) if fate != 7 => self.index.written(seen),
            Ok(_) => {
                self.index.failed(&write.key, Failure::Other);
                self.index.retry(&write.key);
            }
            Err(failure) => {
                if self.index.failed(&write.key, failure).is_some() {
                    self.index.retry(&write.key);
                }
            }
        }
    }

    /// Goes on until there is nothing left to do; how many writes it took.
    fn settle(&mut self) -> usize {
        let mut writes = 0;
        loop {
            self.tell();
            let Some(write) = self.index.next_write(now()) else {
                if self.untold.is_empty() {
                    return writes;
                }
                continue;
            };
            writes += 1;
            assert!(writes < 10_000, "it never settles: {write}");
            self.send(&write, 0);
        }
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        self.services
            .get(&key(name))
            .map_or_else(Vec::new, |seen| seen.ingress.iter().map(ToString::to_string).collect())
    }

    fn reason(&self, name: &str) -> String {
        self.services[&key(name)].condition.as_ref().map_or_else(String::new, |seen| seen.reason.to_string())
    }
}

fn server(pool: &[&str]) -> Server {
    let mut server = Server::default();
    server.restart();
    if !pool.is_empty() {
        server.put_pool("lan", pool);
    }
    server
}

/// One address of each family.
const ONE_EACH: &[&str] = &["192.0.2.1-192.0.2.1", "2001:db8::1-2001:db8::1"];

#[test]
fn nothing_is_decided_before_both_lists_are_complete() {
    let mut world = Server::default();
    world.put("a", demand(V4, None));
    world.put_pool("lan", ONE_EACH);
    world.index.service(Change::Listing);
    world.tell();
    assert_eq!(world.index.next_write(now()), None);
    world.index.service(Change::Listed);
    assert!(!world.index.started(), "the pools are not listed");
    assert_eq!(world.index.next_write(now()), None);
    world.index.pool(Change::Listed);
    assert!(world.index.next_write(now()).is_some());
}

#[test]
fn a_freed_address_goes_to_the_oldest_that_waits() {
    // A1, A2
    for (families, addr) in [(V4, "192.0.2.1"), (V6, "2001:db8::1")] {
        for delete in [true, false] {
            let mut world = server(ONE_EACH);
            for name in ["c", "b", "a"] {
                world.put(name, demand(families, None));
            }
            world.settle();
            assert_eq!(
                (world.addresses("c"), world.reason("b")),
                (vec![addr.to_owned()], "PoolsFull".to_owned())
            );
            if delete {
                world.delete("c");
            } else {
                world.put("c", None);
            }
            world.settle();
            assert_eq!(world.addresses("b"), [addr]);
            assert!(world.addresses("a").is_empty());
            if !delete {
                assert!(!world.services[&key("c")].has_trace() && world.addresses("c").is_empty());
            }
        }
    }
}

#[test]
fn a_pool_that_comes_serves_those_who_wait_and_one_that_goes_takes_nothing() {
    let mut world = server(&[]);
    world.put("four", demand(V4, None));
    world.put("six", demand(V6, None));
    world.settle();
    assert_eq!((world.reason("four"), world.reason("six")), ("NoPool".into(), "NoPool".into()));
    world.put_pool("lan", ONE_EACH);
    world.settle();
    assert_eq!(
        (world.addresses("four"), world.addresses("six")),
        (vec!["192.0.2.1".into()], vec!["2001:db8::1".into()])
    );
    world.delete_pool("lan");
    world.settle();
    world.restart();
    world.settle();
    assert_eq!(
        (world.addresses("four"), world.reason("four")),
        (vec!["192.0.2.1".into()], "OutsidePool".into())
    );
    assert_eq!(
        (world.addresses("six"), world.reason("six")),
        (vec!["2001:db8::1".into()], "OutsidePool".into())
    );
    assert_eq!(world.services[&key("six")].allocated_from.as_deref(), Some("lan"));
}

#[test]
fn each_service_takes_two_writes_and_a_restart_none() {
    // A3
    let mut world = server(&["192.0.2.0/24", "2001:db8::/64"]);
    for n in 0..50 {
        world.put(&format!("s{n}"), demand(if n % 2 == 0 { V4 } else { V6 }, None));
    }
    assert_eq!(world.settle(), 50, "status and annotation of a Service are one unit of work");
    for _ in 0..5 {
        world.restart();
        assert_eq!(world.settle(), 0);
        world.list();
        assert_eq!(world.settle(), 0);
    }
}

#[test]
fn of_two_with_one_address_the_older_keeps_it() {
    // A77
    for (families, addr) in [(V4, "192.0.2.5"), (V6, "2001:db8::5")] {
        let mut world = server(&["192.0.2.0/24", "2001:db8::/64"]);
        for name in ["old", "a-young"] {
            world.put(name, demand(families, None));
            world.services.get_mut(&key(name)).unwrap().ingress = vec![addr.parse().unwrap()];
        }
        world.restart();
        assert_eq!(world.index.take_lost().len(), 1);
        world.settle();
        assert_eq!(world.addresses("old"), [addr]);
        assert_eq!(world.addresses("a-young").len(), 1);
        assert_ne!(world.addresses("a-young"), [addr]);
    }
}

#[test]
fn a_status_edited_by_hand_is_put_right() {
    // A27, A53, A76
    let mut world = server(&["192.0.2.0/24", "2001:db8::/64"]);
    world.put("s", demand(V4, None));
    world.settle();
    let before = world.addresses("s");
    for (ingress, foreign) in [(vec![], false), (vec!["203.0.113.9".parse().unwrap()], false), (vec![], true)]
    {
        let resource = world.tick();
        let service = world.services.get_mut(&key("s")).unwrap();
        (service.ingress, service.foreign_ingress, service.version.resource) = (ingress, foreign, resource);
        let service = service.clone();
        world.untold.push(Change::Set(service));
        assert_eq!(world.settle(), 1);
        assert_eq!(world.addresses("s"), before);
    }
}

#[test]
fn an_address_given_up_is_not_given_on_before_the_status_says_so() {
    let mut world = server(&["192.0.2.1-192.0.2.2", "2001:db8::1-2001:db8::2"]);
    for (families, first, second) in [(V4, "192.0.2.1", "192.0.2.2"), (V6, "2001:db8::1", "2001:db8::2")] {
        let (mover, waiter) = (format!("mover{families:?}"), format!("waiter{families:?}"));
        world.put(&mover, demand(families, Some(first)));
        world.settle();
        world.put(&mover, demand(families, Some(second)));
        world.put(&waiter, demand(families, Some(first)));
        world.tell();
        let write = world.index.next_write(now()).unwrap();
        assert_eq!(write.key, key(&mover));
        let refused = world.index.next_write(now()).unwrap();
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
fn an_object_that_cannot_be_written_waits_longer_each_time_and_blocks_nobody() {
    let mut world = server(&["192.0.2.0/24", "2001:db8::/64"]);
    world.put("bad", demand(V4, None));
    world.put("good", demand(V6, None));
    world.tell();
    let bad = world.index.next_write(now()).unwrap();
    assert_eq!(bad.key, key("bad"));
    let waits: Vec<_> =
        (0..9).map(|_| world.index.failed(&bad.key, Failure::Other).unwrap().as_millis()).collect();
    assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(world.index.next_write(now()).unwrap().key, key("good"));
}

#[test]
fn a_service_made_anew_under_the_same_name_is_another_one() {
    let mut world = server(ONE_EACH);
    for (families, addr) in [(V4, "192.0.2.1"), (V6, "2001:db8::1")] {
        world.put("s", demand(families, None));
        world.tell();
        let late = world.index.next_write(now()).unwrap();
        world.delete("s");
        world.put("s", demand(families, None));
        world.send(&late, 0);
        world.settle();
        assert_eq!(world.addresses("s"), [addr]);
        world.delete("s");
        world.settle();
    }
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Put { service: u8, families: u8, asks: Option<u8> },
    NotOurs { service: u8 },
    Delete { service: u8 },
    Pool { size: u8 },
    NoPool,
    Tell,
    Work { fate: u8, hold: bool },
    Restart,
    List,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u8..8, 0_u8..4, prop::option::weighted(0.2, 0_u8..8))
            .prop_map(|(service, families, asks)| Step::Put { service, families, asks }),
        1 => (0_u8..8).prop_map(|service| Step::NotOurs { service }),
        2 => (0_u8..8).prop_map(|service| Step::Delete { service }),
        1 => (1_u8..7).prop_map(|size| Step::Pool { size }),
        1 => Just(Step::NoPool),
        6 => Just(Step::Tell),
        9 => (0_u8..8, any::<bool>()).prop_map(|(fate, hold)| Step::Work { fate, hold }),
        1 => Just(Step::Restart),
        1 => Just(Step::List),
    ];
    prop::collection::vec(step, 0..80)
}

fn duplicates(world: &Server) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    let all = world
        .services
        .values()
        .filter(|service| service.demand.is_some())
        .flat_map(|service| &service.ingress);
    all.filter(|addr| !seen.insert(**addr)).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is lost, late or doubled on the way: no two Services have one address in their status at any time,
    /// and in the end everybody who can have an address has one and nothing is left to write.
    #[test]
    fn no_address_twice_and_all_served_in_the_end(steps in steps()) {
        let mut world = server(&["192.0.2.0-192.0.2.3", "2001:db8::-2001:db8::3"]);
        let mut held: Vec<(Write, u8)> = Vec::new();
        for step in steps {
            match step {
                Step::Put { service, families, asks } => {
                    let families = [V4, V6, Families::Prefer(Family::V4), Families::Require(Family::V6)][usize::from(families)];
                    let asked = asks.map(|n| format!("192.0.2.{n}")).filter(|_| families.wants(Family::V4));
                    world.put(&format!("s{service}"), demand(families, asked.as_deref()));
                }
                Step::NotOurs { service } => {
                    if world.services.contains_key(&key(&format!("s{service}"))) {
                        world.put(&format!("s{service}"), None);
                    }
                }
                Step::Delete { service } => world.delete(&format!("s{service}")),
                Step::Pool { size } => {
                    let (v4, v6) = (format!("192.0.2.0-192.0.2.{size}"), format!("2001:db8::-2001:db8::{size}"));
                    world.put_pool("lan", &[&v4, &v6]);
                }
                Step::NoPool => world.delete_pool("lan"),
                Step::Tell => world.tell(),
                Step::Work { fate, hold } => {
                    if let Some(write) = world.index.next_write(now()) {
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
            }
            prop_assert!(duplicates(&world).is_empty());
        }
        for (write, fate) in held {
            world.send(&write, fate);
        }
        world.settle();
        prop_assert!(duplicates(&world).is_empty());
        // A restart looks at everybody anew: what a refusal names may be fresher then, but no address moves, and
        // the next restart finds nothing to do.
        let held = |world: &Server| -> Vec<_> {
            world.services.values().map(|service| (service.key.clone(), service.ingress.clone())).collect()
        };
        let before = held(&world);
        world.restart();
        world.settle();
        prop_assert_eq!(before, held(&world));
        world.restart();
        prop_assert_eq!(world.settle(), 0, "a restart writes");
        for service in world.services.values() {
            match &service.demand {
                Some(_) => {
                    let condition = service.condition.as_ref();
                    prop_assert!(condition.is_some_and(|condition| condition.is_true != service.ingress.is_empty()));
                }
                None => prop_assert!(!service.has_trace()),
            }
        }
        // Room for all: nobody is left waiting but those who ask for the same address.
        world.put_pool("more", &["198.51.100.0/24", "2001:db8:1::/64"]);
        world.settle();
        for service in world.services.values().filter(|service| service.demand.is_some()) {
            let reason = &*service.condition.as_ref().unwrap().reason;
            let served = matches!(reason, "Allocated" | "OutsidePool");
            let asked = matches!(reason, "AddressInUse" | "AddressOutsidePools" | "RequestedAddressUnavailable" | "SecondFamilyUnavailable");
            prop_assert!(served || asked, "{}: {}", service.key, reason);
        }
    }
}

//! An API server in memory: it keeps Services as the real one does, takes the patches as they are sent, and tells
//! what it is told to tell.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Node, Service};
use landfall_crds::class::ServiceClass;
use landfall_crds::{AddressPool, AddressReservation};
use serde_json::{Value, json};

use super::*;

pub(super) struct Server {
    pub(super) index: Index,
    pub(super) services: BTreeMap<ServiceKey, Value>,
    pub(super) pools: BTreeMap<PoolName, Value>,
    pub(super) reservations: BTreeMap<String, Value>,
    clock: u64,
    pub(super) time: Timestamp,
    /// Changes of Services that the watch has not told yet.
    pub(super) untold: Vec<Change<SeenService>>,
}

pub(super) fn key(name: &str) -> ServiceKey {
    ServiceKey::new("test", name)
}

pub(super) fn seen(value: &Value) -> SeenService {
    let class = ServiceClass { name: "landfall.dev/landfall".into(), is_default: true };
    SeenService::new(&serde_json::from_value::<Service>(value.clone()).unwrap(), &class)
}

/// A spec of these families, which may ask for an address.
pub(super) fn spec(families: &[&str], policy: &str, address: Option<&str>) -> Value {
    json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.1", "ipFamilies": families, "ipFamilyPolicy": policy,
        "loadBalancerIP": address, "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
    })
}

pub(super) fn v4() -> Value {
    spec(&["IPv4"], "SingleStack", None)
}

pub(super) fn v6() -> Value {
    spec(&["IPv6"], "SingleStack", None)
}

impl Server {
    /// A controller that has seen an empty cluster, but for a pool.
    pub(super) fn new(addresses: &[&str]) -> Self {
        let mut server = Self {
            index: index(),
            services: BTreeMap::new(),
            pools: BTreeMap::new(),
            reservations: BTreeMap::new(),
            clock: 0,
            time: "2026-01-01T00:00:00Z".parse().unwrap(),
            untold: Vec::new(),
        };
        server.restart();
        if !addresses.is_empty() {
            server.put_pool("lan", &json!({"addresses": addresses}));
        }
        server
    }

    fn tick(&mut self) -> String {
        self.clock += 1;
        self.clock.to_string()
    }

    /// Creates a Service, or changes its spec.
    pub(super) fn put(&mut self, name: &str, spec: Value) {
        self.put_with(name, spec, &json!({}));
    }

    /// The same with annotations of the user; one that is null goes.
    pub(super) fn put_with(&mut self, name: &str, spec: Value, annotations: &Value) {
        let resource = self.tick();
        let created = Timestamp::from_second(1_700_000_000 + i64::try_from(self.clock).unwrap()).unwrap();
        let fresh = json!({"metadata": {
            "namespace": "test", "name": name, "uid": format!("uid-{resource}"), "creationTimestamp": created,
        }});
        let object = self.services.entry(key(name)).or_insert(fresh);
        object["spec"] = spec;
        json_patch::merge(object, &json!({"metadata": {"annotations": annotations}}));
        object["metadata"]["resourceVersion"] = json!(resource);
        self.untold.push(Change::Set(seen(object)));
    }

    /// Changes an object behind everybody's back.
    pub(super) fn edit(&mut self, name: &str, edit: impl FnOnce(&mut Value)) {
        let resource = self.tick();
        let object = self.services.get_mut(&key(name)).unwrap();
        edit(object);
        object["metadata"]["resourceVersion"] = json!(resource);
        self.untold.push(Change::Set(seen(object)));
    }

    /// Deletes a Service: at once, or when its last finalizer goes.
    pub(super) fn delete(&mut self, name: &str) {
        let Some(object) = self.services.get(&key(name)) else { return };
        let held = object.pointer("/metadata/finalizers").and_then(Value::as_array);
        if held.is_some_and(|list| !list.is_empty()) {
            self.edit(name, |object| object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        } else {
            self.vanish(&key(name));
        }
    }

    fn vanish(&mut self, key: &ServiceKey) {
        if let Some(mut object) = self.services.remove(key) {
            object["metadata"]["resourceVersion"] = json!(self.tick());
            self.untold.push(Change::Gone(seen(&object)));
        }
    }

    pub(super) fn put_pool(&mut self, name: &str, spec: &Value) {
        let resource = self.tick();
        let created = self.pools.get(&PoolName::new(name)).map_or_else(
            || json!(Timestamp::from_second(1_600_000_000 + i64::try_from(self.clock).unwrap()).unwrap()),
            |old| old["metadata"]["creationTimestamp"].clone(),
        );
        let object = json!({
            "apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool",
            "metadata": {
                "name": name, "uid": format!("uid-{name}"), "resourceVersion": resource,
                "creationTimestamp": created,
            },
            "spec": spec,
        });
        self.index.pool(Change::Set(seen_pool(&object)));
        self.pools.insert(PoolName::new(name), object);
    }

    pub(super) fn delete_pool(&mut self, name: &str) {
        if let Some(object) = self.pools.remove(&PoolName::new(name)) {
            self.index.pool(Change::Gone(seen_pool(&object)));
        }
    }

    pub(super) fn put_reservation(&mut self, name: &str, spec: &Value) {
        let resource = self.tick();
        let object = json!({
            "apiVersion": "landfall.dev/v1beta1", "kind": "AddressReservation",
            "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": resource},
            "spec": spec,
        });
        self.index.reservation(Change::Set(seen_reservation(&object)));
        self.reservations.insert(name.to_owned(), object);
    }

    pub(super) fn delete_reservation(&mut self, name: &str) {
        if let Some(object) = self.reservations.remove(name) {
            self.index.reservation(Change::Gone(seen_reservation(&object)));
        }
    }

    /// A new controller: it lists everything.
    pub(super) fn restart(&mut self) {
        self.index = index();
        self.index.tick(self.time);
        self.list();
    }

    pub(super) fn list(&mut self) {
        self.untold.clear();
        self.index.pool(Change::Listing);
        self.pools.values().for_each(|object| self.index.pool(Change::Set(seen_pool(object))));
        self.index.pool(Change::Listed);
        self.index.reservation(Change::Listing);
        let reservations = self.reservations.values();
        reservations.for_each(|object| self.index.reservation(Change::Set(seen_reservation(object))));
        self.index.reservation(Change::Listed);
        self.index.namespace(Change::Listing);
        self.index.namespace(Change::Set(SeenNamespace::new(&namespace(&json!({})))));
        self.index.namespace(Change::Listed);
        self.index.node(Change::Listing);
        self.index.node(Change::Set(SeenNode::new(&node())));
        self.index.node(Change::Listed);
        self.index.cidr(Change::Listing);
        self.index.cidr(Change::Listed);
        self.index.speaker(Change::Listing);
        self.index.speaker(Change::Listed);
        self.index.service(Change::Listing);
        self.services.values().for_each(|object| self.index.service(Change::Set(seen(object))));
        self.index.service(Change::Listed);
    }

    pub(super) fn tell(&mut self) {
        for change in std::mem::take(&mut self.untold) {
            self.index.service(change);
        }
    }

    pub(super) fn next(&mut self) -> Option<Write> {
        self.index.tick(self.time);
        self.index.next_write(self.time)
    }

    /// What the API server does with the parts of a write, in their order.
    fn receive(&mut self, write: &Write) -> Result<SeenService, Failure> {
        let mut version = write.version.clone();
        for status in [write.status_first, !write.status_first] {
            let patched = if status {
                write.status_patch(&version).map(|patch| self.status(&patch))
            } else {
                write.metadata_patch(&version, true).map(|patch| self.metadata(&write.key, patch))
            };
            match patched {
                Some(Ok(Some(seen))) => version = seen.version,
                Some(Ok(None)) => return Err(Failure::Gone),
                Some(Err(failure)) => return Err(failure),
                None => {}
            }
        }
        self.services.get(&write.key).map(seen).ok_or(Failure::Gone)
    }

    fn status(&mut self, patch: &Value) -> Result<Option<SeenService>, Failure> {
        let resource = self.tick();
        let name = key(patch["metadata"]["name"].as_str().unwrap());
        let object = self.services.get_mut(&name).ok_or(Failure::Gone)?;
        for field in ["uid", "resourceVersion"] {
            if object["metadata"][field] != patch["metadata"][field] {
                return Err(Failure::Conflict);
            }
        }
        object["status"] = patch["status"].clone();
        object["metadata"]["resourceVersion"] = json!(resource);
        let seen = seen(object);
        self.untold.push(Change::Set(seen.clone()));
        Ok(Some(seen))
    }

    /// `None`: the object went with its last finalizer.
    fn metadata(&mut self, key: &ServiceKey, patch: Value) -> Result<Option<SeenService>, Failure> {
        let resource = self.tick();
        let object = self.services.get_mut(key).ok_or(Failure::Gone)?;
        let before = object["metadata"]["resourceVersion"].clone();
        let mut patched = object.clone();
        let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
        json_patch::patch(&mut patched, &patch).map_err(|_| Failure::Conflict)?;
        if patched["metadata"]["resourceVersion"] != before {
            return Err(Failure::Conflict);
        }
        patched["metadata"]["resourceVersion"] = json!(resource);
        *object = patched;
        let left = object.pointer("/metadata/finalizers").and_then(Value::as_array).map_or(0, Vec::len);
        if left == 0 && object.pointer("/metadata/deletionTimestamp").is_some() {
            self.vanish(key);
            return Ok(None);
        }
        let seen = seen(object);
        self.untold.push(Change::Set(seen.clone()));
        Ok(Some(seen))
    }

    /// Sends one write, with a fate: 0 to 5 it arrives, 6 it is lost, 7 its answer is lost.
    pub(super) fn send(&mut self, write: &Write, fate: u8) {
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
    pub(super) fn settle(&mut self) -> usize {
        let mut writes = 0;
        loop {
            self.tell();
            let Some(write) = self.next() else {
                if !self.untold.is_empty() {
                    continue;
                }
                // The status of each Service is written once a second.
                let Some((at, _)) = self.index.later.first() else { return writes };
                self.time = self.time.max(Timestamp::from_millisecond(*at).unwrap());
                continue;
            };
            writes += 1;
            assert!(writes < 10_000, "it never settles: {write}");
            self.send(&write, 0);
        }
    }

    /// As [`Server::settle`], with time for what may wait.
    pub(super) fn quiet(&mut self) -> usize {
        let mut writes = self.settle();
        while let Some(at) = self.index.folds.first().map(|(at, _)| *at) {
            let at = Timestamp::from_millisecond(at).unwrap();
            self.time = self.time.max(at) + Duration::from_millis(10);
            writes += self.settle();
        }
        writes
    }

    pub(super) fn later(&mut self, by: Duration) {
        self.time += by;
    }

    pub(super) fn seen(&self, name: &str) -> SeenService {
        seen(&self.services[&key(name)])
    }

    pub(super) fn addresses(&self, name: &str) -> Vec<String> {
        let object = self.services.get(&key(name));
        object.map_or_else(Vec::new, |object| seen(object).ingress.iter().map(IpAddr::to_string).collect())
    }

    pub(super) fn reason(&self, name: &str) -> String {
        self.seen(name).conditions.allocated.map_or_else(String::new, |told| told.reason.to_string())
    }

    pub(super) fn message(&self, name: &str) -> String {
        self.seen(name).conditions.allocated.map_or_else(String::new, |told| told.message.to_string())
    }
}

fn index() -> Index {
    Index::new(Choices { finalizer: true, node_ports: "30000-32767".parse().unwrap() })
}

fn seen_pool(object: &Value) -> SeenPool {
    SeenPool::new(&serde_json::from_value::<AddressPool>(object.clone()).unwrap())
}

fn seen_reservation(object: &Value) -> SeenReservation {
    SeenReservation::new(&serde_json::from_value::<AddressReservation>(object.clone()).unwrap())
}

pub(super) fn namespace(labels: &Value) -> NamespaceObject {
    serde_json::from_value(json!({"metadata": {"name": "test", "labels": labels}})).unwrap()
}

fn node() -> Node {
    let addresses = [json!({"type": "InternalIP", "address": "192.0.2.250"})];
    serde_json::from_value(json!({
        "metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}, "status": {"addresses": addresses},
    }))
    .unwrap()
}

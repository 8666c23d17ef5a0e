//! A small cluster to decide in, and tables of decisions; then random histories.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::demand::{Families, Request, RequestError, Sharing};
use crate::ledger::{Claim, Terms};
use crate::pool::tests::{pool, pools};
use crate::pool::{Pool, Taken};
use crate::reservation::{Held, Reservation, Whom};
use crate::selector::{Audience, Selector};
use crate::service::Protocol;

mod choice;
mod dual;
mod model;
mod quarantine;
mod quota;
mod refusals;
mod removal;
mod requests;
mod reservations;
mod sharing;

/// `ns/name`, or a name in namespace `test`.
fn key(name: &str) -> ServiceKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("test", name));
    ServiceKey::new(namespace, name)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn select(key: &str, value: &str) -> Selector {
    Selector::new(labels(&[(key, value)]), [])
}

fn plain(families: Families) -> Demand {
    Demand::plain(families)
}

fn asking(families: Families, addresses: &[&str], pool: Option<&str>) -> Demand {
    let request = Request { addresses: ips(addresses), pool: pool.map(PoolName::new) };
    Demand { request: Ok(request), ..Demand::plain(families) }
}

/// The demand, sharing under the key, with these TCP ports.
fn sharing(demand: Demand, key: &str, ports: &[u16]) -> Demand {
    let ports: Arc<[_]> = ports.iter().map(|port| (Protocol::Tcp, *port)).collect();
    Demand { sharing: (!key.is_empty()).then(|| Sharing { key: key.into() }), ports, ..demand }
}

const V4: Families = Families::One(Family::V4);
const V6: Families = Families::One(Family::V6);
const PREFER: Families = Families::Prefer(Family::V4);
const REQUIRE: Families = Families::Require(Family::V4);

/// What is recorded on a Service.
#[derive(Clone, Debug, Default)]
struct Record {
    labels: Labels,
    /// In the order in which they stand on it.
    addresses: Vec<IpAddr>,
    origin: Origin,
}

/// A cluster under test.
#[derive(Default)]
struct World {
    pools: Pools,
    ledger: Ledger,
    records: BTreeMap<ServiceKey, Record>,
    namespaces: BTreeMap<Namespace, Labels>,
    /// Unix milliseconds.
    now: i64,
}

impl World {
    fn new(list: impl IntoIterator<Item = Pool>) -> Self {
        let mut world = Self::default();
        world.set_pools(list);
        world
    }

    fn set_pools(&mut self, list: impl IntoIterator<Item = Pool>) {
        self.set(pools(list));
    }

    fn set(&mut self, pools: Pools) {
        self.pools = pools;
        self.ledger.set_pools(&self.pools);
    }

    fn label(&mut self, name: &str, pairs: &[(&str, &str)]) {
        self.records.entry(key(name)).or_default().labels = labels(pairs);
    }

    fn reserve(&mut self, list: impl IntoIterator<Item = Reservation>) {
        self.ledger.set_reservations(&self.pools, list.into_iter().collect());
    }

    fn with<R>(&self, name: &str, decide: impl FnOnce(Claimant<'_>) -> R) -> R {
        let key = key(name);
        let (record, none) = (self.records.get(&key).cloned().unwrap_or_default(), Labels::none());
        decide(Claimant {
            key: &key,
            labels: &record.labels,
            namespace_labels: self.namespaces.get(&key.namespace).unwrap_or(&none),
            current: &record.addresses,
            home: &record.origin.pools,
            on_removal: &record.origin.on_removal,
        })
    }

    fn decide(&self, name: &str, demand: &Demand) -> Result<Grant, Denied> {
        self.with(name, |who| allocate(&self.ledger, &self.pools, who, demand))
    }

    fn may_have(&self, name: &str, demand: &Demand, addr: &str) -> Result<(), Denied> {
        self.with(name, |who| may_have(&self.ledger, &self.pools, who, demand, ip(addr)))
    }

    /// Decides, enters the result into the ledger and records what a controller records.
    fn serve(&mut self, name: &str, demand: &Demand) -> Result<Grant, Denied> {
        let decided = self.decide(name, demand);
        let given = decided.as_ref().map_or(&[][..], |grant| &grant.addresses);
        let key = key(name);
        for addr in self.ledger.held(&key).to_vec() {
            if !given.contains(&addr) {
                self.ledger.release(&self.pools, &key, addr, self.now);
            }
        }
        for addr in given {
            self.ledger.take(&self.pools, &key, *addr, &Terms::from(demand)).unwrap();
        }
        let origin = decided.as_ref().map(|grant| self.with(name, |who| grant.origin(&self.pools, who)));
        let record = self.records.entry(key).or_default();
        record.addresses = given.to_vec();
        record.origin = origin.unwrap_or_default();
        decided
    }

    fn delete(&mut self, name: &str) {
        self.ledger.release_all(&self.pools, &key(name), self.now);
        self.records.remove(&key(name));
    }

    /// The addresses that the Service is given.
    fn given(&mut self, name: &str, demand: &Demand) -> Vec<IpAddr> {
        self.serve(name, demand).unwrap().addresses
    }

    fn reason(&self, name: &str, demand: &Demand) -> &'static str {
        match self.decide(name, demand) {
            Ok(grant) => grant.reason(),
            Err(denied) => denied.reason(),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "compared with what allocate returns")]
fn granted(addresses: &[&str]) -> Result<Grant, Denied> {
    Ok(Grant { addresses: ips(addresses), lacking: vec![] })
}

/// An address held for one Service.
fn reservation(name: &str, created: i64, addr: &str, service: &str) -> Reservation {
    let whom = Whom::service(&key(service));
    Reservation { name: name.into(), created, held: Held::Address(ip(addr)), whom, address: None }
}

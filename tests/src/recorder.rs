//! Watches every Service of a lab while a test disturbs its controller, and notes whatever must never be seen.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::oneshot;

use crate::client::Door;
use crate::error::Result;
use crate::lab::Lab;
use crate::objects::FINALIZER;
use crate::wait;

/// What a Service holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    uid: String,
    /// Whether it is to have an address: of type `LoadBalancer` and not about to go.
    entitled: bool,
    addresses: Vec<IpAddr>,
    guarded: bool,
}

/// What was seen so far. Services are named `namespace/name`.
#[derive(Debug, Default)]
pub struct Seen {
    now: BTreeMap<String, Held>,
    holders: BTreeMap<IpAddr, Vec<String>>,
    first: HashMap<String, Instant>,
    /// What must never be seen: an address with two Services, one that changed or went without cause, one that
    /// was shown unguarded.
    pub wrong: Vec<String>,
    /// Changes that came.
    pub changes: u64,
    /// Lists that came whole: one at the start, and one for each time the watch had to begin again.
    pub lists: u64,
}

impl Seen {
    /// Services with an address at present.
    #[must_use]
    pub fn served(&self) -> usize {
        self.now.values().filter(|held| !held.addresses.is_empty()).count()
    }

    /// Services that should have an address and have none.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        let waits = |held: &Held| held.entitled && held.addresses.is_empty();
        self.now.iter().filter(move |(_, held)| waits(held)).map(|(key, _)| key.as_str())
    }

    /// Services that have had an address, by name.
    #[must_use]
    pub fn ever_served(&self) -> usize {
        self.first.len()
    }

    /// Services of a namespace.
    #[must_use]
    pub fn of_namespace(&self, namespace: &str) -> usize {
        self.now.keys().filter(|key| key.split('/').next() == Some(namespace)).count()
    }

    /// All Services.
    #[must_use]
    pub fn count(&self) -> usize {
        self.now.len()
    }

    /// When a Service's first address was seen.
    #[must_use]
    pub fn first(&self, key: &str) -> Option<Instant> {
        self.first.get(key).copied()
    }

    /// The addresses of a Service.
    #[must_use]
    pub fn addresses(&self, key: &str) -> &[IpAddr] {
        self.now.get(key).map_or(&[], |held| &held.addresses)
    }

    /// The addresses given at present.
    #[must_use]
    pub fn given(&self) -> usize {
        self.holders.len()
    }

    fn apply(&mut self, key: &str, new: Option<Held>) {
        self.changes += 1;
        let old = self.now.remove(key);
        if let Some(old) = &old {
            for addr in &old.addresses {
                let emptied = self.holders.get_mut(addr).is_some_and(|holders| {
                    holders.retain(|holder| holder != key);
                    holders.is_empty()
                });
                if emptied {
                    self.holders.remove(addr);
                }
            }
        }
        let Some(new) = new else { return };
        if let Some(old) = old.filter(|old| old.uid == new.uid && new.entitled && !old.addresses.is_empty())
            && !new.addresses.starts_with(&old.addresses)
        {
            self.wrong.push(format!("{key} had {:?} and has {:?}", old.addresses, new.addresses));
        }
        if !new.addresses.is_empty() && !new.guarded {
            self.wrong.push(format!("{key} shows {:?} without the finalizer", new.addresses));
        }
        if !new.addresses.is_empty() {
            self.first.entry(key.to_owned()).or_insert_with(Instant::now);
        }
        for addr in &new.addresses {
            self.holders.entry(*addr).or_default().push(key.to_owned());
        }
        self.now.insert(key.to_owned(), new);
    }

    /// Notes addresses that two have. Called when the picture is one that was true at one moment.
    fn judge(&mut self, touched: &[IpAddr]) {
        for addr in touched {
            if let Some(holders) = self.holders.get(addr).filter(|holders| holders.len() > 1) {
                self.wrong.push(format!("{addr} is with {}", holders.join(" and ")));
            }
        }
    }

    fn event(&mut self, event: Event<Service>, list: &mut Vec<(String, Held)>) {
        match event {
            Event::Init => list.clear(),
            Event::InitApply(service) => list.push(held(&service)),
            Event::InitDone => {
                self.lists += 1;
                let keys: std::collections::BTreeSet<&str> =
                    list.iter().map(|(key, _)| key.as_str()).collect();
                let gone: Vec<String> =
                    self.now.keys().filter(|key| !keys.contains(key.as_str())).cloned().collect();
                for key in gone {
                    self.apply(&key, None);
                }
                for (key, held) in list.drain(..) {
                    self.apply(&key, Some(held));
                }
                let all: Vec<IpAddr> = self.holders.keys().copied().collect();
                self.judge(&all);
            }
            Event::Apply(service) => {
                let (key, held) = held(&service);
                let addresses = held.addresses.clone();
                self.apply(&key, Some(held));
                self.judge(&addresses);
            }
            Event::Delete(service) => self.apply(&held(&service).0, None),
        }
    }
}

fn held(service: &Service) -> (String, Held) {
    let meta = &service.metadata;
    let key = format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    );
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    let held = Held {
        uid: meta.uid.clone().unwrap_or_default(),
        entitled: kind == Some("LoadBalancer") && meta.deletion_timestamp.is_none(),
        addresses: addresses(service),
        guarded: meta.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER),
    };
    (key, held)
}

/// The addresses in the status of a Service, in order.
#[must_use]
pub fn addresses(service: &Service) -> Vec<IpAddr> {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|entry| entry.ip.as_ref()?.parse().ok()).collect()
}

/// A watch of all Services on a thread of its own; it ends with the value.
#[derive(Debug)]
pub struct Recorder {
    seen: Arc<Mutex<Seen>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Recorder {
    /// Begins, and returns once it has the first list. Services of other namespaces than these are left aside, such
    /// as those that go with the namespace of an earlier test; none named means all.
    pub fn start(lab: &Lab, namespaces: &[&str]) -> Result<Self> {
        let namespaces: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (door, shared) = (lab.door(), Arc::clone(&seen));
        let thread = std::thread::spawn(move || watch(&door, &namespaces, &shared, stopped));
        let recorder = Self { seen, stop: Some(stop), thread: Some(thread) };
        wait::until(Duration::from_secs(30), "the first list of Services", || {
            (recorder.seen().lists > 0).then_some(())
        })?;
        Ok(recorder)
    }

    /// What was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Gone already when the watch failed.
            let _ = stop.send(());
        }
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the watch of Services failed: {error}");
        }
    }
}

fn watch(
    door: &Door,
    namespaces: &[String],
    seen: &Mutex<Seen>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let concerns = |event: &Event<Service>| match event {
        Event::Apply(service) | Event::Delete(service) | Event::InitApply(service) => {
            namespaces.is_empty()
                || service.metadata.namespace.as_ref().is_some_and(|ns| namespaces.contains(ns))
        }
        Event::Init | Event::InitDone => true,
    };
    door.open(async move |client| {
        let mut list = Vec::new();
        // Errors (an API server that is away) are retried by the watcher at each poll: half a second apart here.
        let mut events = watcher(Api::<Service>::all(client), watcher::Config::default()).boxed();
        loop {
            tokio::select! {
                _ = &mut stopped => return,
                event = events.next() => match event {
                    Some(Ok(event)) if !concerns(&event) => {}
                    Some(Ok(event)) => seen.lock().unwrap_or_else(PoisonError::into_inner).event(event, &mut list),
                    Some(Err(_)) => tokio::time::sleep(Duration::from_millis(500)).await,
                    None => return,
                },
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, addr: Option<&str>, guarded: bool) -> Service {
        let ingress: Vec<_> = addr.iter().map(|ip| json!({"ip": ip})).collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "x", "name": name, "uid": name,
                         "finalizers": if guarded { vec![FINALIZER] } else { vec![] }},
            "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": ingress}},
        }))
        .unwrap()
    }

    fn wrong(events: Vec<Event<Service>>) -> Vec<String> {
        let (mut seen, mut list) = (Seen::default(), Vec::new());
        for event in events {
            seen.event(event, &mut list);
        }
        seen.wrong
    }

    #[test]
    fn what_must_not_be_is_seen_and_what_may_be_is_not() {
        let apply = |name, addr| Event::Apply(service(name, addr, true));
        let (one, two) = (Some("192.0.2.1"), Some("192.0.2.2"));
        assert!(wrong(vec![apply("a", None), apply("a", one), apply("a", one)]).is_empty());
        assert_eq!(wrong(vec![apply("a", one), apply("a", two)]).len(), 1, "moved");
        assert_eq!(wrong(vec![apply("a", one), apply("a", None)]).len(), 1, "taken away");
        assert_eq!(wrong(vec![apply("a", one), apply("b", one)]).len(), 1, "given twice");
        let freed = Event::Delete(service("a", one, true));
        assert!(wrong(vec![apply("a", one), freed, apply("b", one)]).is_empty(), "given again");
        assert_eq!(wrong(vec![Event::Apply(service("a", one, false))]).len(), 1, "unguarded");
    }

    #[test]
    fn a_list_is_judged_as_a_whole() {
        let one = Some("192.0.2.1");
        let listed = |name, addr| Event::InitApply(service(name, addr, true));
        let held = Event::Apply(service("b", one, true));
        // While the watch was away b went and a got its address: nothing wrong.
        let events = vec![held.clone(), Event::Init, listed("a", one), Event::InitDone];
        assert!(wrong(events).is_empty());
        let events = vec![held, Event::Init, listed("a", one), listed("b", one), Event::InitDone];
        assert_eq!(wrong(events).len(), 1, "one address with two");
    }
}

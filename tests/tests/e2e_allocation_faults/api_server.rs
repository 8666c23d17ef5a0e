//! An API server that goes away, and one that has forgotten where a watch was.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use landfall_lab::objects::Object;
use landfall_lab::product::{POD, SOON, cluster, eventually};
use landfall_lab::recorder::Recorder;
use serde_json::{Value, json};

use crate::outside::{NoPods, Outside};
use crate::proxy::Proxy;
use crate::{crowd, pinned, space, wait_served};

// A79
#[test]
fn an_api_server_that_restarts_during_allocation_loses_and_doubles_nothing() {
    let lab = cluster();
    let ns = space("a79");
    let pool = Object::pool("a79", &pinned(&[&ns], &["198.18.48.0/22"]));
    let recorder = Recorder::start(lab, &[ns.name()]).unwrap();
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| crowd::create(&ns, 0, 400, &made));
        for served in [50, 200] {
            eventually(POD, "some to be served", || (recorder.seen().served() >= served).then_some(()));
            lab.stop_apiserver().unwrap();
            lab.start_apiserver().unwrap();
        }
    });
    assert_eq!(made.load(Ordering::Relaxed), 400);
    wait_served(&recorder, 400, POD);
    pool.wait_status("/ipv4/assigned", "400");
    pool.wait_status("/ipv4/available", "624");
}

/// How long the API server is away: longer than the leader's Lease holds.
const AWAY: Duration = Duration::from_secs(6);

// A79
#[test]
fn who_comes_after_an_outage_waits_no_longer_than_the_outage_and_no_pod_is_restarted_for_it() {
    let lab = cluster();
    let ns = space("a79-after");
    let _pool = Object::pool("a79-after", &pinned(&[&ns], &["198.18.52.0/29"]));
    let restarts = || {
        let path = "/api/v1/namespaces/landfall-system/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dcontroller";
        let pods = lab.api_get(path).expect("the pods");
        let of_pod = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        pods["items"].as_array().expect("pods").iter().filter_map(of_pod).sum::<u64>()
    };
    let before = restarts();
    for round in 0..3 {
        lab.stop_apiserver().unwrap();
        std::thread::sleep(AWAY);
        lab.start_apiserver().unwrap();
        let service = ns.service(&format!("web-{round}"), &json!({}), &json!({}));
        eventually(AWAY * 5, "its address", || (!service.addresses().is_empty()).then_some(()));
    }
    assert_eq!(restarts(), before, "restarts of controllers");
}

/// The API server as the lab starts it, when the value goes.
struct OtherFlags;

impl OtherFlags {
    fn now(flags: &[&str]) -> Self {
        let lab = cluster();
        lab.stop_apiserver().unwrap();
        let this = Self;
        lab.start_apiserver_with(flags).unwrap();
        this
    }
}

impl Drop for OtherFlags {
    fn drop(&mut self) {
        let lab = cluster();
        // The next test meets what comes of it.
        let _ = lab.stop_apiserver().and_then(|()| lab.start_apiserver());
    }
}

/// The watch hangs, Services come and go, etcd forgets the past, and the watch begins again where it was: it cannot,
/// and a list takes its place.
#[test]
fn a_watch_left_behind_by_compaction_begins_again_with_a_list() {
    let lab = cluster();
    // Without its cache of Services the API server reads its watches from etcd, where the past can be forgotten.
    let _flags = OtherFlags::now(&["--watch-cache-sizes=services#0"]);
    let ns = space("compacted");
    let pool = Object::pool("compacted", &pinned(&[&ns], &["198.18.52.0/29", "2001:db8:52::/125"]));
    let _no_pods = NoPods::now();
    let (proxy, at) = Proxy::start();
    let outside = Outside::new(Some(&format!("http://{at}")));
    let life = outside.start(None);
    let make = |name: &str| ns.service(name, &json!({}), &json!({"ipFamilyPolicy": "RequireDualStack"}));
    for n in 0..8 {
        make(&format!("web-{n}")).address();
    }
    let recorder = Recorder::start(lab, &[ns.name()]).unwrap();
    let waits = make("waits");
    waits.wait("False", "PoolsFull");
    pool.wait_status("/ipv4/assigned", "8");
    proxy.stall();
    let asked = proxy.asked();
    // Of Services that are equally old, to the second, the first by name is the older.
    // Unseen by the controller: two go (by force, as an administrator would who takes the finalizer off), one comes.
    for name in ["web-2", "web-5"] {
        let service = ns.existing(name);
        service.merge(&json!({"metadata": {"finalizers": null}}));
        service.delete_and_wait();
    }
    let unseen = make("z-unseen");
    let revision = lab.compact_etcd().unwrap();
    assert!(revision > 0);
    proxy.cut();
    eventually(SOON, "the watch to be asked for again, then the list's", || {
        (proxy.asked() >= asked + 2).then_some(())
    });
    waits.wait_addresses(&["198.18.52.2", "2001:db8:52::2"]);
    unseen.wait_addresses(&["198.18.52.5", "2001:db8:52::5"]);
    pool.wait_status("/ipv4/assigned", "8");
    {
        let seen = recorder.seen();
        let by_force = |text: &&String| !(text.contains("web-2") || text.contains("web-5"));
        let wrong: Vec<&String> = seen.wrong.iter().filter(by_force).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
    drop(recorder);
    life.terminate();
}

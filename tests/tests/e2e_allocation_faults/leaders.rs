//! A leader that is stopped beyond its Lease and thawed, while another leads (A77).

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use landfall_lab::objects::{Object, controller_metrics, leader, metric, wait_leader};
use landfall_lab::product::{POD, SOON, cluster, eventually, eventually_seen};
use landfall_lab::recorder::Recorder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{crowd, pinned, space, wait_served};

/// A record of every write to Services and pools, as the API server keeps it: who wrote what with which success.
struct Audit {
    folder: TempDir,
}

impl Audit {
    /// Starts the API server anew so that it keeps the record.
    fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "Metadata", "verbs": ["create", "update", "patch", "delete"], "resources": [
                    {"group": "", "resources": ["services", "services/status"]},
                    {"group": "landfall.dev"},
                ]},
                {"level": "None"},
            ],
        });
        let file = folder.path().join("policy.json");
        std::fs::write(&file, policy.to_string()).unwrap();
        let this = Self { folder };
        let flags = [
            format!("--audit-policy-file={}", file.display()),
            format!("--audit-log-path={}", this.log().display()),
        ];
        let lab = cluster();
        lab.stop_apiserver().unwrap();
        lab.start_apiserver_with(&flags.each_ref().map(String::as_str)).unwrap();
        this
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// How many writes a pod has made that succeeded, by the identity in its bound token.
    fn writes(&self, pod: &str) -> usize {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let by = |event: &Value| {
            let names = &event["user"]["extra"]["authentication.kubernetes.io/pod-name"];
            names.as_array().is_some_and(|names| names.iter().any(|name| name == pod))
        };
        let took_effect =
            |event: &Value| event["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300);
        events.filter(|event| by(event) && took_effect(event)).count()
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let lab = cluster();
        // The next test meets an API server as the lab starts it; if that fails it says so itself.
        let _ = lab.stop_apiserver().and_then(|()| lab.start_apiserver());
    }
}

/// A stopped process on a node; it goes on at the latest with the value.
struct Stopped {
    node: String,
    pid: String,
}

impl Stopped {
    fn controller_on(node: &str) -> Self {
        let host = cluster().host(node).unwrap();
        let pids = host.run(&["pgrep", "-f", "^/landfall-controller"]).unwrap();
        let pid = pids.trim().to_owned();
        assert!(!pid.contains('\n'), "one controller a node: {pids}");
        host.run(&["kill", "-STOP", &pid]).unwrap();
        Self { node: node.to_owned(), pid }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It has ended when the kubelet was faster.
        let _ = cluster().host(&self.node).and_then(|host| host.run(&["kill", "-CONT", &self.pid]));
    }
}

// A77
#[test]
fn a_leader_that_was_stopped_beyond_its_lease_writes_nothing_when_it_goes_on() {
    let lab = cluster();
    let audit = Audit::begin();
    let ns = space("a77");
    let pool = Object::pool("a77", &pinned(&[&ns], &["198.18.40.0/22"]));
    let (frozen, node, _) = wait_leader(lab);
    let recorder = Recorder::start(lab, &[ns.name()]).unwrap();
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // It is stopped with writes on their way and more to come.
        scope.spawn(|| crowd::create(&ns, 0, 100, &made));
        eventually(SOON, "some to be served", || (recorder.seen().served() >= 10).then_some(()));
        let stopped = Stopped::controller_on(&node);
        eventually(POD, "another leader", || leader(lab).filter(|holder| *holder != frozen));
        let before = audit.writes(&frozen);
        assert!(before > 0, "it did write while it led");
        scope.spawn(|| crowd::create(&ns, 100, 200, &made));
        eventually(POD, "the new leader at work", || (recorder.seen().served() >= 150).then_some(()));
        drop(stopped);
        wait_served(&recorder, 300, POD);
        // It notices that its term is over and stands by.
        eventually_seen(POD, "the thawed one to stand by", || {
            let path = format!("/api/v1/namespaces/landfall-system/pods/{frozen}");
            let pod = lab.api_get(&path).map_err(|error| error.to_string())?;
            let state = &pod["status"]["containerStatuses"][0];
            if state["ready"] != true {
                return Err(state.to_string());
            }
            let metrics = controller_metrics(lab, pod["status"]["podIP"].as_str().ok_or("no address")?);
            let leads = metric(&metrics, "landfall_controller_leader", &[]);
            if leads < 0.5 { Ok(()) } else { Err(format!("leader {leads}")) }
        });
        assert_eq!(audit.writes(&frozen), before, "the thawed one wrote nothing");
    });
    assert_eq!(made.load(Ordering::Relaxed), 300);
    assert_ne!(leader(lab), Some(frozen));
    wait_served(&recorder, 300, Duration::from_secs(1));
    pool.wait_status("/ipv4/assigned", "300");
}

// A77
#[test]
fn of_two_services_with_one_address_the_younger_gets_another_and_is_told() {
    let ns = space("a77-twice");
    let _pool = Object::pool("a77-twice", &pinned(&[&ns], &["198.18.44.0/29"]));
    let older = ns.service("older", &json!({}), &json!({}));
    older.wait_addresses(&["198.18.44.0"]);
    let younger = ns.service("younger", &json!({}), &json!({}));
    younger.wait_addresses(&["198.18.44.1"]);
    // As two leaders at once would leave it.
    younger.merge_status(&json!({"loadBalancer": {"ingress": [{"ip": "198.18.44.0", "ipMode": "VIP"}]}}));
    eventually_seen(SOON, "the younger to have an address of its own", || {
        let found = younger.addresses();
        if found.len() == 1 && found != older.addresses() { Ok(()) } else { Err(younger.read().to_string()) }
    });
    older.wait_addresses(&["198.18.44.0"]);
}

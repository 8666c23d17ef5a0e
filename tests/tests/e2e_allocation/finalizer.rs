//! The finalizer that guards an address (A80).

use std::collections::BTreeMap;

use landfall_lab::objects::{FINALIZER, Object, addresses, has_finalizer};
use landfall_lab::product::{SOON, cluster, eventually_seen};
use landfall_lab::{TestNs, checkout};
use serde_json::{Value, json};

use crate::{pinned, space};

/// Fails when at some version a Service of the namespace shows an address and not the finalizer.
fn always_guarded(ns: &TestNs, since: &str) {
    let mut guarded: BTreeMap<String, bool> = BTreeMap::new();
    let mut seen = 0;
    for (change, object) in ns.history(since) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let shown = !addresses(&object).is_empty();
        if shown && change != "DELETED" {
            assert!(has_finalizer(&object), "{name} shows an address unguarded: {object}");
            // Before: the write that shows the address for the first time is not the one that guards it.
            assert!(guarded.get(&name).copied().unwrap_or(false), "{name} was not guarded before: {object}");
            seen += 1;
        }
        guarded.insert(name, has_finalizer(&object));
    }
    assert!(seen > 0, "the history shows addresses");
}

// A80 S92
#[test]
fn the_finalizer_is_there_before_the_address_and_goes_with_it() {
    let ns = space("a80");
    let _pool = Object::pool("a80", &pinned(&[&ns], &["198.18.80.0/29", "2001:db8:80::/125"], &json!({})));
    let since = ns.version();
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let retyped = ns.service("retyped", &json!({}), &dual);
    retyped.wait_addresses(&["198.18.80.0", "2001:db8:80::"]);
    let deleted = ns.service("deleted", &json!({}), &dual);
    deleted.wait_addresses(&["198.18.80.1", "2001:db8:80::1"]);
    retyped.merge(&json!({"spec": {"type": "ClusterIP", "allocateLoadBalancerNodePorts": null}}));
    retyped.wait_released();
    // A class is set together with the type, so another class comes this way.
    let class = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"});
    retyped.merge(&json!({"spec": class}));
    deleted.delete_and_wait();
    ns.fence();
    assert!(!has_finalizer(&retyped.read()), "another's Service is not guarded by us");
    always_guarded(&ns, &since);
    // In between there was no address without a guard, and the status was emptied first.
    let history = ns.history(&since);
    let released = history.iter().filter(|(_, object)| object["metadata"]["name"] == "retyped");
    let bare = released.filter(|(_, object)| !has_finalizer(object) && !addresses(object).is_empty());
    assert_eq!(bare.count(), 0);
}

// A80
#[test]
fn a_service_that_others_hold_too_gives_its_address_back_when_it_is_deleted() {
    let ns = space("a80-held");
    let _pool = Object::pool("a80-held", &pinned(&[&ns], &["198.18.82.0/32"], &json!({})));
    let held = ns.service("held", &json!({}), &json!({}));
    held.wait_addresses(&["198.18.82.0"]);
    held.merge(&json!({"metadata": {"finalizers": [FINALIZER, "example.com/theirs"]}}));
    let next = ns.service("next", &json!({}), &json!({}));
    next.wait("False", "PoolsFull");
    held.delete();
    next.wait_addresses(&["198.18.82.0"]);
    let left = held.read();
    assert_eq!(left["metadata"]["finalizers"], json!(["example.com/theirs"]));
    assert!(addresses(&left).is_empty());
    held.merge(&json!({"metadata": {"finalizers": null}}));
}

// A80
#[test]
fn a_namespace_with_services_is_deleted_without_delay() {
    let ns = space("a80-gone");
    let _pool = Object::pool("a80-gone", &pinned(&[&ns], &["198.18.83.0/28"], &json!({})));
    for n in 0..5 {
        ns.service(&format!("web-{n}"), &json!({}), &json!({})).address();
    }
    let path = format!("/api/v1/namespaces/{}", ns.name());
    cluster().api("DELETE", &path, None).unwrap();
    eventually_seen(SOON * 3, "the namespace to be gone", || {
        let answer = cluster().api("GET", &path, None).map_err(|error| error.to_string())?;
        if answer.status == 404 { Ok(()) } else { Err(answer.text()) }
    });
}

// A80
#[test]
fn uninstalling_the_chart_leaves_no_service_that_cannot_be_deleted() {
    let lab = cluster();
    let ns = space("a80-uninstall");
    let _pool = Object::pool("a80-uninstall", &pinned(&[&ns], &["198.18.84.0/28"], &json!({})));
    let names: Vec<String> = (0..5).map(|n| format!("web-{n}")).collect();
    let before: Vec<_> =
        names.iter().map(|name| ns.service(name, &json!({}), &json!({})).address()).collect();
    let mut helm = lab.helm_command();
    helm.args(["uninstall", "landfall", "--namespace", "landfall-system", "--wait", "--timeout=60s"]);
    let done = helm.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all = lab.api_get("/api/v1/services").unwrap();
    let guarded: Vec<&Value> = all["items"].as_array().unwrap().iter().filter(|s| has_finalizer(s)).collect();
    assert!(guarded.is_empty(), "no finalizer of ours is left: {guarded:?}");
    for kind in ["clusterroles", "clusterrolebindings"] {
        let left = lab.kubectl(&["get", kind, "-o", "name"]).unwrap();
        assert!(!left.contains("landfall"), "the hook takes itself away as well: {left}");
    }
    ns.existing("web-0").delete_and_wait();
    // Installed again, the others have their addresses still.
    lab.install(&checkout().unwrap(), &[]).unwrap();
    for (name, addr) in names.iter().zip(&before).skip(1) {
        eventually_seen(SOON, &format!("{name} to be guarded again"), || {
            let object = ns.existing(name).read();
            if has_finalizer(&object) { Ok(()) } else { Err(object.to_string()) }
        });
        assert_eq!(ns.existing(name).addresses(), [*addr], "{name}");
    }
}

//! Services and Landfall's own objects in an end-to-end test, made and read through the API server directly: two
//! milliseconds for what takes kubectl a tenth of a second. What fails here fails the test.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "helpers of tests fail as tests do"
)]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::http::Response;
use crate::lab::Lab;
use crate::product::{POD, SOON, cluster, condition, eventually, eventually_seen};
use crate::shared::TestNs;

/// The namespace of the install.
pub const SYSTEM: &str = "landfall-system";
/// The finalizer that guards a Service's address.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// The condition of a Service that tells of its addresses.
pub const ALLOCATED: &str = "landfall.dev/Allocated";

const GROUP: &str = "/apis/landfall.dev/v1beta1";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// The answer as JSON if its status is one of success, else an error with its text.
pub fn success(answer: &Response) -> Result<Value> {
    let text = answer.text();
    if !(200..300).contains(&answer.status) {
        let shown: String = text.chars().take(2_000).collect();
        return Err(Error::Answer(format!("the API server answered {}: {shown}", answer.status)));
    }
    serde_json::from_str(&text).map_err(|error| Error::Answer(format!("{error}: {text}")))
}

/// A cluster-scoped object of Landfall's that lives as long as its test.
#[derive(Debug)]
pub struct Object {
    lab: &'static Lab,
    kind: &'static str,
    plural: &'static str,
    name: String,
}

impl Object {
    /// Makes an `AddressPool`.
    pub fn pool(name: &str, spec: &Value) -> Self {
        let pool = Self::named("AddressPool", "addresspools", name);
        pool.set(spec);
        pool
    }

    /// Makes an `AddressReservation`.
    pub fn reservation(name: &str, spec: &Value) -> Self {
        let reservation = Self::named("AddressReservation", "addressreservations", name);
        reservation.set(spec);
        reservation
    }

    fn named(kind: &'static str, plural: &'static str, name: &str) -> Self {
        Self { lab: cluster(), kind, plural, name: name.to_owned() }
    }

    fn path(&self) -> String {
        format!("{GROUP}/{}/{}", self.plural, self.name)
    }

    /// Replaces the whole spec.
    pub fn set(&self, spec: &Value) {
        self.try_set(spec).expect("the object is accepted");
    }

    /// Replaces the whole spec, if the API server takes it.
    pub fn try_set(&self, spec: &Value) -> Result<Value> {
        let object = json!({
            "apiVersion": "landfall.dev/v1beta1", "kind": self.kind,
            "metadata": {"name": self.name}, "spec": spec,
        });
        let path = format!("{}?fieldManager=test&force=true", self.path());
        success(&self.lab.api("PATCH", &path, Some((APPLY, &object)))?)
    }

    /// The object as the API server has it.
    pub fn read(&self) -> Value {
        self.lab.api_get(&self.path()).expect("the object is there")
    }

    /// Deletes it.
    pub fn delete(&self) {
        let answer = self.lab.api("DELETE", &self.path(), None).expect("the API server answers");
        assert!(matches!(answer.status, 200 | 404), "{}", answer.text());
    }

    /// Waits for a condition of it, judged at its present generation, and returns the message.
    pub fn wait(&self, kind: &str, status: &str, reason: &str) -> String {
        eventually_seen(SOON, &format!("{} {} {kind}={status}/{reason}", self.kind, self.name), || {
            let object = self.read();
            let found = condition(&object, kind);
            if observed(&object, kind)
                && let Some((s, r, message)) = &found
                && s == status
                && r == reason
            {
                return Ok(message.clone());
            }
            Err(format!("{}", object.get("status").unwrap_or(&Value::Null)))
        })
    }

    /// Waits until the controller has judged the object as it is now.
    pub fn wait_observed(&self) {
        eventually_seen(SOON, &format!("{} {} to be judged", self.kind, self.name), || {
            let object = self.read();
            if observed(&object, "Ready") { Ok(()) } else { Err(object.to_string()) }
        });
    }

    /// Waits until a field of the status, as `/ipv4/assigned`, has this text.
    pub fn wait_status(&self, pointer: &str, text: &str) {
        eventually_seen(SOON, &format!("{} {}: status{pointer}={text}", self.kind, self.name), || {
            let object = self.read();
            let found = object.pointer(&format!("/status{pointer}")).and_then(Value::as_str);
            if found == Some(text) { Ok(()) } else { Err(object["status"].to_string()) }
        });
    }
}

/// Whether the condition speaks of the object's present generation.
fn observed(object: &Value, kind: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found =
        conditions.into_iter().flatten().find(|c| c.get("type").and_then(Value::as_str) == Some(kind));
    let generation = object.pointer("/metadata/generation");
    found.is_some_and(|condition| condition.get("observedGeneration") == generation)
}

impl Drop for Object {
    fn drop(&mut self) {
        // The lab goes down soon after: what stays is an annoyance to the next test, not a reason to abort.
        let _ = self.lab.api("DELETE", &self.path(), None);
    }
}

/// A Service of a test.
#[derive(Debug, Clone)]
pub struct Service<'a> {
    ns: &'a TestNs,
    /// Its name.
    pub name: String,
}

impl TestNs {
    /// Makes a Service of type `LoadBalancer` without `NodePort`s, 80 -> 8080 of hello-world's pods. `spec` replaces
    /// fields of its spec; null removes one.
    pub fn service(&self, name: &str, annotations: &Value, spec: &Value) -> Service<'_> {
        self.try_service(name, annotations, spec).expect("the Service is accepted")
    }

    /// As [`TestNs::service`], if the API server takes it.
    pub fn try_service(&self, name: &str, annotations: &Value, spec: &Value) -> Result<Service<'_>> {
        let path = format!("/api/v1/namespaces/{}/services", self.name());
        let object = service_object(name, annotations, spec);
        success(&self.lab().api("POST", &path, Some((JSON, &object)))?)?;
        Ok(self.existing(name))
    }

    /// A Service that is there.
    pub fn existing(&self, name: &str) -> Service<'_> {
        Service { ns: self, name: name.to_owned() }
    }

    /// Every change of the namespace's Services since a version, as a watch tells them: the kind of change
    /// (`ADDED`, `MODIFIED`, `DELETED`) and the object.
    pub fn history(&self, since: &str) -> Vec<(String, Value)> {
        let path = format!(
            "/api/v1/namespaces/{}/services?watch=1&resourceVersion={since}&timeoutSeconds=1",
            self.name()
        );
        let answer = self.lab().api("GET", &path, None).expect("a watch");
        let text = answer.text();
        let read = |line: &str| {
            let change: Value = serde_json::from_str(line).expect("a change");
            (change["type"].as_str().unwrap_or_default().to_owned(), change["object"].clone())
        };
        text.lines().map(read).collect()
    }

    /// The version of the whole cluster now, to read a [`TestNs::history`] from.
    pub fn version(&self) -> String {
        let path = format!("/api/v1/namespaces/{}/services?limit=1", self.name());
        let list = self.lab().api_get(&path).expect("a list");
        list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Waits until the controller has taken in every change made to Services before: a Service made now has its
    /// address, and watches deliver in order.
    pub fn fence(&self) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let (name, address) = (format!("fence-{count}"), format!("198.51.100.{}/32", count % 256));
        let pool = Object::pool(&name, &json!({"addresses": [address], "autoAssign": false}));
        let service = self.service(&name, &json!({"landfall.dev/pool": &name}), &json!({}));
        let _ = service.address();
        service.delete();
        drop(pool);
    }
}

/// A Service as [`TestNs::service`] makes it.
pub fn service_object(name: &str, annotations: &Value, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "selector": {"app": "hello-world"}, "ports": [{"port": 80, "targetPort": 8080}],
        },
    });
    if let (Some(fields), Some(given)) =
        (object.get_mut("spec").and_then(Value::as_object_mut), spec.as_object())
    {
        for (key, value) in given {
            if value.is_null() {
                fields.remove(key);
            } else {
                fields.insert(key.clone(), value.clone());
            }
        }
    }
    object
}

impl Service<'_> {
    /// Its path in the API.
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/services/{}", self.ns.name(), self.name)
    }

    /// The Service as the API server has it; null when it is gone.
    pub fn read(&self) -> Value {
        let answer = self.ns.lab().api("GET", &self.path(), None).expect("the API server answers");
        if answer.status == 404 { Value::Null } else { success(&answer).expect("the Service") }
    }

    /// Changes it by a merge patch.
    pub fn merge(&self, patch: &Value) {
        self.try_merge(patch).expect("the patch is accepted");
    }

    /// Changes it by a merge patch, if the API server takes it.
    pub fn try_merge(&self, patch: &Value) -> Result<Value> {
        success(&self.ns.lab().api("PATCH", &self.path(), Some((MERGE, patch)))?)
    }

    /// Writes its status by hand.
    pub fn merge_status(&self, status: &Value) {
        let path = format!("{}/status", self.path());
        let merge = json!({"status": status});
        let answer =
            self.ns.lab().api("PATCH", &path, Some((MERGE, &merge))).expect("the API server answers");
        success(&answer).expect("the status is accepted");
    }

    /// Applies the object server-side under a field manager, as `kubectl apply --server-side` does.
    pub fn apply(&self, manager: &str, object: &Value) -> Result<Value> {
        let path = format!("{}?fieldManager={manager}", self.path());
        success(&self.ns.lab().api("PATCH", &path, Some((APPLY, object)))?)
    }

    /// Sets an annotation, or removes it.
    pub fn annotate(&self, key: &str, value: Option<&str>) {
        self.merge(&json!({"metadata": {"annotations": {key: value}}}));
    }

    /// Asks for its deletion.
    pub fn delete(&self) {
        let answer = self.ns.lab().api("DELETE", &self.path(), None).expect("the API server answers");
        assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    }

    /// Asks for its deletion and waits until it is gone.
    pub fn delete_and_wait(&self) {
        self.delete();
        eventually_seen(SOON, &format!("{} to be gone", self.name), || {
            let object = self.read();
            if object.is_null() { Ok(()) } else { Err(object["metadata"].to_string()) }
        });
    }

    /// The addresses in its status, in order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        addresses(&self.read())
    }

    /// Waits for its first address.
    pub fn address(&self) -> IpAddr {
        eventually_seen(SOON, &format!("an address for {}", self.name), || {
            let object = self.read();
            addresses(&object).first().copied().ok_or_else(|| object["status"].to_string())
        })
    }

    /// Waits until it has exactly these addresses.
    pub fn wait_addresses(&self, expected: &[&str]) {
        let expected: Vec<IpAddr> = expected.iter().map(|a| a.parse().expect("an address")).collect();
        eventually_seen(SOON, &format!("{} to have {expected:?}", self.name), || {
            let object = self.read();
            if addresses(&object) == expected { Ok(()) } else { Err(object["status"].to_string()) }
        });
    }

    /// Waits until `landfall.dev/Allocated` says this, and returns its message.
    pub fn wait(&self, status: &str, reason: &str) -> String {
        self.wait_within(SOON, status, reason)
    }

    /// As [`Service::wait`], with another deadline.
    pub fn wait_within(&self, within: Duration, status: &str, reason: &str) -> String {
        eventually_seen(within, &format!("{} {status}/{reason}", self.name), || {
            let object = self.read();
            match condition(&object, ALLOCATED) {
                Some((s, r, message)) if s == status && r == reason => Ok(message),
                _ => Err(object["status"].to_string()),
            }
        })
    }

    /// Waits until nothing on it is ours any more: no address, condition, annotation, finalizer.
    pub fn wait_released(&self) {
        eventually_seen(SOON, &format!("{} to be released", self.name), || {
            let object = self.read();
            let traces = traces(&object);
            if traces.is_empty() { Ok(()) } else { Err(traces.join(", ")) }
        });
    }

    /// One of its annotations.
    pub fn annotation(&self, key: &str) -> Option<String> {
        annotation(&self.read(), key)
    }

    /// Its ports as (port, nodePort), the latter 0 when there is none.
    pub fn node_ports(&self) -> Vec<(u64, u64)> {
        node_ports(&self.read())
    }

    /// How many Events of this reason there are about it.
    pub fn events(&self, reason: &str) -> usize {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.ns.name());
        let list = self.ns.lab().api_get(&path).expect("Events");
        let about = |event: &&Value| {
            event.pointer("/regarding/name").and_then(Value::as_str) == Some(&self.name)
                && event.get("reason").and_then(Value::as_str) == Some(reason)
        };
        list["items"].as_array().into_iter().flatten().filter(about).count()
    }

    /// Waits until there is exactly one Event of this reason about it.
    pub fn wait_one_event(&self, reason: &str) {
        eventually(SOON, &format!("one Event {reason} about {}", self.name), || {
            (self.events(reason) == 1).then_some(())
        });
    }
}

/// The addresses in a Service's status, in order.
pub fn addresses(service: &Value) -> Vec<IpAddr> {
    let list = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|entry| entry.get("ip")?.as_str()?.parse().ok()).collect()
}

/// An annotation of an object.
pub fn annotation(object: &Value, key: &str) -> Option<String> {
    object["metadata"]["annotations"].get(key)?.as_str().map(str::to_owned)
}

/// Whether our finalizer is on an object.
pub fn has_finalizer(object: &Value) -> bool {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// A Service's ports as (port, nodePort), the latter 0 when there is none.
pub fn node_ports(service: &Value) -> Vec<(u64, u64)> {
    let number = |port: &Value, key: &str| port.get(key).and_then(Value::as_u64).unwrap_or(0);
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    ports.into_iter().flatten().map(|port| (number(port, "port"), number(port, "nodePort"))).collect()
}

/// What on a Service is ours.
fn traces(service: &Value) -> Vec<String> {
    let mut found: Vec<String> = addresses(service).iter().map(ToString::to_string).collect();
    let conditions = service.pointer("/status/conditions").and_then(Value::as_array);
    let kinds = conditions.into_iter().flatten().filter_map(|c| c.get("type")?.as_str());
    found.extend(kinds.filter(|kind| kind.starts_with("landfall.dev/")).map(str::to_owned));
    for key in ["landfall.dev/allocated-from", "landfall.dev/on-removal"] {
        found.extend(annotation(service, key));
    }
    found.extend(has_finalizer(service).then(|| FINALIZER.to_owned()));
    found
}

/// The leader's Lease: who holds it.
pub fn leader(lab: &Lab) -> Option<String> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/landfall-controller");
    let lease = lab.api_get(&path).ok()?;
    lease.pointer("/spec/holderIdentity")?.as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

/// The controller's pods as (name, node, address) that run and are not about to go.
pub fn controllers(lab: &Lab) -> Vec<(String, String, String)> {
    let path =
        format!("/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dcontroller");
    let Ok(list) = lab.api_get(&path) else { return Vec::new() };
    let text = |pod: &Value, pointer: &str| pod.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let pod = |pod: &Value| {
        let live = pod.pointer("/metadata/deletionTimestamp").is_none();
        let runs = text(pod, "/status/phase").as_deref() == Some("Running");
        (live && runs).then_some(())?;
        Some((text(pod, "/metadata/name")?, text(pod, "/spec/nodeName")?, text(pod, "/status/podIP")?))
    };
    list["items"].as_array().into_iter().flatten().filter_map(pod).collect()
}

/// Waits until a running pod leads: its name, node and address.
pub fn wait_leader(lab: &Lab) -> (String, String, String) {
    eventually(POD, "a leader", || {
        let holder = leader(lab)?;
        controllers(lab).into_iter().find(|(name, ..)| *name == holder)
    })
}

/// Kills every controller pod at once and waits until another one leads.
pub fn restart_controllers(lab: &Lab) {
    let before: Vec<String> = controllers(lab).into_iter().map(|(name, ..)| name).collect();
    kill_controllers(lab);
    eventually(POD, "a new leader", || {
        let holder = leader(lab)?;
        let new = controllers(lab).into_iter().any(|(name, ..)| name == holder && !before.contains(&name));
        new.then_some(())
    });
}

/// Kills every controller at once; the deployment makes new pods.
pub fn kill_controllers(lab: &Lab) {
    for (_, node, _) in controllers(lab) {
        // A pod that is deleted, even by force, is asked to end first and would give its Lease up. One that is
        // between two lives has no process to kill.
        let _ = lab.host(&node).and_then(|host| host.run(&["pkill", "-KILL", "-f", "^/landfall-controller"]));
    }
    let mut words = vec!["-n", SYSTEM, "delete", "pod", "--force", "--grace-period=0"];
    words.extend(["-l", "app.kubernetes.io/component=controller"]);
    lab.kubectl(&words).expect("the pods are deleted");
}

/// What the leader says at /metrics.
pub fn leader_metrics(lab: &Lab) -> String {
    let (_, _, address) = wait_leader(lab);
    controller_metrics(lab, &address)
}

/// What the controller in the pod of this address says at /metrics.
pub fn controller_metrics(lab: &Lab, address: &str) -> String {
    let server = SocketAddr::new(address.parse().expect("a pod's address"), 9640);
    let router = lab.host("router").expect("the router");
    let answer = router.http_get_path(server, "/metrics", Duration::from_secs(5)).expect("metrics");
    answer.text()
}

/// The sum of the series of a metric whose labels hold all of these texts, as `reason="NoPool"`.
pub fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    let series = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_the_series_that_have_the_labels() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab{x=\"1\"} 100\na 5\n";
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-9;
        assert!(close(metric(text, "a", &["x=\"1\""]), 7.0));
        assert!(close(metric(text, "a", &["y=\"3\""]), 4.0));
        assert!(close(metric(text, "a", &[]), 12.0));
    }

    #[test]
    fn null_removes_a_field_of_the_default_service_and_others_replace_it() {
        let object = service_object("x", &json!({}), &json!({"selector": null, "type": "ClusterIP"}));
        assert_eq!(object.pointer("/spec/selector"), None);
        assert_eq!(object["spec"]["type"], "ClusterIP");
        assert_eq!(object["spec"]["allocateLoadBalancerNodePorts"], false);
    }
}

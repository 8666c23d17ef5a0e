//! Landfall in a lab, as the end-to-end tests see it: installed once per test program, with the few things that
//! every test does with it. What fails here fails the test: these functions panic with what was awaited.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "helpers of tests fail as tests do"
)]

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::capture::ArpFrame;
use crate::error::Result;
use crate::lab::{Lab, Options};
use crate::plan::mac_text;
use crate::shared::TestNs;
use crate::toolchain::checkout;
use crate::wait;

/// The hello-world of the documentation, unmodified.
pub const HELLO: &str = include_str!("../../docs/examples/hello-world.yaml");

/// A deadline for what takes well under a second: generous, since a slow machine is no failure.
pub const SOON: Duration = Duration::from_secs(10);

/// A deadline for what waits for a container to start.
pub const POD: Duration = Duration::from_mins(1);

/// The cluster of this test program with Landfall installed: three nodes, both families, kube-proxy in nftables
/// mode.
pub fn cluster() -> &'static Lab {
    static READY: OnceLock<&'static Lab> = OnceLock::new();
    READY.get_or_init(|| {
        let lab =
            Lab::shared(|| Options::named(Lab::test_name("").expect("a name"))).expect("the lab comes up");
        let checkout = checkout().expect("the checkout");
        if let Err(error) = lab.install(&checkout, &[]) {
            lab.print_report(&checkout, "landfall-system");
            panic!("the chart does not install: {error}");
        }
        lab
    })
}

/// Looks until there is a value; fails the test when the deadline passes.
pub fn eventually<T>(within: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait::until(within, what, look).unwrap_or_else(|error| panic!("{error}"))
}

/// As [`eventually`], for looks that can say what they saw instead.
pub fn eventually_seen<T, S: Display>(
    within: Duration,
    what: &str,
    look: impl FnMut() -> std::result::Result<T, S>,
) -> T {
    wait::until_seen(within, what, look).unwrap_or_else(|error| panic!("{error}"))
}

/// A pool that lives as long as its test.
#[derive(Debug)]
pub struct Pool {
    lab: &'static Lab,
    name: &'static str,
}

impl Pool {
    /// Makes a pool for automatic allocation.
    #[must_use]
    pub fn new(name: &'static str, addresses: &[&str]) -> Self {
        let pool = Self { lab: cluster(), name };
        pool.set(addresses);
        pool
    }

    /// Replaces its addresses.
    pub fn set(&self, addresses: &[&str]) {
        self.lab.apply(&pool_yaml(self.name, addresses)).expect("the pool is accepted");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The lab goes down soon after: a pool that stays is an annoyance to the next test, not a reason to abort.
        let _ = self.lab.kubectl(&["delete", "addresspool", self.name, "--ignore-not-found"]);
    }
}

/// The YAML of a pool.
#[must_use]
pub fn pool_yaml(name: &str, addresses: &[&str]) -> String {
    let list = addresses.iter().map(|a| format!("{a:?}")).collect::<Vec<_>>().join(", ");
    format!(
        "apiVersion: landfall.dev/v1beta1\nkind: AddressPool\nmetadata: {{name: {name}}}\nspec: {{addresses: [{list}]}}\n"
    )
}

/// The YAML of a Service of type `LoadBalancer`, 80 -> 8080 of hello-world's pods. `annotations` is a flow mapping,
/// `extra` lines of its spec, indented by two.
#[must_use]
pub fn service_yaml(name: &str, annotations: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  annotations: {annotations}\nspec:\n  \
         type: LoadBalancer\n{extra}  selector: {{app: hello-world}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    )
}

/// Changes an object by a merge patch.
pub fn patch(ns: &TestNs, kind: &str, name: &str, merge: &str) {
    ns.kubectl(&["patch", kind, name, "--type=merge", "--patch", merge]).expect("the patch is accepted");
}

/// A Service as the API server has it.
pub fn service(ns: &TestNs, name: &str) -> Result<Value> {
    ns.lab().api_get(&format!("/api/v1/namespaces/{}/services/{name}", ns.name()))
}

/// Waits until all replicas of a replica set are ready.
pub fn wait_pods(ns: &TestNs, replicaset: &str, count: u64) {
    let path = format!("/apis/apps/v1/namespaces/{}/replicasets/{replicaset}", ns.name());
    eventually_seen(POD, &format!("{count} ready pods"), || {
        let found = ns.lab().api_get(&path).map_err(|error| error.to_string())?;
        let ready = found.pointer("/status/readyReplicas").and_then(Value::as_u64).unwrap_or(0);
        if ready == count { Ok(()) } else { Err(format!("{ready}")) }
    });
}

/// The addresses in the status of a Service, in order.
#[must_use]
pub fn ingress(ns: &TestNs, name: &str) -> Vec<IpAddr> {
    let Ok(service) = service(ns, name) else { return Vec::new() };
    let list = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|entry| entry.get("ip")?.as_str()?.parse().ok()).collect()
}

/// Waits for the first address of a Service.
#[must_use]
pub fn external_ip(ns: &TestNs, name: &str) -> IpAddr {
    eventually(SOON, &format!("an address for {name}"), || ingress(ns, name).first().copied())
}

/// A condition of an object: status, reason and message.
#[must_use]
pub fn condition(object: &Value, kind: &str) -> Option<(String, String, String)> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))?;
    let text = |key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

/// Waits until `landfall.dev/Allocated` is False with this reason, and returns its message.
#[must_use]
pub fn wait_refused(ns: &TestNs, name: &str, reason: &str) -> String {
    eventually_seen(SOON, &format!("{name} to be refused with {reason}"), || {
        let object = service(ns, name).map_err(|error| error.to_string())?;
        match condition(&object, "landfall.dev/Allocated") {
            Some((status, why, message)) if status == "False" && why == reason => Ok(message),
            other => Err(format!("{other:?}")),
        }
    })
}

/// One HTTP request from a host of the lab: the body of a 200, or why there was none.
pub fn get(lab: &Lab, host: &str, ip: IpAddr, port: u16) -> std::result::Result<String, String> {
    let answer = lab
        .host(host)
        .and_then(|host| host.http_get(SocketAddr::new(ip, port), Duration::from_secs(2)))
        .map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error}: {cause}")
        })?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status == 200 { Ok(body) } else { Err(format!("{}: {body}", answer.status)) }
}

/// Waits until a host gets an answer.
#[must_use]
pub fn wait_served(lab: &Lab, host: &str, ip: IpAddr, port: u16, within: Duration) -> String {
    eventually_seen(within, &format!("{ip}:{port} to answer {host}"), || get(lab, host, ip, port))
}

/// Waits until a host gets none.
pub fn wait_unserved(lab: &Lab, host: &str, ip: IpAddr, port: u16, within: Duration) {
    eventually(within, &format!("{ip}:{port} to stop answering {host}"), || get(lab, host, ip, port).err());
}

/// The nodes that say in their `SpeakerStatus` that they own the address, with the interface.
#[must_use]
pub fn owners(lab: &Lab, ip: IpAddr) -> Vec<(String, String)> {
    let Ok(list) = lab.api_get("/apis/landfall.dev/v1beta1/speakerstatuses") else { return Vec::new() };
    let mut found = Vec::new();
    for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
        let node = item.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        for entry in item.pointer("/status/owned").and_then(Value::as_array).into_iter().flatten() {
            if let Some((addr, rest)) = entry.as_str().and_then(|entry| entry.split_once('@'))
                && addr.parse() == Ok(ip)
            {
                let iface = rest.split('#').next().unwrap_or_default();
                found.push((node.to_owned(), iface.to_owned()));
            }
        }
    }
    found
}

/// Waits until exactly one node says that it owns the address, and names it.
#[must_use]
pub fn wait_owner(lab: &Lab, ip: IpAddr) -> String {
    eventually_seen(SOON, &format!("one owner of {ip}"), || match owners(lab, ip).as_slice() {
        [(node, _)] => Ok(node.clone()),
        other => Err(format!("{other:?}")),
    })
}

/// The MAC address of a host on the LAN.
#[must_use]
pub fn mac(lab: &Lab, host: &str) -> String {
    let text = lab.host(host).and_then(|host| host.run(&["cat", "/sys/class/net/eth0/address"]));
    text.expect("the host has eth0").trim().to_owned()
}

/// Asks `count` times from a host who has the address, and returns the MAC of every answer that came.
#[must_use]
pub fn arp_answers(lab: &Lab, host: &str, ip: IpAddr, count: usize) -> Vec<String> {
    let IpAddr::V4(v4) = ip else { panic!("{ip} is no IPv4 address") };
    let host = lab.host(host).expect("a host of the lab");
    let capture = host.capture_arp().expect("a recording");
    let answers = || -> Vec<String> {
        let frames = capture.frames();
        // A gratuitous reply names the address as target too: it answers nobody.
        let answer = |f: &&ArpFrame| f.operation == 2 && f.sender_ip == v4 && f.target_ip != v4;
        frames.iter().filter(answer).map(|f| mac_text(f.sender_mac)).collect()
    };
    for _ in 0..count {
        let before = answers().len();
        host.forget_neighbour(ip).expect("the neighbour table is flushed");
        // Any datagram makes the kernel ask; nobody has to listen at the port.
        let sent = host.in_netns(|| UdpSocket::bind("0.0.0.0:0").and_then(|s| s.send_to(&[0], (ip, 9))));
        sent.expect("in the namespace").expect("a datagram leaves");
        // Another answerer would be as quick as the first: look a little longer than one answer takes.
        let _ =
            wait::until(Duration::from_millis(300), "an answer", || (answers().len() > before).then_some(()));
        std::thread::sleep(Duration::from_millis(50));
    }
    answers()
}

/// What nft lists of Landfall's table on a node.
#[must_use]
pub fn nft_table(lab: &Lab, node: &str) -> String {
    lab.host(node)
        .and_then(|host| host.run(&["nft", "list", "table", "inet", "landfall"]))
        .unwrap_or_default()
}

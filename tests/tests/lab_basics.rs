//! The lab itself: it runs real pods, does what its faults say, and leaves nothing.
#![cfg(test)]

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use landfall_lab::recorder::Recorder;
use landfall_lab::{Families, Fault, KubeProxy, Lab, LabName, Options, TestNs, Toolchain, checkout, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_millis(500);

fn lab() -> &'static Lab {
    Lab::shared(|| Options::named(Lab::test_name("").unwrap())).unwrap()
}

fn options(suffix: &str) -> Options {
    Options { nodes: 1, ..Options::named(Lab::test_name(suffix).unwrap()) }
}

/// A pod of the hello program on a given node.
fn hello(name: &str, node: &str) -> String {
    pod(name, node, "gcr.io/google-samples/node-hello:1.0")
}

fn pod(name: &str, node: &str, image: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "{name}"}}}},
            "spec": {{"nodeName": "{node}", "terminationGracePeriodSeconds": 0, "containers": [{{
            "name": "hello", "image": "{image}", "imagePullPolicy": "Always"}}]}}}}"#
    )
}

fn pod_addresses(pod: &Value) -> Vec<String> {
    let listed = pod.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(|entry| Some(entry.get("ip")?.as_str()?.to_owned())).collect()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Waits until a pod is ready and `also` holds, and returns its addresses.
fn ready_pod(lab: &Lab, namespace: &str, name: &str, also: impl Fn(&Value) -> bool) -> Vec<SocketAddr> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let addresses = wait::until_seen(SOON, &format!("pod {name} ready"), || match lab.api_get(&path) {
        Ok(pod) if is_ready(&pod) && also(&pod) => Ok(pod_addresses(&pod)),
        Ok(pod) => Err(pod["status"].to_string()),
        Err(error) => Err(error.to_string()),
    });
    let addresses = addresses.unwrap();
    addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 8080)).collect()
}

fn hello_from(lab: &Lab, host: &str, server: SocketAddr) -> String {
    let host = lab.host(host).unwrap();
    let answer =
        wait::until_seen(SOON, &format!("an answer from {server}"), || host.http_get(server, PATIENCE));
    answer.unwrap().text()
}

/// Whether a TCP connection from the client to a node's kubelet is possible in all families at this moment.
fn reachable(lab: &Lab, node: &str) -> bool {
    let name = lab.host(node).unwrap().name();
    let connect = || {
        [name.ipv4().into(), name.ipv6().into()]
            .into_iter()
            .all(|address| TcpStream::connect_timeout(&SocketAddr::new(address, 10250), PATIENCE).is_ok())
    };
    lab.host("client").unwrap().in_netns(connect).unwrap()
}

fn carrier(lab: &Lab, node: &str) -> String {
    lab.host(node).unwrap().run(&["cat", "/sys/class/net/eth0/carrier"]).unwrap().trim().to_owned()
}

#[test]
fn a_pod_is_pulled_runs_and_answers_logs_and_exec_in_both_families() {
    let ns: TestNs = lab().namespace("basics-hello").unwrap();
    ns.apply(&hello("web", "n1")).unwrap();
    let addresses = ready_pod(lab(), ns.name(), "web", |_| true);
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in &addresses {
        let answer = hello_from(lab(), "client", *address);
        let client = lab().host("client").unwrap().name();
        let seen = if address.is_ipv4() { client.ipv4().to_string() } else { client.ipv6().to_string() };
        assert!(answer.starts_with("Hello Kubernetes!\npod: web\n"), "{answer}");
        assert!(answer.contains(&seen), "the pod sees the client's own address: {answer}");
    }
    assert_eq!(ns.kubectl(&["exec", "web", "--", "/hello", "name"]).unwrap(), "web\n");
    ns.kubectl(&["logs", "web"]).unwrap();
    ns.kubectl(&["expose", "pod", "web", "--port=80", "--target-port=8080"]).unwrap();
    let service = ns.get_json(&["service", "web"]).unwrap();
    let cluster_ip: std::net::IpAddr = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let answer = hello_from(lab(), "n2", SocketAddr::new(cluster_ip, 80));
    assert!(answer.contains("pod: web"), "{answer}");
    let report = lab().report(ns.name());
    for part in [
        "pod/web",
        "endpointslice.discovery.k8s.io/web-",
        "web\tClusterIP\t{}",
        "Pulled",
        "--- n3: neighbours",
    ] {
        assert!(report.contains(part), "the report on a failure shows {part}: {report}");
    }
}

#[test]
fn equal_image_paths_at_two_registries_are_two_images_and_a_missing_one_is_said() {
    let ns = lab().namespace("basics-images").unwrap();
    let images = Toolchain::find(&checkout().unwrap()).unwrap().images;
    let names = ["registry.example/same/path:1", "other.example:8443/same/path:1"];
    for (archive, name) in images.iter().zip(names) {
        assert_eq!(lab().push(archive, Some(name)).unwrap(), name);
    }
    for (pod_name, image) in [("first", names[0]), ("second", names[1]), ("third", "quay.io/not/there:1")] {
        ns.apply(&pod(pod_name, "n2", image)).unwrap();
    }
    let addresses = ready_pod(lab(), ns.name(), "first", |_| true);
    assert!(hello_from(lab(), "client", addresses[0]).contains("pod: first"));
    ready_pod(lab(), ns.name(), "second", |_| true);
    let refused = ns.kubectl(&["exec", "second", "--", "/hello", "name"]).unwrap_err().to_string();
    assert!(refused.contains("/hello"), "the second image is another one: {refused}");
    let events = wait::until_seen(SOON, "the failed pull in an event", || {
        let events = ns.kubectl(&["get", "events", "--field-selector=involvedObject.name=third"]).unwrap();
        if events.contains("not found") { Ok(events) } else { Err(events) }
    });
    assert!(events.unwrap().contains("quay.io/not/there:1"));
}

#[test]
fn arp_frames_are_recorded_with_the_sender_that_the_plan_gives() {
    let (client, node) = (lab().host("client2").unwrap(), lab().host("n2").unwrap().name());
    let capture = client.capture_arp().unwrap();
    client.forget_neighbour(node.ipv4().into()).unwrap();
    client
        .in_netns(|| TcpStream::connect_timeout(&SocketAddr::new(node.ipv4().into(), 1), PATIENCE))
        .unwrap()
        .ok();
    let reply = wait::until(SOON, "the node's ARP reply", || {
        capture.frames().into_iter().find(|frame| frame.operation == 2 && frame.sender_ip == node.ipv4())
    });
    assert_eq!(reply.unwrap().sender_mac, node.mac());
    assert_eq!(client.neighbour(node.ipv4().into()).unwrap(), Some(node.mac_text()));
}

#[test]
fn a_silenced_node_is_cut_off_without_noticing_and_a_pulled_cable_is_noticed() {
    for (node, fault, repair, seen) in
        [("n1", Fault::Silence, Fault::Unsilence, "1"), ("n2", Fault::CarrierDown, Fault::CarrierUp, "0")]
    {
        wait::until(SOON, "the node reachable", || reachable(lab(), node).then_some(())).unwrap();
        lab().fault(fault, node).unwrap();
        wait::until(SOON, "the node cut off", || (!reachable(lab(), node)).then_some(())).unwrap();
        assert_eq!(carrier(lab(), node), seen, "{fault:?}");
        lab().fault(repair, node).unwrap();
        wait::until(SOON, "the node back", || reachable(lab(), node).then_some(())).unwrap();
        assert_eq!(carrier(lab(), node), "1", "{repair:?}");
    }
}

#[test]
fn a_node_that_lost_its_power_boots_with_its_disk_and_an_empty_kernel() {
    let ns = lab().namespace("basics-power").unwrap();
    ns.apply(&hello("phoenix", "n3")).unwrap();
    ready_pod(lab(), ns.name(), "phoenix", |_| true);
    let node = lab().host("n3").unwrap();
    node.run(&["nft", "add", "table", "inet", "memory"]).unwrap();
    node.run(&["touch", "/var/lib/disk"]).unwrap();
    let boot_id =
        |lab: &Lab| lab.api_get("/api/v1/nodes/n3").unwrap()["status"]["nodeInfo"]["bootID"].clone();
    let before = boot_id(lab());

    lab().fault(Fault::Kill, "n3").unwrap();
    assert!(!reachable(lab(), "n3"));
    let refused = node.run(&["true"]).unwrap_err().to_string();
    assert!(refused.contains("node n3 is off"), "{refused}");

    lab().fault(Fault::Boot, "n3").unwrap();
    let restarted = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1);
    let addresses = ready_pod(lab(), ns.name(), "phoenix", restarted);
    assert!(hello_from(lab(), "client", addresses[0]).contains("pod: phoenix"));
    assert_ne!(boot_id(lab()), before);
    node.run(&["test", "-e", "/var/lib/disk"]).unwrap();
    let tables = node.run(&["nft", "list", "tables"]).unwrap();
    assert!(!tables.contains("memory"), "{tables}");
}

/// Everything on this machine that carries a lab's name.
#[test]
fn an_api_server_started_with_other_flags_tells_an_old_watch_what_etcd_has_forgotten() {
    let lab = lab();
    let (before, recorder) = (lab.part("kube-apiserver").unwrap(), Recorder::start(lab, &[]).unwrap());
    lab.stop_apiserver().unwrap();
    assert_eq!(lab.part("kube-apiserver"), None);
    lab.start_apiserver_with(&["--watch-cache-sizes=services#0"]).unwrap();
    assert_ne!(lab.part("kube-apiserver"), Some(before));
    let ns = lab.namespace("forgotten").unwrap();
    let old = ns.version();
    let internal = serde_json::json!({"type": "ClusterIP", "allocateLoadBalancerNodePorts": null});
    ns.service("first", &serde_json::json!({}), &internal);
    assert_eq!(ns.history(&old).len(), 1, "the watch tells what came since");
    lab.compact_etcd().unwrap();
    let path =
        format!("/api/v1/namespaces/forgotten/services?watch=1&resourceVersion={old}&timeoutSeconds=1");
    let answer = lab.api("GET", &path, None).unwrap().text();
    assert!(answer.contains("\"code\":410"), "{answer}");
    // A watch of the tests comes through it all.
    wait::until(SOON, "the Service to be recorded", || {
        (recorder.seen().of_namespace("forgotten") == 1).then_some(())
    })
    .unwrap();
    lab.stop_apiserver().unwrap();
    lab.start_apiserver().unwrap();
}

fn traces(name: &LabName) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut lines = |what: &str, text: &str, mark: &str| {
        found.extend(text.lines().filter(|line| line.contains(mark)).map(|line| format!("{what}: {line}")));
    };
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    lines("mount", &read("/proc/self/mounts"), &format!("/{name}/"));
    let netns = Command::new("ip").args(["netns", "list"]).output().unwrap().stdout;
    lines("network namespace", &String::from_utf8(netns).unwrap(), &format!("lf-{name}-"));
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        // A process that has ended shows no words until the machine's init has collected it.
        if words.is_empty() {
            continue;
        }
        lines("process", &words, &format!("landfall-lab/{name}/"));
        let groups = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        lines(
            "process",
            &format!("{words} in {}", groups.replace('\n', " ")),
            &format!("/landfall-lab/{name}/"),
        );
    }
    let cgroups =
        Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", "*landfall-lab*"]).output();
    lines("cgroup", &String::from_utf8(cgroups.unwrap().stdout).unwrap(), &format!("/landfall-lab/{name}"));
    let folder = format!("/var/lib/landfall-lab/{name}");
    if Path::new(&folder).exists() {
        found.insert(format!("folder: {folder}"));
    }
    found
}

#[test]
fn a_second_lab_runs_beside_the_first_survives_its_api_server_and_leaves_nothing() {
    let options = Options { kube_proxy: KubeProxy::None, families: Families::Ipv6, ..options("-2") };
    let second = Lab::up(&checkout().unwrap(), &options, &|line| eprintln!("{line}")).unwrap();
    second.apply(&hello("web", "n1")).unwrap();
    let addresses = ready_pod(&second, "default", "web", |_| true);
    assert!(addresses.iter().all(SocketAddr::is_ipv6) && addresses.len() == 1, "{addresses:?}");
    let here: SocketAddr = "[2001:db8:50::11]:10250".parse().unwrap();
    let name_of = |lab: &Lab| {
        let answer = lab.host("client").unwrap().in_netns(|| TcpStream::connect(here).is_ok());
        assert!(answer.unwrap());
        lab.host("n1").unwrap().run(&["cat", "/var/lib/kubelet/pki/kubelet.crt"]).unwrap()
    };
    assert_ne!(name_of(&second), name_of(lab()), "the same address is another machine in each lab");

    second.stop_apiserver().unwrap();
    assert!(second.api_get("/readyz").is_err());
    assert!(hello_from(&second, "client", addresses[0]).contains("pod: web"));
    second.start_apiserver().unwrap();
    assert_eq!(ready_pod(&second, "default", "web", |_| true), addresses);

    let name = options.name.clone();
    assert!(traces(&name).len() > 10, "{:?}", traces(&name));
    Lab::down(&name).unwrap();
    assert_eq!(traces(&name), BTreeSet::new());
    assert!(reachable(lab(), "n1"), "the first lab is still there");
}

fn up_in_a_process(name: &LabName) -> std::process::Child {
    let mut up = Command::new(env!("CARGO_BIN_EXE_lab"));
    up.args(["--name", name.as_str(), "up", "--nodes=1"]).stdout(Stdio::null());
    up.spawn().unwrap()
}

#[test]
fn a_lab_whose_making_was_cut_off_goes_away_and_leaves_its_name_usable() {
    let options = options("-3");
    let name = &options.name;
    let mut up = up_in_a_process(name);
    let pods_folder = format!("/var/lib/landfall-lab/{name}/n1/log/containerd.log");
    wait::until(SOON, "the node of a lab under way", || Path::new(&pods_folder).exists().then_some(()))
        .unwrap();
    up.kill().unwrap();
    up.wait().unwrap();
    wait::until_seen(SOON, "nothing left", || {
        if traces(name).is_empty() { Ok(()) } else { Err(format!("{:?}", traces(name))) }
    })
    .unwrap();

    assert!(up_in_a_process(name).wait().unwrap().success());
    let again = up_in_a_process(name).wait().unwrap();
    assert_eq!(again.code(), Some(2), "a lab that is up is not brought up again");
    let begin = Instant::now();
    let lab = Lab::up(&checkout().unwrap(), &options, &|_| {}).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(75), "five times the time it may take");
    assert!(lab.status().contains("n1") && lab.is_running());
    Lab::down(name).unwrap();
    assert_eq!(traces(name), BTreeSet::new());
}

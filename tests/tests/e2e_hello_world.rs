//! The main job, end to end in a real cluster: an unmodified hello-world gets an address and a client outside
//! the cluster reaches it; and what must hold around it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use landfall_lab::product::{
    HELLO, POD, Pool, SOON, arp_answers, cluster, condition, eventually, eventually_seen, external_ip, get,
    ingress, mac, nft_table, owners, patch, pool_yaml, service, service_yaml, wait_owner, wait_pods,
    wait_refused, wait_served, wait_unserved,
};
use landfall_lab::{Fault, TestNs};

/// Which of the pods gave this answer.
fn pod_of(body: &str) -> String {
    body.lines().find_map(|line| line.strip_prefix("pod: ")).unwrap_or_default().to_owned()
}

fn namespace(name: &str) -> TestNs {
    cluster().namespace(name).expect("a namespace")
}

#[test]
fn a_client_outside_the_cluster_reaches_both_pods_of_an_unmodified_hello_world() {
    let lab = cluster();
    let ns = namespace("main-job");
    let _pool = Pool::new("main-job", &["192.0.2.100-192.0.2.109"]);
    ns.apply(HELLO).unwrap();
    let ip = external_ip(&ns, "hello-world");
    assert_eq!(ip, "192.0.2.100".parse::<IpAddr>().unwrap(), "the lowest free address of the pool");
    wait_pods(&ns, "hello-world", 2);
    let body = wait_served(lab, "client", ip, 80, SOON);
    assert!(body.contains("Hello Kubernetes!"), "{body}");
    let pods: BTreeSet<String> = eventually(SOON, "answers of both pods", || {
        let seen: BTreeSet<_> =
            (0..40).filter_map(|_| get(lab, "client", ip, 80).ok()).map(|b| pod_of(&b)).collect();
        (seen.len() == 2).then_some(seen)
    });
    assert!(pods.iter().all(|p| !p.is_empty()), "{pods:?}");
    let (status, reason, message) =
        condition(&service(&ns, "hello-world").unwrap(), "landfall.dev/Allocated").unwrap();
    assert_eq!(status, "True", "{reason}: {message}");
    let mode = service(&ns, "hello-world").unwrap();
    assert_eq!(mode.pointer("/status/loadBalancer/ingress/0/ipMode").unwrap(), "VIP");
    let owner = wait_owner(lab, ip);
    let learnt = lab.host("client").unwrap().neighbour(ip).unwrap().expect("the client learnt the address");
    assert_eq!(learnt, mac(lab, &owner), "the MAC of {owner}");
}

#[test]
fn exactly_one_node_answers_arp_while_all_nodes_live() {
    let lab = cluster();
    let ns = namespace("one-answer");
    let _pool = Pool::new("one-answer", &["192.0.2.110-192.0.2.111"]);
    ns.apply(HELLO).unwrap();
    let ip = external_ip(&ns, "hello-world");
    let _ = wait_owner(lab, ip);
    let answers = eventually(SOON, "five answers", || {
        let answers = arp_answers(lab, "client2", ip, 5);
        (answers.len() >= 5).then_some(answers)
    });
    let macs: BTreeSet<_> = answers.iter().collect();
    assert_eq!(macs.len(), 1, "one MAC answers: {answers:?}");
    assert!(answers.len() <= 5, "one answer a request: {answers:?}");
}

#[test]
fn source_ranges_shut_out_one_client_and_admit_the_other_and_back() {
    let lab = cluster();
    let ns = namespace("ranges");
    let _pool = Pool::new("ranges", &["192.0.2.112-192.0.2.113"]);
    ns.apply(HELLO).unwrap();
    let ip = external_ip(&ns, "hello-world");
    let _ = wait_served(lab, "client", ip, 80, POD);
    let _ = wait_served(lab, "client2", ip, 80, SOON);
    patch(&ns, "service", "hello-world", r#"{"spec":{"loadBalancerSourceRanges":["192.0.2.200/32"]}}"#);
    wait_unserved(lab, "client2", ip, 80, SOON);
    get(lab, "client", ip, 80).expect("an allowed source is served");
    patch(&ns, "service", "hello-world", r#"{"spec":{"loadBalancerSourceRanges":["2001:db8:50::/64"]}}"#);
    wait_unserved(lab, "client", ip, 80, SOON);
    get(lab, "client2", ip, 80).expect_err("ranges of the other family only: this family is closed");
    patch(&ns, "service", "hello-world", r#"{"spec":{"loadBalancerSourceRanges":null}}"#);
    let _ = wait_served(lab, "client2", ip, 80, SOON);
    let _ = wait_served(lab, "client", ip, 80, SOON);
}

#[test]
fn a_deleted_service_leaves_no_status_no_element_and_no_arp_answer() {
    let lab = cluster();
    let ns = namespace("deleted");
    let _pool = Pool::new("deleted", &["192.0.2.114/32"]);
    ns.apply(HELLO).unwrap();
    let ip = external_ip(&ns, "hello-world");
    let _ = wait_served(lab, "client", ip, 80, POD);
    ns.kubectl(&["delete", "service", "hello-world"]).unwrap();
    let deleted = Instant::now();
    // Within a second, the time that looking takes not counted.
    let mut last_seen = deleted;
    eventually(Duration::from_secs(5), "every trace of the address to go", || {
        let looked = Instant::now();
        let kernel = (1..=3).any(|n| nft_table(lab, &format!("n{n}")).contains(&ip.to_string()));
        let answers = arp_answers(lab, "client2", ip, 1).len();
        let gone = !kernel && answers == 0 && owners(lab, ip).is_empty();
        if !gone {
            last_seen = looked;
        }
        gone.then_some(())
    });
    assert!(last_seen - deleted < Duration::from_secs(1), "a trace was seen {:?} after", last_seen - deleted);
    // The address is free again: the next Service gets it.
    ns.apply(HELLO).unwrap();
    assert_eq!(external_ip(&ns, "hello-world"), ip);
}

#[test]
fn a_service_that_is_no_load_balancer_any_more_gives_its_address_back() {
    let lab = cluster();
    let ns = namespace("retyped");
    let _pool = Pool::new("retyped", &["192.0.2.115/32"]);
    ns.apply(HELLO).unwrap();
    let ip = external_ip(&ns, "hello-world");
    patch(&ns, "service", "hello-world", r#"{"spec":{"type":"ClusterIP"}}"#);
    eventually(SOON, "status, condition and annotation to go", || {
        let svc = service(&ns, "hello-world").ok()?;
        let annotated = svc.pointer("/metadata/annotations/landfall.dev~1allocated-from").is_some();
        let conditioned = condition(&svc, "landfall.dev/Allocated").is_some();
        (ingress(&ns, "hello-world").is_empty() && !annotated && !conditioned).then_some(())
    });
    eventually(SOON, "no owner", || owners(lab, ip).is_empty().then_some(()));
    patch(&ns, "service", "hello-world", r#"{"spec":{"type":"LoadBalancer"}}"#);
    assert_eq!(external_ip(&ns, "hello-world"), ip);
}

#[test]
fn without_a_pool_the_service_says_why_and_is_served_when_one_comes() {
    let lab = cluster();
    let ns = namespace("no-pool");
    ns.apply(HELLO).unwrap();
    let message = wait_refused(&ns, "hello-world", "NoPool");
    assert!(message.contains("AddressPool"), "{message}");
    assert!(ingress(&ns, "hello-world").is_empty());
    let _pool = Pool::new("no-pool", &["192.0.2.116/32"]);
    let ip = external_ip(&ns, "hello-world");
    let _ = wait_served(lab, "client", ip, 80, POD);
    let events = ns.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).unwrap();
    assert_eq!(events.matches("NoPool").count(), 1, "one Event per transition: {events}");
    assert_eq!(events.split_whitespace().filter(|r| *r == "Allocated").count(), 1, "{events}");
}

#[test]
fn a_full_pool_refuses_and_serves_as_soon_as_an_address_is_free() {
    let lab = cluster();
    let ns = namespace("full-pool");
    let _pool = Pool::new("full-pool", &["192.0.2.117/32"]);
    ns.apply(HELLO).unwrap();
    let ip = external_ip(&ns, "hello-world");
    ns.apply(&service_yaml("second", "{}", "")).unwrap();
    let message = wait_refused(&ns, "second", "PoolsFull");
    assert!(message.contains("full-pool"), "names the pool: {message}");
    ns.kubectl(&["delete", "service", "hello-world"]).unwrap();
    assert_eq!(external_ip(&ns, "second"), ip);
    let _ = wait_served(lab, "client", ip, 80, POD);
}

#[test]
fn a_requested_address_outside_every_pool_is_refused_until_a_pool_has_it() {
    let lab = cluster();
    let ns = namespace("requested");
    let pool = Pool::new("requested", &["192.0.2.118/32"]);
    ns.apply(HELLO).unwrap();
    ns.apply(&service_yaml("wish", r#"{"landfall.dev/addresses": "192.0.2.119"}"#, "")).unwrap();
    let message = wait_refused(&ns, "wish", "AddressOutsidePools");
    assert!(message.contains("192.0.2.119"), "{message}");
    ns.apply(&service_yaml("legacy", "{}", "  loadBalancerIP: 192.0.2.118\n")).unwrap();
    let message = wait_refused(&ns, "legacy", "AddressInUse");
    assert!(message.contains("hello-world"), "names the holder: {message}");
    pool.set(&["192.0.2.118-192.0.2.119"]);
    let ip = external_ip(&ns, "wish");
    assert_eq!(ip, "192.0.2.119".parse::<IpAddr>().unwrap());
    let _ = wait_served(lab, "client", ip, 80, POD);
}

#[test]
fn an_invalid_pool_is_rejected_with_the_field_named() {
    let lab = cluster();
    for (addresses, says) in [
        (&["nonsense"][..], "spec.addresses"),
        (&["192.0.2.0/33"], "spec.addresses"),
        (&["2001:db8::/129"], "spec.addresses"),
        (&["192.0.2.9-192.0.2.1"], "spec.addresses"),
        (&["192.0.2.9-2001:db8::1"], "spec.addresses"),
        (&[], "spec.addresses"),
    ] {
        let refused = lab.apply(&pool_yaml("invalid", addresses)).expect_err("an invalid pool is not stored");
        assert!(refused.to_string().contains(says), "{addresses:?}: {refused}");
    }
}

#[test]
fn flows_and_address_survive_a_killed_speaker() {
    let lab = cluster();
    let ns = namespace("speaker-killed");
    let _pool = Pool::new("speaker-killed", &["192.0.2.120/32"]);
    ns.apply(HELLO).unwrap();
    ns.apply(&echo("echo")).unwrap();
    let ip = external_ip(&ns, "hello-world");
    let _ = wait_served(lab, "client", ip, 80, POD);
    ns.kubectl(&["delete", "service", "hello-world"]).unwrap();
    let ip = external_ip(&ns, "echo");
    let mut flow = open_flow(ip);
    flow.say("before");
    let owner = wait_owner(lab, ip);
    let (pod, restarts, _) = speaker_on(&owner);
    lab.host(&owner).unwrap().run(&["pkill", "-KILL", "-f", "^/landfall-speaker"]).unwrap();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        flow.say("during");
    }
    eventually_seen(POD, "the speaker to be back", || {
        let now = speaker_on(&owner);
        if now.0 == pod && now.1 > restarts && now.2 { Ok(()) } else { Err(format!("{now:?}")) }
    });
    flow.say("after");
    assert_eq!(external_ip(&ns, "echo"), ip);
    let _ = wait_owner(lab, ip);
}

#[test]
fn no_address_changes_when_both_controllers_are_killed() {
    let lab = cluster();
    let ns = namespace("controllers-killed");
    let _pool =
        Pool::new("controllers-killed", &["192.0.2.121-192.0.2.129", "2001:db8:50::121-2001:db8:50::129"]);
    for n in 0..5 {
        ns.apply(&service_yaml(&format!("s{n}"), "{}", "  ipFamilyPolicy: PreferDualStack\n")).unwrap();
    }
    let before: Vec<_> =
        (0..5).map(|n| (external_ip(&ns, &format!("s{n}")), ingress(&ns, &format!("s{n}")))).collect();
    assert!(before.iter().all(|(_, all)| all.len() == 2), "an address of each family: {before:?}");
    lab.kubectl(&[
        "-n",
        "landfall-system",
        "delete",
        "pod",
        "-l",
        "app.kubernetes.io/component=controller",
        "--force",
        "--grace-period=0",
    ])
    .unwrap();
    ns.apply(&service_yaml("later", "{}", "")).unwrap();
    let later = eventually(POD, "the new Service to be served by the new leader", || {
        ingress(&ns, "later").first().copied()
    });
    assert!(
        before.iter().all(|(_, addresses)| !addresses.contains(&later)),
        "{later} is another's: {before:?}"
    );
    for (n, (_, addresses)) in before.iter().enumerate() {
        assert_eq!(&ingress(&ns, &format!("s{n}")), addresses, "s{n}");
    }
}

#[test]
fn traffic_flows_while_the_api_server_is_away() {
    // S140
    let lab = cluster();
    let ns = namespace("api-away");
    let _pool = Pool::new("api-away", &["192.0.2.130/32"]);
    ns.apply(HELLO).unwrap();
    let ip = external_ip(&ns, "hello-world");
    let _ = wait_served(lab, "client", ip, 80, POD);
    let owner = wait_owner(lab, ip);
    let owner_mac = mac(lab, &owner);
    let client = lab.host("client").unwrap();
    lab.stop_apiserver().unwrap();
    let away = Instant::now();
    let mut served = 0;
    while away.elapsed() < Duration::from_secs(30) {
        client.forget_neighbour(ip).unwrap();
        get(lab, "client", ip, 80).expect("every request is answered while the API server is away");
        assert_eq!(client.neighbour(ip).unwrap().as_ref(), Some(&owner_mac), "the owner stays");
        served += 1;
        std::thread::sleep(Duration::from_millis(250));
    }
    assert!(served > 20, "{served} requests");
    lab.start_apiserver().unwrap();
    let _ = wait_served(lab, "client", ip, 80, SOON);
    assert_eq!(external_ip(&ns, "hello-world"), ip);
    // Speakers and controllers are at work again: a change arrives.
    patch(&ns, "service", "hello-world", r#"{"spec":{"loadBalancerSourceRanges":["203.0.113.0/24"]}}"#);
    wait_unserved(lab, "client", ip, 80, POD);
}

#[test]
fn another_node_serves_when_the_owner_falls_silent() {
    let lab = cluster();
    let ns = namespace("silenced");
    let _pool = Pool::new("silenced", &["192.0.2.131/32"]);
    ns.apply(HELLO).unwrap();
    ns.apply(&service_yaml("web", "{}", "")).unwrap();
    let ip = external_ip(&ns, "hello-world");
    let _ = wait_served(lab, "client", ip, 80, POD);
    let owner = wait_owner(lab, ip);
    lab.fault(Fault::Silence, &owner).unwrap();
    let taken = eventually(POD, "another node to own the address", || {
        owners(lab, ip).into_iter().map(|(node, _)| node).find(|node| *node != owner)
    });
    // Pods on the silent node stay endpoints until Kubernetes gives the node up: some requests may still fail.
    let _ = wait_served(lab, "client", ip, 80, POD);
    assert_eq!(lab.host("client").unwrap().neighbour(ip).unwrap(), Some(mac(lab, &taken)));
    lab.fault(Fault::Unsilence, &owner).unwrap();
    eventually_seen(POD, "all nodes to be Ready", || {
        let status = lab.status();
        if status.contains("not ready") { Err(status) } else { Ok(()) }
    });
    eventually(POD, "one answering MAC again", || {
        let answers = arp_answers(lab, "client2", ip, 3);
        let macs: BTreeSet<_> = answers.iter().collect();
        (macs.len() == 1 && owners(lab, ip).len() == 1).then_some(())
    });
}

#[test]
fn without_endpoints_a_connection_is_refused_at_once() {
    let lab = cluster();
    let ns = namespace("no-endpoints");
    let _pool = Pool::new("no-endpoints", &["192.0.2.132/32"]);
    ns.apply(&service_yaml("empty", "{}", "")).unwrap();
    let ip = external_ip(&ns, "empty");
    let _ = wait_owner(lab, ip);
    eventually(SOON, "a refusal", || {
        let connect =
            || TcpStream::connect_timeout(&SocketAddr::new(ip, 80), Duration::from_secs(2)).map(drop);
        let tried = lab.host("client").unwrap().in_netns(connect).unwrap();
        tried.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    });
}

/// A Service of the echo port of hello-world's pods.
fn echo(name: &str) -> String {
    service_yaml(name, "{}", "")
        .replace("targetPort: 8080", "targetPort: 8081")
        .replace("port: 80,", "port: 7,")
}

/// A TCP connection from the client, kept open.
struct Flow {
    stream: TcpStream,
    answers: BufReader<TcpStream>,
}

fn open_flow(ip: IpAddr) -> Flow {
    eventually(SOON, "an open flow", || {
        let client = cluster().host("client").ok()?;
        let connect = || TcpStream::connect_timeout(&SocketAddr::new(ip, 7), Duration::from_secs(2));
        let stream = client.in_netns(connect).ok()?.ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let answers = BufReader::new(stream.try_clone().ok()?);
        Some(Flow { stream, answers })
    })
}

impl Flow {
    /// Sends a line and waits for its echo.
    fn say(&mut self, word: &str) {
        writeln!(self.stream, "{word}").expect("the flow takes a line");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the flow answers");
        assert!(line.contains(word), "{line:?} echoes {word:?}");
    }
}

/// The speaker's pod on a node: its name, how often it was restarted, and whether it is ready.
fn speaker_on(node: &str) -> (String, i64, bool) {
    let query = format!(
        "/api/v1/namespaces/landfall-system/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dspeaker&fieldSelector=spec.nodeName%3D{node}"
    );
    let pods = cluster().api_get(&query).expect("the API server answers");
    let pod = pods.pointer("/items/0").expect("a speaker on the node");
    let name = pod.pointer("/metadata/name").and_then(|n| n.as_str()).unwrap_or_default().to_owned();
    let status = pod.pointer("/status/containerStatuses/0").cloned().unwrap_or_default();
    let restarts = status.get("restartCount").and_then(serde_json::Value::as_i64).unwrap_or(0);
    (name, restarts, status.get("ready").and_then(serde_json::Value::as_bool).unwrap_or(false))
}

//! Several Services on one address.

use landfall_lab::objects::Object;
use landfall_lab::product::{POD, cluster, eventually_seen, get, wait_pods};
use serde_json::{Value, json};

use crate::{pinned, space};

const KEY: &str = "landfall.dev/sharing-key";
const ADDRESSES: &str = "landfall.dev/addresses";

fn ports(list: &[(u16, &str)]) -> Value {
    let one = |(port, protocol): &(u16, &str)| {
        json!({"name": format!("p{port}-{}", protocol.to_lowercase()), "port": port, "protocol": protocol,
               "targetPort": 8080})
    };
    json!({"ports": list.iter().map(one).collect::<Vec<_>>()})
}

// A4 A64
#[test]
fn two_services_share_an_address_and_each_port_reaches_its_own_pods() {
    let lab = cluster();
    let ns = space("a64");
    for colour in ["red", "blue"] {
        let pods = landfall_lab::product::HELLO.split("---").next().unwrap();
        ns.apply(
            &pods.replace("replicas: 2", "replicas: 1").replace(": hello-world\n", &format!(": {colour}\n")),
        )
        .unwrap();
    }
    let pool = pinned(&[&ns], &["192.0.2.140/32", "2001:db8:50::140/128"], &json!({}));
    let _pool = Object::pool("a64", &pool);
    let key = json!({KEY: "front"});
    let spec = |colour: &str, port: u16, policy: &str| {
        let mut spec = ports(&[(port, "TCP")]);
        spec["selector"] = json!({"app": colour});
        spec["externalTrafficPolicy"] = json!(policy);
        spec["ipFamilyPolicy"] = json!("RequireDualStack");
        spec
    };
    let both = ["192.0.2.140", "2001:db8:50::140"];
    ns.service("red", &key, &spec("red", 80, "Local")).wait_addresses(&both);
    ns.service("blue", &key, &spec("blue", 81, "Cluster")).wait_addresses(&both);
    wait_pods(&ns, "red", 1);
    wait_pods(&ns, "blue", 1);
    let ip = "192.0.2.140".parse().unwrap();
    for (port, colour) in [(80, "red"), (81, "blue")] {
        eventually_seen(POD, &format!("port {port} to reach {colour}"), || {
            let body = get(lab, "client", ip, port)?;
            let pod = format!("pod: {colour}-");
            if body.contains(&pod) { Ok(()) } else { Err(body) }
        });
    }
    // Many times over, no request goes astray.
    for (port, colour) in [(80, "red"), (81, "blue")].into_iter().cycle().take(40) {
        let body = get(lab, "client", ip, port).unwrap();
        assert!(body.contains(&format!("pod: {colour}-")), "port {port}: {body}");
    }
}

// A42 A43
#[test]
fn a_taken_port_or_another_key_is_refused_and_the_other_protocol_is_not() {
    let ns = space("a42");
    let addresses = ["198.18.42.0/29", "2001:db8:42::/125"];
    let _pool = Object::pool("a42", &pinned(&[&ns], &addresses, &json!({})));
    for (family, addr) in [("IPv4", "198.18.42.1"), ("IPv6", "2001:db8:42::1")] {
        let name = |part: &str| format!("{part}-{}", family.to_lowercase());
        let of_family = |mut spec: Value| {
            spec["ipFamilies"] = json!([family]);
            spec
        };
        let asks = |key: &str| json!({KEY: key, ADDRESSES: addr});
        let tcp = of_family(ports(&[(80, "TCP")]));
        ns.service(&name("first"), &asks("k"), &tcp).wait_addresses(&[addr]);
        let clash = ns.service(&name("clash"), &asks("k"), &tcp);
        let message = clash.wait("False", "SharingPortConflict");
        assert!(message.contains("80") && message.contains(&name("first")), "{message}");
        let udp = of_family(ports(&[(80, "UDP")]));
        ns.service(&name("udp"), &asks("k"), &udp).wait_addresses(&[addr]);
        let other_port = of_family(ports(&[(81, "TCP")]));
        let other = ns.service(&name("other"), &asks("q"), &other_port);
        let message = other.wait("False", "SharingKeyDiffers");
        assert!(message.contains(addr), "{message}");
        // The obstacle goes: the one that waited is served.
        other.annotate(KEY, Some("k"));
        other.wait_addresses(&[addr]);
        ns.existing(&name("first")).delete();
        clash.wait_addresses(&[addr]);
    }
}

// A44
#[test]
fn a_sole_owner_changes_its_key_and_ports_in_place() {
    let ns = space("a44");
    let _pool = Object::pool("a44", &pinned(&[&ns], &["198.18.44.0/29"], &json!({})));
    let service = ns.service("web", &json!({KEY: "one"}), &ports(&[(80, "TCP")]));
    service.wait_addresses(&["198.18.44.0"]);
    service.annotate(KEY, Some("two"));
    service.merge(&json!({"spec": ports(&[(443, "TCP")])}));
    ns.fence();
    service.wait_addresses(&["198.18.44.0"]);
    service.wait("True", "Allocated");
    let sharer = ns.service("sharer", &json!({KEY: "two"}), &ports(&[(80, "TCP")]));
    sharer.wait_addresses(&["198.18.44.0"]);
}

// A65
#[test]
fn another_namespace_shares_only_where_the_pool_allows_it() {
    let (ns, other) = (space("a65"), space("a65-other"));
    let spec = |sharing: &str| pinned(&[&ns, &other], &["198.18.65.0/29"], &json!({"sharing": sharing}));
    let pool = Object::pool("a65", &spec("Namespace"));
    let asks = json!({KEY: "k", ADDRESSES: "198.18.65.1"});
    ns.service("web", &asks, &ports(&[(80, "TCP")])).wait_addresses(&["198.18.65.1"]);
    let second = other.service("web", &asks, &ports(&[(81, "TCP")]));
    let message = second.wait("False", "SharingNotAllowed");
    assert!(message.contains("198.18.65.1"), "{message}");
    pool.set(&spec("Cluster"));
    second.wait_addresses(&["198.18.65.1"]);
    // Taking the permission back takes no address.
    pool.set(&spec("Namespace"));
    pool.wait_observed();
    other.fence();
    second.wait_addresses(&["198.18.65.1"]);
}

//! What is read from the texts of a Service.

use super::*;

const ANNOTATION: &str = "landfall.dev/addresses";

fn demand(families: &[Family], policy: &str, ip: Option<&str>, annotation: Option<&str>) -> Demand {
    let addresses = annotation.map(|text| (ANNOTATION, text));
    RawDemand { families, policy: Some(policy), load_balancer_ip: ip, addresses, ..RawDemand::default() }
        .parse()
}

#[test]
fn families_follow_the_service() {
    // A33, A34, A39: the order is that of ipFamilies; a single-stack cluster IP makes PreferDualStack single.
    use Family::{V4, V6};
    for (families, policy, wanted) in [
        (&[][..], "SingleStack", Families::One(V4)),
        (&[V4], "SingleStack", Families::One(V4)),
        (&[V6], "SingleStack", Families::One(V6)),
        (&[V6], "PreferDualStack", Families::One(V6)),
        (&[V4, V6], "PreferDualStack", Families::Prefer(V4)),
        (&[V6, V4], "PreferDualStack", Families::Prefer(V6)),
        (&[V4, V6], "RequireDualStack", Families::Require(V4)),
        (&[V6, V4], "RequireDualStack", Families::Require(V6)),
    ] {
        let parsed = demand(families, policy, None, None);
        assert_eq!(parsed, Demand::plain(wanted), "{families:?} {policy}");
    }
}

#[test]
fn addresses_are_read_from_the_field_or_the_annotation() {
    // A17, A18
    let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
    let both = [Family::V4, Family::V6];
    for (ip, annotation, wanted) in [
        (Some("192.0.2.7"), None, vec![v4]),
        (Some("2001:db8::7"), None, vec![v6]),
        (None, Some("192.0.2.7"), vec![v4]),
        (None, Some(" 2001:db8::7 , 192.0.2.7 "), vec![v6, v4]),
        (Some(""), Some(" "), vec![]),
    ] {
        let request = demand(&both, "PreferDualStack", ip, annotation).request.unwrap();
        assert_eq!(request.addresses, wanted, "{ip:?} {annotation:?}");
    }
}

#[test]
fn requests_that_make_no_sense_are_explained() {
    let both = &[Family::V4, Family::V6][..];
    for (families, policy, ip, annotation, wanted) in [
        // A20
        (both, "", Some("nonsense"), None, r#"spec.loadBalancerIP: "nonsense" is not an IP address"#),
        (both, "", None, Some("192.0.2.1,"), r#"landfall.dev/addresses: "" is not an IP address"#),
        // A19
        (
            both,
            "",
            Some("192.0.2.1"),
            Some("192.0.2.1"),
            "spec.loadBalancerIP and landfall.dev/addresses are both set: remove one of them",
        ),
        // A22
        (
            both,
            "",
            None,
            Some("192.0.2.1,192.0.2.2"),
            "landfall.dev/addresses asks for more than one IPv4 address: 192.0.2.2 too",
        ),
        (
            both,
            "",
            None,
            Some("2001:db8::1,2001:db8::2"),
            "landfall.dev/addresses asks for more than one IPv6 address: 2001:db8::2 too",
        ),
        // A30
        (
            &[Family::V4],
            "",
            Some("2001:db8::1"),
            None,
            "spec.loadBalancerIP asks for 2001:db8::1, but spec.ipFamilies of the Service has no IPv6",
        ),
        (
            &[Family::V6],
            "",
            None,
            Some("192.0.2.1"),
            "landfall.dev/addresses asks for 192.0.2.1, but spec.ipFamilies of the Service has no IPv4",
        ),
        // A31
        (
            &[Family::V6],
            "RequireDualStack",
            None,
            None,
            "spec.ipFamilyPolicy is RequireDualStack, but the Service has a cluster IP of one family only",
        ),
    ] {
        let error = demand(families, policy, ip, annotation).request.unwrap_err();
        assert_eq!(error.to_string(), wanted);
    }
}

#[test]
fn a_long_text_is_not_repeated_in_full() {
    let text = "ä".repeat(100_000);
    let error = demand(&[Family::V4], "", Some(&text), None).request.unwrap_err();
    assert!(error.to_string().chars().count() < 120);
}

const KEY: &str = "landfall.dev/sharing-key";
const PORTS: &str = "landfall.dev/node-ports";
const POOL: &str = "landfall.dev/pool";

#[test]
fn the_sharing_key_and_the_ports_are_read() {
    let ports = [(Protocol::Udp, 53), (Protocol::Tcp, 443), (Protocol::Tcp, 80)];
    for family in [Family::V4, Family::V6] {
        let raw = RawDemand { families: &[family], ports: &ports, ..RawDemand::default() };
        let none = raw.parse();
        assert_eq!(none.sharing, None);
        assert_eq!(&*none.ports, [(Protocol::Tcp, 80), (Protocol::Tcp, 443), (Protocol::Udp, 53)]);
        for (key, wanted) in [(" ", None), ("front", Some("front")), (" größe/1 ", Some("größe/1"))] {
            let read = RawDemand { sharing_key: Some((KEY, key)), ..raw }.parse();
            assert_eq!(read.sharing.as_ref().map(|sharing| &*sharing.key), wanted);
            assert_eq!(read.request, Ok(Request::default()));
        }
    }
}

#[test]
fn node_ports_are_given_by_us_only_when_the_api_server_gives_none_and_the_annotation_asks() {
    // A71, A72
    for (allocate, annotation, wanted) in [
        (Some(false), Some("true"), NodePortWish::Wanted),
        (Some(false), Some("false"), NodePortWish::Off),
        (Some(false), Some(""), NodePortWish::Off),
        (Some(false), None, NodePortWish::Off),
        (Some(true), Some("true"), NodePortWish::Off),
        (None, Some("true"), NodePortWish::Off),
        (None, None, NodePortWish::Off),
    ] {
        let node_ports = annotation.map(|text| (PORTS, text));
        let read = RawDemand { allocate_node_ports: allocate, node_ports, ..RawDemand::default() }.parse();
        assert_eq!(read.node_ports, wanted, "{allocate:?} {annotation:?}");
    }
}

#[test]
fn annotations_that_cannot_be_read_are_named() {
    let long = "k".repeat(300);
    for (raw, wanted) in [
        (
            RawDemand { pool: Some((POOL, "Straße 1")), ..RawDemand::default() },
            r#"landfall.dev/pool: "Straße 1" is not the name of an AddressPool"#.to_owned(),
        ),
        (
            RawDemand { pool: Some((POOL, "a..b")), ..RawDemand::default() },
            r#"landfall.dev/pool: "a..b" is not the name of an AddressPool"#.to_owned(),
        ),
        (
            RawDemand { pool: Some((POOL, &long)), ..RawDemand::default() },
            format!("landfall.dev/pool: {:?} is not the name of an AddressPool", "k".repeat(64)),
        ),
        (
            RawDemand { node_ports: Some((PORTS, "yes please")), ..RawDemand::default() },
            r#"landfall.dev/node-ports: "yes please" is neither true nor false"#.to_owned(),
        ),
        (
            RawDemand { sharing_key: Some((KEY, &long)), ..RawDemand::default() },
            "landfall.dev/sharing-key is longer than 253 characters: choose a shorter key".to_owned(),
        ),
    ] {
        assert_eq!(raw.parse().request.unwrap_err().to_string(), wanted);
    }
    let longest = "p".repeat(253);
    let read = RawDemand { pool: Some((POOL, &longest)), ..RawDemand::default() }.parse();
    assert_eq!(read.request.unwrap().pool, Some(PoolName::new(&longest)), "a name of the full length is one");
}

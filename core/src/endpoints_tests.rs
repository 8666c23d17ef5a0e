use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::name::NodeName;
use crate::service::{Protocol, SliceEndpoint, SlicePort};

/// The family prefix of the addresses in a row: every behaviour holds in both.
const FAMILIES: [(Family, &str); 2] = [(Family::V4, "10.244.0."), (Family::V6, "fd00:244::")];

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn service_port(name: &str) -> ServicePort {
    ServicePort { name: Arc::from(name), protocol: Protocol::Tcp, port: number(80), node_port: None }
}

/// An endpoint in words: `r` ready, `s` serving, `t` terminating, `@n` its node, `/a,b` the zones and `!m` the node it
/// is hinted for.
fn endpoint(prefix: &str, last: u8, words: &str) -> SliceEndpoint {
    let (words, near) = words.split_once('!').map_or((words, None), |(words, near)| (words, Some(near)));
    let (words, zones) = words.split_once('/').map_or((words, ""), |(words, zones)| (words, zones));
    let (state, node) = words.split_once('@').map_or((words, None), |(state, node)| (state, Some(node)));
    let hints = Hints {
        zones: zones.split(',').filter(|zone| !zone.is_empty()).map(Arc::from).collect(),
        nodes: near.map(NodeName::new).into_iter().collect(),
    };
    SliceEndpoint {
        addr: format!("{prefix}{last}").parse().unwrap(),
        ready: state.contains('r'),
        serving: state.contains('s'),
        terminating: state.contains('t'),
        node: node.map(NodeName::new),
        hints: (hints != Hints::default()).then(|| Arc::new(hints)),
    }
}

fn slice(family: Family, prefix: &str, endpoints: &[(u8, &str)]) -> Slice {
    Slice {
        family,
        ports: vec![SlicePort { name: Arc::from("web"), protocol: Protocol::Tcp, port: Some(number(8080)) }],
        endpoints: endpoints.iter().map(|(last, words)| endpoint(prefix, *last, words)).collect(),
    }
}

fn selected(family: Family, slices: &[Slice]) -> Selection {
    let slices: Vec<&Slice> = slices.iter().collect();
    select(&service_port("web"), family, &slices, &here())
}

/// The node of the tests, in zone a.
fn here() -> Place {
    Place { zone: Some(Arc::from("a")), ..Place::of(NodeName::new("here")) }
}

/// The last parts of the addresses: everywhere, local, draining.
fn lasts(found: &Selection) -> [Vec<u8>; 3] {
    [&found.everywhere, &found.local, &found.draining].map(|list| {
        list.iter()
            .map(|target| match target.addr {
                IpAddr::V4(addr) => addr.octets()[3],
                // Addresses are written with decimal digits that are read as hexadecimal ones; one digit here.
                IpAddr::V6(addr) => addr.octets()[15],
            })
            .collect()
    })
}

#[test]
fn ready_endpoints_carry_the_traffic_and_terminating_ones_only_where_there_is_none() {
    for (family, prefix) in FAMILIES {
        for (what, endpoints, expected) in [
            // S2
            (
                "ready ones, the rest not",
                &[(1, "rs@here"), (2, "@here"), (3, "rs@there")][..],
                [&[1, 3][..], &[1], &[]],
            ),
            // S3
            (
                "none ready: all that still serve",
                &[(1, "st@here"), (2, "st@there"), (3, "t@here")],
                [&[1, 2], &[1], &[]],
            ),
            // S4
            ("one ready anywhere: no mixing", &[(1, "st@there"), (2, "rs@there")], [&[2], &[], &[1]]),
            // S6, S10
            ("local and global apart", &[(1, "st@here"), (2, "rs@there")], [&[2], &[1], &[]]),
            // S5
            ("local ready before local terminating", &[(1, "st@here"), (2, "rs@here")], [&[2], &[2], &[1]]),
            // S7
            ("terminating elsewhere only", &[(1, "st@there")], [&[1], &[], &[]]),
            // S11: publishNotReadyAddresses makes them ready, whatever their Pods are.
            ("ready and terminating", &[(1, "rst@here"), (2, "rt@there")], [&[1, 2], &[1], &[]]),
            // S8, S9, S12
            ("not serving is never used", &[(1, "t@here"), (2, "@there")], [&[], &[], &[]]),
            ("serving but not terminating gets nothing new", &[(1, "s@here")], [&[], &[], &[1]]),
            ("no node is local nowhere", &[(1, "rs")], [&[1], &[], &[]]),
        ] {
            let found = selected(family, &[slice(family, prefix, endpoints)]);
            assert_eq!(lasts(&found), expected.map(<[u8]>::to_vec), "{family}: {what}");
        }
    }
}

#[test]
fn a_duplicate_is_one_target_and_the_living_record_of_a_reused_address_wins() {
    // S21, S22
    for (family, prefix) in FAMILIES {
        let twice = [slice(family, prefix, &[(1, "rs@here")]), slice(family, prefix, &[(1, "rs@here")])];
        assert_eq!(lasts(&selected(family, &twice))[0], [1], "{family}");
        let old = slice(family, prefix, &[(1, "st@there")]);
        let new = slice(family, prefix, &[(1, "rs@here")]);
        for slices in [[old.clone(), new.clone()], [new, old]] {
            let found = selected(family, &slices);
            assert_eq!(lasts(&found), [vec![1], vec![1], vec![]], "{family}");
        }
        // A new pod that is not ready yet does not inherit the readiness of the old one.
        let starting = slice(family, prefix, &[(1, "@here")]);
        let ending = slice(family, prefix, &[(1, "st@here")]);
        assert_eq!(lasts(&selected(family, &[ending, starting]))[0], [0; 0], "{family}");
    }
}

#[test]
fn families_do_not_mix() {
    // S30
    let slices = FAMILIES.map(|(family, prefix)| slice(family, prefix, &[(1, "rs@here")]));
    for (family, prefix) in FAMILIES {
        let found = selected(family, &slices);
        assert_eq!(found.everywhere.len(), 1);
        assert!(found.everywhere[0].addr.to_string().starts_with(prefix.trim_end_matches(':')), "{found:?}");
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol_and_may_differ_between_slices() {
    // S24, S25, S26, S27, S28
    let (family, prefix) = FAMILIES[0];
    let with = |ports: &[(&str, Protocol, Option<u16>)], last| {
        let mut made = slice(family, prefix, &[(last, "rs@here")]);
        made.ports = ports
            .iter()
            .map(|(name, protocol, port)| SlicePort {
                name: Arc::from(*name),
                protocol: *protocol,
                port: port.map(number),
            })
            .collect();
        made
    };
    let slices = [
        with(&[("web", Protocol::Tcp, Some(8080)), ("web", Protocol::Udp, Some(1))], 1),
        with(&[("web", Protocol::Tcp, Some(9090)), ("", Protocol::Tcp, Some(2))], 2),
        with(&[("web", Protocol::Tcp, None)], 3),
    ];
    let found = selected(family, &slices);
    let ports: Vec<u16> = found.everywhere.iter().map(|target| target.port.get()).collect();
    assert_eq!(ports, [8080, 9090], "a port without a number is no port");
    let slices: Vec<&Slice> = slices.iter().collect();
    let unnamed = select(&service_port(""), family, &slices, &here());
    assert_eq!(unnamed.everywhere.iter().map(|target| target.port.get()).collect::<Vec<_>>(), [2]);
}

#[test]
fn hints_count_when_every_ready_endpoint_has_some_and_one_is_for_here() {
    for (family, prefix) in FAMILIES {
        for (what, endpoints, expected) in [
            // S13
            ("its zone", &[(1, "rs@here/a"), (2, "rs@there/b")][..], [&[1][..], &[1], &[2]]),
            // S14
            ("one has no hint", &[(1, "rs@here/a"), (2, "rs@there")], [&[1, 2], &[1], &[]]),
            ("none is for this zone", &[(1, "rs@there/b"), (2, "rs@there/c")], [&[1, 2], &[], &[]]),
            // S15: node hints go before zone hints, and fall back to them.
            ("its node", &[(1, "rs@here/a!here"), (2, "rs@there/a!there")], [&[1], &[1], &[2]]),
            ("no node hint for here", &[(1, "rs@x/a!x"), (2, "rs@y/b!y")], [&[1], &[], &[2]]),
            ("a node hint is missing", &[(1, "rs@here/a!here"), (2, "rs@y/a")], [&[1, 2], &[1], &[]]),
            // S16: the hints of what is not ready do not count.
            ("not ready without hint", &[(1, "rs@here/a"), (2, "rs@y/b"), (3, "@z")], [&[1], &[1], &[2]]),
            ("only an unready one here", &[(1, "@here/a"), (2, "rs@y/b")], [&[2], &[], &[]]),
            // S17
            ("several zones", &[(1, "rs@x/b,a"), (2, "rs@y/b")], [&[1], &[], &[2]]),
            // S18: for the endpoints on this node they do not count.
            ("local ones", &[(1, "rs@here/b"), (2, "rs@there/a")], [&[2], &[1], &[]]),
            // S3: nor where none is ready.
            ("terminating ones", &[(1, "st@here/b"), (2, "st@there/a")], [&[1, 2], &[1], &[]]),
        ] {
            let found = selected(family, &[slice(family, prefix, endpoints)]);
            assert_eq!(lasts(&found), expected.map(<[u8]>::to_vec), "{family}: {what}");
        }
    }
}

#[test]
fn a_node_without_zone_uses_every_endpoint() {
    // S14
    for (family, prefix) in FAMILIES {
        let slices = [slice(family, prefix, &[(1, "rs@here/a"), (2, "rs@there/b")])];
        let slices: Vec<&Slice> = slices.iter().collect();
        let found = select(&service_port("web"), family, &slices, &Place::of(NodeName::new("here")));
        assert_eq!(lasts(&found)[0], [1, 2], "{family}");
    }
}

#[test]
fn what_still_serves_and_gets_nothing_new_keeps_what_it_began() {
    // S125, and an endpoint that is serving without being ready.
    for (family, prefix) in FAMILIES {
        let endpoints = [(1, "rs@here"), (2, "st@there"), (3, "s@there"), (4, "t@there"), (5, "@there")];
        let found = selected(family, &[slice(family, prefix, &endpoints)]);
        assert_eq!(lasts(&found), [vec![1], vec![1], vec![2, 3]], "{family}");
    }
}

prop_compose! {
    fn any_endpoint()(last in 1u8..9, state in 0u8..8, node in 0u8..3) -> (u8, String) {
        let mut words = String::new();
        for (bit, letter) in [(1, 'r'), (2, 's'), (4, 't')] {
            if state & bit != 0 {
                words.push(letter);
            }
        }
        words.push_str(["", "@here", "@there"][usize::from(node)]);
        (last, words)
    }
}

fn any_slices() -> impl Strategy<Value = Vec<Vec<(u8, String)>>> {
    prop::collection::vec(prop::collection::vec(any_endpoint(), 0..6), 0..5)
}

fn made(lists: &[Vec<(u8, String)>], (family, prefix): (Family, &str)) -> Vec<Slice> {
    lists
        .iter()
        .map(|list| {
            let list: Vec<(u8, &str)> = list.iter().map(|(last, words)| (*last, words.as_str())).collect();
            slice(family, prefix, &list)
        })
        .collect()
}

proptest! {
    #[test]
    fn the_order_of_slices_and_endpoints_does_not_matter(lists in any_slices(), seed in any::<u64>()) {
        for family in FAMILIES {
            let slices = made(&lists, family);
            let mut shuffled = slices.clone();
            // Any permutation will do: rotate the slices and reverse what is in them.
            let by = usize::try_from(seed % 5).unwrap();
            if !shuffled.is_empty() {
                let by = by % shuffled.len();
                shuffled.rotate_left(by);
            }
            for slice in &mut shuffled {
                slice.endpoints.reverse();
            }
            prop_assert_eq!(selected(family.0, &slices), selected(family.0, &shuffled));
        }
    }

    #[test]
    fn every_node_sees_the_same_endpoints_everywhere(lists in any_slices()) {
        for family in FAMILIES {
            let slices = made(&lists, family);
            let slices: Vec<&Slice> = slices.iter().collect();
            let seen = ["here", "there", "elsewhere"].map(|node| {
                select(&service_port("web"), family.0, &slices, &Place::of(NodeName::new(node))).everywhere
            });
            prop_assert_eq!(&seen[0], &seen[1]);
            prop_assert_eq!(&seen[0], &seen[2]);
        }
    }

    #[test]
    fn lists_are_sorted_without_duplicates_and_local_ones_are_never_missed(lists in any_slices()) {
        for family in FAMILIES {
            let slices = made(&lists, family);
            let found = selected(family.0, &slices);
            for list in [&found.everywhere, &found.local, &found.draining] {
                prop_assert!(list.is_sorted_by(|a, b| a < b));
            }
            prop_assert!(found.draining.iter().all(|t| !found.everywhere.contains(t) && !found.local.contains(t)));
            // A target of all nodes that some record puts on this node, and none contradicts, is local.
            for target in &found.everywhere {
                let mut records =
                    slices.iter().flat_map(|slice| &slice.endpoints).filter(|record| record.addr == target.addr);
                if records.all(|record| record.node.as_ref().is_some_and(|node| node.as_str() == "here")) {
                    prop_assert!(found.local.contains(target));
                }
            }
        }
    }
}

#[test]
fn endpoints_on_a_dead_node_are_lost_and_nothing_else_is() {
    for (family, prefix) in FAMILIES {
        let made = slice(family, prefix, &[(1, "rs@here"), (2, "rs@dead"), (3, "rs"), (4, "rs@dead")]);
        // The address of the fourth has been taken over by a Pod elsewhere.
        let slices = [made, slice(family, prefix, &[(4, "rs@there")])];
        let here = Place { dead: Arc::new([NodeName::new("dead")].into()), ..here() };
        let found = select(&service_port("web"), family, &slices.iter().collect::<Vec<_>>(), &here);
        let addrs = |list: &[Target]| list.iter().map(|target| target.addr.to_string()).collect::<Vec<_>>();
        assert_eq!(addrs(&found.everywhere), [1, 3, 4].map(|last| format!("{prefix}{last}")));
        assert_eq!(addrs(&found.lost), [format!("{prefix}2")]);
        assert!(found.draining.is_empty(), "{:?}", found.draining);
    }
}

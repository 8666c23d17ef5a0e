//! Who announces an address: the candidates, and the choice among them. Pure functions of what every speaker
//! sees, so that all of them come to the same answer without talking about the single address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::name::{Iface, NodeName, PoolName};
use crate::segment::Segments;

/// A set of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeSet {
    /// Every node.
    Any,
    /// These nodes only; an empty set is no node at all.
    Only(Arc<BTreeSet<NodeName>>),
}

impl NodeSet {
    /// Whether the node belongs to the set.
    #[must_use]
    pub fn contains(&self, node: &NodeName) -> bool {
        match self {
            Self::Any => true,
            Self::Only(nodes) => nodes.contains(node),
        }
    }
}

/// What one advertisement says about an address it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdRule {
    /// The nodes its selectors pick.
    pub nodes: NodeSet,
    /// The interfaces it allows; `None` allows every one.
    pub interfaces: Option<BTreeSet<Iface>>,
}

impl AdRule {
    /// The rule in force when the cluster has no advertisement object at all: every node, every interface.
    #[must_use]
    pub const fn everywhere() -> Self {
        Self { nodes: NodeSet::Any, interfaces: None }
    }
}

/// Where one address may be announced. Plans of equal content should share their rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipPlan {
    /// The pool the address comes from, when it is still there.
    pub pool: Option<PoolName>,
    /// The advertisements that cover the address; one of them suffices. Empty: nobody announces it.
    pub rules: Arc<[AdRule]>,
    /// `externalTrafficPolicy: Local` limits an address to the nodes that have an endpoint for it.
    pub endpoints: NodeSet,
}

/// Every address that somebody should announce, and the nodes that must not announce any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The addresses. An address belongs in here only when this node's kernel already serves it.
    pub vips: BTreeMap<IpAddr, VipPlan>,
    /// Nodes kept out altogether, such as by the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub barred: BTreeSet<NodeName>,
}

/// An address in the hands of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The interface it is announced on.
    pub iface: Iface,
    /// Rises whenever this node gains an address or changes its interface: an equal epoch means that nothing
    /// happened in between.
    pub epoch: u64,
}

/// The addresses this node announces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Each address with where and since when.
    pub vips: BTreeMap<IpAddr, Holding>,
}

/// A node chosen for an address, and the interface it would use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// Its interface.
    pub iface: &'a Iface,
}

/// The interface through which a node may announce the address, or `None` when it may not: no rule picks the
/// node, or no interface that a rule allows is connected to a subnet holding the address.
#[must_use]
pub fn interface<'a>(
    addr: IpAddr,
    plan: &VipPlan,
    node: &NodeName,
    segments: &'a Segments,
) -> Option<&'a Iface> {
    if !plan.endpoints.contains(node) {
        return None;
    }
    let allowed = |iface: &Iface| {
        plan.rules.iter().any(|rule| {
            rule.nodes.contains(node) && rule.interfaces.as_ref().is_none_or(|names| names.contains(iface))
        })
    };
    segments.holding(addr, allowed)
}

/// The one node among the living that announces the address: the highest [`score`], and the first name between
/// equals. Independent of the order of `living`, and a node that goes moves nothing but its own addresses.
pub fn choose<'a>(
    addr: IpAddr,
    wanted: &Wanted,
    living: impl IntoIterator<Item = (&'a NodeName, &'a Segments)>,
) -> Option<Choice<'a>> {
    let plan = wanted.vips.get(&addr)?;
    living
        .into_iter()
        .filter(|(node, _)| !wanted.barred.contains(node))
        .filter_map(|(node, segments)| Some(Choice { node, iface: interface(addr, plan, node, segments)? }))
        .max_by(|a, b| score(addr, a.node).cmp(&score(addr, b.node)).then_with(|| b.node.cmp(a.node)))
}

/// How strongly an address leans to a node: rendezvous hashing (Thaler and Ravishankar, 1998). The value is part
/// of the protocol between speakers of different versions and must never change: FNV-1a over the node's name, a
/// zero byte and the address in network order, then the finalizer of `SplitMix64` for the avalanche FNV lacks.
#[must_use]
pub fn score(addr: IpAddr, node: &NodeName) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let fnv = |hash: u64, bytes: &[u8]| {
        bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
    };
    let hash = fnv(fnv(OFFSET, node.as_str().as_bytes()), &[0]);
    let hash = match addr {
        IpAddr::V4(v4) => fnv(hash, &v4.octets()),
        IpAddr::V6(v6) => fnv(hash, &v6.octets()),
    };
    mix(hash)
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood, 2014): every input bit moves half of the output bits.
pub(crate) const fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn lan() -> Segments {
        "eth0=192.0.2.0/24 eth0=2001:db8:50::/64".parse().unwrap()
    }

    fn plan(rules: Vec<AdRule>) -> VipPlan {
        VipPlan { pool: None, rules: rules.into(), endpoints: NodeSet::Any }
    }

    fn only(nodes: &[&str]) -> NodeSet {
        NodeSet::Only(Arc::new(nodes.iter().map(NodeName::new).collect()))
    }

    fn wanted(addr: IpAddr, plan: VipPlan) -> Wanted {
        Wanted { vips: BTreeMap::from([(addr, plan)]), barred: BTreeSet::new() }
    }

    fn vips() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u8>().prop_map(|n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))),
            any::<u16>().prop_map(|n| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, n))),
        ]
    }

    fn winner<'a>(addr: IpAddr, wanted: &Wanted, nodes: &'a [(NodeName, Segments)]) -> Option<&'a NodeName> {
        choose(addr, wanted, nodes.iter().map(|(n, s)| (n, s))).map(|choice| choice.node)
    }

    fn nodes(names: &BTreeSet<String>) -> Vec<(NodeName, Segments)> {
        names.iter().map(|name| (NodeName::new(name), lan())).collect()
    }

    proptest! {
        #[test]
        fn the_choice_does_not_depend_on_the_order_of_the_nodes(
            addr in vips(),
            names in prop::collection::btree_set("[a-z0-9-]{1,20}", 1..12),
            seed in any::<u64>(),
        ) {
            let wanted = wanted(addr, plan(vec![AdRule::everywhere()]));
            let ordered = nodes(&names);
            let mut shuffled = ordered.clone();
            shuffled.sort_by_key(|(node, _)| mix(seed ^ score(addr, node)));
            let first = winner(addr, &wanted, &ordered);
            prop_assert!(first.is_some());
            prop_assert_eq!(first, winner(addr, &wanted, &shuffled));
        }

        #[test]
        fn a_node_that_leaves_moves_only_its_own_addresses(
            addr in vips(),
            names in prop::collection::btree_set("[a-z0-9-]{1,20}", 2..12),
            leaver in any::<prop::sample::Index>(),
        ) {
            let wanted = wanted(addr, plan(vec![AdRule::everywhere()]));
            let all = nodes(&names);
            let mut rest = all.clone();
            let (gone, _) = rest.remove(leaver.index(rest.len()));
            let before = winner(addr, &wanted, &all);
            if before != Some(&gone) {
                prop_assert_eq!(before, winner(addr, &wanted, &rest));
            }
        }
    }

    #[test]
    fn addresses_spread_evenly_over_the_nodes() {
        let names: BTreeSet<String> = (1..=5).map(|n| format!("worker-{n}.example.org")).collect();
        let all = nodes(&names);
        let v4 = (0..1000u16).map(|n| IpAddr::V4(Ipv4Addr::from(0xc000_0200 + u32::from(n))));
        let v6 = (0..1000u16).map(|n| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, n)));
        for addrs in [v4.collect::<Vec<_>>(), v6.collect()] {
            let mut share: BTreeMap<&NodeName, u32> = BTreeMap::new();
            for addr in addrs {
                let best = all.iter().map(|(node, _)| node).max_by_key(|node| score(addr, node)).unwrap();
                *share.entry(best).or_default() += 1;
            }
            assert_eq!(share.len(), 5);
            assert!(share.values().all(|n| (150..=250).contains(n)), "{share:?}");
        }
    }

    #[test]
    fn the_score_is_the_same_in_every_version() {
        for (addr, node, expected) in [
            ("192.0.2.100", "n1", GOLDEN[0]),
            ("192.0.2.100", "n2", GOLDEN[1]),
            ("2001:db8:50::100", "n1", GOLDEN[2]),
        ] {
            assert_eq!(score(addr.parse().unwrap(), &NodeName::new(node)), expected, "{addr} {node}");
        }
    }

    /// Computed with an independent implementation of FNV-1a and the finalizer.
    const GOLDEN: [u64; 3] = [0x8017_a51e_4cba_3fee, 0xe11e_e15a_a1c4_43e2, 0xe91b_9b3f_1996_1d8c];

    #[test]
    fn only_a_node_that_some_rule_picks_on_an_allowed_interface_is_a_candidate() {
        let iface = |name: &str| Some(BTreeSet::from([Iface::new(name)]));
        for addr in ["192.0.2.100", "2001:db8:50::100"] {
            let addr: IpAddr = addr.parse().unwrap();
            for (rules, n1, n2) in [
                (vec![], false, false),
                (vec![AdRule::everywhere()], true, true),
                (vec![AdRule { nodes: only(&["n1"]), interfaces: None }], true, false),
                (vec![AdRule { nodes: only(&[]), interfaces: None }], false, false),
                (vec![AdRule { nodes: NodeSet::Any, interfaces: iface("eth1") }], false, false),
                (
                    vec![
                        AdRule { nodes: only(&["n1"]), interfaces: iface("eth1") },
                        AdRule { nodes: only(&["n2"]), interfaces: iface("eth0") },
                    ],
                    false,
                    true,
                ),
            ] {
                let plan = plan(rules);
                for (node, expected) in [("n1", n1), ("n2", n2)] {
                    let found = interface(addr, &plan, &NodeName::new(node), &lan()).is_some();
                    assert_eq!(found, expected, "{addr} {node} {plan:?}");
                }
            }
        }
    }

    #[test]
    fn a_node_without_the_subnet_an_endpoint_or_permission_is_passed_over() {
        let elsewhere: Segments = "eth0=198.51.100.0/24 eth0=2001:db8:99::/64".parse().unwrap();
        let all = [
            (NodeName::new("n1"), lan()),
            (NodeName::new("n2"), lan()),
            (NodeName::new("n3"), lan()),
            (NodeName::new("n4"), elsewhere),
        ];
        for addr in ["192.0.2.100", "2001:db8:50::100"] {
            let addr = addr.parse().unwrap();
            let mut plan = plan(vec![AdRule::everywhere()]);
            plan.endpoints = only(&["n2", "n3", "n4"]);
            let mut wanted = wanted(addr, plan);
            wanted.barred.insert(NodeName::new("n3"));
            assert_eq!(winner(addr, &wanted, &all), Some(&NodeName::new("n2")), "{addr}");
            wanted.barred.insert(NodeName::new("n2"));
            assert_eq!(winner(addr, &wanted, &all), None, "{addr}");
        }
    }
}

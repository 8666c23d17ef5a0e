//! `AddressPool` and `L2Advertisement`: which addresses belong together and where they may be announced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector as Expressions, SelectorExt};
use landfall_core::addr::AddrRange;
use landfall_core::name::{Iface, PoolName};
use landfall_crds::{AddressPool, AddressText, L2Advertisement, SourceRangesOnNodePort};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A label selector that has been understood, or one that has not and therefore selects nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Option<Expressions>);

impl Selector {
    /// Whether an object with these labels is selected. As everywhere in Kubernetes, the empty selector selects
    /// every object.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_some_and(|expressions| expressions.matches(labels))
    }
}

impl From<LabelSelector> for Selector {
    fn from(selector: LabelSelector) -> Self {
        Self(selector.try_into().ok())
    }
}

/// What matters of an `AddressPool` here: its addresses, and how they are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    ranges: Vec<AddrRange>,
    excluded: Vec<AddrRange>,
    /// Whether source ranges do not hold on the `NodePort`s of its Services.
    pub open_node_ports: bool,
}

impl Pool {
    /// Whether the address belongs to the pool.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let within = |ranges: &[AddrRange]| ranges.iter().any(|range| range.contains(addr));
        within(&self.ranges) && !within(&self.excluded)
    }
}

/// The compact form of an `AddressPool`. Texts that are no ranges are left out: the controller reports them.
#[must_use]
pub fn pool(object: &AddressPool) -> Pool {
    let parse = |texts: &[AddressText]| texts.iter().filter_map(|text| text.0.parse().ok()).collect();
    Pool {
        ranges: parse(&object.spec.addresses),
        excluded: parse(&object.spec.exclude),
        open_node_ports: object.spec.source_ranges_on_node_port == SourceRangesOnNodePort::Ignore,
    }
}

/// What matters of an `L2Advertisement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Pools by name; empty: every pool.
    pools: BTreeSet<PoolName>,
    /// Nodes by label, one match suffices; empty: every node.
    node_selectors: Vec<Selector>,
    /// The interfaces to use; `None`: whichever is connected to the subnet of the address.
    pub interfaces: Option<BTreeSet<Iface>>,
}

impl Advertisement {
    /// Whether it covers the addresses of this pool. An advertisement that names no pool covers all addresses,
    /// those of no known pool as well.
    #[must_use]
    pub fn covers(&self, pool: Option<&PoolName>) -> bool {
        self.pools.is_empty() || pool.is_some_and(|pool| self.pools.contains(pool))
    }

    /// Whether it names nodes at all.
    #[must_use]
    pub fn selects_nodes(&self) -> bool {
        !self.node_selectors.is_empty()
    }

    /// Whether a node with these labels may announce.
    #[must_use]
    pub fn admits(&self, node: &Labels) -> bool {
        self.node_selectors.is_empty() || self.node_selectors.iter().any(|s| s.matches(node))
    }
}

/// The compact form of an `L2Advertisement`.
#[must_use]
pub fn advertisement(object: L2Advertisement) -> Advertisement {
    let spec = object.spec;
    let interfaces: BTreeSet<Iface> = spec.interfaces.iter().map(Iface::new).collect();
    Advertisement {
        pools: spec.pools.iter().map(PoolName::new).collect(),
        node_selectors: spec.node_selectors.into_iter().map(Selector::from).collect(),
        interfaces: (!interfaces.is_empty()).then_some(interfaces),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ad(spec: &Value) -> Advertisement {
        advertisement(
            serde_json::from_value(json!({
                "apiVersion": "landfall.dev/v1beta1", "kind": "L2Advertisement",
                "metadata": {"name": "a"}, "spec": spec
            }))
            .unwrap(),
        )
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_advertisement_covers_the_pools_it_names_or_all() {
        for (spec, blue, other, unknown) in [
            (json!({}), true, true, true),
            (json!({"pools": []}), true, true, true),
            (json!({"pools": ["blue"]}), true, false, false),
            (json!({"pools": ["blue", "other"]}), true, true, false),
        ] {
            let ad = ad(&spec);
            assert_eq!(ad.covers(Some(&PoolName::new("blue"))), blue, "{spec}");
            assert_eq!(ad.covers(Some(&PoolName::new("other"))), other, "{spec}");
            assert_eq!(ad.covers(None), unknown, "{spec}");
        }
    }

    #[test]
    fn one_matching_node_selector_suffices() {
        let n1 = labels(&[("zone", "a"), ("disk", "ssd")]);
        for (selectors, admitted) in [
            (json!([]), true),
            (json!([{}]), true),
            (json!([{"matchLabels": {"zone": "b"}}]), false),
            (json!([{"matchLabels": {"zone": "b"}}, {"matchLabels": {"zone": "a"}}]), true),
            (json!([{"matchLabels": {"zone": "a", "disk": "hdd"}}]), false),
            (json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "c"]}]}]), true),
            (json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}]), false),
            (json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]), true),
            (json!([{"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}]), false),
            (json!([{"matchExpressions": [{"key": "disk", "operator": "Near"}]}]), false),
        ] {
            assert_eq!(ad(&json!({"nodeSelectors": selectors})).admits(&n1), admitted, "{selectors}");
        }
    }

    #[test]
    fn a_pool_holds_the_addresses_of_its_valid_ranges() {
        let object = serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool", "metadata": {"name": "p"},
            "spec": {"addresses": ["192.0.2.100-192.0.2.110", "nonsense", "2001:db8:50::/64"],
                     "exclude": ["192.0.2.105-192.0.2.105", "2001:db8:50::8-2001:db8:50::9"]}
        }))
        .unwrap();
        let pool = pool(&object);
        for (addr, inside) in [
            ("192.0.2.100", true),
            ("192.0.2.105", false),
            ("192.0.2.111", false),
            ("2001:db8:50::7", true),
            ("2001:db8:50::8", false),
            ("2001:db8:51::7", false),
        ] {
            assert_eq!(pool.contains(addr.parse().unwrap()), inside, "{addr}");
        }
    }
}

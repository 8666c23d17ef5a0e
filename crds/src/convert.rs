//! From the types as they travel to those of `landfall-core`; an error names the field.

use std::fmt::Display;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use landfall_core::addr::{AddrRange, Family};
use landfall_core::name::{Namespace, PoolName};
use landfall_core::pool::{self, Pool};
use landfall_core::selector::Audience;

use crate::{AddressPool, AddressPoolSpec, AddressText, OnRemoval, Sharing};

mod reservation;
pub mod resting;
mod selector;
mod values;

pub use reservation::reservation;
pub use selector::{labels, selector};

/// What is wrong with an object, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// The path of the field: `spec.addresses[1]`.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Reads a pool. The API server has refused most of what is wrong already (see [`AddressText`]); what is left is
/// what its rules cannot express, above all a reversed range of IPv6 addresses, and objects older than the rules.
pub fn pool(object: &AddressPool) -> Result<Pool, FieldError> {
    let spec = &object.spec;
    let quarantine_s = field("spec.quarantine", values::seconds(&spec.quarantine.0))?;
    let ports = spec.node_port_range.as_ref().map(|text| field("spec.nodePortRange", text.0.parse()));
    Ok(Pool {
        name: PoolName::new(object.metadata.name.as_deref().unwrap_or_default()),
        created: created(&object.metadata),
        addresses: usable(ranges("spec.addresses", &spec.addresses)?)?,
        exclude: ranges("spec.exclude", &spec.exclude)?,
        auto_assign: spec.auto_assign,
        avoid_buggy: spec.avoid_buggy_ips,
        priority: spec.priority,
        audience: audience(spec)?,
        node_ports: ports.transpose()?,
        quota: spec.max_addresses_per_namespace.map(|most| u32::try_from(most).unwrap_or(0)),
        on_removal: match spec.on_removal {
            OnRemoval::Keep => pool::OnRemoval::Keep,
            OnRemoval::Reassign => pool::OnRemoval::Reassign,
        },
        quarantine_s,
        sharing: match spec.sharing {
            Sharing::Namespace => pool::SharingScope::Namespace,
            Sharing::Cluster => pool::SharingScope::Cluster,
        },
    })
}

fn audience(spec: &AddressPoolSpec) -> Result<Audience, FieldError> {
    let by_label = spec.namespace_selector.as_ref();
    let services = spec.service_selectors.iter().enumerate();
    Ok(Audience {
        namespaces: spec.namespaces.iter().map(Namespace::new).collect(),
        namespace_selector: by_label.map(|labels| selector("spec.namespaceSelector", labels)).transpose()?,
        services: services
            .map(|(index, labels)| selector(&format!("spec.serviceSelectors[{index}]"), labels))
            .collect::<Result<_, _>>()?,
    })
}

/// When the object was created, in Unix seconds.
fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// Puts the path of the field before what is wrong with it.
fn field<T, E: Display>(path: &str, read: Result<T, E>) -> Result<T, FieldError> {
    read.map_err(|error| FieldError { path: path.to_owned(), message: error.to_string() })
}

/// Blocks of which no address can be that of a Service on a LAN (RFC 6890, RFC 4291).
const UNUSABLE: [(&str, &str); 8] = [
    ("0.0.0.0/8", "addresses of this network (RFC 791)"),
    ("127.0.0.0/8", "loopback addresses"),
    ("224.0.0.0/4", "multicast addresses"),
    ("255.255.255.255/32", "the broadcast address"),
    ("::/128", "the unspecified address"),
    ("::1/128", "the loopback address"),
    ("fe80::/10", "link-local addresses"),
    ("ff00::/8", "multicast addresses"),
];

fn usable(ranges: Vec<AddrRange>) -> Result<Vec<AddrRange>, FieldError> {
    let blocks =
        UNUSABLE.iter().filter_map(|(block, what)| Some((block.parse::<AddrRange>().ok()?, block, what)));
    for (block, text, what) in blocks {
        if let Some(index) = ranges.iter().position(|range| range.overlaps(&block)) {
            return Err(FieldError {
                path: format!("spec.addresses[{index}]"),
                message: format!("it holds {what} ({text}), which no Service can have"),
            });
        }
    }
    Ok(ranges)
}

fn ranges(field: &str, texts: &[AddressText]) -> Result<Vec<AddrRange>, FieldError> {
    let read = |(index, text): (usize, &AddressText)| {
        range(&text.0).map_err(|message| FieldError { path: format!("{field}[{index}]"), message })
    };
    texts.iter().enumerate().map(read).collect()
}

fn range(text: &str) -> Result<AddrRange, String> {
    let range: AddrRange = text.parse().map_err(|error| format!("{error}"))?;
    if let Ok(net) = text.parse::<IpNet>()
        && net.addr() != net.network()
    {
        return Err(format!(
            "{text} has bits set behind the prefix: write {} for the whole prefix",
            net.trunc()
        ));
    }
    // Its size does not fit into 128 bits, and nobody owns all of IPv6.
    if Family::V6.address(0) == Some(range.first()) && Family::V6.address(u128::MAX) == Some(range.last()) {
        return Err(format!("{text} is every IPv6 address there is"));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
    use landfall_core::selector::Labels;

    use super::*;

    fn object(addresses: &[&str], exclude: &[&str]) -> AddressPool {
        let texts = |list: &[&str]| list.iter().copied().map(AddressText::from).collect();
        let spec = AddressPoolSpec {
            addresses: texts(addresses),
            exclude: texts(exclude),
            auto_assign: true,
            ..AddressPoolSpec::default()
        };
        AddressPool::new("lan", spec)
    }

    #[test]
    fn a_pool_is_read_with_all_its_ranges() {
        let read =
            pool(&object(&["192.0.2.0/24", "2001:db8::1-2001:db8::9"], &["192.0.2.5-192.0.2.5"])).unwrap();
        assert_eq!(read.name.as_str(), "lan");
        let shown: Vec<_> = read.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.0-192.0.2.255", "2001:db8::1-2001:db8::9"]);
        assert_eq!(read.exclude.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_path_of_the_field() {
        let good = "192.0.2.0/24";
        for (addresses, exclude, wanted) in [
            (
                &[good, "2001:db8::9-2001:db8::1"][..],
                &[][..],
                "spec.addresses[1]: the range ends at 2001:db8::1, before it begins at 2001:db8::9",
            ),
            (
                &["192.0.2.9-192.0.2.1"],
                &[],
                "spec.addresses[0]: the range ends at 192.0.2.1, before it begins at 192.0.2.9",
            ),
            (
                &["192.0.2.9-2001:db8::1"],
                &[],
                "spec.addresses[0]: 192.0.2.9 and 2001:db8::1 are of different IP families",
            ),
            (
                &["192.0.2.1/24"],
                &[],
                "spec.addresses[0]: 192.0.2.1/24 has bits set behind the prefix: write 192.0.2.0/24 for the whole prefix",
            ),
            (
                &["2001:db8::1/64"],
                &[],
                "spec.addresses[0]: 2001:db8::1/64 has bits set behind the prefix: write 2001:db8::/64 for the whole prefix",
            ),
            (
                &[good],
                &["rubbish"],
                "spec.exclude[0]: \"rubbish\" is neither a CIDR (192.0.2.0/24) nor a range (192.0.2.10-192.0.2.20)",
            ),
            (&["::/0"], &[], "spec.addresses[0]: ::/0 is every IPv6 address there is"),
            (
                &[good, "127.0.0.1-127.0.0.9"],
                &[],
                "spec.addresses[1]: it holds loopback addresses (127.0.0.0/8), which no Service can have",
            ),
            (
                &["ff02::/112"],
                &[],
                "spec.addresses[0]: it holds multicast addresses (ff00::/8), which no Service can have",
            ),
        ] {
            assert_eq!(pool(&object(addresses, exclude)).unwrap_err().to_string(), wanted);
        }
    }

    #[test]
    fn every_field_of_a_pool_arrives() {
        let object: AddressPool = serde_json::from_value(serde_json::json!({
            "apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool",
            "metadata": {"name": "lan", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "addresses": ["192.0.2.0/24", "2001:db8::/64"], "exclude": ["2001:db8::/120"],
                "autoAssign": false, "avoidBuggyIPs": true, "priority": -3,
                "namespaces": ["shop"], "namespaceSelector": {"matchLabels": {"team": "web"}},
                "serviceSelectors": [{"matchLabels": {"tier": "public"}}],
                "nodePortRange": "31000-31009", "maxAddressesPerNamespace": 2, "onRemoval": "Reassign",
                "quarantine": "1m30s", "sharing": "Cluster",
            },
        }))
        .unwrap();
        let read = pool(&object).unwrap();
        assert_eq!((read.name.as_str(), read.created, read.priority), ("lan", 1_767_225_600, Some(-3)));
        assert_eq!((read.addresses.len(), read.exclude.len()), (2, 1));
        assert_eq!((read.auto_assign, read.avoid_buggy), (false, true));
        assert_eq!((read.quota, read.quarantine_s), (Some(2), 90));
        assert_eq!(read.node_ports.map(|ports| (ports.first(), ports.last())), Some((31000, 31009)));
        assert_eq!((read.on_removal, read.sharing), (pool::OnRemoval::Reassign, pool::SharingScope::Cluster));
        let public = [("tier", "public")].into_iter().collect();
        let (team, nobody) = ([("team", "web")].into_iter().collect(), Labels::none());
        for (namespace, of_namespace, of_service, served) in [
            ("shop", &nobody, &public, true),
            ("other", &team, &public, true),
            ("other", &nobody, &public, false),
            ("shop", &nobody, &nobody, false),
        ] {
            let served_is = read.audience.includes(&namespace.into(), of_namespace, of_service);
            assert_eq!(served_is, served, "{namespace} {of_namespace:?}");
        }
    }

    #[test]
    fn a_pool_that_says_little_serves_everybody_and_keeps_what_it_gave() {
        let read = pool(&object(&["192.0.2.0/24"], &[])).unwrap();
        assert!(read.audience.includes(&"any".into(), &Labels::none(), &Labels::none()));
        assert_eq!((read.quota, read.node_ports, read.quarantine_s), (None, None, 0));
        assert_eq!((read.on_removal, read.sharing), (pool::OnRemoval::Keep, pool::SharingScope::Namespace));
    }

    #[test]
    fn a_pool_older_than_the_rules_is_refused_by_field() {
        let spec = |change: &dyn Fn(&mut AddressPoolSpec)| {
            let mut object = object(&["192.0.2.0/24", "2001:db8::/64"], &[]);
            change(&mut object.spec);
            pool(&object).unwrap_err().path
        };
        assert_eq!(spec(&|spec| spec.quarantine = "soon".into()), "spec.quarantine");
        assert_eq!(spec(&|spec| spec.node_port_range = Some("9-1".into())), "spec.nodePortRange");
        let bad = LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "a".into(),
                operator: "Near".into(),
                values: None,
            }]),
            match_labels: None,
        };
        assert_eq!(
            spec(&|spec| spec.service_selectors = vec![bad.clone()]),
            "spec.serviceSelectors[0].matchExpressions[0]"
        );
    }
}

//! From the types as they travel to those of `landfall-core`; an error names the field.

use ipnet::IpNet;
use landfall_core::addr::{AddrRange, Family};
use landfall_core::name::PoolName;
use landfall_core::pool::Pool;

use crate::{AddressPool, AddressText};

pub mod resting;
pub mod values;

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
/// what its rules cannot express, above all a reversed range of IPv6 addresses.
pub fn pool(object: &AddressPool) -> Result<Pool, FieldError> {
    let spec = &object.spec;
    Ok(Pool {
        name: PoolName::new(object.metadata.name.as_deref().unwrap_or_default()),
        created: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        addresses: ranges("spec.addresses", &spec.addresses)?,
        exclude: ranges("spec.exclude", &spec.exclude)?,
        auto_assign: spec.auto_assign,
        avoid_buggy: spec.avoid_buggy_ips,
        priority: spec.priority,
    })
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
    use super::*;
    use crate::AddressPoolSpec;

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
        ] {
            assert_eq!(pool(&object(addresses, exclude)).unwrap_err().to_string(), wanted);
        }
    }
}

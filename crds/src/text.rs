//! Texts that the API server checks by rule before they reach us.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A CIDR or a range of addresses as the user wrote it.
///
/// The rules below are CEL with the IP and CIDR libraries of Kubernetes 1.31 and later. They stand on the text
/// itself, so a message of the API server names the very element (`spec.addresses[0]`). CEL cannot compare two
/// IPv6 addresses: a reversed IPv6 range is found by the controller ([`crate::convert::pool`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AddressText(pub String);

/// Longest text: two IPv6 addresses, a dash, and a blank on each side of it.
const MAX_LENGTH: usize = 39 + 3 + 39;

const FIRST: &str = "self.split('-')[0].trim()";
const LAST: &str = "self.split('-')[1].trim()";
const IS_RANGE: &str = "self.split('-').size() == 2 && isIP(self.split('-')[0].trim()) \
                        && isIP(self.split('-')[1].trim())";

/// An IPv4 address as a number, in CEL.
fn ipv4_number(address: &str) -> String {
    let octet = |n: usize| format!("int({address}.split('.')[{n}])");
    format!("{} * 16777216 + {} * 65536 + {} * 256 + {}", octet(0), octet(1), octet(2), octet(3))
}

fn rules() -> serde_json::Value {
    let first = ipv4_number(FIRST);
    let last = ipv4_number(LAST);
    serde_json::json!([
        {
            "rule": format!("self.contains('/') || ({IS_RANGE})"),
            "message": "must be a CIDR such as 192.0.2.0/24 or a range such as 192.0.2.10-192.0.2.20",
        },
        {
            "rule": "!self.contains('/') || isCIDR(self)",
            "message": "must be an IP address, a slash and a prefix length of at most 32 (IPv4) or 128 (IPv6)",
        },
        {
            "rule": "!isCIDR(self) || cidr(self) == cidr(self).masked()",
            "message": "has bits set behind the prefix length: write the prefix itself, such as 192.0.2.0/24",
        },
        {
            "rule": format!("!({IS_RANGE}) || ip({FIRST}).family() == ip({LAST}).family()"),
            "message": "begins and ends with addresses of different IP families",
        },
        {
            "rule": format!(
                "!({IS_RANGE}) || ip({FIRST}).family() != 4 || ip({LAST}).family() != 4 || {first} <= {last}"
            ),
            "message": "is reversed: the range ends before it begins",
        },
    ])
}

impl JsonSchema for AddressText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AddressText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_LENGTH,
            "x-kubernetes-validations": rules(),
        })
    }
}

impl From<&str> for AddressText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for AddressText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

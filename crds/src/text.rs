//! Texts that the API server checks by rule before they reach us.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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

fn address_rules() -> Value {
    let first = ipv4_number(FIRST);
    let last = ipv4_number(LAST);
    json!([
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

/// One address as the user wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IpText(pub String);

/// One port or a range of ports as the user wrote it: `31000` or `31000-31009`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortRangeText(pub String);

/// A time span as the user wrote it: hours, minutes and seconds such as `1h30m`, `5m`, `30s` or `0s`, 24 hours at
/// most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

impl Default for DurationText {
    fn default() -> Self {
        Self("0s".to_owned())
    }
}

/// What a text has to look like before the rules on its numbers can be read.
const IS_PORT_RANGE: &str = "self.matches('^[0-9]{1,5}(-[0-9]{1,5})?$')";
const IS_DURATION: &str = "self.matches('^([0-9]{1,2}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?$')";

fn ip_rules() -> Value {
    json!([{
        "rule": "isIP(self)",
        "message": "must be an IP address such as 192.0.2.7 or 2001:db8::7",
    }])
}

fn port_range_rules() -> Value {
    json!([
        {
            "rule": IS_PORT_RANGE,
            "message": "must be a port such as 31000 or a range of ports such as 31000-31009",
        },
        {
            "rule": format!(
                "!{IS_PORT_RANGE} || self.split('-').all(port, int(port) >= 1 && int(port) <= 65535)"
            ),
            "message": "has a port outside 1-65535",
        },
        {
            "rule": format!(
                "!{IS_PORT_RANGE} || int(self.split('-')[0]) <= int(self.split('-')[self.split('-').size() - 1])"
            ),
            "message": "is reversed: the range ends before it begins",
        },
    ])
}

fn duration_rules() -> Value {
    json!([
        {
            "rule": format!("self.size() > 0 && {IS_DURATION}"),
            "message": "must be a time span in hours, minutes and seconds such as 1h30m, 5m, 30s or 0s",
        },
        {
            "rule": format!("self.size() == 0 || !{IS_DURATION} || duration(self) <= duration('24h')"),
            "message": "must be at most 24h",
        },
    ])
}

/// The schema of a text with its longest length and its rules.
macro_rules! text {
    ($ty:ident, $max:expr, $rules:expr) => {
        impl JsonSchema for $ty {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($ty).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "maxLength": $max,
                    "x-kubernetes-validations": $rules,
                })
            }
        }

        impl From<&str> for $ty {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(AddressText, MAX_LENGTH, address_rules());
text!(IpText, 45, ip_rules());
text!(PortRangeText, 11, port_range_rules());
text!(DurationText, 11, duration_rules());

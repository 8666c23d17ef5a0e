//! The address plan: every name and address of a lab, as pure functions.
//!
//! Each lab has its LAN in network namespaces of its own, so all labs use the same addresses: LAN
//! 192.0.2.0/24 and `2001:db8:50::/64` (documentation ranges, RFC 5737 and RFC 3849).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Most nodes a lab can have: host numbers 11 to 60 of the LAN.
pub(crate) const MAX_NODES: u8 = 50;

/// Port of the API server on the control plane's address.
pub(crate) const API_PORT: u16 = 6443;

/// Port of the registry on the control plane's address.
pub(crate) const REGISTRY_PORT: u16 = 5000;

/// A lab's name: 1 to 20 lower-case letters, digits and inner hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the network namespace of a host of this lab, as `ip netns` lists it.
    #[must_use]
    pub fn netns(&self, host: HostName) -> String {
        format!("lf-{}-{}", self.0, host.netns_part())
    }

    /// Whether a network namespace belongs to this lab. Host parts hold no hyphen, so a lab called `a` never
    /// takes the namespaces of one called `a-b`.
    #[must_use]
    pub fn owns_netns(&self, netns: &str) -> bool {
        netns
            .strip_prefix("lf-")
            .and_then(|rest| rest.strip_prefix(self.as_str()))
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|host| !host.is_empty() && !host.contains('-'))
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LabName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let edge = |c: Option<char>| c.is_some_and(|c| c != '-');
        let good = text.len() <= 20
            && text.chars().all(allowed)
            && edge(text.chars().next())
            && edge(text.chars().next_back());
        if good {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::Usage(format!(
            "\"{text}\" cannot name a lab: use 1 to 20 lower-case letters, digits and inner hyphens"
        )))
    }
}

impl TryFrom<String> for LabName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

/// A host of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostName {
    /// The control plane, registry and router: 192.0.2.1. Its namespace also holds the LAN's bridge.
    Router,
    /// A client on the LAN: 192.0.2.200.
    Client,
    /// A second client on the LAN: 192.0.2.201.
    Client2,
    /// A Kubernetes node, counted from 1: 192.0.2.(10 + number).
    Node(u8),
}

impl HostName {
    /// Last part of the host's addresses; in IPv6 the decimal digits are written as the group, so that
    /// 192.0.2.11 and `2001:db8:50::11` are the same host to the eye.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Router => 1,
            Self::Client => 200,
            Self::Client2 => 201,
            Self::Node(number) => 10_u8.saturating_add(number),
        }
    }

    /// IPv4 address on the LAN.
    #[must_use]
    pub fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number())
    }

    /// IPv6 address on the LAN.
    #[must_use]
    pub fn ipv6(self) -> Ipv6Addr {
        let digits = u16::from_str_radix(&self.number().to_string(), 16).unwrap_or_default();
        Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, digits)
    }

    /// MAC address on the LAN, locally administered and the same after every boot, as a network card keeps its.
    #[must_use]
    pub fn mac(self) -> [u8; 6] {
        [0x02, 0x00, 0x5e, 0x00, 0x02, self.number()]
    }

    /// [`HostName::mac`] in the usual notation.
    #[must_use]
    pub fn mac_text(self) -> String {
        mac_text(self.mac())
    }

    fn netns_part(self) -> String {
        match self {
            Self::Router => "lan".to_owned(),
            other => other.to_string(),
        }
    }
}

/// A MAC address in the usual notation, `02:00:5e:00:02:0b`.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Router => f.write_str("router"),
            Self::Client => f.write_str("client"),
            Self::Client2 => f.write_str("client2"),
            Self::Node(number) => write!(f, "n{number}"),
        }
    }
}

impl FromStr for HostName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let node = || {
            let digits = text.strip_prefix('n')?;
            let number = digits.parse::<u8>().ok().filter(|n| (1..=MAX_NODES).contains(n))?;
            (number.to_string() == digits).then_some(Self::Node(number))
        };
        match text {
            "router" => Ok(Self::Router),
            "client" => Ok(Self::Client),
            "client2" => Ok(Self::Client2),
            _ => node().ok_or_else(|| {
                Error::Usage(format!(
                    "there is no host \"{text}\": hosts are client, client2, router, n1, n2 and so on"
                ))
            }),
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(host: HostName) -> Self {
        host.to_string()
    }
}

/// The IP families of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// Both, IPv4 first.
    Dual,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Families {
    /// Whether IPv4 is in use.
    #[must_use]
    pub fn v4(self) -> bool {
        self != Self::Ipv6
    }

    /// Whether IPv6 is in use.
    #[must_use]
    pub fn v6(self) -> bool {
        self != Self::Ipv4
    }

    /// The values of the families in use, IPv4 first.
    pub fn pick<T>(self, v4: T, v6: T) -> Vec<T> {
        let mut values = Vec::with_capacity(2);
        if self.v4() {
            values.push(v4);
        }
        if self.v6() {
            values.push(v6);
        }
        values
    }

    /// The values of the families in use, joined by commas as Kubernetes' flags want them.
    #[must_use]
    pub fn list(self, v4: &str, v6: &str) -> String {
        self.pick(v4, v6).join(",")
    }

    /// A host's addresses on the LAN, the primary family first.
    #[must_use]
    pub fn addresses(self, host: HostName) -> Vec<IpAddr> {
        self.pick(host.ipv4().into(), host.ipv6().into())
    }

    /// A host's address of the primary family.
    #[must_use]
    pub fn primary(self, host: HostName) -> IpAddr {
        if self.v4() { host.ipv4().into() } else { host.ipv6().into() }
    }

    /// Service network of the cluster.
    #[must_use]
    pub fn service_cidrs(self) -> String {
        self.list("10.96.0.0/16", "fd00:96::/108")
    }

    /// Pod network of the cluster.
    #[must_use]
    pub fn cluster_cidrs(self) -> String {
        self.list("10.244.0.0/16", "fd00:244::/32")
    }

    /// Pod networks of one node.
    #[must_use]
    pub fn pod_cidrs(self, node: u8) -> Vec<String> {
        self.pick(format!("10.244.{node}.0/24"), format!("fd00:244:{node}::/64"))
    }
}

/// How Services are carried in the cluster, beside Landfall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxy {
    /// kube-proxy in nftables mode.
    Nftables,
    /// kube-proxy in iptables mode; needs Debian's iptables package.
    Iptables,
    /// No kube-proxy: nobody serves the cluster's Service addresses.
    None,
}

impl KubeProxy {
    /// The value of kube-proxy's `--proxy-mode`, if it runs at all.
    #[must_use]
    pub fn mode(self) -> Option<&'static str> {
        match self {
            Self::Nftables => Some("nftables"),
            Self::Iptables => Some("iptables"),
            Self::None => None,
        }
    }
}

/// An address in a URL's host part: IPv6 addresses stand in brackets (RFC 3986, section 3.2.2).
#[must_use]
pub(crate) fn url_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_the_same_number_in_both_families() {
        for (host, v4, v6) in [
            (HostName::Router, "192.0.2.1", "2001:db8:50::1"),
            (HostName::Node(1), "192.0.2.11", "2001:db8:50::11"),
            (HostName::Node(50), "192.0.2.60", "2001:db8:50::60"),
            (HostName::Client, "192.0.2.200", "2001:db8:50::200"),
            (HostName::Client2, "192.0.2.201", "2001:db8:50::201"),
        ] {
            assert_eq!(host.ipv4().to_string(), v4);
            assert_eq!(host.ipv6().to_string(), v6);
            assert_eq!(host.to_string().parse::<HostName>().unwrap(), host);
        }
        assert_eq!(HostName::Node(1).mac_text(), "02:00:5e:00:02:0b");
    }

    #[test]
    fn words_that_are_no_host_are_refused() {
        for word in ["", "n", "n0", "n51", "n01", "lan", "client3", "N1"] {
            assert!(word.parse::<HostName>().is_err(), "{word}");
        }
    }

    #[test]
    fn a_lab_owns_its_namespaces_and_no_others() {
        let lab: LabName = "a".parse().unwrap();
        assert_eq!(lab.netns(HostName::Router), "lf-a-lan");
        assert!(lab.owns_netns("lf-a-n1"));
        for other in ["lf-a-b-n1", "lf-ab-n1", "lf-a-", "lf-a", "a-n1", "cni-1234"] {
            assert!(!lab.owns_netns(other), "{other}");
        }
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for name in ["", "-a", "a-", "A", "a/b", "..", "a b", "abcdefghijklmnopqrstu"] {
            assert!(name.parse::<LabName>().is_err(), "{name}");
        }
        assert_eq!("e2e-1".parse::<LabName>().unwrap().as_str(), "e2e-1");
    }

    #[test]
    fn single_family_labs_name_one_network_each() {
        assert_eq!(Families::Dual.service_cidrs(), "10.96.0.0/16,fd00:96::/108");
        assert_eq!(Families::Ipv4.pod_cidrs(2), ["10.244.2.0/24"]);
        assert_eq!(Families::Ipv6.pod_cidrs(2), ["fd00:244:2::/64"]);
        assert_eq!(Families::Ipv6.primary(HostName::Router).to_string(), "2001:db8:50::1");
    }
}

//! The command line and the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Parser};
use ipnet::IpNet;
use landfall_runtime::telemetry::LogArgs;

use crate::convert::ClassFilter;
use crate::health_check;

/// Announces the addresses of load-balanced Services from one node and carries their traffic to the pods.
#[derive(Clone, Debug, Parser)]
#[command(name = "landfall-speaker", version)]
pub struct Args {
    /// Name of the Node object of the machine this runs on
    #[arg(long, env = "NODE_NAME", value_name = "NAME", value_parser = name)]
    pub node_name: String,
    /// Namespace of the installation: the Leases of all speakers are there
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", default_value = "landfall-system", value_parser = name)]
    pub namespace: String,
    /// Name of this pod, for the Events it writes [default: the node's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// The spec.loadBalancerClass of the Services to serve
    #[arg(
        long,
        env = "LANDFALL_LOAD_BALANCER_CLASS",
        value_name = "CLASS",
        default_value = "landfall.dev/landfall"
    )]
    pub load_balancer_class: String,
    /// Whether Services without a class are served too
    #[arg(
        long,
        env = "LANDFALL_DEFAULT_CLASS",
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set
    )]
    pub default_class: bool,
    /// Networks of the pods, comma-separated [default: spec.podCIDRs of this Node]
    #[arg(long, env = "LANDFALL_CLUSTER_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Where a `NodePort` is served: "primary" (the node's first internal address of each family), "none", or the node's
    /// addresses inside CIDRs, comma-separated
    #[arg(
        long,
        env = "LANDFALL_NODEPORT_ADDRESSES",
        value_name = "primary|none|CIDR,...",
        default_value = "primary"
    )]
    pub nodeport_addresses: NodePortAddresses,
    /// Whether spec.externalIPs of the Services are served
    #[arg(long, env = "LANDFALL_EXTERNAL_IPS", value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
    pub external_ips: bool,
    /// Whether the healthCheckNodePorts of Services and the health of the node are served: "auto" (where no kube-proxy,
    /// and nobody in its place, runs on the node), "always" (every such port that is free) or "never"
    #[arg(long, env = "LANDFALL_HEALTH_CHECKS", value_name = "auto|always|never", default_value = "auto")]
    pub health_checks: health_check::Mode,
    /// Where the health of the node is served as kube-proxy serves it (/healthz, /livez), or "none"
    #[arg(long, env = "LANDFALL_NODE_HEALTH", value_name = "ADDRESS|none", default_value = "[::]:10256")]
    pub node_health: NodeHealth,
    /// Raise the kernel parameters that would break traffic, in this folder: a writable /proc/sys/net. Without it they
    /// are only checked
    #[arg(long, env = "LANDFALL_SYSCTLS", value_name = "FOLDER")]
    pub sysctls: Option<PathBuf>,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "LANDFALL_LISTEN", value_name = "ADDRESS", default_value = "[::]:9641")]
    pub listen: SocketAddr,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Args {
    /// Which Services are ours.
    #[must_use]
    pub fn classes(&self) -> ClassFilter {
        ClassFilter { class: self.load_balancer_class.as_str().into(), default: self.default_class }
    }
}

/// The addresses of a node at which `NodePort`s are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The first internal address of each family that the Node object names.
    Primary,
    /// None: somebody else serves them.
    None,
    /// Every address inside one of these prefixes; in a family without prefix every address, as kube-proxy has it.
    Within(Vec<IpNet>),
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" | "primary" => Ok(Self::Primary),
            "none" => Ok(Self::None),
            list => {
                let parse = |text: &str| {
                    text.trim()
                        .parse()
                        .map_err(|_| format!("{text:?} is neither \"primary\" nor \"none\" nor a CIDR"))
                };
                list.split(',').map(parse).collect::<Result<Vec<IpNet>, _>>().map(Self::Within)
            }
        }
    }
}

/// Where the health of the node is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHealth(pub Option<SocketAddr>);

impl FromStr for NodeHealth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(None)),
            addr => addr
                .parse()
                .map(|addr| Self(Some(addr)))
                .map_err(|_| format!("{addr:?} is neither \"none\" nor an address with a port")),
        }
    }
}

/// A name of an object: an empty one, as an unset variable of a pod template leaves it, is a mistake.
fn name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("the name is empty") } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["landfall-speaker", "--node-name", "n1"].iter().chain(args))
    }

    #[test]
    fn the_flags_of_the_chart_are_understood() {
        let args = parse(&[
            "--listen=[::]:9641",
            "--log=info",
            "--log-format=json",
            "--load-balancer-class=landfall.dev/landfall",
            "--default-class=false",
            "--cluster-cidr=10.244.0.0/16,fd00:244::/48",
        ])
        .unwrap();
        assert!(!args.default_class && !args.classes().admits(None));
        assert!(args.classes().admits(Some("landfall.dev/landfall")));
        assert_eq!(args.cluster_cidr.len(), 2);
    }

    #[test]
    fn nodeport_addresses_are_words_or_prefixes() {
        // S97
        let nets =
            |texts: &[&str]| NodePortAddresses::Within(texts.iter().map(|t| t.parse().unwrap()).collect());
        for (text, wanted) in [
            ("primary", NodePortAddresses::Primary),
            ("", NodePortAddresses::Primary),
            ("none", NodePortAddresses::None),
            ("192.0.2.0/24, 2001:db8::/32", nets(&["192.0.2.0/24", "2001:db8::/32"])),
        ] {
            assert_eq!(parse(&[&format!("--nodeport-addresses={text}")]).unwrap().nodeport_addresses, wanted);
        }
        let error = parse(&["--nodeport-addresses=192.0.2.1"]).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1") && error.contains("CIDR"), "{error}");
        assert!(!parse(&[]).unwrap().external_ips, "S87: off by default");
    }

    #[test]
    fn health_checks_are_served_where_kube_proxy_does_not_unless_told_otherwise() {
        // S120
        let args = parse(&[]).unwrap();
        assert_eq!(args.health_checks, health_check::Mode::Auto);
        assert_eq!(args.node_health, NodeHealth(Some("[::]:10256".parse().unwrap())));
        let args = parse(&["--health-checks=never", "--node-health=none"]).unwrap();
        assert_eq!((args.health_checks, args.node_health), (health_check::Mode::Never, NodeHealth(None)));
        assert!(parse(&["--health-checks=maybe"]).is_err() && parse(&["--node-health=10256"]).is_err());
    }

    #[test]
    fn a_service_without_a_class_is_served_unless_told_otherwise() {
        assert!(parse(&[]).unwrap().classes().admits(None));
    }

    #[test]
    fn an_empty_node_name_is_refused() {
        let error = Args::try_parse_from(["landfall-speaker", "--node-name="]).unwrap_err();
        assert!(error.to_string().contains("the name is empty"), "{error}");
    }
}

//! Flags and environment of the controller.

use std::net::SocketAddr;

use landfall_core::node_port::PortRange;
use landfall_crds::class::ServiceClass;
use landfall_runtime::telemetry::LogArgs;

/// Gives addresses to Services of type `LoadBalancer`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "landfall-controller", version)]
pub struct Args {
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "LANDFALL_LISTEN", default_value = "[::]:9640", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
    /// Which Services are ours.
    #[command(flatten)]
    pub class: ServiceClass,
    /// Whether a Service with an address carries the finalizer service.kubernetes.io/load-balancer-cleanup
    #[arg(
        long,
        env = "LANDFALL_FINALIZER",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub finalizer: bool,
    /// `NodePorts` for Services that ask for them by annotation and whose pool has no range of its own
    #[arg(long, env = "LANDFALL_NODE_PORT_RANGE", default_value = "30000-32767", value_name = "FIRST-LAST")]
    pub node_port_range: PortRange,
    /// Namespace of the leader's Lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system", value_name = "NAME")]
    pub namespace: String,
    /// Identity of this replica in the leader's Lease and in Events: unique among the replicas
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: String,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_flags_of_the_chart_are_understood() {
        Args::command().debug_assert();
        let args = Args::try_parse_from([
            "landfall-controller",
            "--listen=[::]:9640",
            "--log=info",
            "--log-format=json",
            "--load-balancer-class=example.com/lb",
            "--default-class=false",
            "--finalizer=false",
            "--node-port-range=31000-31999",
            "--pod-name=a",
        ])
        .unwrap();
        assert_eq!((args.class.name.as_str(), args.class.is_default), ("example.com/lb", false));
        assert_eq!(args.namespace, "landfall-system");
        assert!(!args.finalizer);
        assert_eq!((args.node_port_range.first(), args.node_port_range.last()), (31000, 31999));
    }
}

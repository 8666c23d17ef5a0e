//! Which Services are ours.

use k8s_openapi::api::core::v1::ServiceSpec;

/// The annotations of a Service that Landfall reads and writes.
pub mod annotation {
    /// Addresses asked for, separated by commas, at most one of each family.
    pub const ADDRESSES: &str = "landfall.dev/addresses";
    /// The pool asked for.
    pub const POOL: &str = "landfall.dev/pool";
    /// Services that name the same key share their addresses, as long as no two of them have the same port.
    pub const SHARING_KEY: &str = "landfall.dev/sharing-key";
    /// `true`: ports without a `NodePort` get one although `allocateLoadBalancerNodePorts` is false.
    pub const NODE_PORTS: &str = "landfall.dev/node-ports";
    /// The node that the addresses are to be announced by, as long as it can.
    pub const OWNER: &str = "landfall.dev/owner";
    /// Written by the controller: the pools of the addresses, in their order, separated by commas.
    pub const ALLOCATED_FROM: &str = "landfall.dev/allocated-from";
    /// Written by the controller: `spec.onRemoval` of the pools of the addresses, which still says what is to
    /// become of an address when its pool is gone.
    pub const ON_REMOVAL: &str = "landfall.dev/on-removal";
    /// The same as [`ADDRESSES`] for those who come from `MetalLB`; ours wins when both are set.
    pub const METALLB_ADDRESSES: &[&str] =
        &["metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
    /// The same as [`POOL`] for those who come from `MetalLB`; ours wins when both are set.
    pub const METALLB_POOL: &[&str] = &["metallb.io/address-pool", "metallb.universe.tf/address-pool"];
    /// The same as [`SHARING_KEY`] for those who come from `MetalLB`; ours wins when both are set.
    pub const METALLB_SHARING_KEY: &[&str] =
        &["metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];
    /// The annotation of Kubernetes from before `spec.loadBalancerSourceRanges`; the field wins when both are set.
    pub const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
}

/// The finalizer of Kubernetes' own service controllers (KEP-980): as long as a Service carries it, the Service
/// cannot vanish before its addresses are released.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// The class of a load balancer, and whether Services that name no class are its own too.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ServiceClass {
    /// The spec.loadBalancerClass that makes a Service ours
    #[arg(
        id = "load-balancer-class",
        long = "load-balancer-class",
        env = "LANDFALL_LOAD_BALANCER_CLASS",
        default_value = "landfall.dev/landfall",
        value_name = "CLASS"
    )]
    pub name: String,
    /// Whether Services without a class are ours too
    #[arg(
        id = "default-class",
        long = "default-class",
        env = "LANDFALL_DEFAULT_CLASS",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub is_default: bool,
}

impl ServiceClass {
    /// Whether the Service is of type `LoadBalancer` and of this class.
    #[must_use]
    pub fn owns(&self, spec: &ServiceSpec) -> bool {
        spec.type_.as_deref() == Some("LoadBalancer")
            && spec.load_balancer_class.as_deref().map_or(self.is_default, |class| class == self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ours_by_type_and_class() {
        let class = |is_default| ServiceClass { name: "landfall.dev/landfall".into(), is_default };
        let spec = |type_: &str, class: Option<&str>| ServiceSpec {
            type_: Some(type_.into()),
            load_balancer_class: class.map(Into::into),
            ..ServiceSpec::default()
        };
        for (type_, named, with_default, without) in [
            ("LoadBalancer", None, true, false),
            ("LoadBalancer", Some("landfall.dev/landfall"), true, true),
            // A51
            ("LoadBalancer", Some("example.com/other"), false, false),
            ("ClusterIP", None, false, false),
            ("NodePort", Some("landfall.dev/landfall"), false, false),
        ] {
            let spec = spec(type_, named);
            assert_eq!(
                (class(true).owns(&spec), class(false).owns(&spec)),
                (with_default, without),
                "{spec:?}"
            );
        }
    }
}

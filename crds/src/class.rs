//! Which Services are ours.

use k8s_openapi::api::core::v1::ServiceSpec;

/// The annotations of a Service that Landfall reads and writes.
pub mod annotation {
    /// Addresses asked for, separated by commas, at most one of each family.
    pub const ADDRESSES: &str = "landfall.dev/addresses";
    /// The pool asked for.
    pub const POOL: &str = "landfall.dev/pool";
    /// Written by the controller: the pools of the addresses, in their order, separated by commas.
    pub const ALLOCATED_FROM: &str = "landfall.dev/allocated-from";
    /// The same as [`ADDRESSES`] for those who come from `MetalLB`; ours wins when both are set.
    pub const METALLB_ADDRESSES: &[&str] =
        &["metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
    /// The same as [`POOL`] for those who come from `MetalLB`; ours wins when both are set.
    pub const METALLB_POOL: &[&str] = &["metallb.io/address-pool", "metallb.universe.tf/address-pool"];
}

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

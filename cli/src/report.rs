//! From what the API server holds to what is shown. Pure: no I/O, no clock.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

/// Type of the Service condition that the controller writes.
pub(crate) const ALLOCATED: &str = "landfall.dev/Allocated";

/// A pool as the cluster holds it. Counts are decimal strings: an IPv6 pool does not fit a machine word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PoolView {
    /// Name of the `AddressPool`.
    pub(crate) name: String,
    /// Ranges as the user wrote them.
    pub(crate) ranges: Vec<String>,
    /// IPv4 counts; none before the controller has written them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ipv4: Option<Count>,
    /// IPv6 counts; none before the controller has written them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ipv6: Option<Count>,
}

/// Addresses of one family in a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    /// Addresses that Services hold.
    pub(crate) assigned: String,
    /// Addresses that can be held at all.
    pub(crate) capacity: String,
}

/// What is read from one Service of type `LoadBalancer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceInput {
    /// Namespace of the Service.
    pub(crate) namespace: String,
    /// Name of the Service.
    pub(crate) name: String,
    /// `spec.loadBalancerClass`.
    pub(crate) class: Option<String>,
    /// `status.loadBalancer.ingress[].ip`, unparsed: another controller may have written anything.
    pub(crate) addresses: Vec<String>,
    /// The condition [`ALLOCATED`], when it is there.
    pub(crate) allocated: Option<Allocated>,
}

/// The condition [`ALLOCATED`] of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allocated {
    /// Whether its status is `True`.
    pub(crate) holds: bool,
    /// Machine-readable reason.
    pub(crate) reason: String,
    /// The obstacle in words.
    pub(crate) message: String,
}

/// One speaker's claim that it answers for an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Owner {
    /// Node that answers.
    pub(crate) node: String,
    /// Interface on which it answers.
    pub(crate) interface: String,
    /// Grows with every change of owner; the highest claim is the current one.
    pub(crate) epoch: u64,
}

/// Who owns which address, from the `SpeakerStatus` objects.
#[derive(Debug, Default)]
pub(crate) struct Owners(BTreeMap<IpAddr, Vec<Owner>>);

impl Owners {
    /// Adds one entry `IP@INTERFACE#EPOCH` of `status.owned` of a node's `SpeakerStatus`. An entry of any other
    /// form is passed over: a newer speaker may write more than this version knows.
    pub(crate) fn add(&mut self, node: &str, entry: &str) {
        let Some((address, rest)) = entry.split_once('@') else { return };
        let Some((interface, epoch)) = rest.rsplit_once('#') else { return };
        let (Ok(address), Ok(epoch)) = (address.parse::<IpAddr>(), epoch.parse::<u64>()) else { return };
        let owner = Owner { node: node.to_owned(), interface: interface.to_owned(), epoch };
        self.0.entry(address).or_default().push(owner);
    }

    /// The owners of an address: those with the highest epoch, which is one but for the moment of a change. A node
    /// that was cut off leaves its last status behind; its epoch is older.
    fn of(&self, address: &str) -> Vec<Owner> {
        let Some(claims) = address.parse::<IpAddr>().ok().and_then(|address| self.0.get(&address)) else {
            return Vec::new();
        };
        let newest = claims.iter().map(|claim| claim.epoch).max();
        let mut owners: Vec<Owner> =
            claims.iter().filter(|claim| Some(claim.epoch) == newest).cloned().collect();
        owners.sort_by(|a, b| a.node.cmp(&b.node));
        owners
    }
}

/// In which state a Service is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum State {
    /// It has its addresses and for each of them a node answers.
    Announced,
    /// It has addresses, and for at least one of them no node answers.
    Unannounced,
    /// It has no address.
    Pending,
    /// It belongs to another load balancer.
    OtherClass,
}

impl State {
    /// The word that is shown, the same in the table and in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "Announced",
            Self::Unannounced => "Unannounced",
            Self::Pending => "Pending",
            Self::OtherClass => "OtherClass",
        }
    }
}

/// An address of a Service and who answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AddressView {
    /// The address as it stands in the Service's status.
    pub(crate) address: String,
    /// Who answers; normally one.
    pub(crate) owners: Vec<Owner>,
}

/// A Service as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ServiceView {
    /// Namespace of the Service.
    pub(crate) namespace: String,
    /// Name of the Service.
    pub(crate) name: String,
    /// Its addresses with their owners.
    pub(crate) addresses: Vec<AddressView>,
    /// Its state.
    pub(crate) state: State,
    /// Reason of the condition, or why there is none.
    pub(crate) reason: String,
    /// The reason in words.
    pub(crate) message: String,
}

/// Everything `status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Pools by name.
    pub(crate) pools: Vec<PoolView>,
    /// Services by namespace and name.
    pub(crate) services: Vec<ServiceView>,
}

impl Report {
    /// Puts together what was read. `class` is the load-balancer class that is ours.
    pub(crate) fn new(
        mut pools: Vec<PoolView>,
        services: Vec<ServiceInput>,
        owners: &Owners,
        class: &str,
    ) -> Self {
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        let mut services: Vec<ServiceView> =
            services.into_iter().map(|service| view(service, owners, class)).collect();
        services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Self { pools, services }
    }
}

fn view(service: ServiceInput, owners: &Owners, class: &str) -> ServiceView {
    // A condition of ours decides before the class does: the controller may run with a class of its own.
    let foreign = service.allocated.is_none() && service.class.as_deref().is_some_and(|other| other != class);
    let addresses: Vec<AddressView> = service
        .addresses
        .into_iter()
        .map(|address| AddressView { owners: owners.of(&address), address })
        .collect();
    let state = if foreign {
        State::OtherClass
    } else if addresses.is_empty() {
        State::Pending
    } else if addresses.iter().any(|address| address.owners.is_empty()) {
        State::Unannounced
    } else {
        State::Announced
    };
    let (reason, message) = match (service.allocated, service.class) {
        (Some(condition), _) => (condition.reason, condition.message),
        (None, Some(class)) if foreign => (String::new(), format!("spec.loadBalancerClass is {class}")),
        (None, _) => (
            "NotSeen".to_owned(),
            "the controller has not looked at it: is a replica running and ready?".to_owned(),
        ),
    };
    ServiceView { namespace: service.namespace, name: service.name, addresses, state, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: &str = "landfall.dev/landfall";

    fn service(addresses: &[&str], allocated: Option<bool>) -> ServiceInput {
        ServiceInput {
            namespace: "default".into(),
            name: "web".into(),
            class: None,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            allocated: allocated.map(|holds| Allocated {
                holds,
                reason: if holds { "Allocated" } else { "NoPool" }.into(),
                message: String::new(),
            }),
        }
    }

    fn owners(entries: &[(&str, &str)]) -> Owners {
        let mut owners = Owners::default();
        for (node, entry) in entries {
            owners.add(node, entry);
        }
        owners
    }

    fn only(service: ServiceInput, owners: &Owners) -> ServiceView {
        Report::new(Vec::new(), vec![service], owners, CLASS).services.remove(0)
    }

    #[test]
    fn a_service_is_announced_when_every_address_has_an_owner() {
        let owners = owners(&[("n1", "192.0.2.100@eth0#3"), ("n2", "2001:db8:50::100@eth1#1")]);
        for (addresses, expected) in [
            (&["192.0.2.100"][..], State::Announced),
            (&["2001:db8:50::100"][..], State::Announced),
            (&["192.0.2.100", "2001:db8:50::100"][..], State::Announced),
            (&["192.0.2.101"][..], State::Unannounced),
            (&["192.0.2.100", "2001:db8:50::101"][..], State::Unannounced),
            (&[][..], State::Pending),
        ] {
            assert_eq!(only(service(addresses, Some(true)), &owners).state, expected, "{addresses:?}");
        }
    }

    #[test]
    fn the_highest_epoch_owns_an_address_that_a_lost_node_still_claims() {
        let owners = owners(&[("n1", "192.0.2.100@eth0#3"), ("n2", "192.0.2.100@eth1#4")]);
        let view = only(service(&["192.0.2.100"], Some(true)), &owners);
        assert_eq!(
            view.addresses[0].owners,
            [Owner { node: "n2".into(), interface: "eth1".into(), epoch: 4 }]
        );
    }

    #[test]
    fn equal_epochs_are_both_shown_because_that_is_a_fault_worth_seeing() {
        let owners = owners(&[("n2", "2001:db8:50::100@eth0#4"), ("n1", "2001:db8:50::100@eth0#4")]);
        let view = only(service(&["2001:db8:50::100"], Some(true)), &owners);
        let nodes: Vec<_> = view.addresses[0].owners.iter().map(|owner| owner.node.as_str()).collect();
        assert_eq!(nodes, ["n1", "n2"]);
    }

    #[test]
    fn an_address_is_the_same_in_any_spelling() {
        let owners = owners(&[("n1", "2001:db8:50:0::100@eth0#1")]);
        assert_eq!(only(service(&["2001:0db8:50::0100"], Some(true)), &owners).state, State::Announced);
    }

    #[test]
    fn an_entry_of_an_unknown_form_is_passed_over() {
        let owners =
            owners(&[("n1", "192.0.2.100"), ("n1", "192.0.2.100@eth0"), ("n1", "x@eth0#1"), ("n1", "")]);
        assert_eq!(only(service(&["192.0.2.100"], Some(true)), &owners).state, State::Unannounced);
    }

    #[test]
    fn a_service_without_a_condition_says_that_nobody_looked_at_it() {
        let view = only(service(&[], None), &Owners::default());
        assert_eq!((view.state, view.reason.as_str()), (State::Pending, "NotSeen"));
    }

    #[test]
    fn a_foreign_class_is_foreign_unless_our_condition_says_otherwise() {
        let foreign =
            ServiceInput { class: Some("example.com/other".into()), ..service(&["198.51.100.1"], None) };
        assert_eq!(only(foreign.clone(), &Owners::default()).state, State::OtherClass);
        let ours = ServiceInput { allocated: service(&[], Some(false)).allocated, ..foreign };
        assert_eq!(only(ours, &Owners::default()).state, State::Unannounced);
        let named = ServiceInput { class: Some(CLASS.into()), ..service(&[], None) };
        assert_eq!(only(named, &Owners::default()).state, State::Pending);
    }

    #[test]
    fn services_are_in_order_of_namespace_and_name() {
        let rows = [("b", "a"), ("a", "b"), ("a", "a")].map(|(namespace, name)| ServiceInput {
            namespace: namespace.into(),
            name: name.into(),
            ..service(&[], None)
        });
        let report = Report::new(Vec::new(), rows.to_vec(), &Owners::default(), CLASS);
        let order: Vec<_> = report.services.iter().map(|s| format!("{}/{}", s.namespace, s.name)).collect();
        assert_eq!(order, ["a/a", "a/b", "b/a"]);
    }
}

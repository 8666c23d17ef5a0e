//! Addresses held for somebody, also while that somebody does not exist.

use std::fmt;
use std::net::IpAddr;

use crate::addr::Family;
use crate::name::{Namespace, PoolName, ServiceKey};
use crate::selector::{Labels, Selector};

/// An address held for a Service or for the Services of a label. Nobody else is given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The name of the `AddressReservation` object.
    pub name: Box<str>,
    /// When it was created, in Unix seconds: the older of two that hold one address has it.
    pub created: i64,
    /// What is held.
    pub held: Held,
    /// For whom.
    pub whom: Whom,
    /// Which address a [`Held::Any`] has got before, from its status: it keeps that one.
    pub address: Option<IpAddr>,
}

/// What is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// This address.
    Address(IpAddr),
    /// One address of the pool.
    Any {
        /// The pool.
        pool: PoolName,
        /// Of which family.
        family: Family,
    },
}

/// For whom an address is held: everything that is given has to match, and nothing given is nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whom {
    /// The namespace of the Service.
    pub namespace: Option<Namespace>,
    /// The name of the Service; only together with the namespace.
    pub name: Option<Box<str>>,
    /// The labels of the Service.
    pub selector: Option<Selector>,
}

impl Whom {
    /// The one Service of that name.
    #[must_use]
    pub fn service(key: &ServiceKey) -> Self {
        Self { namespace: Some(key.namespace.clone()), name: Some((&*key.name).into()), selector: None }
    }

    /// Whether the Service is a beneficiary.
    #[must_use]
    pub fn includes(&self, key: &ServiceKey, labels: &Labels) -> bool {
        let someone = (self.name.is_some() && self.namespace.is_some())
            || (self.name.is_none() && self.selector.is_some());
        someone
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.name.as_ref().is_none_or(|name| **name == *key.name)
            && self.selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }
}

impl fmt::Display for Whom {
    /// `shop/cart`, or `Services of namespace shop by label`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, "{namespace}/{name}"),
            (Some(namespace), None) => write!(f, "Services of namespace {namespace} by label"),
            (None, _) => f.write_str("Services by label"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beneficiaries_are_those_who_match_all_that_is_given() {
        // A66
        let cart = Selector::new([("app", "cart")].into_iter().collect(), []);
        let labelled: Labels = [("app", "cart")].into_iter().collect();
        let plain = Labels::none();
        let by_name = Whom::service(&ServiceKey::new("shop", "cart"));
        let by_label = Whom { namespace: Some("shop".into()), name: None, selector: Some(cart.clone()) };
        let anywhere = Whom { namespace: None, name: None, selector: Some(cart) };
        for (whom, service, labels, is) in [
            (&by_name, ("shop", "cart"), &plain, true),
            (&by_name, ("shop", "basket"), &plain, false),
            (&by_name, ("other", "cart"), &plain, false),
            (&by_label, ("shop", "x"), &labelled, true),
            (&by_label, ("shop", "x"), &plain, false),
            (&by_label, ("other", "x"), &labelled, false),
            (&anywhere, ("other", "x"), &labelled, true),
        ] {
            let key = ServiceKey::new(service.0, service.1);
            assert_eq!(whom.includes(&key, labels), is, "{whom} {key}");
        }
        let nobody = Whom::default();
        let no_name = Whom { namespace: Some("shop".into()), ..Whom::default() };
        let no_namespace = Whom { name: Some("cart".into()), ..Whom::default() };
        for whom in [nobody, no_name, no_namespace] {
            assert!(!whom.includes(&ServiceKey::new("shop", "cart"), &labelled), "{whom:?}");
        }
    }

    #[test]
    fn a_beneficiary_is_named_as_users_know_it() {
        assert_eq!(Whom::service(&ServiceKey::new("shop", "cart")).to_string(), "shop/cart");
        let by_label = Whom { namespace: Some("shop".into()), ..Whom::default() };
        assert_eq!(by_label.to_string(), "Services of namespace shop by label");
    }
}

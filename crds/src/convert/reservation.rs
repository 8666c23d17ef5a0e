//! Reservations.

use std::net::IpAddr;

use landfall_core::addr::Family;
use landfall_core::name::{Namespace, PoolName};
use landfall_core::reservation::{Held, Reservation, Whom};

use super::selector::selector;
use super::{FieldError, created};
use crate::{AddressReservation, IpFamily};

/// Reads a reservation. Its rules have been checked by the API server already.
pub fn reservation(object: &AddressReservation) -> Result<Reservation, FieldError> {
    let status = object.status.as_ref();
    Ok(Reservation {
        name: object.metadata.name.as_deref().unwrap_or_default().into(),
        created: created(&object.metadata),
        held: held(object)?,
        whom: whom(object)?,
        address: status.and_then(|status| status.address.as_deref()?.parse().ok()),
    })
}

fn wrong(path: &str, message: &str) -> FieldError {
    FieldError { path: path.to_owned(), message: message.to_owned() }
}

fn held(object: &AddressReservation) -> Result<Held, FieldError> {
    let spec = &object.spec;
    match (&spec.address, &spec.pool, spec.family) {
        (Some(text), None, None) => {
            let addr: Result<IpAddr, _> = text.0.parse();
            addr.map(Held::Address)
                .map_err(|_| wrong("spec.address", &format!("{:?} is not an IP address", text.0)))
        }
        (None, Some(pool), Some(family)) => {
            let family = match family {
                IpFamily::IPv4 => Family::V4,
                IpFamily::IPv6 => Family::V6,
            };
            Ok(Held::Any { pool: PoolName::new(pool), family })
        }
        _ => Err(wrong("spec.address", "either spec.address or spec.pool and spec.family must be set")),
    }
}

fn whom(object: &AddressReservation) -> Result<Whom, FieldError> {
    let spec = &object.spec;
    match (&spec.service, &spec.namespace, &spec.service_selector) {
        (Some(service), None, None) => Ok(Whom {
            namespace: Some(Namespace::new(&service.namespace)),
            name: Some(service.name.as_str().into()),
            selector: None,
        }),
        (None, Some(namespace), Some(labels)) => Ok(Whom {
            namespace: Some(Namespace::new(namespace)),
            name: None,
            selector: Some(selector("spec.serviceSelector", labels)?),
        }),
        _ => Err(wrong(
            "spec.service",
            "either spec.service or spec.namespace and spec.serviceSelector must be set",
        )),
    }
}

#[cfg(test)]
mod tests {
    use landfall_core::name::ServiceKey;
    use landfall_core::selector::Labels;
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: &Value, status: &Value) -> Result<Reservation, FieldError> {
        let object: AddressReservation = serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1beta1", "kind": "AddressReservation",
            "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec, "status": status,
        }))
        .unwrap();
        reservation(&object)
    }

    #[test]
    fn an_address_or_one_of_a_pool_is_held_for_a_service_or_a_selector() {
        // A66
        let service = json!({"namespace": "shop", "name": "cart"});
        let cart = ServiceKey::new("shop", "cart");
        for text in ["192.0.2.7", "2001:db8::7"] {
            let one = read(&json!({"address": text, "service": service}), &json!({})).unwrap();
            assert_eq!(one.held, Held::Address(text.parse().unwrap()));
            assert_eq!((&*one.name, one.created, one.address), ("r", 1_767_225_600, None));
            assert!(one.whom.includes(&cart, &Labels::none()));
            assert!(!one.whom.includes(&ServiceKey::new("other", "cart"), &Labels::none()));
        }
        for (name, family, got) in [("IPv4", Family::V4, "192.0.2.7"), ("IPv6", Family::V6, "2001:db8::7")] {
            let spec = json!({
                "pool": "lan", "family": name, "namespace": "shop",
                "serviceSelector": {"matchLabels": {"app": "cart"}},
            });
            let any = read(&spec, &json!({"address": got})).unwrap();
            assert_eq!(any.held, Held::Any { pool: "lan".into(), family });
            assert_eq!(any.address, Some(got.parse().unwrap()));
            let labelled: Labels = [("app", "cart")].into_iter().collect();
            assert!(any.whom.includes(&cart, &labelled) && !any.whom.includes(&cart, &Labels::none()));
        }
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let service = json!({"namespace": "shop", "name": "cart"});
        for (spec, path) in [
            (json!({"service": service}), "spec.address"),
            (json!({"address": "192.0.2.300", "service": service}), "spec.address"),
            (json!({"address": "2001:db8::7", "pool": "lan", "service": service}), "spec.address"),
            (json!({"pool": "lan", "service": service}), "spec.address"),
            (json!({"address": "2001:db8::7"}), "spec.service"),
            (json!({"address": "2001:db8::7", "namespace": "shop"}), "spec.service"),
            (
                json!({"address": "192.0.2.7", "namespace": "shop", "serviceSelector": {
                    "matchExpressions": [{"key": "app", "operator": "In"}]}}),
                "spec.serviceSelector.matchExpressions[0]",
            ),
        ] {
            assert_eq!(read(&spec, &Value::Null).unwrap_err().path, path, "{spec}");
        }
    }
}

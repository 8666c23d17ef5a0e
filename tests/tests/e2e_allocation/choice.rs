//! Which pool and which address.

use landfall_lab::objects::Object;
use landfall_lab::product::cluster;
use serde_json::json;

use crate::{pinned, space};

// A10
#[test]
fn a_namespace_uses_its_own_pool_first_and_others_never_do() {
    let (ns, elsewhere) = (space("a10"), space("a10-elsewhere"));
    let _own = Object::pool("a10-own", &pinned(&[&ns], &["198.18.10.1/32"], &json!({"priority": 20})));
    let open = pinned(&[&ns, &elsewhere], &["198.18.10.8/29"], &json!({}));
    let _open = Object::pool("a10-open", &open);
    elsewhere.service("web", &json!({}), &json!({})).wait_addresses(&["198.18.10.8"]);
    ns.service("first", &json!({}), &json!({})).wait_addresses(&["198.18.10.1"]);
    ns.service("second", &json!({}), &json!({})).wait_addresses(&["198.18.10.9"]);
    let asks = json!({"landfall.dev/pool": "a10-own"});
    let refused = elsewhere.service("asks", &asks, &json!({}));
    let message = refused.wait("False", "PoolNotAllowed");
    assert!(message.contains("a10-own"), "names the pool: {message}");
}

// A11
#[test]
fn the_pool_of_the_lower_number_is_used_up_first() {
    let ns = space("a11");
    let _late = Object::pool("a11-a", &pinned(&[&ns], &["198.18.11.1/32"], &json!({"priority": 20})));
    let _early = Object::pool("a11-b", &pinned(&[&ns], &["198.18.11.2/32"], &json!({"priority": 10})));
    ns.service("first", &json!({}), &json!({})).wait_addresses(&["198.18.11.2"]);
    ns.service("second", &json!({}), &json!({})).wait_addresses(&["198.18.11.1"]);
}

// A12
#[test]
fn a_pool_serves_the_namespaces_that_carry_its_label_from_when_they_do() {
    let (red, plain) = (space("a12-red"), space("a12-plain"));
    let label = |name: &str| {
        cluster().kubectl(&["label", "namespace", name, "team=red"]).unwrap();
    };
    label(red.name());
    let _pool = Object::pool(
        "a12",
        &json!({"addresses": ["198.18.12.0/30"], "namespaceSelector": {"matchLabels": {"team": "red"}}}),
    );
    red.service("web", &json!({}), &json!({})).wait_addresses(&["198.18.12.0"]);
    let waits = plain.service("web", &json!({}), &json!({}));
    waits.wait("False", "NoMatchingPool");
    label(plain.name());
    waits.wait_addresses(&["198.18.12.1"]);
}

// A14
#[test]
fn namespace_and_service_selectors_must_both_match() {
    let ns = space("a14");
    let selectors = json!({"serviceSelectors": [{"matchLabels": {"tier": "web"}}]});
    let _pool = Object::pool("a14", &pinned(&[&ns], &["198.18.14.0/30"], &selectors));
    let service = ns.service("web", &json!({}), &json!({}));
    service.wait("False", "NoMatchingPool");
    service.merge(&json!({"metadata": {"labels": {"tier": "web"}}}));
    service.wait_addresses(&["198.18.14.0"]);
    // What it has is not taken away when the label goes.
    service.merge(&json!({"metadata": {"labels": {"tier": null}}}));
    ns.fence();
    service.wait_addresses(&["198.18.14.0"]);
}

// A15 A16
#[test]
fn a_pool_that_does_not_assign_by_itself_serves_those_who_name_it() {
    let ns = space("a16");
    let _kept = Object::pool("a16-kept", &pinned(&[&ns], &["198.18.16.0/30"], &json!({"autoAssign": false})));
    let _auto = Object::pool("a16-z", &pinned(&[&ns], &["198.18.16.8/30"], &json!({})));
    ns.service("plain", &json!({}), &json!({})).wait_addresses(&["198.18.16.8"]);
    let asks = |pool: &str| json!({"landfall.dev/pool": pool});
    ns.service("asks-kept", &asks("a16-kept"), &json!({})).wait_addresses(&["198.18.16.0"]);
    ns.service("asks-auto", &asks("a16-z"), &json!({})).wait_addresses(&["198.18.16.9"]);
}

// A24
#[test]
fn a_service_that_asks_for_another_pool_moves_there() {
    let ns = space("a24");
    let _one = Object::pool("a24-one", &pinned(&[&ns], &["198.18.24.0/30"], &json!({})));
    let _two = Object::pool("a24-two", &pinned(&[&ns], &["198.18.24.8/30"], &json!({})));
    let service = ns.service("web", &json!({"landfall.dev/pool": "a24-one"}), &json!({}));
    service.wait_addresses(&["198.18.24.0"]);
    service.annotate("landfall.dev/pool", Some("a24-two"));
    service.wait_addresses(&["198.18.24.8"]);
    service.wait("True", "Allocated");
    assert_eq!(service.annotation("landfall.dev/allocated-from").as_deref(), Some("a24-two"));
    // The old one is free again.
    ns.service("next", &json!({}), &json!({})).wait_addresses(&["198.18.24.0"]);
}

// A17 A18 A26
#[test]
fn a_request_for_another_address_is_met_or_the_old_one_stays_and_says_why() {
    let ns = space("a26");
    let addresses = ["198.18.26.0/30", "2001:db8:26::/126"];
    let _pool = Object::pool("a26", &pinned(&[&ns], &addresses, &json!({})));
    for (family, [held, free, outside]) in [
        ("IPv4", ["198.18.26.1", "198.18.26.3", "198.18.26.77"]),
        ("IPv6", ["2001:db8:26::1", "2001:db8:26::3", "2001:db8:26::77"]),
    ] {
        let of_family = json!({"ipFamilies": [family]});
        let name = |part: &str| format!("{part}-{}", family.to_lowercase());
        let holder = name("holder");
        let asks = json!({"landfall.dev/addresses": held});
        ns.service(&holder, &asks, &of_family).wait_addresses(&[held]);
        let service = ns.service(&name("web"), &json!({}), &of_family);
        let first = service.address();
        service.annotate("landfall.dev/addresses", Some(free));
        service.wait_addresses(&[free]);
        for (wish, obstacle) in [(held, holder.as_str()), (outside, outside)] {
            service.annotate("landfall.dev/addresses", Some(wish));
            // Both refusals have one reason: wait for the message of this one.
            landfall_lab::product::eventually(landfall_lab::product::SOON, "the obstacle named", || {
                service.wait("True", "RequestedAddressUnavailable").contains(obstacle).then_some(())
            });
            service.wait_addresses(&[free]);
        }
        service.annotate("landfall.dev/addresses", Some(&first.to_string()));
        service.wait_addresses(&[&first.to_string()]);
        service.wait("True", "Allocated");
    }
    let legacy = ns.service("legacy", &json!({}), &json!({"loadBalancerIP": "198.18.26.2"}));
    legacy.wait_addresses(&["198.18.26.2"]);
}

// A63
#[test]
fn an_excluded_address_is_never_given_and_the_refusal_names_the_exclusion() {
    let ns = space("a63");
    let spec = pinned(
        &[&ns],
        &["198.18.63.0/30", "2001:db8:63::/126"],
        &json!({"exclude": ["198.18.63.0/31", "2001:db8:63::-2001:db8:63::1"]}),
    );
    let _pool = Object::pool("a63", &spec);
    for (family, given, excluded) in
        [("IPv4", "198.18.63.2", "198.18.63.1"), ("IPv6", "2001:db8:63::2", "2001:db8:63::1")]
    {
        let of_family = json!({"ipFamilies": [family]});
        let name = |part: &str| format!("{part}-{}", family.to_lowercase());
        ns.service(&name("web"), &json!({}), &of_family).wait_addresses(&[given]);
        let asks = json!({"landfall.dev/addresses": excluded});
        let message = ns.service(&name("asks"), &asks, &of_family).wait("False", "AddressLeftOut");
        assert!(message.contains("exclude") && message.contains("a63"), "{message}");
    }
}

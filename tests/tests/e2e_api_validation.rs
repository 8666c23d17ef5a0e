//! What a real API server takes and refuses of Landfall's own kinds: every refusal names the field. Nothing of
//! Landfall runs here; the definitions alone do this.
#![cfg(test)]

use std::io::Write;
use std::process::Stdio;
use std::sync::OnceLock;

use landfall_lab::product::{SOON, eventually_seen};
use landfall_lab::{Lab, Options, checkout};
use serde_json::{Value, json};

const GROUP: &str = "/apis/landfall.dev/v1beta1";
const PLURALS: [(&str, &str); 4] = [
    ("AddressPool", "addresspools"),
    ("AddressReservation", "addressreservations"),
    ("L2Advertisement", "l2advertisements"),
    ("SpeakerStatus", "speakerstatuses"),
];

/// A lab with the definitions of the chart and nothing else.
fn lab() -> &'static Lab {
    static READY: OnceLock<&'static Lab> = OnceLock::new();
    READY.get_or_init(|| {
        let name = Lab::test_name("").unwrap();
        let lab = Lab::shared(|| Options { nodes: 1, ..Options::named(name) }).unwrap();
        let folder = checkout().unwrap().join("charts/landfall/crds");
        let told = lab.kubectl(&["apply", "--server-side", "--filename", folder.to_str().unwrap()]).unwrap();
        for (_, plural) in PLURALS {
            assert!(told.contains(plural), "{told}");
            eventually_seen(SOON, &format!("the API of {plural}"), || {
                lab.api_get(&format!("{GROUP}/{plural}")).map(|_| ())
            });
        }
        lab
    })
}

/// What the API server says to a new object, which it does not keep: nothing, or the Status of the refusal.
fn create(kind: &str, metadata: &Value, spec: &Value) -> Result<Value, Value> {
    let plural = PLURALS.iter().find(|(known, _)| *known == kind).unwrap().1;
    let object = json!({
        "apiVersion": "landfall.dev/v1beta1", "kind": kind, "metadata": metadata, "spec": spec,
    });
    let path = format!("{GROUP}/{plural}?dryRun=All&fieldValidation=Strict");
    let answer = lab().api("POST", &path, Some(("application/json", &object))).unwrap();
    let body: Value = serde_json::from_str(&answer.text()).unwrap();
    if answer.status == 201 { Ok(body) } else { Err(body) }
}

/// Whether the refusal has a cause in this field whose message has these words.
fn blames(status: &Value, field: &str, words: &str) -> bool {
    let causes = status.pointer("/details/causes").and_then(Value::as_array);
    causes.into_iter().flatten().any(|cause| {
        let text = |key: &str| cause.get(key).and_then(Value::as_str).unwrap_or_default();
        text("field") == field && text("message").contains(words)
    })
}

/// Rows of a specification, the field that has to be named, and words of the message. Reports all wrong rows at once.
fn refused(kind: &str, rows: &[(Value, &str, &str)]) {
    let mut wrong = Vec::new();
    for (spec, field, words) in rows {
        match create(kind, &json!({"name": "bad"}), spec) {
            Ok(_) => wrong.push(format!("accepted: {spec}")),
            Err(status) if !blames(&status, field, words) => {
                wrong.push(format!("{spec}\n  wanted {field}: {words}\n  got {}", status["message"]));
            }
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn accepted(kind: &str, specs: &[Value]) {
    for spec in specs {
        if let Err(status) = create(kind, &json!({"name": "good"}), spec) {
            panic!("refused: {spec}: {}", status["message"]);
        }
    }
}

/// A pool with one more field.
fn pool(field: &str, value: &Value) -> Value {
    json!({"addresses": ["192.0.2.0/24", "2001:db8::/64"], field: value})
}

const WORDS_FORM: &str = "must be a CIDR such as";
const WORDS_CIDR: &str = "must be an IP address, a slash and a prefix length";
const WORDS_BITS: &str = "has bits set behind the prefix length";
const WORDS_MIXED: &str = "begins and ends with addresses of different IP families";
const WORDS_REVERSED: &str = "is reversed: the range ends before it begins";

/// Texts that are no addresses, IPv4 beside IPv6.
const BAD_ADDRESSES: &[(&str, &str)] = &[
    ("192.0.2.9-192.0.2.1", WORDS_REVERSED),
    ("192.0.2.1-2001:db8::1", WORDS_MIXED),
    ("2001:db8::1-192.0.2.1", WORDS_MIXED),
    ("192.0.2.1/24", WORDS_BITS),
    ("2001:db8::1/64", WORDS_BITS),
    ("192.0.2.0/33", WORDS_CIDR),
    ("2001:db8::/129", WORDS_CIDR),
    ("192.0.2/24", WORDS_CIDR),
    ("2001:db8/64", WORDS_CIDR),
    ("192.0.02.0/24", WORDS_CIDR),
    ("::ffff:192.0.2.0/120", WORDS_CIDR),
    ("192.0.2.0/", WORDS_CIDR),
    ("192.0.2.0/24/24", WORDS_CIDR),
    ("192.0.2.7", WORDS_FORM),
    ("2001:db8::7", WORDS_FORM),
    ("192.0.2.1-", WORDS_FORM),
    ("192.0.2.1-192.0.2.300", WORDS_FORM),
    ("2001:db8::1-2001:db8::g", WORDS_FORM),
    ("2001:db8::1-2001:db8::2-2001:db8::3", WORDS_FORM),
    ("fe80::1%eth0-fe80::2%eth0", WORDS_FORM),
    ("", WORDS_FORM),
    ("rubbish", WORDS_FORM),
    // Full-width digits, an en dash, a no-break space.
    ("１92.0.2.0/24", WORDS_CIDR),
    ("192.0.2.1–192.0.2.9", WORDS_FORM),
    ("192.0.2.1\u{a0}-\u{a0}192.0.2.9\u{1f4a5}", WORDS_FORM),
];

#[test]
fn texts_that_are_no_addresses_are_refused_with_their_place() {
    // A78
    let good = "192.0.2.0/24";
    let mut rows = Vec::new();
    for (text, words) in BAD_ADDRESSES {
        rows.push((json!({"addresses": [text]}), "spec.addresses[0]", *words));
        rows.push((json!({"addresses": [good, text]}), "spec.addresses[1]", *words));
        rows.push((json!({"addresses": [good], "exclude": [text]}), "spec.exclude[0]", *words));
    }
    refused("AddressPool", &rows);
}

#[test]
fn lists_of_addresses_have_limits() {
    let many: Vec<String> = (0..257).map(|n| format!("10.0.{}.{}/32", n / 256, n % 256)).collect();
    let long = format!("{}192.0.2.1-192.0.2.9", " ".repeat(80));
    refused(
        "AddressPool",
        &[
            (json!({}), "spec.addresses", "Required"),
            (json!({"addresses": []}), "spec.addresses", "at least 1"),
            (json!({"addresses": null}), "spec.addresses", "Required"),
            (json!({"addresses": "192.0.2.0/24"}), "spec.addresses", "must be of type array"),
            (json!({"addresses": [42]}), "spec.addresses[0]", "must be of type string"),
            (json!({"addresses": many}), "spec.addresses", "256"),
            (json!({"addresses": ["192.0.2.0/24"], "exclude": many}), "spec.exclude", "256"),
            (json!({"addresses": [long]}), "spec.addresses[0]", "Too long"),
        ],
    );
    accepted(
        "AddressPool",
        &[
            json!({"addresses": many.get(..256), "exclude": many.get(..256)}),
            json!({"addresses": ["192.0.2.1-192.0.2.9", "192.0.2.1 - 192.0.2.1", "192.0.2.7/32", "0.0.0.0/0"]}),
            json!({"addresses": ["2001:db8::1-2001:db8::9", "2001:db8::1 - 2001:db8::1", "2001:DB8::7/128", "fd00::/8"]}),
            json!({"addresses": ["2001:0db8:0000:0000:0000:0000:0000:0001 - 2001:0db8:0000:0000:0000:0000:0000:0009"]}),
            // Rules cannot compare two IPv6 addresses: the controller finds this one, as a condition of the pool.
            json!({"addresses": ["2001:db8::9-2001:db8::1"]}),
        ],
    );
}

const EMPTY: &str = "is empty, which would select nothing";
const LABELS_AND_EXPRESSIONS: &str = "matchLabels and matchExpressions cannot both be met";
const NO_VALUE: &str = "no value meets all matchExpressions of one key";
const EXIST_OR_NOT: &str = "want one key to exist and not to exist";

/// Selectors that can only be mistakes, the place inside them, and words.
fn bad_selectors() -> Vec<(Value, &'static str, &'static str)> {
    let expressions = |list: Value| json!({"matchExpressions": list});
    let in_a = json!({"key": "app", "operator": "In", "values": ["a"]});
    vec![
        (json!({}), "", EMPTY),
        (json!({"matchLabels": {}}), "", EMPTY),
        (json!({"matchLabels": {}, "matchExpressions": []}), "", EMPTY),
        (json!({"matchLabels": {"app": "b"}, "matchExpressions": [in_a]}), "", LABELS_AND_EXPRESSIONS),
        (
            json!({"matchLabels": {"app": "b"}, "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a", "b"]}]}),
            "",
            LABELS_AND_EXPRESSIONS,
        ),
        (
            json!({"matchLabels": {"app": "b"}, "matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}),
            "",
            LABELS_AND_EXPRESSIONS,
        ),
        (expressions(json!([in_a, {"key": "app", "operator": "In", "values": ["b", "c"]}])), "", NO_VALUE),
        (expressions(json!([in_a, {"key": "app", "operator": "NotIn", "values": ["a", "b"]}])), "", NO_VALUE),
        (expressions(json!([in_a, {"key": "app", "operator": "DoesNotExist"}])), "", EXIST_OR_NOT),
        (
            expressions(
                json!([{"key": "app", "operator": "DoesNotExist"}, {"key": "app", "operator": "Exists"}]),
            ),
            "",
            EXIST_OR_NOT,
        ),
        (
            expressions(json!([{"key": "app", "operator": "In"}])),
            ".matchExpressions[0].values",
            "needs values",
        ),
        (
            expressions(json!([in_a, {"key": "x", "operator": "NotIn", "values": []}])),
            ".matchExpressions[1].values",
            "needs values",
        ),
        (
            expressions(json!([{"key": "app", "operator": "Exists", "values": ["a"]}])),
            ".matchExpressions[0].values",
            "must have no values",
        ),
        (
            expressions(json!([{"key": "app", "operator": "Is"}])),
            ".matchExpressions[0].operator",
            "Unsupported value",
        ),
        (expressions(json!([{"operator": "Exists"}])), ".matchExpressions[0].key", "Required"),
        (expressions(json!([{"key": "", "operator": "Exists"}])), ".matchExpressions[0].key", "at least 1"),
        (
            expressions(json!([{"key": "a b", "operator": "Exists"}])),
            ".matchExpressions[0].key",
            "should match",
        ),
        (
            expressions(json!([{"key": "ключ", "operator": "Exists"}])),
            ".matchExpressions[0].key",
            "should match",
        ),
        (
            expressions(json!([{"key": "k".repeat(318), "operator": "Exists"}])),
            ".matchExpressions[0].key",
            "Too long",
        ),
        (
            expressions(json!([{"key": "app", "operator": "In", "values": ["-a"]}])),
            ".matchExpressions[0].values[0]",
            "should match",
        ),
        (json!({"matchLabels": {"app": "прод"}}), ".matchLabels.app", "should match"),
        (json!({"matchLabels": {"app": "a".repeat(64)}}), ".matchLabels.app", "Too long"),
        (json!({"matchLabels": {"a b": "a"}}), ".matchLabels", "has a key that is not a label key"),
        (json!({"matchLabels": {"ключ": "a"}}), ".matchLabels", "has a key that is not a label key"),
    ]
}

fn good_selectors() -> Vec<Value> {
    // As many terms as there may be, all of them of one key: the rules have to stay within their budget.
    let values: Vec<String> = (0..64).map(|n| format!("{}{n:02}", "v".repeat(61))).collect();
    let largest: Vec<Value> =
        (0..8).map(|_| json!({"key": "example.com/tier", "operator": "In", "values": values})).collect();
    vec![
        json!({"matchLabels": {"app": "shop", "example.com/tier": ""}}),
        json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "app", "operator": "Exists"}]}),
        json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["b", "a"]}]}),
        json!({"matchExpressions": [
            {"key": "app", "operator": "In", "values": ["a", "b"]},
            {"key": "app", "operator": "NotIn", "values": ["a"]},
            {"key": "canary", "operator": "DoesNotExist"},
            {"key": "canary", "operator": "NotIn", "values": ["x"]},
        ]}),
        json!({"matchLabels": {"k".repeat(63): "v".repeat(63)}}),
        json!({"matchExpressions": largest}),
    ]
}

#[test]
fn empty_and_contradictory_selectors_are_refused_wherever_there_is_one() {
    let fine = json!({"matchLabels": {"app": "a"}});
    for (selector, place, words) in bad_selectors() {
        let one = format!("spec.namespaceSelector{place}");
        refused("AddressPool", &[(pool("namespaceSelector", &selector), &one, words)]);
        let second = format!("spec.serviceSelectors[1]{place}");
        refused("AddressPool", &[(pool("serviceSelectors", &json!([fine, selector])), &second, words)]);
        let node = format!("spec.nodeSelectors[0]{place}");
        refused("L2Advertisement", &[(json!({"nodeSelectors": [selector]}), &node, words)]);
        let held = format!("spec.serviceSelector{place}");
        let spec = json!({"address": "2001:db8::7", "namespace": "shop", "serviceSelector": selector});
        refused("AddressReservation", &[(spec, &held, words)]);
    }
    for selector in good_selectors() {
        accepted("AddressPool", &[pool("namespaceSelector", &selector)]);
        let sixteen: Vec<&Value> = std::iter::repeat_n(&selector, 16).collect();
        accepted("AddressPool", &[pool("serviceSelectors", &json!(sixteen))]);
        accepted("L2Advertisement", &[json!({"nodeSelectors": sixteen})]);
        let spec = json!({"address": "192.0.2.7", "namespace": "shop", "serviceSelector": selector});
        accepted("AddressReservation", &[spec]);
        let seventeen: Vec<&Value> = std::iter::repeat_n(&selector, 17).collect();
        refused(
            "AddressPool",
            &[(pool("serviceSelectors", &json!(seventeen)), "spec.serviceSelectors", "16")],
        );
    }
}

#[test]
fn every_other_field_of_a_pool_is_checked() {
    let names: Vec<String> = (0..257).map(|n| format!("{}-{n:03}", "n".repeat(59))).collect();
    refused(
        "AddressPool",
        &[
            (pool("nodePortRange", &json!("31009-31000")), "spec.nodePortRange", WORDS_REVERSED),
            (pool("nodePortRange", &json!("0-31000")), "spec.nodePortRange", "has a port outside 1-65535"),
            (
                pool("nodePortRange", &json!("65530-65536")),
                "spec.nodePortRange",
                "has a port outside 1-65535",
            ),
            (pool("nodePortRange", &json!("99999")), "spec.nodePortRange", "has a port outside 1-65535"),
            (pool("nodePortRange", &json!("")), "spec.nodePortRange", "must be a port"),
            (pool("nodePortRange", &json!("-1")), "spec.nodePortRange", "must be a port"),
            (pool("nodePortRange", &json!("http-https")), "spec.nodePortRange", "must be a port"),
            (pool("nodePortRange", &json!("1-2-3")), "spec.nodePortRange", "must be a port"),
            (pool("nodePortRange", &json!("３1000")), "spec.nodePortRange", "must be a port"),
            (pool("nodePortRange", &json!("31000-310000")), "spec.nodePortRange", "Too long"),
            (pool("nodePortRange", &json!(31000)), "spec.nodePortRange", "must be of type string"),
            (pool("quarantine", &json!("")), "spec.quarantine", "must be a time span"),
            (pool("quarantine", &json!("30")), "spec.quarantine", "must be a time span"),
            (pool("quarantine", &json!("-5s")), "spec.quarantine", "must be a time span"),
            (pool("quarantine", &json!("1.5h")), "spec.quarantine", "must be a time span"),
            (pool("quarantine", &json!("5d")), "spec.quarantine", "must be a time span"),
            (pool("quarantine", &json!("5m 30s")), "spec.quarantine", "must be a time span"),
            (pool("quarantine", &json!("24h1s")), "spec.quarantine", "must be at most 24h"),
            (pool("quarantine", &json!("1441m")), "spec.quarantine", "must be at most 24h"),
            (pool("quarantine", &json!(30)), "spec.quarantine", "must be of type string"),
            (
                pool("maxAddressesPerNamespace", &json!(0)),
                "spec.maxAddressesPerNamespace",
                "greater than or equal to 1",
            ),
            (
                pool("maxAddressesPerNamespace", &json!(-1)),
                "spec.maxAddressesPerNamespace",
                "greater than or equal to 1",
            ),
            (
                pool("maxAddressesPerNamespace", &json!("2")),
                "spec.maxAddressesPerNamespace",
                "must be of type integer",
            ),
            (pool("priority", &json!("high")), "spec.priority", "must be of type integer"),
            (pool("priority", &json!(1.5)), "spec.priority", "must be of type int32"),
            (pool("autoAssign", &json!("yes")), "spec.autoAssign", "must be of type boolean"),
            (pool("avoidBuggyIPs", &json!(1)), "spec.avoidBuggyIPs", "must be of type boolean"),
            (pool("onRemoval", &json!("Release")), "spec.onRemoval", "\"Keep\", \"Reassign\""),
            (pool("conflictDetection", &json!("probe")), "spec.conflictDetection", "\"Probe\", \"Off\""),
            (
                pool("sourceRangesOnNodePort", &json!("")),
                "spec.sourceRangesOnNodePort",
                "\"Enforce\", \"Ignore\"",
            ),
            (pool("directReturn", &json!("Always")), "spec.directReturn", "\"Auto\", \"Off\""),
            (pool("sharing", &json!("Никто")), "spec.sharing", "\"Namespace\", \"Cluster\""),
            (pool("namespaces", &json!(["Shop"])), "spec.namespaces[0]", "should match"),
            (pool("namespaces", &json!(["shop", "магазин"])), "spec.namespaces[1]", "should match"),
            (pool("namespaces", &json!([""])), "spec.namespaces[0]", "at least 1"),
            (pool("namespaces", &json!(["n".repeat(64)])), "spec.namespaces[0]", "Too long"),
            (pool("namespaces", &json!(["shop", "shop"])), "spec.namespaces[1]", "Duplicate value"),
            (pool("namespaces", &json!(names)), "spec.namespaces", "256"),
        ],
    );
    accepted(
        "AddressPool",
        &[
            pool("nodePortRange", &json!("31000-31009")),
            pool("nodePortRange", &json!("31000")),
            pool("nodePortRange", &json!("1-65535")),
            pool("quarantine", &json!("0s")),
            pool("quarantine", &json!("1h30m")),
            pool("quarantine", &json!("24h")),
            pool("quarantine", &json!("86400s")),
            pool("maxAddressesPerNamespace", &json!(1)),
            pool("priority", &json!(-2_147_483_648)),
            pool("namespaces", &json!(names.get(..256))),
            pool("onRemoval", &json!("Reassign")),
            pool("conflictDetection", &json!("Off")),
            pool("sourceRangesOnNodePort", &json!("Ignore")),
            pool("directReturn", &json!("Off")),
            pool("sharing", &json!("Cluster")),
        ],
    );
}

#[test]
fn what_a_pool_does_not_say_gets_its_default_and_a_null_is_nothing_said() {
    let nulls = json!({
        "addresses": ["192.0.2.0/24"], "priority": null, "namespaceSelector": null, "quarantine": null,
        "onRemoval": null, "maxAddressesPerNamespace": null, "nodePortRange": null,
    });
    for spec in [json!({"addresses": ["192.0.2.0/24"]}), nulls] {
        let made = create("AddressPool", &json!({"name": "good"}), &spec).unwrap();
        assert_eq!(
            made["spec"],
            json!({
                "addresses": ["192.0.2.0/24"], "autoAssign": true, "avoidBuggyIPs": false,
                "conflictDetection": "Probe", "directReturn": "Auto", "onRemoval": "Keep", "quarantine": "0s",
                "sharing": "Namespace", "sourceRangesOnNodePort": "Enforce",
            })
        );
    }
}

#[test]
fn a_reservation_names_one_address_and_one_beneficiary() {
    let service = json!({"namespace": "shop", "name": "cart"});
    let selector = json!({"matchLabels": {"app": "cart"}});
    let one = |what: &Value| {
        let mut spec = json!({"service": service});
        spec.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        spec
    };
    let whom = |what: &Value| {
        let mut spec = json!({"address": "2001:db8::7"});
        spec.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        spec
    };
    let either = "exactly one of spec.address and spec.pool must be set";
    let family = "spec.family must be set together with spec.pool, and only then";
    let beneficiary =
        "exactly one of spec.service and spec.namespace (with spec.serviceSelector) must be set";
    let together = "spec.serviceSelector must be set together with spec.namespace, and only then";
    refused(
        "AddressReservation",
        &[
            (one(&json!({})), "spec.address", either),
            (one(&json!({"address": null})), "spec.address", either),
            (one(&json!({"address": "192.0.2.7", "pool": "lan", "family": "IPv4"})), "spec.address", either),
            (one(&json!({"pool": "lan"})), "spec.family", family),
            (one(&json!({"address": "2001:db8::7", "family": "IPv6"})), "spec.family", family),
            (one(&json!({"pool": "lan", "family": "ipv6"})), "spec.family", "\"IPv4\", \"IPv6\""),
            (one(&json!({"pool": "Lan", "family": "IPv4"})), "spec.pool", "should match"),
            (one(&json!({"pool": "l".repeat(254), "family": "IPv4"})), "spec.pool", "Too long"),
            (one(&json!({"address": "192.0.2.300"})), "spec.address", "must be an IP address"),
            (one(&json!({"address": "2001:db8::g"})), "spec.address", "must be an IP address"),
            (one(&json!({"address": "192.0.2.7/32"})), "spec.address", "must be an IP address"),
            (one(&json!({"address": "2001:db8::7/128"})), "spec.address", "must be an IP address"),
            (one(&json!({"address": "192.0.02.7"})), "spec.address", "must be an IP address"),
            (one(&json!({"address": "::ffff:192.0.2.7"})), "spec.address", "must be an IP address"),
            (one(&json!({"address": "fe80::1%eth0"})), "spec.address", "must be an IP address"),
            (one(&json!({"address": ""})), "spec.address", "must be an IP address"),
            (whom(&json!({})), "spec.service", beneficiary),
            (
                whom(&json!({"service": service, "namespace": "shop", "serviceSelector": selector})),
                "spec.service",
                beneficiary,
            ),
            (whom(&json!({"namespace": "shop"})), "spec.serviceSelector", together),
            (
                whom(&json!({"service": service, "serviceSelector": selector})),
                "spec.serviceSelector",
                together,
            ),
            (whom(&json!({"service": {"name": "cart"}})), "spec.service.namespace", "Required"),
            (whom(&json!({"service": {"namespace": "shop"}})), "spec.service.name", "Required"),
            (
                whom(&json!({"service": {"namespace": "shop", "name": "корзина"}})),
                "spec.service.name",
                "should match",
            ),
            (
                whom(&json!({"service": {"namespace": "shop", "name": "n".repeat(64)}})),
                "spec.service.name",
                "Too long",
            ),
            (
                whom(&json!({"namespace": "Shop", "serviceSelector": selector})),
                "spec.namespace",
                "should match",
            ),
        ],
    );
    accepted(
        "AddressReservation",
        &[
            one(&json!({"address": "192.0.2.7"})),
            one(&json!({"address": "2001:db8::7"})),
            one(&json!({"pool": "lan", "family": "IPv4"})),
            one(&json!({"pool": "l".repeat(253), "family": "IPv6"})),
            whom(&json!({"namespace": "shop", "serviceSelector": selector})),
            whom(&json!({"service": {"namespace": "n".repeat(63), "name": "n".repeat(63)}})),
        ],
    );
}

#[test]
fn a_field_that_does_not_exist_is_named() {
    for (kind, spec, field) in [
        ("AddressPool", json!({"addresses": ["192.0.2.0/24"], "adresses": []}), "spec.adresses"),
        ("AddressPool", json!({"addresses": ["192.0.2.0/24"], "autoassign": true}), "spec.autoassign"),
        (
            "AddressPool",
            pool("namespaceSelector", &json!({"matchLabels": {"a": "b"}, "matchLabel": {}})),
            "spec.namespaceSelector.matchLabel",
        ),
        (
            "AddressReservation",
            json!({"address": "2001:db8::7", "service": {"namespace": "a", "name": "b", "uid": "c"}}),
            "spec.service.uid",
        ),
    ] {
        let message = create(kind, &json!({"name": "bad"}), &spec).unwrap_err()["message"].to_string();
        assert!(message.contains("unknown field") && message.contains(field), "{message}");
    }
}

#[test]
fn names_and_annotations_end_at_the_limits_of_kubernetes() {
    let spec = json!({"addresses": ["2001:db8::/64"]});
    let annotated = |size: usize| json!({"name": "a", "annotations": {"a": "x".repeat(size - 1)}});
    for metadata in [json!({"name": "n".repeat(253)}), annotated(256 * 1024)] {
        create("AddressPool", &metadata, &spec).unwrap();
    }
    for (metadata, field) in [
        (json!({"name": "n".repeat(254)}), "metadata.name"),
        (json!({"name": "Pool"}), "metadata.name"),
        (json!({"name": "пул"}), "metadata.name"),
        (annotated(256 * 1024 + 1), "metadata.annotations"),
    ] {
        let status = create("AddressPool", &metadata, &spec).unwrap_err();
        assert!(blames(&status, field, ""), "{field}: {}", status["message"]);
    }
}

/// Takes the pool away with the test.
struct Made(&'static str);

impl Drop for Made {
    fn drop(&mut self) {
        // The lab goes down soon after: what stays is an annoyance at most.
        let _ = lab().api("DELETE", &format!("{GROUP}/addresspools/{}", self.0), None);
    }
}

#[test]
fn a_status_written_by_hand_has_to_be_one() {
    let object = json!({
        "apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool", "metadata": {"name": "by-hand"},
        "spec": {"addresses": ["192.0.2.0/24", "2001:db8::/64"]},
    });
    let _made = Made("by-hand");
    let answer =
        lab().api("POST", &format!("{GROUP}/addresspools"), Some(("application/json", &object))).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    let write = |status: &Value| {
        let path = format!("{GROUP}/addresspools/by-hand/status?dryRun=All");
        let body = json!({"status": status});
        let answer = lab().api("PATCH", &path, Some(("application/merge-patch+json", &body))).unwrap();
        (answer.status, serde_json::from_str::<Value>(&answer.text()).unwrap())
    };
    let resting = |count: usize| {
        let one = json!({"address": "2001:db8::7", "until": "2026-01-01T00:00:00Z"});
        json!({"resting": std::iter::repeat_n(one, count).collect::<Vec<_>>()})
    };
    let counts = json!({"ipv6": {
        "capacity": "18446744073709551616", "assigned": "1", "available": "18446744073709551615",
        "quarantined": "0", "reserved": "0", "conflicting": "0",
    }});
    for status in [counts, resting(4_096)] {
        let (code, answer) = write(&status);
        assert_eq!(code, 200, "{}", answer["message"]);
    }
    for (status, field) in [
        (json!({"ipv4": {"capacity": 256, "assigned": "0", "available": "256"}}), "status.ipv4.capacity"),
        (json!({"ipv6": {"capacity": "1"}}), "status.ipv6.assigned"),
        (json!({"conditions": [{"type": "Ready"}]}), "status.conditions[0].status"),
        (json!({"resting": [{"address": "192.0.2.7", "until": "soon"}]}), "status.resting[0].until"),
        (resting(4_097), "status.resting"),
    ] {
        let (code, answer) = write(&status);
        assert_eq!(code, 422, "{field}: {}", answer["message"]);
        assert!(blames(&answer, field, ""), "{field}: {}", answer["message"]);
    }
}

#[test]
fn kubectl_finds_the_kinds_by_short_name_and_prints_columns() {
    let list = |name: &str, arguments: &[&str]| {
        let mut all = vec!["get", name];
        all.extend(arguments);
        lab().kubectl(&all).unwrap()
    };
    let object = json!({
        "apiVersion": "landfall.dev/v1beta1", "kind": "AddressPool", "metadata": {"name": "columns"},
        "spec": {"addresses": ["192.0.2.0/24"], "priority": 5, "namespaces": ["shop"]},
    });
    let _made = Made("columns");
    let path = format!("{GROUP}/addresspools");
    assert_eq!(lab().api("POST", &path, Some(("application/json", &object))).unwrap().status, 201);
    let shown = list("apool", &["columns", "--output=wide"]);
    let head = shown.lines().next().unwrap().split("  ").map(str::trim).filter(|c| !c.is_empty());
    let head: Vec<&str> = head.collect();
    assert_eq!(
        head,
        [
            "NAME",
            "ADDRESSES",
            "AUTO",
            "IPV4 USED",
            "IPV4 FREE",
            "IPV6 USED",
            "IPV6 FREE",
            "READY",
            "OVERLAPPING",
            "EXHAUSTED",
            "PRIORITY",
            "NAMESPACES",
            "NODE PORTS",
            "ON REMOVAL",
            "AGE"
        ]
    );
    assert!(shown.contains(r#"["192.0.2.0/24"]"#) && shown.contains(r#"["shop"]"#), "{shown}");
    for name in ["ares", "l2adv", "spk", "landfall"] {
        list(name, &[]);
    }
    let told = lab().kubectl(&["explain", "addresspool.spec.onRemoval"]).unwrap();
    assert!(
        told.contains("Keep") && told.contains("Reassign") && told.contains("deleted or shrunk"),
        "{told}"
    );
}

#[test]
fn every_example_of_the_documentation_is_accepted() {
    let pages = [include_str!("../../docs/pools.md"), include_str!("../../docs/api.md")];
    let blocks = pages.iter().flat_map(|page| page.split("```yaml\n").skip(1));
    let mut examples: Vec<&str> = blocks.filter_map(|block| block.split("```").next()).collect();
    examples.push(include_str!("../../docs/examples/addresspool.yaml"));
    assert!(examples.len() > 8, "{}", examples.len());
    for example in examples {
        let mut kubectl = lab().kubectl_command();
        kubectl.args(["create", "--dry-run=server", "--validate=strict", "--filename=-"]);
        let pipes = kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        child.stdin.take().unwrap().write_all(example.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}\n{example}", String::from_utf8_lossy(&done.stderr));
    }
}

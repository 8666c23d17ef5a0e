//! Label selectors in our kinds: the selector of Kubernetes, narrowed by rules of the API server.
//!
//! To Kubernetes the empty selector means everything, which turns a typing error into a wide-open pool; here it
//! is refused. So is a selector that no set of labels can satisfy: it can only be a mistake. The rules are CEL on
//! the selector itself, so a refusal names it (`spec.serviceSelectors[1]`) or the requirement inside it. The
//! limits keep their estimated cost within what the API server allows for a definition.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Most requirements of one selector, and most labels in its `matchLabels`.
const REQUIREMENTS: usize = 8;
/// Most values of one requirement.
const VALUES: usize = 64;
/// Most selectors in a list.
const SELECTORS: usize = 16;
/// Longest label value, and longest label key: a DNS name, a slash and a name.
const VALUE: usize = 63;
const KEY: usize = 253 + 1 + 63;

const VALUE_PATTERN: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
const KEY_PATTERN: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$";

/// A label selector.
pub(crate) fn one(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "description": "Labels that the object has to have, with these values.",
                "type": "object",
                "maxProperties": REQUIREMENTS,
                "additionalProperties": label_value(),
                "x-kubernetes-validations": [{
                    "rule": format!("self.all(key, key.size() <= {KEY} && key.matches('{KEY_PATTERN}'))"),
                    "message": "has a key that is not a label key such as app or example.com/tier",
                }],
            },
            "matchExpressions": {
                "description": "Requirements that the labels of the object have to meet, all of them.",
                "type": "array",
                "maxItems": REQUIREMENTS,
                "items": requirement(),
                "x-kubernetes-list-type": "atomic",
            },
        },
        "x-kubernetes-map-type": "atomic",
        "x-kubernetes-validations": rules(),
    })
}

/// A list of label selectors.
pub(crate) fn many(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": SELECTORS,
        "items": one(generator),
        "x-kubernetes-list-type": "atomic",
    })
}

fn label_value() -> Value {
    json!({"type": "string", "maxLength": VALUE, "pattern": VALUE_PATTERN})
}

fn requirement() -> Value {
    json!({
        "type": "object",
        "required": ["key", "operator"],
        "properties": {
            "key": {
                "description": "The key of the label.",
                "type": "string",
                "minLength": 1,
                "maxLength": KEY,
                "pattern": KEY_PATTERN,
            },
            "operator": {
                "description": "How the label relates to the values. NotIn is met by an object without the label, too.",
                "type": "string",
                "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
            },
            "values": {
                "description": "The values for In and NotIn; none for Exists and DoesNotExist.",
                "type": "array",
                "maxItems": VALUES,
                "items": label_value(),
                "x-kubernetes-list-type": "atomic",
            },
        },
        "x-kubernetes-validations": [
            {
                "rule": "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
                "message": "needs values: In and NotIn compare with at least one",
                "fieldPath": ".values",
            },
            {
                "rule": "self.operator in ['In', 'NotIn'] || !has(self.values) || self.values.size() == 0",
                "message": "must have no values: Exists and DoesNotExist compare with none",
                "fieldPath": ".values",
            },
        ],
    })
}

fn rules() -> Value {
    json!([
        {
            "rule": "(has(self.matchLabels) && self.matchLabels.size() > 0) \
                     || (has(self.matchExpressions) && self.matchExpressions.size() > 0)",
            "message": "is empty, which would select nothing: leave the field out or add matchLabels or matchExpressions",
        },
        {
            "rule": "!has(self.matchLabels) || !has(self.matchExpressions) \
                     || self.matchExpressions.all(f, !(f.key in self.matchLabels) \
                     || (f.operator == 'In' ? has(f.values) && self.matchLabels[f.key] in f.values \
                     : f.operator == 'NotIn' ? !has(f.values) || !(self.matchLabels[f.key] in f.values) \
                     : f.operator == 'Exists'))",
            "message": "contradicts itself: matchLabels and matchExpressions cannot both be met",
        },
        {
            // Pair by pair, with the functions for sets: their estimated cost is a tenth of that of a loop.
            "rule": "!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator != 'In' || !has(e.values) \
                     || self.matchExpressions.all(f, f.key != e.key || !has(f.values) \
                     || (f.operator == 'In' ? sets.intersects(e.values, f.values) \
                     : f.operator != 'NotIn' || !sets.contains(f.values, e.values))))",
            "message": "contradicts itself: no value meets all matchExpressions of one key",
        },
        {
            "rule": "!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator != 'DoesNotExist' \
                     || self.matchExpressions.all(f, f.key != e.key || f.operator in ['DoesNotExist', 'NotIn']))",
            "message": "contradicts itself: matchExpressions want one key to exist and not to exist",
        },
    ])
}

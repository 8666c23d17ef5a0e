//! Labels and label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use landfall_core::selector::{Labels, Requirement, Selector};

use super::FieldError;

/// The labels of an object.
#[must_use]
pub fn labels(of: Option<&BTreeMap<String, String>>) -> Labels {
    of.into_iter().flatten().collect()
}

/// Reads a selector that stands in this field.
pub fn selector(field: &str, object: &LabelSelector) -> Result<Selector, FieldError> {
    let expressions = object.match_expressions.as_deref().unwrap_or_default();
    let requirements = expressions.iter().enumerate().map(|(index, expression)| {
        let values = expression.values.as_deref().unwrap_or_default();
        Requirement::parse(&expression.key, &expression.operator, values).map_err(|error| FieldError {
            path: format!("{field}.matchExpressions[{index}]"),
            message: error.to_string(),
        })
    });
    let requirements = requirements.collect::<Result<Vec<_>, _>>()?;
    let read = Selector::new(labels(object.match_labels.as_ref()), requirements);
    match read.contradiction() {
        Some(key) => Err(FieldError {
            path: field.to_owned(),
            message: format!(
                "nothing can be selected: the requirements on label {key:?} contradict each other"
            ),
        }),
        None => Ok(read),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(object: &Value) -> Result<Selector, FieldError> {
        selector("spec.namespaceSelector", &serde_json::from_value(object.clone()).unwrap())
    }

    #[test]
    fn a_selector_selects_as_in_kubernetes_but_for_the_empty_one() {
        let web = labels(Some(&[("app".to_owned(), "web".to_owned())].into()));
        let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "app", "operator": operator, "values": values}]});
        for (object, selected) in [
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "web", "tier": "x"}}), false),
            (expression("In", json!(["db", "web"])), true),
            (expression("NotIn", json!(["web"])), false),
            (expression("Exists", json!([])), true),
            (expression("DoesNotExist", json!(null)), false),
            (json!({}), false),
        ] {
            assert_eq!(read(&object).unwrap().matches(&web), selected, "{object}");
        }
    }

    #[test]
    fn a_selector_that_nothing_can_satisfy_is_refused() {
        let is =
            |operator: &str, values: &[&str]| json!({"key": "app", "operator": operator, "values": values});
        let object =
            json!({"matchExpressions": [is("In", &["a", "b"]), is("NotIn", &["a"]), is("NotIn", &["b"])]});
        let error = read(&object).unwrap_err();
        assert_eq!(error.path, "spec.namespaceSelector");
        assert!(error.message.contains("\"app\""), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let good = json!({"key": "app", "operator": "Exists"});
        let error =
            read(&json!({"matchExpressions": [good, {"key": "app", "operator": "Near"}]})).unwrap_err();
        assert_eq!(error.path, "spec.namespaceSelector.matchExpressions[1]");
        assert!(error.message.contains("Near"), "{error}");
    }
}

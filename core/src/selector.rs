//! Labels, and who is selected by them: which Services a pool serves, for whom an address is reserved.

use std::collections::BTreeSet;

use crate::name::Namespace;

/// The labels of an object, compact: in order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// No labels.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The value of the label, in O(log n).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// Whether there is no label.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    /// Of two values of one key the last one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs: std::collections::BTreeMap<Box<str>, Box<str>> =
            pairs.into_iter().map(|(key, value)| (key.as_ref().into(), value.as_ref().into())).collect();
        Self(pairs.into_iter().collect())
    }
}

/// What one requirement of a selector says about its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label is there, with one of these values.
    In(BTreeSet<Box<str>>),
    /// The label is not there, or has none of these values.
    NotIn(BTreeSet<Box<str>>),
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

/// One requirement of a selector (`matchExpressions` of `meta/v1 LabelSelector`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: Box<str>,
    operator: Operator,
}

/// An operator that does not exist, or values where none belong or none are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Not one of the four.
    #[error("{0:?} is not one of In, NotIn, Exists, DoesNotExist")]
    Operator(String),
    /// `In` and `NotIn` need values.
    #[error("{operator} of key {key:?} needs values")]
    NoValues {
        /// The operator.
        operator: &'static str,
        /// The key.
        key: String,
    },
    /// `Exists` and `DoesNotExist` have none.
    #[error("{operator} of key {key:?} takes no values")]
    Values {
        /// The operator.
        operator: &'static str,
        /// The key.
        key: String,
    },
}

impl Requirement {
    /// Reads a requirement as it travels.
    pub fn parse<V: AsRef<str>>(
        key: &str,
        operator: &str,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Self, SelectorError> {
        let values: BTreeSet<Box<str>> = values.into_iter().map(|value| value.as_ref().into()).collect();
        let some = |operator, values: BTreeSet<_>| {
            if values.is_empty() {
                return Err(SelectorError::NoValues { operator, key: key.to_owned() });
            }
            Ok(values)
        };
        let none = |operator: &'static str, is: Operator| {
            if values.is_empty() {
                return Ok(is);
            }
            Err(SelectorError::Values { operator, key: key.to_owned() })
        };
        let operator = match operator {
            "Exists" => none("Exists", Operator::Exists)?,
            "DoesNotExist" => none("DoesNotExist", Operator::DoesNotExist)?,
            "In" => Operator::In(some("In", values)?),
            "NotIn" => Operator::NotIn(some("NotIn", values)?),
            other => return Err(SelectorError::Operator(other.chars().take(64).collect())),
        };
        Ok(Self { key: key.into(), operator })
    }

    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// A label selector: every label and every requirement has to hold.
///
/// Unlike in Kubernetes an empty selector selects **nothing**: a selector that somebody forgot to fill in must not
/// open a pool to everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Labels,
    requirements: Box<[Requirement]>,
}

impl Selector {
    /// A selector of labels with their values (`matchLabels`) and of requirements (`matchExpressions`).
    #[must_use]
    pub fn new(labels: Labels, requirements: impl IntoIterator<Item = Requirement>) -> Self {
        Self { labels, requirements: requirements.into_iter().collect() }
    }

    /// Whether it says nothing and so selects nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.requirements.is_empty()
    }

    /// The key of which it asks what no label can be, if there is one: two values at once, or to be there and not to be.
    #[must_use]
    pub fn contradiction(&self) -> Option<&str> {
        let keys = self.labels.0.iter().map(|(key, _)| &**key);
        let keys = keys.chain(self.requirements.iter().map(|requirement| &*requirement.key));
        keys.into_iter().find(|key| !self.satisfiable(key))
    }

    /// Whether there is a value of the label, or its absence, that all requirements on the key admit.
    fn satisfiable(&self, key: &str) -> bool {
        let of_key = || self.requirements.iter().filter(|requirement| *requirement.key == *key);
        let listed = of_key().find_map(|requirement| match &requirement.operator {
            Operator::In(values) => Some(values),
            _ => None,
        });
        let admits = |value: Option<&str>| {
            let labels: Labels = value.map(|value| (key, value)).into_iter().collect();
            let by_label = self.labels.get(key).is_none_or(|wanted| value == Some(wanted));
            by_label && of_key().all(|requirement| requirement.matches(&labels))
        };
        match (self.labels.get(key), listed) {
            (Some(value), _) => admits(Some(value)),
            (None, Some(values)) => values.iter().any(|value| admits(Some(value))),
            // Some value that nobody names.
            (None, None) => {
                let exists = of_key().any(|requirement| requirement.operator == Operator::Exists);
                let absent = of_key().any(|requirement| requirement.operator == Operator::DoesNotExist);
                !(exists && absent)
            }
        }
    }

    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.is_empty()
            && self.labels.0.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

/// Which Services a pool may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// Namespaces by name.
    pub namespaces: BTreeSet<Namespace>,
    /// Namespaces by label. With names and labels both, one of the two suffices; with neither, every namespace.
    pub namespace_selector: Option<Selector>,
    /// Services by label, one selector suffices; none: every Service of those namespaces.
    pub services: Vec<Selector>,
}

impl Audience {
    /// Whether a Service of that namespace with those labels may be served.
    #[must_use]
    pub fn includes(&self, namespace: &Namespace, of_namespace: &Labels, of_service: &Labels) -> bool {
        let any_namespace = self.namespaces.is_empty() && self.namespace_selector.is_none();
        let by_label = || self.namespace_selector.as_ref().is_some_and(|s| s.matches(of_namespace));
        let by_service = || self.services.is_empty() || self.services.iter().any(|s| s.matches(of_service));
        (any_namespace || self.namespaces.contains(namespace) || by_label()) && by_service()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    fn requirement(key: &str, operator: &str, values: &[&str]) -> Requirement {
        Requirement::parse(key, operator, values).unwrap()
    }

    #[test]
    fn what_no_label_can_be_is_found() {
        let none: &[(&str, &str)] = &[];
        let is = |operator: &str, values: &[&str]| requirement("x", operator, values);
        for (wanted, requirements, contradictory) in [
            (none, vec![is("In", &["a", "b"]), is("NotIn", &["a"]), is("NotIn", &["b"])], true),
            (none, vec![is("In", &["a", "b"]), is("NotIn", &["a"])], false),
            (none, vec![is("In", &["a"]), is("In", &["b"])], true),
            (none, vec![is("In", &["a"]), is("DoesNotExist", &[])], true),
            (none, vec![is("Exists", &[]), is("DoesNotExist", &[])], true),
            (none, vec![is("NotIn", &["a"]), is("DoesNotExist", &[])], false),
            (none, vec![is("NotIn", &["a"]), is("Exists", &[])], false),
            (&[("x", "a")], vec![is("NotIn", &["a"])], true),
            (&[("x", "a")], vec![is("In", &["b"])], true),
            (&[("x", "a")], vec![is("DoesNotExist", &[])], true),
            (&[("x", "a")], vec![is("In", &["a", "b"])], false),
            (none, vec![], false),
        ] {
            let selector = Selector::new(labels(wanted), requirements);
            assert_eq!(selector.contradiction(), contradictory.then_some("x"), "{selector:?}");
        }
    }

    #[test]
    fn every_label_and_requirement_has_to_hold() {
        let web = labels(&[("tier", "web"), ("app", "shop")]);
        for (wanted, requirements, selected) in [
            (&[("app", "shop")][..], vec![], true),
            (&[("app", "shop"), ("tier", "web")], vec![], true),
            (&[("app", "shop"), ("tier", "db")], vec![], false),
            (&[("zone", "")], vec![], false),
            (&[], vec![requirement("app", "In", &["cart", "shop"])], true),
            (&[], vec![requirement("app", "In", &["cart"])], false),
            (&[], vec![requirement("zone", "In", &["a"])], false),
            (&[], vec![requirement("app", "NotIn", &["shop"])], false),
            (&[], vec![requirement("app", "NotIn", &["cart"])], true),
            (&[], vec![requirement("zone", "NotIn", &["a"])], true),
            (&[], vec![requirement("app", "Exists", &[])], true),
            (&[], vec![requirement("zone", "Exists", &[])], false),
            (&[], vec![requirement("zone", "DoesNotExist", &[])], true),
            (&[], vec![requirement("app", "Exists", &[]), requirement("app", "DoesNotExist", &[])], false),
            (&[("app", "shop")], vec![requirement("tier", "In", &["db"])], false),
        ] {
            let selector = Selector::new(labels(wanted), requirements);
            assert_eq!(selector.matches(&web), selected, "{selector:?}");
        }
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        // A14: a selector without content is no match, not any match.
        let nothing = Selector::default();
        assert!(!nothing.matches(&Labels::none()) && !nothing.matches(&labels(&[("app", "shop")])));
        let namespace = Namespace::new("x");
        for audience in [
            Audience { namespace_selector: Some(nothing.clone()), ..Audience::default() },
            Audience { services: vec![nothing], ..Audience::default() },
        ] {
            assert!(!audience.includes(&namespace, &Labels::none(), &Labels::none()), "{audience:?}");
        }
    }

    #[test]
    fn requirements_that_make_no_sense_are_refused() {
        for (operator, values, wanted) in [
            ("In", &[][..], "In of key \"app\" needs values"),
            ("NotIn", &[], "NotIn of key \"app\" needs values"),
            ("Exists", &["x"], "Exists of key \"app\" takes no values"),
            ("DoesNotExist", &["x"], "DoesNotExist of key \"app\" takes no values"),
            ("Near", &["x"], "\"Near\" is not one of In, NotIn, Exists, DoesNotExist"),
        ] {
            assert_eq!(Requirement::parse("app", operator, values).unwrap_err().to_string(), wanted);
        }
    }

    #[test]
    fn names_and_labels_of_namespaces_are_a_union_and_services_a_further_condition() {
        // A10, A12, A14
        let select = |key: &str, value: &str| Selector::new(labels(&[(key, value)]), []);
        let both = Audience {
            namespaces: [Namespace::new("x")].into(),
            namespace_selector: Some(select("team", "red")),
            services: vec![select("tier", "web"), select("tier", "api")],
        };
        let (red, plain) = (labels(&[("team", "red")]), Labels::none());
        let (web, api, db) =
            (labels(&[("tier", "web")]), labels(&[("tier", "api")]), labels(&[("tier", "db")]));
        for (namespace, of_namespace, of_service, served) in [
            ("x", &plain, &web, true),
            ("x", &plain, &api, true),
            ("x", &plain, &db, false),
            ("x", &plain, &plain, false),
            ("y", &red, &web, true),
            ("y", &red, &db, false),
            ("y", &plain, &web, false),
        ] {
            let served_is = both.includes(&Namespace::new(namespace), of_namespace, of_service);
            assert_eq!(served_is, served, "{namespace} {of_namespace:?} {of_service:?}");
        }
        assert!(Audience::default().includes(&Namespace::new("y"), &plain, &plain), "no limits: everybody");
    }
}

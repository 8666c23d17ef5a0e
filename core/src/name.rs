//! Names that must not be mixed up: each is a type of its own, parsed or made at the border.

use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $ty:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $ty(Arc<str>);

        impl $ty {
            /// Wraps a name that the API server has already validated.
            pub fn new(name: impl AsRef<str>) -> Self {
                Self(Arc::from(name.as_ref()))
            }

            /// The name as it is written in Kubernetes.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl From<&str> for $ty {
            fn from(name: &str) -> Self {
                Self::new(name)
            }
        }

        impl From<String> for $ty {
            fn from(name: String) -> Self {
                Self::new(name)
            }
        }
    };
}

name! {
    /// The name of an `AddressPool` object.
    PoolName
}
name! {
    /// The name of a Node object; also the identity under which its speaker takes part in ownership.
    NodeName
}
name! {
    /// The name of a network interface, as the kernel of one node knows it.
    Iface
}
name! {
    /// The name of a Kubernetes namespace.
    Namespace
}

/// Which Service: its namespace and name. Cheap to clone and to compare.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The namespace the Service lives in.
    pub namespace: Namespace,
    /// The name of the Service inside its namespace.
    pub name: Arc<str>,
}

impl ServiceKey {
    /// Makes a key of a namespace and a name that the API server has validated.
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self { namespace: Namespace::new(namespace), name: Arc::from(name.as_ref()) }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_shown_as_namespace_slash_name() {
        assert_eq!(ServiceKey::new("web", "front").to_string(), "web/front");
    }

    #[test]
    fn services_are_ordered_by_namespace_then_name() {
        assert!(ServiceKey::new("a", "z") < ServiceKey::new("b", "a"));
        assert!(ServiceKey::new("a", "a") < ServiceKey::new("a", "b"));
    }
}

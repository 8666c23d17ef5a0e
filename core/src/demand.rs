//! What a Service asks for: families, addresses, a pool, whom it shares with.

use std::net::IpAddr;
use std::sync::Arc;

use crate::addr::Family;
use crate::name::PoolName;
use crate::service::Protocol;

mod error;

use error::LONGEST_KEY;
pub use error::RequestError;

/// Which families a Service wants, in the order of its `spec.ipFamilies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// One family only.
    One(Family),
    /// Both, the given one first; one alone is better than none (`PreferDualStack`).
    Prefer(Family),
    /// Both or nothing, the given one first (`RequireDualStack`).
    Require(Family),
}

impl Families {
    /// The families in order.
    #[must_use]
    pub fn list(self) -> &'static [Family] {
        match self {
            Self::One(Family::V4) => &[Family::V4],
            Self::One(Family::V6) => &[Family::V6],
            Self::Prefer(Family::V4) | Self::Require(Family::V4) => &[Family::V4, Family::V6],
            Self::Prefer(Family::V6) | Self::Require(Family::V6) => &[Family::V6, Family::V4],
        }
    }

    /// Whether an address of the family is wanted.
    #[must_use]
    pub fn wants(self, family: Family) -> bool {
        self.list().contains(&family)
    }
}

/// The addresses and the pool a Service asks for; both empty for most Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// At most one address of each family, each of a family that the Service has.
    pub addresses: Vec<IpAddr>,
    /// The pool that every address has to come from.
    pub pool: Option<PoolName>,
}

impl Request {
    /// The address asked for in that family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|addr| Family::of(*addr) == family)
    }
}

/// What a Service asks for, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The families.
    pub families: Families,
    /// The addresses and the pool, or why they cannot be read.
    pub request: Result<Request, RequestError>,
    /// With whom it shares its addresses; `None`: with nobody.
    pub sharing: Option<Sharing>,
    /// Its ports, in order. Two Services on one address have none in common.
    pub ports: Arc<[Port]>,
    /// Whether it wants `NodePort`s of us.
    pub node_ports: NodePortWish,
}

/// A port that clients connect to.
pub type Port = (Protocol, u16);

/// Services with the same key share their addresses, as long as no two of them have the same port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sharing {
    /// The key as the user wrote it.
    pub key: Arc<str>,
}

/// Who gives a Service its `NodePort`s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodePortWish {
    /// The API server, or nobody.
    #[default]
    Off,
    /// We do: the API server is told not to, and the annotation asks for them.
    Wanted,
}

impl Demand {
    /// Any address of these families, shared with nobody.
    #[must_use]
    pub fn plain(families: Families) -> Self {
        Self {
            families,
            request: Ok(Request::default()),
            sharing: None,
            ports: Arc::default(),
            node_ports: NodePortWish::Off,
        }
    }
}

/// An annotation: its name and its value.
pub type Annotation<'a> = (&'static str, &'a str);

/// The fields of a Service that say what it asks for, as texts. `None` and empty mean the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawDemand<'a> {
    /// `spec.ipFamilies`, those that are known.
    pub families: &'a [Family],
    /// `spec.ipFamilyPolicy`.
    pub policy: Option<&'a str>,
    /// `spec.loadBalancerIP`.
    pub load_balancer_ip: Option<&'a str>,
    /// The annotation that lists addresses.
    pub addresses: Option<Annotation<'a>>,
    /// The annotation that names a pool.
    pub pool: Option<Annotation<'a>>,
    /// The annotation with the sharing key.
    pub sharing_key: Option<Annotation<'a>>,
    /// Protocol and port of `spec.ports`.
    pub ports: &'a [Port],
    /// `spec.allocateLoadBalancerNodePorts`; unset is true.
    pub allocate_node_ports: Option<bool>,
    /// The annotation that asks us for `NodePort`s.
    pub node_ports: Option<Annotation<'a>>,
}

/// The most of a user's text that is repeated in a message.
const QUOTED: usize = 64;

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED).collect()
}

/// Whether the API server would take it as the name of an object (RFC 1123 subdomain).
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().copied().is_some_and(plain)
            && bytes.last().copied().is_some_and(plain)
            && bytes.iter().all(|byte| plain(*byte) || *byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn set((_, text): &Annotation<'_>) -> bool {
    !text.trim().is_empty()
}

impl RawDemand<'_> {
    /// Reads the texts.
    #[must_use]
    pub fn parse(&self) -> Demand {
        let first = self.families.first().copied().unwrap_or(Family::V4);
        let dual = self.families.len() > 1;
        let (families, policy_error) = match self.policy {
            Some("RequireDualStack") if dual => (Families::Require(first), None),
            Some("RequireDualStack") => (Families::One(first), Some(RequestError::NotDualStack)),
            _ if dual => (Families::Prefer(first), None),
            _ => (Families::One(first), None),
        };
        let (sharing, key_error) = split(self.sharing());
        let (node_ports, flag_error) = split(self.node_ports());
        let request = match policy_error.or(key_error).or(flag_error) {
            Some(error) => Err(error),
            None => self.request(families),
        };
        let mut ports = self.ports.to_vec();
        ports.sort_unstable();
        ports.dedup();
        Demand {
            families,
            request,
            sharing: sharing.flatten(),
            ports: ports.into(),
            node_ports: node_ports.unwrap_or_default(),
        }
    }

    fn sharing(&self) -> Result<Option<Sharing>, RequestError> {
        let Some((annotation, key)) = self.sharing_key.filter(set) else { return Ok(None) };
        let key = key.trim();
        if key.chars().nth(LONGEST_KEY).is_some() {
            return Err(RequestError::KeyTooLong { annotation });
        }
        Ok(Some(Sharing { key: key.into() }))
    }

    fn node_ports(&self) -> Result<NodePortWish, RequestError> {
        let Some((annotation, text)) = self.node_ports.filter(set) else { return Ok(NodePortWish::Off) };
        match text.trim() {
            "true" if self.allocate_node_ports == Some(false) => Ok(NodePortWish::Wanted),
            "true" | "false" => Ok(NodePortWish::Off),
            text => Err(RequestError::NotAFlag { annotation, text: quoted(text) }),
        }
    }

    fn pool(&self) -> Result<Option<PoolName>, RequestError> {
        let Some((annotation, name)) = self.pool.filter(set) else { return Ok(None) };
        let name = name.trim();
        if !is_name(name) {
            return Err(RequestError::NotAName { annotation, text: quoted(name) });
        }
        Ok(Some(PoolName::new(name)))
    }

    fn request(&self, families: Families) -> Result<Request, RequestError> {
        let pool = self.pool()?;
        let field = self.load_balancer_ip.map(|text| ("spec.loadBalancerIP", text)).filter(set);
        let (field, text) = match (field, self.addresses.filter(set)) {
            (None, None) => return Ok(Request { addresses: Vec::new(), pool }),
            (Some(_), Some((annotation, _))) => return Err(RequestError::AskedTwice { annotation }),
            (Some(one), None) | (None, Some(one)) => one,
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let Ok(addr) = part.parse::<IpAddr>() else {
                return Err(RequestError::NotAnAddress { field, text: quoted(part) });
            };
            let family = Family::of(addr);
            if !families.wants(family) {
                return Err(RequestError::ForeignFamily { field, addr });
            }
            if addresses.iter().any(|other| Family::of(*other) == family) {
                return Err(RequestError::TwoOfOneFamily { field, addr });
            }
            addresses.push(addr);
        }
        Ok(Request { addresses, pool })
    }
}

fn split<T>(read: Result<T, RequestError>) -> (Option<T>, Option<RequestError>) {
    match read {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}

#[cfg(test)]
mod tests;

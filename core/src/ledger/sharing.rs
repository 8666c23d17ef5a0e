//! Several Services on one address: on which terms, and where that goes wrong.

use std::net::IpAddr;
use std::sync::Arc;

use crate::demand::{Demand, Port, Sharing};
use crate::name::ServiceKey;
use crate::pool::SharingScope;

use super::Ledger;

/// On which terms a Service holds its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// With whom it shares them; `None`: with nobody.
    pub sharing: Option<Sharing>,
    /// Its ports, in order.
    pub ports: Arc<[Port]>,
}

impl From<&Demand> for Terms {
    fn from(demand: &Demand) -> Self {
        Self { sharing: demand.sharing.clone(), ports: demand.ports.clone() }
    }
}

/// Why a Service cannot be on an address beside another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clash {
    /// One of the two does not share.
    InUse {
        /// The other Service.
        holder: ServiceKey,
    },
    /// The keys differ.
    Key {
        /// The other Service.
        holder: ServiceKey,
    },
    /// Both have this port.
    Port {
        /// The other Service.
        holder: ServiceKey,
        /// The lowest port that both have.
        port: Port,
    },
    /// The other one is of another namespace, and the pool does not allow that.
    Namespace {
        /// The other Service.
        holder: ServiceKey,
    },
}

/// The addresses of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// In the order in which it got them.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) terms: Terms,
    /// It changed its key or a port while it shared an address, and clashes with another one since. The others do
    /// not pay for it: they are not moved.
    pub(super) contested: bool,
}

/// Who holds an address. Few addresses have several holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holders {
    One(ServiceKey),
    /// In order of their names.
    Many(Vec<ServiceKey>),
}

impl Holders {
    pub(super) fn list(&self) -> &[ServiceKey] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }

    pub(super) fn add(&mut self, key: &ServiceKey) {
        let mut keys = self.list().to_vec();
        if let Err(at) = keys.binary_search(key) {
            keys.insert(at, key.clone());
        }
        *self = Self::Many(keys);
    }

    /// Without that one; `None` when nobody is left.
    pub(super) fn without(&self, key: &ServiceKey) -> Option<Self> {
        let mut left: Vec<ServiceKey> = self.list().iter().filter(|other| *other != key).cloned().collect();
        match left.len() {
            0 => None,
            1 => left.pop().map(Self::One),
            _ => Some(Self::Many(left)),
        }
    }
}

/// The lowest port that is in both lists, which are in order.
fn common(ours: &[Port], theirs: &[Port]) -> Option<Port> {
    let (few, many) = if ours.len() <= theirs.len() { (ours, theirs) } else { (theirs, ours) };
    few.iter().copied().find(|port| many.binary_search(port).is_ok())
}

impl Ledger {
    /// Why the Service cannot join those who hold the address, if it cannot. One that holds it already can.
    #[must_use]
    pub fn clash(&self, scope: SharingScope, key: &ServiceKey, terms: &Terms, addr: IpAddr) -> Option<Clash> {
        let mut others = self.holders(addr).iter().filter(|other| *other != key);
        let clash = |holder: &ServiceKey| {
            let account = self.accounts.get(holder)?;
            let elsewhere = scope == SharingScope::Namespace && holder.namespace != key.namespace;
            // One that clashes with the others itself is no measure for their key.
            let keys = if account.contested { None } else { differ(terms, &account.terms, holder) };
            let alone = terms.sharing.is_none().then(|| Clash::InUse { holder: holder.clone() });
            keys.or(alone)
                .or_else(|| elsewhere.then(|| Clash::Namespace { holder: holder.clone() }))
                .or_else(|| ports(terms, &account.terms, holder))
        };
        others.find_map(clash)
    }

    /// What is wrong between a Service and the others on an address it holds, if it has changed its key or its
    /// ports since it got the address. Where one only changed, the others are not asked.
    #[must_use]
    pub fn conflict(&self, key: &ServiceKey, terms: &Terms, addr: IpAddr) -> Option<Clash> {
        let account = self.accounts.get(key)?;
        if !account.contested && account.terms == *terms {
            return None;
        }
        let others = self.holders(addr).iter().filter(|other| *other != key);
        let known = || others.clone().filter_map(|other| Some((other, &self.accounts.get(other)?.terms)));
        known()
            .find_map(|(other, theirs)| differ(terms, theirs, other))
            .or_else(|| known().find_map(|(other, theirs)| ports(terms, theirs, other)))
    }

    /// The addresses that Services share under this key, in order; those of other namespaces too if `widely`.
    pub(crate) fn shared(
        &self,
        sharing: &Sharing,
        key: &ServiceKey,
        widely: bool,
    ) -> impl Iterator<Item = IpAddr> {
        let start = (sharing.key.clone(), (!widely).then(|| key.namespace.clone()));
        self.groups
            .range((start.0.clone(), start.1.clone().unwrap_or_else(|| "".into()), super::LOWEST)..)
            .take_while(move |(group, namespace, _)| {
                *group == start.0 && start.1.as_ref().is_none_or(|only| only == namespace)
            })
            .map(|(_, _, addr)| *addr)
    }

    /// The terms of a Service that holds something are these now; whether they were others.
    pub(super) fn set_terms(&mut self, key: &ServiceKey, terms: &Terms) -> bool {
        let Some(account) = self.accounts.get(key) else { return false };
        let same = account.terms == *terms;
        if same && !account.contested {
            return false;
        }
        let contested = account.addresses.iter().any(|addr| self.conflict(key, terms, *addr).is_some());
        let addresses = account.addresses.clone();
        if !same {
            for addr in &addresses {
                self.leave_group(key, *addr);
            }
        }
        if let Some(account) = self.accounts.get_mut(key) {
            account.contested = contested;
            account.terms = terms.clone();
        }
        if !same {
            for addr in &addresses {
                self.join_group(key, *addr);
            }
        }
        !same
    }

    /// Somebody left the address: those who clashed with nobody but him are in order now.
    pub(super) fn settle_conflicts(&mut self, addr: IpAddr) {
        let contested = |key: &&ServiceKey| self.accounts.get(*key).is_some_and(|account| account.contested);
        let contested: Vec<ServiceKey> = self.holders(addr).iter().filter(contested).cloned().collect();
        for key in contested {
            if let Some(terms) = self.accounts.get(&key).map(|account| account.terms.clone()) {
                self.set_terms(&key, &terms);
            }
        }
    }

    pub(super) fn join_group(&mut self, key: &ServiceKey, addr: IpAddr) {
        if let Some(sharing) = self.accounts.get(key).and_then(|account| account.terms.sharing.as_ref()) {
            self.groups.insert((sharing.key.clone(), key.namespace.clone(), addr));
        }
    }

    /// The Service, which is still in the books, is about to leave the address or to change its key.
    pub(super) fn leave_group(&mut self, key: &ServiceKey, addr: IpAddr) {
        let sharing_of = |key: &ServiceKey| self.accounts.get(key).and_then(|a| a.terms.sharing.as_ref());
        let Some(sharing) = sharing_of(key).cloned() else { return };
        let stays = self.holders(addr).iter().any(|other| {
            other != key && other.namespace == key.namespace && sharing_of(other) == Some(&sharing)
        });
        if !stays {
            self.groups.remove(&(sharing.key, key.namespace.clone(), addr));
        }
    }
}

fn differ(ours: &Terms, theirs: &Terms, holder: &ServiceKey) -> Option<Clash> {
    match (&ours.sharing, &theirs.sharing) {
        (Some(ours), Some(theirs)) if ours == theirs => None,
        (Some(_), Some(_)) => Some(Clash::Key { holder: holder.clone() }),
        _ => Some(Clash::InUse { holder: holder.clone() }),
    }
}

fn ports(ours: &Terms, theirs: &Terms, holder: &ServiceKey) -> Option<Clash> {
    common(&ours.ports, &theirs.ports).map(|port| Clash::Port { holder: holder.clone(), port })
}

//! What speakers report, folded into conditions of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use landfall_core::name::ServiceKey;
use landfall_crds::conditions;

use crate::decision::Told;
use crate::seen::SeenSpeaker;

/// Nodes named in a message at most.
const NAMED: usize = 5;

/// The speakers, as they say themselves.
#[derive(Debug, Default)]
pub(super) struct Speakers {
    by_node: BTreeMap<Box<str>, SeenSpeaker>,
    /// Who announces an address, and on which interface.
    owners: BTreeMap<IpAddr, BTreeMap<Box<str>, Box<str>>>,
}

/// What a change of a speaker may be about.
#[derive(Debug, Default)]
pub(super) struct Affected {
    /// Addresses that are announced elsewhere now, or not at all.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Services whose exceptions changed.
    pub(super) services: BTreeSet<Box<str>>,
    /// The `resourceVersion`s that its kernel had reached before and has reached now.
    watermark: (u64, u64),
    /// Whether the speaker was not there before, or is not any more.
    joined_or_left: bool,
}

impl Affected {
    /// Whether the speaker may have got or lost what was changed at this `resourceVersion`.
    pub(super) const fn reaches(&self, version: u64) -> bool {
        let (before, now) = self.watermark;
        self.joined_or_left || ((before < version) != (now < version))
    }
}

impl Speakers {
    /// Takes in what a speaker says, or that it is gone.
    pub(super) fn set(&mut self, node: &str, said: Option<SeenSpeaker>) -> Affected {
        let before = self.by_node.remove(node);
        let silent = SeenSpeaker::default();
        let (old, new) = (before.as_ref().unwrap_or(&silent), said.as_ref().unwrap_or(&silent));
        let mut affected = Affected::default();
        for (addr, iface) in &old.owned {
            if new.owned.get(addr) != Some(iface) {
                affected.addresses.insert(*addr);
                if let Some(nodes) = self.owners.get_mut(addr) {
                    nodes.remove(node);
                    if nodes.is_empty() {
                        self.owners.remove(addr);
                    }
                }
            }
        }
        for (addr, iface) in &new.owned {
            if old.owned.get(addr) != Some(iface) {
                affected.addresses.insert(*addr);
                self.owners.entry(*addr).or_default().insert(node.into(), iface.clone());
            }
        }
        let differs = |name: &str| old.exceptions.get(name) != new.exceptions.get(name);
        let names = old.exceptions.keys().chain(new.exceptions.keys());
        affected.services = names.filter(|name| differs(name)).cloned().collect();
        affected.watermark = (old.services, new.services);
        affected.joined_or_left = before.is_some() != said.is_some();
        if let Some(said) = said {
            self.by_node.insert(node.into(), said);
        }
        affected
    }

    /// The nodes of the speakers.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &str> {
        self.by_node.keys().map(|name| &**name)
    }

    /// The conditions of a Service that has these addresses. `version` is the `resourceVersion` since which it is
    /// as it is for speakers, `live` says whether a node exists.
    pub(super) fn conditions(
        &self,
        key: &ServiceKey,
        addresses: &[IpAddr],
        version: u64,
        restricted: bool,
        live: impl Fn(&str) -> bool,
    ) -> Vec<(&'static str, Told)> {
        let mut told = vec![(conditions::ANNOUNCED.type_, self.announced(addresses))];
        let name = key.to_string();
        let lagging: Vec<String> = self
            .by_node
            .values()
            .filter(|speaker| live(&speaker.node))
            .filter_map(|speaker| match speaker.exceptions.get(name.as_str()) {
                Some(reason) => Some(format!("{} ({reason})", speaker.node)),
                None if speaker.services < version => Some(speaker.node.to_string()),
                None => None,
            })
            .collect();
        let nobody = !self.by_node.values().any(|speaker| live(&speaker.node));
        let state = |yes: &'static str, no: &'static str, done: &str| {
            if nobody {
                Told { is_true: false, reason: no, message: "no speaker has reported yet".to_owned() }
            } else if lagging.is_empty() {
                Told { is_true: true, reason: yes, message: done.to_owned() }
            } else {
                let more = lagging.len().saturating_sub(NAMED);
                let mut list = lagging.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
                if more > 0 {
                    list = format!("{list} and {more} more");
                }
                Told { is_true: false, reason: no, message: format!("not yet on node {list}") }
            }
        };
        told.push((
            conditions::PROGRAMMED.type_,
            state("Programmed", "NotProgrammed", "in the kernel of every node with a speaker"),
        ));
        if restricted {
            told.push((
                conditions::SOURCE_RANGES_ENFORCED.type_,
                state("Enforced", "NotEnforced", "enforced on every node with a speaker"),
            ));
        }
        told
    }

    fn announced(&self, addresses: &[IpAddr]) -> Told {
        let (mut where_, mut missing) = (Vec::new(), Vec::new());
        for addr in addresses {
            match self.owners.get(addr) {
                Some(nodes) => {
                    let by = nodes.iter().map(|(node, iface)| format!("{node} on {iface}"));
                    where_.push(format!("{addr} by {}", by.collect::<Vec<_>>().join(", ")));
                }
                None => missing.push(addr.to_string()),
            }
        }
        if missing.is_empty() {
            Told { is_true: true, reason: "Announced", message: where_.join("; ") }
        } else {
            let message = format!("no node announces {}", missing.join(", "));
            let message = where_.into_iter().chain([message]).collect::<Vec<_>>().join("; ");
            Told { is_true: false, reason: "NotAnnounced", message }
        }
    }
}

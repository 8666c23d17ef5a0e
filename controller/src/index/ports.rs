//! `NodePort`s: which are in use, and which a Service gets.

use std::collections::{BTreeMap, BTreeSet};

use landfall_core::demand::Port;
use landfall_core::name::ServiceKey;
use landfall_core::node_port::{self, choose};

use super::Index;
use crate::decision::Desired;
use crate::seen::SeenService;
use crate::send::PortsRefused;

/// How long a port is left alone that the API server has refused, in milliseconds, doubled each time: the first,
/// and how often it is doubled. A deleted Service is gone from the watch before the API server frees its ports.
const LEFT_ALONE: i64 = 500;
const DOUBLINGS: u32 = 7;

/// Ports that the API server has refused although no Service is seen to have them. They count as used for a while.
#[derive(Debug, Default)]
pub(super) struct RefusedPorts {
    /// Until when, in Unix milliseconds.
    until: BTreeSet<(i64, u16)>,
    /// How often each was refused since it was last seen with a Service.
    times: BTreeMap<u16, u32>,
}

impl RefusedPorts {
    /// When the first of them counts as free again, in Unix milliseconds.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        self.until.first().map(|(until, _)| *until)
    }

    fn add(&mut self, port: u16, now: i64) {
        let times = self.times.entry(port).or_default();
        self.until.insert((now + (LEFT_ALONE << (*times).min(DOUBLINGS)), port));
        *times += 1;
    }

    fn expired(&mut self, now: i64) -> Vec<u16> {
        let later = self.until.split_off(&(now + 1, 0));
        std::mem::replace(&mut self.until, later).into_iter().map(|(_, port)| port).collect()
    }
}

impl Index {
    /// The API server did not take the `NodePort`s of a write, whatever became of the rest.
    pub fn ports_refused(&mut self, key: &ServiceKey, refused: PortsRefused) {
        let Some(entry) = self.services.get_mut(key) else { return };
        match refused {
            // Whoever has them is not seen yet, or not gone yet for the API server.
            PortsRefused::Taken => {
                let seen = self.ports_of.get(key);
                entry.ports.retain(|_, number| {
                    let keeps = seen.is_some_and(|ports| ports.contains(number));
                    if !keeps {
                        self.refused_ports.add(*number, self.now);
                    }
                    keeps
                });
            }
            PortsRefused::OutOfRange => {
                let given = std::mem::take(&mut entry.ports);
                entry.ports_outside = entry.ports_from;
                for number in given.into_values() {
                    self.ports.remove(number);
                }
            }
        }
        self.make_due(key);
    }

    /// Ports that were refused long enough ago may be tried again.
    pub(super) fn expire_refused_ports(&mut self) {
        let expired = self.refused_ports.expired(self.now);
        for port in &expired {
            self.ports.remove(*port);
        }
        if !expired.is_empty() {
            self.wake_port_waiters();
        }
    }

    /// Notes the `NodePort`s that a Service has, whoever gave them.
    pub(super) fn note_ports(&mut self, seen: &SeenService) {
        let old = self.ports_of.get(&seen.key);
        if old.is_none() && seen.node_ports.is_empty() || old == Some(&seen.node_ports) {
            return;
        }
        let old = old.cloned().unwrap_or_default();
        for number in &old {
            self.ports.remove(*number);
        }
        for number in &seen.node_ports {
            self.ports.add(*number);
            self.refused_ports.times.remove(number);
        }
        if old.iter().any(|number| !seen.node_ports.contains(number)) {
            self.wake_port_waiters();
        }
        if seen.node_ports.is_empty() {
            self.ports_of.remove(&seen.key);
        } else {
            self.ports_of.insert(seen.key.clone(), seen.node_ports.clone());
        }
    }

    pub(super) fn forget_ports(&mut self, key: &ServiceKey) {
        self.port_waiters.remove(key);
        let had = self.ports_of.remove(key).unwrap_or_default();
        for number in &had {
            self.ports.remove(*number);
        }
        if !had.is_empty() {
            self.wake_port_waiters();
        }
    }

    /// A port is free again: who lacks one is looked at.
    pub(super) fn wake_port_waiters(&mut self) {
        for key in std::mem::take(&mut self.port_waiters) {
            self.make_due(&key);
        }
    }

    /// Gives the Service the `NodePort`s that it wants of us and lacks.
    pub(super) fn give_ports(&mut self, key: &ServiceKey, desired: &mut Desired) {
        let Some(entry) = self.services.get_mut(key) else { return };
        let wants_any = !desired.addresses.is_empty();
        let wanted = |port: &Port| wants_any && entry.seen.ports.iter().any(|seen| seen.port == *port);
        let given = std::mem::take(&mut entry.ports);
        let (keeps, gives_up): (BTreeMap<Port, u16>, _) =
            given.into_iter().partition(|(port, _)| wanted(port));
        entry.ports = keeps;
        for number in gives_up.values() {
            self.ports.remove(*number);
        }
        if !gives_up.is_empty() {
            self.wake_port_waiters();
        }
        let Some(entry) = self.services.get_mut(key) else { return };
        if entry.seen.ports.is_empty() || !wants_any {
            return;
        }
        let range = desired
            .addresses
            .iter()
            .find_map(|addr| self.pools.of(*addr)?.pool.node_ports)
            .unwrap_or(self.choices.node_ports);
        entry.ports_from = Some(range);
        if entry.ports_outside == Some(range) {
            let message = format!(
                "the API server does not accept NodePorts of {range}: choose a range inside its --service-node-port-range"
            );
            desired.lacks_node_ports(node_port::RANGE_INVALID, &message);
            return;
        }
        let lacking: Vec<(usize, Port)> = entry
            .seen
            .ports
            .iter()
            .enumerate()
            .filter(|(_, port)| port.node_port == 0)
            .map(|(at, port)| (at, port.port))
            .collect();
        // What it had from us before somebody wiped it comes back.
        let fresh: Vec<_> =
            lacking.iter().filter(|(_, port)| !entry.ports.contains_key(port)).copied().collect();
        match choose(range, &self.ports, fresh.len(), None) {
            Ok(numbers) => {
                for ((_, port), number) in fresh.into_iter().zip(numbers) {
                    self.ports.add(number);
                    entry.ports.insert(port, number);
                }
            }
            Err(exhausted) => {
                desired.lacks_node_ports(node_port::EXHAUSTED, &exhausted.to_string());
                self.port_waiters.insert(key.clone());
            }
        }
        desired.node_ports =
            lacking.iter().filter_map(|(at, port)| Some((*at, *entry.ports.get(port)?))).collect();
    }
}

//! `NodePort`s: which are in use, and which a Service gets.

use landfall_core::name::ServiceKey;
use landfall_core::node_port::{self, choose};

use super::Index;
use crate::decision::Desired;
use crate::seen::SeenService;
use crate::send::PortsRefused;

impl Index {
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
        if entry.seen.ports.is_empty() || desired.addresses.is_empty() {
            for number in std::mem::take(&mut entry.ports).into_values() {
                self.ports.remove(number);
            }
            return;
        }
        let range = desired
            .addresses
            .iter()
            .find_map(|addr| self.pools.of(*addr)?.pool.node_ports)
            .unwrap_or(self.choices.node_ports);
        if entry.ports_refused == Some(PortsRefused::OutOfRange) {
            let message = format!(
                "the API server does not accept NodePorts of {range}: choose a range inside its --service-node-port-range"
            );
            desired.lacks_node_ports(node_port::RANGE_INVALID, &message);
            return;
        }
        let lacking: Vec<(usize, landfall_core::demand::Port)> = entry
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

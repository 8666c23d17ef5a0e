//! The data path with real packets: clients, a node whose kernel carries the rules, and pods that say who they are
//! and whom they saw. Every behaviour in IPv4 and IPv6. S numbers are those of Kubernetes' own
//! behaviours as kube-proxy has them.
//!
//! Root and iproute2, nftables and ping are needed; without them the tests fail.

#[cfg(test)]
mod affinity;
#[cfg(test)]
mod changes;
#[cfg(test)]
mod doors;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod owned;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod sctp;
#[cfg(test)]
mod services;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod table;
#[cfg(test)]
mod wire;
#[cfg(test)]
#[path = "../support/world.rs"]
mod world;

//! The pure part of Landfall: what an address pool holds, who gets which address, who announces it, and what
//! the kernel should look like. Nothing in here does I/O, reads a clock, draws a random number or knows
//! Kubernetes: its manifest has neither `kube` nor `tokio`, so time, randomness and observations are arguments
//! and decisions are return values.

pub mod addr;
pub mod name;
pub mod selector;

mod clock;
mod steps;

// Allocation: pools, the ledger of who holds what, and the decision.
pub mod allocate;
pub mod demand;
pub mod interval;
pub mod ledger;
pub mod node_port;
pub mod pool;
pub mod reservation;

// The data path: what every front end should do, and the difference to what the kernel has.
pub mod diff;
pub mod endpoints;
pub mod frontend;
pub mod service;

// Ownership and announcing.
pub mod announce;
pub mod claim;
pub mod elect;
pub mod roster;
pub mod segment;

//! The Landfall controller: gives addresses of pools to Services and says so in their status.
//!
//! Data flows one way: watches -> [`index`] -> [`decision`] -> patches; what the API server answers comes back as
//! an observation. Of the replicas one leads ([`leader`]); the others wait and hold nothing.

pub mod args;
pub mod cleanup;
pub mod decision;
pub mod hooks;
pub mod index;
pub mod leader;
pub mod metrics;
pub mod pool_status;
pub mod reservation_status;
pub mod run;
pub mod seen;
pub mod send;
pub mod work;

//! Allocation as its users see it, in a real cluster: which address a Service gets, when it loses it, and what it
//! is told. Ids such as A26 name the rows of the project's contract for allocation.
//!
//! Every pool is made for the namespaces of its test; the addresses outside the lab's LAN are announced nowhere,
//! which these tests do not need.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bad_input;
mod choice;
mod dual_stack;
mod finalizer;
mod node_ports;
mod pools;
mod ranges;
mod release;
mod requests;
mod reservations;
mod sharing;

use landfall_lab::TestNs;
use landfall_lab::product::cluster;
use serde_json::{Value, json};

/// A namespace of one test.
fn space(name: &str) -> TestNs {
    cluster().namespace(name).expect("a namespace")
}

/// The spec of a pool that serves these namespaces only; `more` adds fields.
fn pinned(namespaces: &[&TestNs], addresses: &[&str], more: &Value) -> Value {
    let names: Vec<&str> = namespaces.iter().map(|ns| ns.name()).collect();
    let mut spec = json!({"addresses": addresses, "namespaces": names});
    let fields = spec.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("fields").clone());
    spec
}

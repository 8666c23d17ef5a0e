//! Allocation while everything around it fails: controllers killed and frozen, an API server that restarts, watches
//! that are left behind, a namespace that never rests. Ids such as A61 name the rows of the project's contract.
//!
//! A watch notes throughout what must never be seen, even for a moment: an address with two Services, one that
//! moves or goes without cause, one that is shown before the finalizer guards it.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod api_server;
mod crowd;
mod killed;
mod leaders;
mod outside;
mod proxy;

use std::time::Duration;

use landfall_lab::TestNs;
use landfall_lab::product::{cluster, eventually_seen};
use landfall_lab::recorder::Recorder;
use serde_json::json;

/// A namespace of one test.
fn space(name: &str) -> TestNs {
    cluster().namespace(name).expect("a namespace")
}

/// The spec of a pool that serves these namespaces only.
fn pinned(namespaces: &[&TestNs], addresses: &[&str]) -> serde_json::Value {
    let names: Vec<&str> = namespaces.iter().map(|ns| ns.name()).collect();
    json!({"addresses": addresses, "namespaces": names})
}

/// Waits until there are `count` Services with an address in all and none without, and nothing was ever wrong.
fn wait_served(recorder: &Recorder, count: usize, within: Duration) {
    eventually_seen(within, &format!("{count} Services to be served"), || {
        let seen = recorder.seen();
        assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
        let waiting: Vec<&str> = seen.waiting().take(5).collect();
        if seen.served() == count && seen.given() == count && waiting.is_empty() {
            return Ok(());
        }
        Err(format!("{} served, {} addresses, waiting: {waiting:?}", seen.served(), seen.given()))
    });
}

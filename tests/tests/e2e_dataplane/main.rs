//! The data path against kube-proxy's: random Services and slices go to one API server, the speaker and kube-proxy
//! (nftables mode) carry them on the same node of two equal networks, and the same questions must get the same answers:
//! the same endpoints with the same source addresses, refusals and silence.
//!
//! `LANDFALL_CONFIGURATIONS` says how many configurations are tried; each follows on the one before. `LANDFALL_SEED` is
//! the first one's seed: with it and one configuration, a failure is looked at alone.
#![cfg(test)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod config;
mod duel;
mod probe;

use std::collections::BTreeMap;

use duel::Duel;
use probe::Verdict;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect(variable))
}

#[test]
fn random_services_are_carried_as_kube_proxy_carries_them() {
    // S1 to S10, S13 to S18, S21 to S30, S32, S37 to S49, S52, S55 to S59, S63 to S69, S76 to S78, S87 to S91, S96, S102,
    // S107, S109
    let duel = Duel::begin();
    let first = number("LANDFALL_SEED", 1);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in first..first + number("LANDFALL_CONFIGURATIONS", 20) {
        for outcome in duel.round(seed) {
            for verdict in outcome {
                let word = match verdict {
                    Verdict::Answered(..) => "answered",
                    Verdict::Refused => "refused",
                    Verdict::Silence => "silence",
                    Verdict::Moved | Verdict::Odd(_) => "odd",
                };
                *counts.entry(word).or_default() += 1;
            }
        }
    }
    eprintln!("agreed: {counts:?}");
    if first == 1 {
        for word in ["answered", "refused", "silence"] {
            assert!(counts.get(word).is_some_and(|count| *count > 20), "nothing is compared: {counts:?}");
        }
    }
}

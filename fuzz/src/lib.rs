//! Every decoder of bytes that come from the kernel or the wire, as functions of any bytes whatever.
//!
//! Each [`Target`] panics when a decoder does, or when what it read cannot be. `tests/short.rs` drives them with
//! [`mutate`]d seeds in every test run; `libfuzzer/` hands the same functions to `cargo fuzz` (`make fuzz`).
//!
//! Seeds are in `seeds/`, a folder for each target; `examples/record.rs` takes them from a running kernel.

#![allow(clippy::missing_panics_doc, reason = "to panic is how a target tells what it found")]

pub mod mutate;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use landfall_core::frontend::{Admission, FrontendKey};
use landfall_core::service::Protocol;
use landfall_speaker::l2::arp;
use landfall_speaker::link;
use landfall_speaker::nft::conntrack::{self, Gone, Kept, Stay};
use landfall_speaker::nft::wire::Messages;
use landfall_speaker::nft::{decode, encode, watch};

/// The least length of a netlink message, its header.
const MESSAGE: usize = 16;

/// A decoder under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder of seeds.
    pub name: &'static str,
    /// Reads the bytes, and panics when something is wrong.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target { name: "arp", run: arp },
    Target { name: "nft_answers", run: nft_answers },
    Target { name: "nft_batch", run: nft_batch },
    Target { name: "nft_changes", run: nft_changes },
    Target { name: "conntrack", run: conntrack },
    Target { name: "links", run: links },
];

/// Frames that any station on the network can send.
pub fn arp(bytes: &[u8]) {
    if let Ok(read) = arp::decode(bytes) {
        let written = read.encode(link::Mac::BROADCAST);
        // What was read is all there is to such a frame, apart from where it went.
        assert_eq!(arp::decode(&written), Ok(read));
    }
}

/// The kernel's answers to requests about tables.
pub fn nft_answers(bytes: &[u8]) {
    assert!(decode::replies(bytes).count() <= bytes.len() / MESSAGE, "more answers than there is room for");
}

/// A transaction that is read back. What can be read is written in a way that reads the same.
pub fn nft_batch(bytes: &[u8]) {
    if let Ok(read) = decode::batch(bytes) {
        assert_eq!(decode::batch(&encode::batch(&read)), Ok(read));
    }
}

/// Reports of changes that others have made.
pub fn nft_changes(bytes: &[u8]) {
    assert!(watch::touches(bytes).count() <= bytes.len() / MESSAGE, "more changes than there is room for");
}

/// A part of a list of connections, of which those to some front ends are deleted.
pub fn conntrack(bytes: &[u8]) {
    let deletions = conntrack::deletions(bytes, &gone());
    assert!(deletions.len() <= bytes.len() / MESSAGE, "more deletions than there are entries");
    for deletion in deletions {
        let mut messages = Messages::new(&deletion);
        assert!(messages.next().is_some() && messages.next().is_none() && messages.rest().is_empty());
    }
}

/// Reports about interfaces and addresses.
pub fn links(bytes: &[u8]) {
    let _ = link::understands(bytes);
}

/// The front ends of the seeds, of which every flow has to go.
#[must_use]
pub fn gone() -> Gone {
    let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let stay = Stay { endpoints: Kept::Only(BTreeSet::new()), sources: Admission::Nobody };
    let fronts = addresses.into_iter().flat_map(|addr| {
        Protocol::ALL.map(|protocol| FrontendKey {
            addr,
            protocol,
            port: const { NonZeroU16::new(53).unwrap() },
        })
    });
    fronts.map(|front| (front, stay.clone())).collect()
}

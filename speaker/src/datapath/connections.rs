//! Which connections must not stay when a front end changes.

use std::collections::BTreeSet;

use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, Frontend, FrontendKey};
use landfall_core::service::Protocol;

use crate::nft::conntrack::{Kept, Stay};

/// Whether flows of that protocol end with their endpoint. A datagram knows nothing of a flow, and an association of
/// SCTP is often made anew from the same port to the same port: without this both would be sent to an endpoint that is
/// gone for as long as the client tries. Segments of TCP meet a reset there, or time out, and the next connection has
/// another port.
const fn bound_to_endpoints(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Udp | Protocol::Sctp)
}

/// Which flows of a front end may stay when it changes from `old` to `new`, if some may not: those of UDP and SCTP to
/// endpoints it no longer has, since nothing else would end them, or untranslated ones from before it had any; those of
/// every protocol to endpoints on a node known to be dead, whose clients would wait for an answer until they give up;
/// and those of every protocol from sources that are no longer admitted. All others are left to their ends.
pub(super) fn abandoned(key: FrontendKey, old: &Frontend, new: Option<&Frontend>) -> Option<Stay> {
    let bound = bound_to_endpoints(key.protocol);
    let held = |front: &Frontend| -> BTreeSet<Target> { front.held().collect() };
    let (had, has) = (held(old), new.map(held).unwrap_or_default());
    let moved = bound && (had.is_empty() != has.is_empty() || !had.is_subset(&has));
    let closed = new.is_some_and(|new| new.admission != Admission::Anyone && new.admission != old.admission);
    let lost = new.is_some_and(|new| new.lost.iter().any(|target| !old.lost.contains(target)));
    (moved || closed || lost).then(|| remaining(key, new))
}

/// Which flows of a front end may stay that somebody else left behind, if there may be others.
pub(super) fn outdated(key: FrontendKey, front: &Frontend) -> Option<Stay> {
    let suspect =
        bound_to_endpoints(key.protocol) || front.admission != Admission::Anyone || !front.lost.is_empty();
    suspect.then(|| remaining(key, Some(front)))
}

/// Which flows of a front end, as it is now, may stay.
fn remaining(key: FrontendKey, front: Option<&Frontend>) -> Stay {
    let endpoints = if bound_to_endpoints(key.protocol) {
        Kept::Only(front.map(|front| front.held().collect()).unwrap_or_default())
    } else {
        match front.map(|front| &front.lost) {
            Some(lost) if !lost.is_empty() => Kept::AllBut(lost.iter().copied().collect()),
            _ => Kept::All,
        }
    };
    Stay { endpoints, sources: front.map_or(Admission::Anyone, |front| front.admission.clone()) }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;

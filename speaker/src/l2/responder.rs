//! What to do about a frame: pure, from the frame and the addresses held on the interface it came from.

use std::net::Ipv4Addr;

use super::arp::{Arp, FRAME, Malformed, Operation, decode};
use crate::link::Mac;

/// What a received frame calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send this frame: somebody asked for an address that is held here.
    Answer([u8; FRAME]),
    /// A request for an address that is not held here, from whatever station: nothing.
    NotOurs,
    /// Not a question: nothing.
    Ignore,
    /// Another station uses an address that is held here.
    Conflict {
        /// The address.
        addr: Ipv4Addr,
        /// The other station.
        mac: Mac,
    },
    /// Not ARP as it should be: nothing.
    Malformed(Malformed),
}

/// Judges a frame received by the interface whose current hardware address is `mac`.
pub(super) fn judge(frame: &[u8], mac: Mac, holds: impl Fn(Ipv4Addr) -> bool) -> Verdict {
    let arp = match decode(frame) {
        Ok(arp) => arp,
        Err(malformed) => return Verdict::Malformed(malformed),
    };
    // Our own frames come back from a switch that reflects them, and over a looped cable.
    if arp.sender_mac == mac {
        return Verdict::Ignore;
    }
    if holds(arp.sender_ip) {
        return Verdict::Conflict { addr: arp.sender_ip, mac: arp.sender_mac };
    }
    match arp.operation {
        Operation::Reply => Verdict::Ignore,
        Operation::Request if holds(arp.target_ip) => Verdict::Answer(answer(&arp, mac)),
        Operation::Request => Verdict::NotOurs,
    }
}

fn answer(request: &Arp, mac: Mac) -> [u8; FRAME] {
    request.answer(mac).encode(request.sender_mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
    const ASKER: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

    fn request(sender_ip: [u8; 4], target_ip: Ipv4Addr) -> Arp {
        Arp {
            operation: Operation::Request,
            sender_mac: ASKER,
            sender_ip: sender_ip.into(),
            target_mac: Mac([0; 6]),
            target_ip,
        }
    }

    fn verdict(arp: Arp, to: Mac) -> Verdict {
        judge(&arp.encode(to), OURS, |addr| addr == VIP)
    }

    #[test]
    fn a_request_for_a_held_address_is_answered_to_the_asker_alone() {
        for to in [Mac::BROADCAST, OURS] {
            for sender in [[192, 0, 2, 200], [0, 0, 0, 0]] {
                let expected = Arp {
                    operation: Operation::Reply,
                    sender_mac: OURS,
                    sender_ip: VIP,
                    target_mac: ASKER,
                    target_ip: sender.into(),
                };
                let verdict = verdict(request(sender, VIP), to);
                assert_eq!(verdict, Verdict::Answer(expected.encode(ASKER)), "{to} {sender:?}");
            }
        }
    }

    #[test]
    fn nothing_else_is_answered() {
        let other = Ipv4Addr::new(192, 0, 2, 101);
        assert_eq!(verdict(request([192, 0, 2, 200], other), Mac::BROADCAST), Verdict::NotOurs);
        let reply = Arp { operation: Operation::Reply, ..request([192, 0, 2, 200], VIP) };
        assert_eq!(verdict(reply, OURS), Verdict::Ignore);
    }

    #[test]
    fn our_own_announcements_are_ignored() {
        for arp in Arp::gratuitous(VIP, OURS) {
            assert_eq!(verdict(arp, Mac::BROADCAST), Verdict::Ignore);
        }
    }

    #[test]
    fn another_station_that_uses_a_held_address_is_a_conflict_and_gets_no_answer() {
        for arp in Arp::gratuitous(VIP, ASKER) {
            assert_eq!(verdict(arp, Mac::BROADCAST), Verdict::Conflict { addr: VIP, mac: ASKER });
        }
    }

    proptest! {
        #[test]
        fn whatever_arrives_only_held_addresses_are_spoken_for(frame in prop::collection::vec(any::<u8>(), 0..128)) {
            if let Verdict::Answer(answer) = judge(&frame, OURS, |addr| addr == VIP) {
                prop_assert_eq!(decode(&answer).map(|arp| (arp.sender_mac, arp.sender_ip)), Ok((OURS, VIP)));
            }
        }
    }
}

//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227): frames to values and back. Pure.

use std::net::Ipv4Addr;

use pnet_base::MacAddr;
use pnet_packet::Packet;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};

use crate::link::Mac;

/// The Ethernet type of ARP.
pub const ETHERTYPE: u16 = 0x0806;
/// Length of a frame without padding: an Ethernet header of 14 bytes and 28 bytes of ARP.
pub const FRAME: usize = 42;

/// Where the ARP packet begins in a frame.
const HEADER: usize = 14;

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks who has the target address.
    Request,
    /// Says who has the sender address.
    Reply,
}

/// The contents of an ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: Mac,
    /// IPv4 address of the sender; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// Hardware address of the target, without meaning in a request.
    pub target_mac: Mac,
    /// IPv4 address of the target.
    pub target_ip: Ipv4Addr,
}

/// Why a frame is not ARP for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than [`FRAME`].
    #[error("the frame is too short")]
    Short,
    /// Of another Ethernet type, or for other kinds of address.
    #[error("not ARP for IPv4 over Ethernet")]
    Form,
    /// Neither request nor reply.
    #[error("unknown operation {0}")]
    Operation(u16),
    /// The sender's hardware address cannot be that of a station: a group address or zero.
    #[error("the sender's hardware address {0} is not that of a station")]
    Sender(Mac),
}

/// Reads an Ethernet frame. Padding after the packet is allowed.
pub fn decode(frame: &[u8]) -> Result<Arp, Malformed> {
    let frame: &[u8; FRAME] = frame.first_chunk().ok_or(Malformed::Short)?;
    let ethernet = EthernetPacket::new(frame).ok_or(Malformed::Short)?;
    let arp = ArpPacket::new(ethernet.payload()).ok_or(Malformed::Short)?;
    // The view reads the places of Ethernet and IPv4 whatever the packet says it holds (RFC 826 has other forms).
    let form =
        (arp.get_hardware_type(), arp.get_protocol_type(), arp.get_hw_addr_len(), arp.get_proto_addr_len());
    if ethernet.get_ethertype() != EtherTypes::Arp
        || form != (ArpHardwareTypes::Ethernet, EtherTypes::Ipv4, 6, 4)
    {
        return Err(Malformed::Form);
    }
    let operation = match arp.get_operation() {
        ArpOperations::Request => Operation::Request,
        ArpOperations::Reply => Operation::Reply,
        ArpOperation(other) => return Err(Malformed::Operation(other)),
    };
    let sender_mac = Mac(arp.get_sender_hw_addr().octets());
    if sender_mac.is_group() || sender_mac == Mac([0; 6]) {
        return Err(Malformed::Sender(sender_mac));
    }
    Ok(Arp {
        operation,
        sender_mac,
        sender_ip: arp.get_sender_proto_addr(),
        target_mac: Mac(arp.get_target_hw_addr().octets()),
        target_ip: arp.get_target_proto_addr(),
    })
}

impl Arp {
    /// The frame that carries the packet to `destination`, from the sender's hardware address.
    #[must_use]
    pub fn encode(&self, destination: Mac) -> [u8; FRAME] {
        let mut frame = [0; FRAME];
        let (header, packet) = frame.split_at_mut(HEADER);
        // Both parts are as long as their views want, so neither is ever missing.
        if let Some(mut ethernet) = MutableEthernetPacket::new(header) {
            ethernet.set_destination(MacAddr::from(destination.0));
            ethernet.set_source(MacAddr::from(self.sender_mac.0));
            ethernet.set_ethertype(EtherTypes::Arp);
        }
        if let Some(mut arp) = MutableArpPacket::new(packet) {
            arp.set_hardware_type(ArpHardwareTypes::Ethernet);
            arp.set_protocol_type(EtherTypes::Ipv4);
            arp.set_hw_addr_len(6);
            arp.set_proto_addr_len(4);
            arp.set_operation(match self.operation {
                Operation::Request => ArpOperations::Request,
                Operation::Reply => ArpOperations::Reply,
            });
            arp.set_sender_hw_addr(MacAddr::from(self.sender_mac.0));
            arp.set_sender_proto_addr(self.sender_ip);
            arp.set_target_hw_addr(MacAddr::from(self.target_mac.0));
            arp.set_target_proto_addr(self.target_ip);
        }
        frame
    }

    /// The answer to a request for an address that `mac` has, to be sent to the asker alone.
    #[must_use]
    pub const fn answer(&self, mac: Mac) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }

    /// The two announcements of an address, to be broadcast: as a request, which RFC 5227 prescribes, and as a
    /// reply, since some stations update their cache from one of them only.
    #[must_use]
    pub fn gratuitous(addr: Ipv4Addr, mac: Mac) -> [Self; 2] {
        let packet = |operation, target_mac| Self {
            operation,
            sender_mac: mac,
            sender_ip: addr,
            target_mac,
            target_ip: addr,
        };
        [packet(Operation::Request, Mac([0; 6])), packet(Operation::Reply, Mac::BROADCAST)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ASKER: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
    const OURS: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

    fn bytes(hex: &str) -> Vec<u8> {
        hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    fn request() -> Vec<u8> {
        bytes(
            "ff ff ff ff ff ff 02 00 00 00 00 99 08 06 00 01 08 00 06 04 00 01 \
             02 00 00 00 00 99 c0 00 02 c8 00 00 00 00 00 00 c0 00 02 64",
        )
    }

    #[test]
    fn a_reply_has_exactly_these_bytes() {
        let reply = decode(&request()).unwrap().answer(OURS).encode(ASKER);
        let expected = "02 00 00 00 00 99 02 00 00 00 00 11 08 06 00 01 08 00 06 04 00 02 \
                        02 00 00 00 00 11 c0 00 02 64 02 00 00 00 00 99 c0 00 02 c8";
        assert_eq!(reply.to_vec(), bytes(expected));
    }

    #[test]
    fn the_announcements_have_exactly_these_bytes() {
        let [request, reply] = Arp::gratuitous(VIP, OURS).map(|arp| arp.encode(Mac::BROADCAST).to_vec());
        let head = "ff ff ff ff ff ff 02 00 00 00 00 11 08 06 00 01 08 00 06 04";
        let sender = "02 00 00 00 00 11 c0 00 02 64";
        assert_eq!(request, bytes(&format!("{head} 00 01 {sender} 00 00 00 00 00 00 c0 00 02 64")));
        assert_eq!(reply, bytes(&format!("{head} 00 02 {sender} ff ff ff ff ff ff c0 00 02 64")));
    }

    #[test]
    fn a_padded_frame_is_read_like_a_bare_one() {
        let mut padded = request();
        padded.resize(60, 0xee);
        assert_eq!(decode(&padded), decode(&request()));
        assert_eq!(decode(&padded).map(|arp| arp.target_ip), Ok(VIP));
    }

    #[test]
    fn a_damaged_frame_is_refused_with_its_reason() {
        let with = |at: usize, byte: u8| {
            let mut frame = request();
            frame[at] = byte;
            decode(&frame)
        };
        assert_eq!(decode(&request()[..41]), Err(Malformed::Short));
        assert_eq!(decode(&[]), Err(Malformed::Short));
        for at in [12, 13, 14, 15, 16, 17, 18, 19] {
            assert_eq!(with(at, 0x77), Err(Malformed::Form), "byte {at}");
        }
        assert_eq!(with(21, 3), Err(Malformed::Operation(3)));
        assert_eq!(with(22, 0x33), Err(Malformed::Sender(Mac([0x33, 0, 0, 0, 0, 0x99]))));
    }

    fn packets() -> impl Strategy<Value = Arp> {
        let operation = prop_oneof![Just(Operation::Request), Just(Operation::Reply)];
        let parts = (operation, any::<([u8; 5], [u8; 4], [u8; 6], [u8; 4])>());
        parts.prop_map(|(operation, ([a, b, c, d, e], sender_ip, target_mac, target_ip))| Arp {
            operation,
            sender_mac: Mac([2, a, b, c, d, e]),
            sender_ip: sender_ip.into(),
            target_mac: Mac(target_mac),
            target_ip: target_ip.into(),
        })
    }

    proptest! {
        #[test]
        fn a_packet_goes_there_and_back(arp in packets()) {
            prop_assert_eq!(decode(&arp.encode(Mac::BROADCAST)), Ok(arp));
        }

        #[test]
        fn any_bytes_are_either_read_or_refused(
            valid in packets(),
            noise in prop::collection::vec((0usize..64, any::<u8>()), 0..4),
            length in 0usize..128,
        ) {
            let mut frame = valid.encode(Mac::BROADCAST).to_vec();
            frame.resize(length, 0);
            for (at, byte) in noise {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            match decode(&frame) {
                Ok(arp) => prop_assert_eq!(&arp.encode(Mac::BROADCAST)[12..], &frame[12..FRAME]),
                Err(Malformed::Short) => prop_assert!(length < FRAME),
                Err(_) => prop_assert!(length >= FRAME),
            }
        }
    }
}

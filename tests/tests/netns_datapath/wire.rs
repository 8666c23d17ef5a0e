//! Packets made by hand, and an ear on the wire: for protocols the kernel has no sockets of, and for segments and
//! errors that no socket sends.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landfall_core::addr::Family;
use nix::net::if_::if_nametoindex;
use pnet_packet::icmp::{IcmpPacket, checksum as icmp_checksum};
use pnet_packet::ip::IpNextHeaderProtocol;
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::util::{ipv4_checksum, ipv6_checksum};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::world::World;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// Five times what a busy machine takes.
const DEADLINE: Duration = Duration::from_secs(10);

/// ICMP of a family.
pub(crate) const fn icmp(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 58,
    }
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
    /// All of it, header included.
    pub(crate) whole: Vec<u8>,
}

impl Packet {
    /// Reads one, or the beginning of one, as errors carry it.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (from, to, protocol, payload) = if bytes.first()? >> 4 == 4 {
            let ip = Ipv4Packet::new(bytes)?;
            let header = usize::from(ip.get_header_length()) * 4;
            let end = usize::from(ip.get_total_length()).min(bytes.len());
            let protocol = ip.get_next_level_protocol().0;
            (ip.get_source().into(), ip.get_destination().into(), protocol, bytes.get(header..end)?)
        } else {
            let ip = Ipv6Packet::new(bytes)?;
            let end = (40 + usize::from(ip.get_payload_length())).min(bytes.len());
            let protocol = ip.get_next_header().0;
            (ip.get_source().into(), ip.get_destination().into(), protocol, bytes.get(40..end)?)
        };
        Some(Self { from, to, protocol, payload: payload.to_vec(), whole: bytes.to_vec() })
    }

    fn two(&self, at: usize) -> u16 {
        self.payload.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn source_port(&self) -> u16 {
        self.two(0)
    }

    pub(crate) fn port(&self) -> u16 {
        self.two(2)
    }

    /// What an ICMP error says: type, code, and the packet it is about.
    pub(crate) fn error(&self) -> Option<(u8, u8, Self)> {
        let icmp = IcmpPacket::new(&self.payload)?;
        let is_error = match self.protocol {
            1 => [3, 11, 12].contains(&icmp.get_icmp_type().0),
            58 => icmp.get_icmp_type().0 < 128,
            _ => false,
        };
        let about = is_error.then(|| Self::parse(self.payload.get(8..)?)).flatten()?;
        Some((icmp.get_icmp_type().0, icmp.get_icmp_code().0, about))
    }

    /// Whether it is a port unreachable about something sent from that port.
    pub(crate) fn is_refusal_of(&self, port: u16) -> bool {
        let refusal = if self.protocol == 1 { (3, 3) } else { (1, 4) };
        self.error().is_some_and(|(kind, code, about)| (kind, code) == refusal && about.source_port() == port)
    }

    /// The first chunk of an SCTP packet whose checksum is right.
    pub(crate) fn chunk(&self) -> Option<u8> {
        let (sum, mut bytes) = (self.payload.get(8..12)?, self.payload.clone());
        bytes[8..12].fill(0);
        (self.protocol == SCTP && sum == crc32c(&bytes).to_le_bytes()).then(|| bytes.get(12).copied())?
    }
}

/// Hears what comes in on an interface of a host.
pub(crate) struct Ear(Socket);

impl Ear {
    pub(crate) fn on(world: &World, host: &str, family: Family) -> Self {
        let all = [SockFilter::new(0x06, 0, 0, u32::MAX)];
        world.inside(host, || {
            let ethertype = match family {
                Family::V4 => 0x0800,
                Family::V6 => 0x86dd,
            };
            let index = if_nametoindex("eth0").expect("an interface");
            let socket = landfall_sys::packet_socket(index, ethertype, &all).expect("a packet socket");
            socket.set_nonblocking(false).expect("a socket that waits");
            Self(socket)
        })
    }

    /// Waits for a packet, and returns it with those that came before it.
    #[track_caller]
    pub(crate) fn until(&self, wanted: impl Fn(&Packet) -> bool) -> (Packet, Vec<Packet>) {
        let (begun, mut before, mut frame) = (Instant::now(), Vec::new(), [0; 4096]);
        loop {
            let left = DEADLINE.checked_sub(begun.elapsed());
            let Some(left) = left.filter(|left| !left.is_zero()) else {
                panic!("it does not come: {before:?}")
            };
            self.0.set_read_timeout(Some(left)).expect("a time limit");
            let Ok(len) = (&self.0).read(&mut frame) else { continue };
            let Some(packet) = frame.get(14..len).and_then(Packet::parse) else { continue };
            if wanted(&packet) {
                return (packet, before);
            }
            before.push(packet);
        }
    }

    /// The next packet of a protocol to a port.
    #[track_caller]
    pub(crate) fn next(&self, protocol: u8, port: u16) -> Packet {
        self.until(|packet| packet.protocol == protocol && packet.port() == port).0
    }
}

/// Sends packets of one protocol from a host. While it is open the host's own kernel does not answer that protocol
/// is unknown to it.
pub(crate) struct Mouth {
    socket: Socket,
    family: Family,
}

impl Mouth {
    pub(crate) fn of(world: &World, host: &str, family: Family, protocol: u8) -> Self {
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let made = || Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))));
        Self { socket: world.inside(host, || made().expect("a raw socket")), family }
    }

    /// Sends what follows the IP header.
    pub(crate) fn send(&self, to: IpAddr, payload: &[u8]) {
        let sent = self.socket.send_to(payload, &SockAddr::from(SocketAddr::new(to, 0)));
        assert_eq!(sent.expect("a route"), payload.len());
    }

    /// Sends an echo request, which an answer ends what came before of: packets of one way keep their order.
    pub(crate) fn ping(&self, to: IpAddr, number: u16) {
        let kind = if self.family == Family::V4 { 8 } else { 128 };
        let [high, low] = number.to_be_bytes();
        self.send(to, &summed([kind, 0, 0, 0, high, low, 0, 1].to_vec()));
    }
}

/// Whether it is the answer to that ping.
pub(crate) fn answers(packet: &Packet, number: u16) -> bool {
    let kind = if packet.from.is_ipv4() { 0 } else { 129 };
    packet.protocol == icmp(Family::of(packet.from))
        && packet.payload.first() == Some(&kind)
        && packet.payload.get(4..6) == Some(&number.to_be_bytes())
}

/// ICMP with its checksum; the kernel itself computes that of `ICMPv6`.
pub(crate) fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[2..4].fill(0);
    let sum = IcmpPacket::new(&bytes).map_or(0, |packet| icmp_checksum(&packet));
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A TCP segment with these flags (RFC 9293, 3.1) and nothing in it.
pub(crate) fn segment(from: SocketAddr, to: SocketAddr, flags: u8) -> Vec<u8> {
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    bytes.extend([0, 0, 0x10, 0, 0, 0, 0x20, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let sum = transport_sum(&bytes, 8, from.ip(), to.ip(), TCP);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A datagram.
pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, content: &[u8]) -> Vec<u8> {
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    bytes.extend(u16::try_from(8 + content.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(content);
    let sum = transport_sum(&bytes, 3, from.ip(), to.ip(), UDP);
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn transport_sum(bytes: &[u8], skip: usize, from: IpAddr, to: IpAddr, protocol: u8) -> u16 {
    let protocol = IpNextHeaderProtocol(protocol);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_checksum(bytes, skip, &[], &from, &to, protocol),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_checksum(bytes, skip, &[], &from, &to, protocol),
        _ => panic!("one family"),
    }
}

/// Chunks of SCTP (RFC 9260, 3.2).
pub(crate) mod chunk {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const INIT: u8 = 1;
    pub(crate) const INIT_ACK: u8 = 2;
    pub(crate) const ABORT: u8 = 6;
    pub(crate) const SHUTDOWN_ACK: u8 = 8;
    pub(crate) const COOKIE_ECHO: u8 = 10;
    pub(crate) const COOKIE_ACK: u8 = 11;
}

/// An SCTP packet with one chunk; `tag` is the receiver's verification tag, and in the two chunks that begin an
/// association each side gives `0x0101_0101` and `0x0202_0202` as its own.
pub(crate) fn sctp(from: u16, to: u16, tag: u32, kind: u8) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    let own: u32 = if kind == chunk::INIT { 0x0101_0101 } else { 0x0202_0202 };
    let mut value = match kind {
        chunk::INIT | chunk::INIT_ACK => {
            [&own.to_be_bytes()[..], &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]].concat()
        }
        chunk::DATA => vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'w', b'h', b'o', b'?'],
        chunk::COOKIE_ECHO => vec![7; 4],
        _ => Vec::new(),
    };
    if kind == chunk::INIT_ACK {
        // The cookie.
        value.extend([0, 7, 0, 8, 7, 7, 7, 7]);
    }
    // An abort's flags say nothing; those of data say that it is whole.
    bytes.extend([kind, if kind == chunk::DATA { 3 } else { 0 }]);
    bytes.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(value);
    let sum = crc32c(&bytes).to_le_bytes();
    bytes[8..12].copy_from_slice(&sum);
    bytes
}

/// The checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn the_checksum_of_sctp_is_the_known_one() {
    // RFC 3720, B.4, and the check value of CRC-32C.
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
}

//! The packet socket of one interface: the only file that puts frames on the wire or takes them off.

use std::io::{self, Read};

use landfall_sys::{AsyncSocket, packet_socket};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, Socket};

/// Bytes of a frame that are kept: all of ARP, and enough for what may follow it here.
const SNAP: u8 = 128;
const ROOM: usize = SNAP as usize;
/// Room for frames that arrive while none is read, in bytes as the kernel counts them (some 700 for a small one).
const RECEIVE_BUFFER: usize = 1 << 20;

/// A received frame, cut to its first bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    bytes: [u8; ROOM],
    length: usize,
}

impl Frame {
    /// The bytes of the frame, from the Ethernet header on.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Frames of one Ethernet type on one interface, in and out. The interface is never made promiscuous.
#[derive(Debug)]
pub(super) struct PacketSocket(AsyncSocket);

impl PacketSocket {
    /// Opens a socket on the interface of this number.
    pub(super) fn open(index: u32, ethertype: u16) -> io::Result<Self> {
        let socket = packet_socket(index, ethertype, &filter(ethertype))?;
        // Needs CAP_NET_ADMIN over the host; a smaller buffer only loses requests sooner, and they are repeated.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        }
        Ok(Self(AsyncSocket::new(socket)?))
    }

    /// Waits for the next frame.
    pub(super) async fn receive(&self) -> io::Result<Frame> {
        self.0.read_with(read).await
    }

    /// The next frame if one is waiting.
    pub(super) fn try_receive(&self) -> io::Result<Option<Frame>> {
        match read(self.0.socket()) {
            Ok(frame) => Ok(Some(frame)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a complete frame without waiting: an error when the interface's queue is full.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.socket().send(frame).map(drop)
    }
}

fn read(mut socket: &Socket) -> io::Result<Frame> {
    let mut bytes = [0; ROOM];
    // A packet socket cuts a frame that does not fit (packet(7)).
    let length = socket.read(&mut bytes)?;
    Ok(Frame { bytes, length })
}

/// Lets pass what is for this host and of this Ethernet type, as classic BPF (linux/filter.h). Frames for other
/// stations are seen while something else has made the interface promiscuous, or with a VLAN tag no device here
/// takes (`PACKET_OTHERHOST`); our own are marked `PACKET_OUTGOING`.
fn filter(ethertype: u16) -> [SockFilter; 6] {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
    const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const PACKET_TYPE: u32 = 0xffff_f004; // SKF_AD_OFF + SKF_AD_PKTTYPE
    const PACKET_OTHERHOST: u32 = 3;
    const OFFSET_ETHERTYPE: u32 = 12;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_GREATER_EQUAL, 3, 0, PACKET_OTHERHOST),
        SockFilter::new(LOAD_HALF, 0, 0, OFFSET_ETHERTYPE),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(ethertype)),
        SockFilter::new(RETURN, 0, 0, u32::from(SNAP)),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

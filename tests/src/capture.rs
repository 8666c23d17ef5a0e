//! Recording ARP frames on a host, to see who answers for an address.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::{Doing, Result};
use crate::netns;

/// How long one wait for a frame lasts, and so how soon a recording ends after it was asked to.
const LOOK: i64 = 50;

/// Frames kept at most; later ones are counted only.
const BOUND: usize = 100_000;

/// What an ARP frame says (RFC 826; for Ethernet and IPv4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArpFrame {
    /// When it was read, shortly after it came.
    pub at: Instant,
    /// 1 for a request, 2 for a reply.
    pub operation: u16,
    /// Source of the Ethernet frame.
    pub source: [u8; 6],
    /// Destination of the Ethernet frame.
    pub destination: [u8; 6],
    /// Sender hardware address.
    pub sender_mac: [u8; 6],
    /// Sender protocol address.
    pub sender_ip: Ipv4Addr,
    /// Target hardware address.
    pub target_mac: [u8; 6],
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

impl ArpFrame {
    /// Reads an Ethernet frame; `None` when it is no ARP for IPv4 over Ethernet.
    #[must_use]
    pub fn parse(frame: &[u8], at: Instant) -> Option<Self> {
        let bytes = |from: usize| frame.get(from..from.checked_add(6)?)?.try_into().ok();
        let number =
            |from: usize| Some(u16::from_be_bytes(frame.get(from..from.checked_add(2)?)?.try_into().ok()?));
        let address = |from: usize| {
            let octets: [u8; 4] = frame.get(from..from.checked_add(4)?)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets))
        };
        // EtherType ARP, hardware Ethernet, protocol IPv4, address lengths 6 and 4.
        if (number(12)?, number(14)?, number(16)?, number(18)?) != (0x0806, 1, 0x0800, 0x0604) {
            return None;
        }
        Some(Self {
            at,
            operation: number(20)?,
            destination: bytes(0)?,
            source: bytes(6)?,
            sender_mac: bytes(22)?,
            sender_ip: address(28)?,
            target_mac: bytes(32)?,
            target_ip: address(38)?,
        })
    }

    /// Whether the frame says that `address` is at its sender: a reply, or a gratuitous request.
    #[must_use]
    pub fn announces(&self, address: Ipv4Addr) -> bool {
        self.sender_ip == address && (self.operation == 2 || self.target_ip == address)
    }
}

/// A recording under way; it ends when this is dropped.
#[derive(Debug)]
pub struct ArpCapture {
    frames: Arc<Mutex<Vec<ArpFrame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ArpCapture {
    /// Starts to record all ARP frames that enter or leave a network namespace. Frames that come after this has
    /// returned are recorded.
    pub fn start(netns: &str) -> Result<Self> {
        let socket = netns::inside(netns, open)??;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (sink, end) = (Arc::clone(&frames), Arc::clone(&stop));
        let thread = std::thread::spawn(move || record(&socket, &sink, &end));
        Ok(Self { frames, stop, thread: Some(thread) })
    }

    /// The frames so far, in the order in which they came.
    #[must_use]
    pub fn frames(&self) -> Vec<ArpFrame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the recording and returns its frames.
    #[must_use]
    pub fn stop(mut self) -> Vec<ArpFrame> {
        self.end();
        self.frames()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread runs no code that panics; if it did, the frames so far are still good.
            let _ = thread.join();
        }
    }
}

impl Drop for ArpCapture {
    fn drop(&mut self) {
        self.end();
    }
}

/// A packet socket that is not bound sees the frames of all interfaces of its namespace (packet(7)).
fn open() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .doing(|| "open a packet socket")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK))
        .doing(|| "bound a wait for frames")?;
    Ok(socket)
}

fn record(socket: &OwnedFd, frames: &Mutex<Vec<ArpFrame>>, stop: &AtomicBool) {
    let mut buffer = [0_u8; 128];
    while !stop.load(Ordering::Relaxed) {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                let frame = buffer.get(..length).and_then(|bytes| ArpFrame::parse(bytes, Instant::now()));
                let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(frame) = frame.filter(|_| frames.len() < BOUND) {
                    frames.push(frame);
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // ENETDOWN while an interface goes down; frames come again when it is up.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![0xff; 6];
        bytes.extend([2, 0, 0, 0, 0, 1, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
        bytes.extend([2, 0, 0, 0, 0, 1]);
        bytes.extend(sender);
        bytes.extend([0; 6]);
        bytes.extend(target);
        bytes
    }

    #[test]
    fn an_arp_frame_is_read_field_by_field() {
        let parsed = ArpFrame::parse(&frame(1, [192, 0, 2, 11], [192, 0, 2, 100]), Instant::now()).unwrap();
        assert_eq!(
            (parsed.operation, parsed.sender_mac, parsed.destination),
            (1, [2, 0, 0, 0, 0, 1], [0xff; 6])
        );
        assert_eq!(parsed.target_ip, Ipv4Addr::new(192, 0, 2, 100));
        assert!(!parsed.announces(Ipv4Addr::new(192, 0, 2, 100)));
    }

    #[test]
    fn replies_and_gratuitous_requests_announce() {
        let address = Ipv4Addr::new(192, 0, 2, 100);
        for (operation, target) in [(2, [192, 0, 2, 200]), (1, [192, 0, 2, 100])] {
            assert!(
                ArpFrame::parse(&frame(operation, address.octets(), target), Instant::now())
                    .unwrap()
                    .announces(address)
            );
        }
    }

    #[test]
    fn other_frames_are_no_arp() {
        let whole = frame(1, [192, 0, 2, 11], [192, 0, 2, 100]);
        assert_eq!(ArpFrame::parse(&whole[..41], Instant::now()), None);
        let mut ip = whole;
        ip[13] = 0;
        assert_eq!(ArpFrame::parse(&ip, Instant::now()), None);
    }
}

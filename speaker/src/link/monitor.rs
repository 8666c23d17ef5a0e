//! The socket that carries interface and address changes from the kernel, and the table kept from them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use landfall_sys::AsyncSocket;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{bind, recv, sendto, setsockopt, socket, sockopt};
use tokio::sync::watch;

use super::decode::{Address, Fact, facts};
use super::{Link, Links};

/// Room for one datagram: the kernel writes dumps in pieces of at most 32 KiB (`netlink_dump`).
const DATAGRAM: usize = 64 << 10;
/// Room for events that arrive faster than they are read; what does not fit ends in a new dump.
const RECEIVE_BUFFER: usize = 1 << 20;
/// How often a dump is repeated because something changed while it ran, before giving up.
const DUMPS: u32 = 20;
// Multicast groups of linux/rtnetlink.h.
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

/// Why interfaces can no longer be followed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket could not be opened or bound.
    #[error("opening an rtnetlink socket failed")]
    Open(#[source] io::Error),
    /// A request could not be sent.
    #[error("asking the kernel for its interfaces failed")]
    Request(#[source] io::Error),
    /// Nothing can be read any more.
    #[error("reading interface changes failed")]
    Receive(#[source] io::Error),
    /// Every attempt at a complete picture was overtaken by changes.
    #[error("the interfaces change faster than they can be listed")]
    NeverConsistent,
}

/// Follows the interfaces of the network namespace it was opened in.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncSocket,
    buffer: Vec<u8>,
    sequence: u32,
    table: Table,
    links: watch::Sender<Arc<Links>>,
}

/// Subscribes to changes, then lists what is there: the receiver holds the complete picture from the start, and
/// [`Monitor::run`] keeps it so.
pub async fn open() -> Result<(Monitor, watch::Receiver<Arc<Links>>), LinkError> {
    let socket = subscribe().map_err(LinkError::Open)?;
    let (links, receiver) = watch::channel(Arc::default());
    let mut monitor =
        Monitor { socket, buffer: vec![0; DATAGRAM], sequence: 0, table: Table::default(), links };
    monitor.resync().await?;
    Ok((monitor, receiver))
}

fn subscribe() -> io::Result<AsyncSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    // The default of some systems is small; an overrun costs a dump, so failing to enlarge it is no error.
    let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    let groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    AsyncSocket::new(socket.into())
}

impl Monitor {
    /// Publishes every change until dropped.
    pub async fn run(mut self) -> Result<Infallible, LinkError> {
        loop {
            match self.receive().await {
                Ok(facts) if facts.contains(&Fact::Overrun) => self.resync().await?,
                Ok(facts) => {
                    for fact in facts {
                        self.table.apply(fact);
                    }
                    self.publish();
                }
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => self.resync().await?,
                Err(error) => return Err(LinkError::Receive(error)),
            }
        }
    }

    fn publish(&self) {
        let now = self.table.links();
        self.links.send_if_modified(|links| {
            let changed = **links != now;
            if changed {
                *links = Arc::new(now);
            }
            changed
        });
    }

    /// Forgets everything and lists it again. Events keep arriving between the pieces of the list, in the order in
    /// which things happened.
    async fn resync(&mut self) -> Result<(), LinkError> {
        for attempt in 0..DUMPS {
            if attempt > 0 {
                tracing::debug!(attempt, "interfaces changed while they were listed; listing them again");
            }
            self.table = Table::default();
            if self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await?
                && self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?
            {
                self.publish();
                return Ok(());
            }
        }
        Err(LinkError::NeverConsistent)
    }

    /// Runs one dump to its end; `false` when it has to be repeated.
    async fn dump(&mut self, request: RouteNetlinkMessage) -> Result<bool, LinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(request).map_err(LinkError::Request)?;
        loop {
            let facts = match self.receive().await {
                Ok(facts) => facts,
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(false),
                Err(error) => return Err(LinkError::Receive(error)),
            };
            for fact in facts {
                match fact {
                    Fact::Done { consistent } => return Ok(consistent),
                    Fact::Overrun => return Ok(false),
                    Fact::Refused(code) => {
                        return Err(LinkError::Request(io::Error::from_raw_os_error(code)));
                    }
                    other => self.table.apply(other),
                }
            }
        }
    }

    fn send(&self, request: RouteNetlinkMessage) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        // A request of a few bytes on an idle socket never blocks.
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.socket().as_raw_fd(), &bytes, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    async fn receive(&mut self) -> io::Result<Vec<Fact>> {
        let buffer = &mut self.buffer;
        let read = |socket: &socket2::Socket| Ok(recv(socket.as_raw_fd(), buffer, MsgFlags::empty())?);
        let length = self.socket.read_with(read).await?;
        Ok(facts(self.buffer.get(..length).unwrap_or_default()))
    }
}

/// What is known of the interfaces, kept by number since names move.
#[derive(Debug, Default)]
struct Table {
    links: BTreeMap<u32, Link>,
    // Apart from the links: in a dump, and at the birth of an interface, either may come first.
    addresses: BTreeMap<u32, BTreeSet<Address>>,
}

impl Table {
    fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Link(link) => {
                self.links.insert(link.index, link);
            }
            Fact::LinkGone(index) => {
                self.links.remove(&index);
                self.addresses.remove(&index);
            }
            Fact::Address(index, address) => {
                self.addresses.entry(index).or_default().insert(address);
            }
            Fact::AddressGone(index, address) => {
                if let Some(addresses) = self.addresses.get_mut(&index) {
                    addresses.remove(&address);
                }
            }
            Fact::Done { .. } | Fact::Refused(_) | Fact::Overrun => {}
        }
    }

    fn links(&self) -> Links {
        self.links
            .values()
            .map(|link| {
                let addresses = self.addresses.get(&link.index);
                let addresses = addresses.into_iter().flatten().map(|address| address.net).collect();
                Link { addresses, ..link.clone() }
            })
            .collect()
    }
}

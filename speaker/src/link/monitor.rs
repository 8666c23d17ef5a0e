//! The rtnetlink connection that carries interface and address changes from the kernel, and the table kept from
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ffi::c_int;
use std::io;
use std::sync::Arc;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use futures::stream::ReadyChunks;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::proto::Connection;
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::watch;

use super::fact::{Address, Fact, fact, interrupted};
use super::{Link, Links};

/// Room in the kernel for events that arrive faster than they are read, in bytes; what does not fit ends in a new
/// list.
const RECEIVE_BUFFER: c_int = 1 << 20;
/// How many events are taken in before the picture is published.
const BATCH: usize = 256;
/// How many events may happen while the kernel lists what there is, before the list is given up.
const WAITING: usize = 4096;
/// How often everything is listed because something changed meanwhile, before giving up.
const ATTEMPTS: u32 = 20;

/// Why interfaces can no longer be followed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket could not be opened or bound.
    #[error("opening an rtnetlink socket failed")]
    Open(#[source] io::Error),
    /// The kernel does not list its interfaces or addresses.
    #[error("the kernel refused to list its interfaces")]
    Refused(#[source] io::Error),
    /// Every attempt at a complete picture was overtaken by changes.
    #[error("the interfaces change faster than they can be listed")]
    NeverConsistent,
}

/// Follows the interfaces of one network namespace: that of the thread it is opened and run on.
pub struct Monitor {
    subscription: Subscription,
    table: Table,
    links: watch::Sender<Arc<Links>>,
}

/// Subscribes to changes, then lists what is there: the receiver holds the complete picture from the start, and
/// [`Monitor::run`] keeps it so.
pub async fn open() -> Result<(Monitor, watch::Receiver<Arc<Links>>), LinkError> {
    let (links, receiver) = watch::channel(Arc::default());
    let (subscription, table) = listed().await?;
    let monitor = Monitor { subscription, table, links };
    monitor.publish();
    Ok((monitor, receiver))
}

/// A new subscription and everything there is. Events that the kernel dropped are made up for in the same way, since
/// on the old socket more of them may be dropped, unannounced, until its queue has been empty (`netlink_overrun`).
async fn listed() -> Result<(Subscription, Table), LinkError> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tracing::debug!(attempt, "interfaces changed while they were listed; listing them again");
        }
        let mut subscription = Subscription::open().map_err(LinkError::Open)?;
        if let Some(table) = subscription.list().await? {
            return Ok((subscription, table));
        }
    }
    Err(LinkError::NeverConsistent)
}

impl Monitor {
    /// Publishes every change until dropped.
    pub async fn run(mut self) -> Result<Infallible, LinkError> {
        loop {
            match self.subscription.changes().await {
                Ok(changes) => changes.into_iter().for_each(|change| self.table.apply(change)),
                Err(lost) => {
                    tracing::info!("{lost}; listing the interfaces again");
                    (self.subscription, self.table) = listed().await?;
                }
            }
            self.publish();
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
}

/// Why a subscription no longer tells everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Lost {
    /// The socket's queue was full.
    #[error("the kernel dropped interface changes")]
    Overrun,
    /// The connection has ended; the library has logged why.
    #[error("the rtnetlink connection ended")]
    Closed,
}

/// A connection that hears of every change. It is polled by those who wait for what it brings, and only once they
/// have taken what it brought before, which keeps its channels short.
struct Subscription {
    connection: Connection<RouteNetlinkMessage>,
    handle: Handle,
    events: ReadyChunks<UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>>,
}

impl Subscription {
    fn open() -> io::Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (mut connection, handle, events) = new_multicast_connection(&groups)?;
        // The default of some systems is small; an overrun costs a list, so failing to enlarge it is no error.
        let _ = connection.socket_mut().socket_ref().set_rx_buf_sz(RECEIVE_BUFFER);
        // Tells a list that is complete from one that was cut short.
        connection.set_forward_done(true);
        Ok(Self { connection, handle, events: events.ready_chunks(BATCH) })
    }

    /// Waits for the next changes.
    async fn changes(&mut self) -> Result<Vec<Fact>, Lost> {
        let events = tokio::select! {
            biased;
            events = self.events.next() => events.ok_or(Lost::Closed)?,
            () = &mut self.connection => return Err(Lost::Closed),
        };
        let changes: Vec<Fact> = events.into_iter().filter_map(|(event, _)| fact(event)).collect();
        if changes.contains(&Fact::Overrun) { Err(Lost::Overrun) } else { Ok(changes) }
    }

    /// Everything there is; `None` when it has to be listed again by a new subscription.
    async fn list(&mut self) -> Result<Option<Table>, LinkError> {
        // The statistics are half of what the kernel would say of an interface.
        let mut links = LinkMessage::default();
        links.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let addresses = AddressMessage::default();
        let (mut table, mut waiting) = (Table::default(), Vec::new());
        for request in [RouteNetlinkMessage::GetLink(links), RouteNetlinkMessage::GetAddress(addresses)] {
            if !self.dump(request, &mut table, &mut waiting).await? {
                return Ok(None);
            }
        }
        // Lists and events come by different channels. The events are all since before the lists, in order, so they
        // have the last word on whatever they touch.
        for change in waiting {
            table.apply(change);
        }
        Ok(Some(table))
    }

    /// Runs one dump to its end, keeping what happens meanwhile; `false` when it is not to be relied on.
    async fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        table: &mut Table,
        waiting: &mut Vec<Fact>,
    ) -> Result<bool, LinkError> {
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let Ok(mut answers) = self.handle.request(request) else { return Ok(false) };
        loop {
            let answer = tokio::select! {
                biased;
                answer = answers.next() => answer,
                events = self.events.next() => {
                    waiting.extend(events.into_iter().flatten().filter_map(|(event, _)| fact(event)));
                    if waiting.contains(&Fact::Overrun) || waiting.len() > WAITING {
                        return Ok(false);
                    }
                    continue;
                }
                () = &mut self.connection => return Ok(false),
            };
            // An event caused by another program whose request happens to have our sequence number counts as an
            // answer with the library, and as the last one: then no `Done` is seen.
            let Some(answer) = answer.filter(|answer| !interrupted(answer)) else { return Ok(false) };
            match fact(answer) {
                Some(Fact::Done) => return Ok(true),
                Some(Fact::Refused(code)) => {
                    return Err(LinkError::Refused(io::Error::from_raw_os_error(code)));
                }
                Some(Fact::Overrun) => return Ok(false),
                Some(found) => table.apply(found),
                None => {}
            }
        }
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
            Fact::Done | Fact::Refused(_) | Fact::Overrun => {}
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

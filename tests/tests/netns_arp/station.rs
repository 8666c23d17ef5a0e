//! A third host that asks and listens on the wire, and the announcer it asks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use landfall_core::elect::{Holding, Owned};
use landfall_core::name::Iface;
use landfall_speaker::l2::arp::{Arp, ETHERTYPE, Operation, decode};
use landfall_speaker::l2::{self, Counters, Ports, Settings};
use landfall_speaker::link::{self, Links, Mac};
use landfall_sys::packet_socket;
use socket2::{SockFilter, Socket};
use tokio::sync::{oneshot, watch};

use crate::host::Host;

/// Generous: nothing here takes more than some milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A frame that was seen, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    /// Destination of the Ethernet frame.
    pub(crate) to: Mac,
    /// Source of the Ethernet frame.
    pub(crate) from: Mac,
    pub(crate) arp: Arp,
}

/// The third host: sends any frame and sees all ARP that reaches it.
pub(crate) struct Station {
    socket: Socket,
    pub(crate) mac: Mac,
    pub(crate) ip: Ipv4Addr,
}

impl Station {
    pub(crate) fn new(host: &Host, interface: &str, mac: Mac) -> Self {
        let index = host.index(interface);
        // BPF_RET | BPF_K: everything passes.
        let socket = host.run(|| packet_socket(index, ETHERTYPE, &[SockFilter::new(0x06, 0, 0, 0x4_0000)]));
        let socket = socket.expect("a packet socket (are you root?)");
        socket.set_nonblocking(false).unwrap();
        Self { socket, mac, ip: Ipv4Addr::new(192, 0, 2, 200) }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        self.socket.send(frame).expect("to send a frame");
    }

    pub(crate) fn request(&self, target: Ipv4Addr) -> Arp {
        Arp {
            operation: Operation::Request,
            sender_mac: self.mac,
            sender_ip: self.ip,
            target_mac: Mac([0; 6]),
            target_ip: target,
        }
    }

    pub(crate) fn ask(&self, target: Ipv4Addr) {
        self.send(&self.request(target).encode(Mac::BROADCAST));
    }

    /// The next ARP frame, waiting until the deadline.
    pub(crate) fn next(&self, deadline: Instant) -> Option<Seen> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut bytes = [0; 128];
            let Ok(length) = std::io::Read::read(&mut &self.socket, &mut bytes) else { continue };
            let at = Instant::now();
            if let Ok(arp) = decode(&bytes[..length]) {
                let mac = |from: usize| Mac(bytes[from..from + 6].try_into().unwrap());
                return Some(Seen { at, to: mac(0), from: mac(6), arp });
            }
        }
    }

    /// All frames until the first that matches, that one included; fails when none comes within five seconds.
    pub(crate) fn until(&self, what: &str, matches: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let deadline = Instant::now() + SOON;
        let mut seen = Vec::new();
        while let Some(frame) = self.next(deadline) {
            seen.push(frame);
            if matches(&frame) {
                return seen;
            }
        }
        panic!("{what} did not come within {SOON:?}; seen: {seen:#?}");
    }

    /// All frames for so long.
    pub(crate) fn listen(&self, time: Duration) -> Vec<Seen> {
        let deadline = Instant::now() + time;
        std::iter::from_fn(|| self.next(deadline)).collect()
    }

    /// Asks again and again until an answer matches, and returns how long that took.
    pub(crate) fn ask_until(&self, target: Ipv4Addr, matches: impl Fn(&Arp) -> bool) -> Duration {
        let started = Instant::now();
        while started.elapsed() < SOON {
            self.ask(target);
            let step = Instant::now() + Duration::from_millis(20);
            while let Some(seen) = self.next(step) {
                if is_answer(&seen, target) && matches(&seen.arp) {
                    return started.elapsed();
                }
            }
        }
        panic!("no such answer for {target} within {SOON:?}");
    }
}

/// Whether the frame is an answer to a question, rather than an announcement.
pub(crate) fn is_answer(seen: &Seen, addr: Ipv4Addr) -> bool {
    seen.arp.operation == Operation::Reply && seen.arp.sender_ip == addr && seen.to != Mac::BROADCAST
}

/// Whether the frame announces the address unasked.
pub(crate) fn is_gratuitous(seen: &Seen, addr: Ipv4Addr) -> bool {
    seen.to == Mac::BROADCAST && seen.arp.sender_ip == addr && seen.arp.target_ip == addr
}

/// The announcer under test on a thread inside a host, with its own view of the host's interfaces.
pub(crate) struct Announcer {
    owned: watch::Sender<Arc<Owned>>,
    answering: watch::Receiver<Arc<Owned>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) links: watch::Receiver<Arc<Links>>,
    epoch: u64,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Announcer {
    pub(crate) fn start(host: &Host, settings: Settings) -> Self {
        let host = host.share();
        let (owned, owned_rx) = watch::channel(Arc::default());
        let (answering_tx, answering) = watch::channel(Arc::default());
        let (links_tx, links_rx) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        let thread = thread::spawn(move || {
            host.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (monitor, links) = link::open().await.expect("rtnetlink");
                links_tx.send(links.clone()).unwrap();
                let ports = Ports { owned: owned_rx, links, answering: answering_tx };
                tokio::select! {
                    ended = monitor.run() => panic!("the monitor ended: {ended:?}"),
                    ended = l2::run(settings, ports, counted) => panic!("the announcer ended: {ended:?}"),
                    _ = stopped => {}
                }
            });
        });
        let links = links_rx.recv_timeout(SOON).expect("the interfaces of the host");
        Self { owned, answering, counters, links, epoch: 0, stop: Some(stop), thread: Some(thread) }
    }

    /// Owns these addresses from now on, each on the interface given; returns when that is in force.
    pub(crate) fn own(&mut self, vips: &[(Ipv4Addr, &str)]) {
        self.epoch += 1;
        let before = self.owned.borrow().vips.clone();
        let holding = |addr: &IpAddr, name: &str| match before.get(addr) {
            Some(same) if same.iface.as_str() == name => same.clone(),
            _ => Holding { iface: Iface::new(name), epoch: self.epoch },
        };
        let vips = vips.iter().map(|(addr, name)| (IpAddr::V4(*addr), holding(&IpAddr::V4(*addr), name)));
        let owned = Arc::new(Owned { vips: vips.collect::<BTreeMap<_, _>>() });
        self.owned.send_replace(Arc::clone(&owned));
        wait_for("the announcer to act", || Arc::ptr_eq(&self.answering.borrow(), &owned));
    }

    pub(crate) fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(&self.counters).load(Ordering::Relaxed)
    }

    pub(crate) fn wait_for_links(&self, what: &str, condition: impl Fn(&Links) -> bool) {
        wait_for(what, || condition(&self.links.borrow()));
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the announcer's thread ended badly");
        }
    }
}

/// Looks until the condition holds; fails after five seconds.
pub(crate) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

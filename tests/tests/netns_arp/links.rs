//! Interfaces as the kernel reports them.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;

use landfall_speaker::link::{self, Links};
use tokio::sync::{oneshot, watch};

use crate::host::{Host, Lan};
use crate::station::{SOON, wait_for};

/// Follows the interfaces of a host on a thread of its own.
struct Follower {
    links: watch::Receiver<Arc<Links>>,
    _stop: oneshot::Sender<()>,
}

impl Follower {
    fn start(host: &Host) -> Self {
        let host = host.share();
        let (links_tx, links_rx) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            host.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (monitor, links) = link::open().await.expect("rtnetlink");
                links_tx.send(links).unwrap();
                tokio::select! {
                    ended = monitor.run() => panic!("the monitor ended: {ended:?}"),
                    _ = stopped => {}
                }
            });
        });
        Self { links: links_rx.recv_timeout(SOON).expect("the interfaces of the host"), _stop: stop }
    }

    fn holding(&self, addr: &str) -> Option<String> {
        let addr: IpAddr = addr.parse().unwrap();
        self.links.borrow().holding(addr).map(|link| link.name.to_string())
    }

    fn wait(&self, addr: &str, interface: Option<&str>) {
        wait_for(&format!("{addr} on {interface:?}"), || self.holding(addr).as_deref() == interface);
    }
}

const V4: &str = "192.0.2.100";
const V6: &str = "2001:db8:50::100";

#[test]
fn the_first_picture_is_complete() {
    let (lan, host) = (Lan::new(), Host::new());
    lan.connect(&host, "node", "eth0", "02:00:00:00:00:11");
    for line in [
        "address add 192.0.2.11/24 dev eth0",
        "address add 2001:db8:50::11/64 dev eth0 nodad",
        "link set lo up",
        "address add 198.51.100.1/24 dev lo",
        "link add br0 type bridge",
        "link set br0 up",
    ] {
        host.ip(line);
    }
    let follower = Follower::start(&host);
    assert_eq!(follower.holding(V4).as_deref(), Some("eth0"));
    assert_eq!(follower.holding(V6).as_deref(), Some("eth0"));
    assert_eq!(follower.holding("198.51.100.7"), None, "loopback announces nothing");
    let links = follower.links.borrow();
    assert_eq!(links.segments().to_string(), "eth0=192.0.2.0/24 eth0=2001:db8:50::/64");
    let kinds: Vec<_> = links.iter().map(|link| (link.name.as_str(), link.kind.as_deref())).collect();
    assert!(kinds.contains(&("eth0", Some("veth"))) && kinds.contains(&("br0", Some("bridge"))), "{kinds:?}");
    assert!(kinds.contains(&("lo", None)), "{kinds:?}");
    let mac = links.iter().find(|link| link.name.as_str() == "eth0").and_then(|link| link.mac);
    assert_eq!(mac.unwrap().to_string(), "02:00:00:00:00:11");
}

#[test]
fn addresses_that_come_and_go_are_followed_in_both_families() {
    let (lan, host) = (Lan::new(), Host::new());
    lan.connect(&host, "node", "eth0", "02:00:00:00:00:11");
    let follower = Follower::start(&host);
    for (vip, address) in [(V4, "192.0.2.11/24"), (V6, "2001:db8:50::11/64")] {
        assert_eq!(follower.holding(vip), None);
        host.ip(&format!("address add {address} dev eth0"));
        follower.wait(vip, Some("eth0"));
        host.ip(&format!("address del {address} dev eth0"));
        follower.wait(vip, None);
    }
    for address in ["192.0.2.100/32", "2001:db8:50::100/128"] {
        host.ip(&format!("address add {address} dev eth0"));
    }
    wait_for("both addresses", || {
        let links = Arc::clone(&follower.links.borrow());
        links.iter().flat_map(|link| &link.addresses).any(|net| net.to_string() == "2001:db8:50::100/128")
    });
    assert_eq!((follower.holding(V4), follower.holding(V6)), (None, None), "a host route is no subnet");
}

#[test]
fn carrier_the_longest_prefix_and_removal_decide() {
    let (lan, host) = (Lan::new(), Host::new());
    lan.connect(&host, "node0", "eth0", "02:00:00:00:00:11");
    lan.connect(&host, "node1", "eth1", "02:00:00:00:00:12");
    for (interface, v4, v6) in
        [("eth0", "192.0.2.11/24", "2001:db8:50::11/64"), ("eth1", "192.0.2.12/25", "2001:db8:50::12/80")]
    {
        host.ip(&format!("address add {v4} dev {interface}"));
        host.ip(&format!("address add {v6} dev {interface} nodad"));
    }
    let follower = Follower::start(&host);
    let both = |interface| {
        follower.wait(V4, interface);
        follower.wait(V6, interface);
    };
    both(Some("eth1"));
    lan.carrier("node1", false);
    both(Some("eth0"));
    lan.carrier("node1", true);
    both(Some("eth1"));
    host.ip("link set eth1 name lan1");
    both(Some("lan1"));
    lan.disconnect("node1");
    both(Some("eth0"));
}

#[test]
fn a_port_that_leaves_a_bridge_is_still_there() {
    let (lan, host) = (Lan::new(), Host::new());
    lan.connect(&host, "node", "eth0", "02:00:00:00:00:11");
    host.ip("link add br0 type bridge");
    host.ip("link set br0 up");
    host.ip("link set eth0 master br0");
    let follower = Follower::start(&host);
    host.ip("link set eth0 nomaster");
    // Something that comes after the events of leaving.
    host.ip("address add 192.0.2.11/24 dev eth0");
    follower.wait(V4, Some("eth0"));
}

#[test]
fn thousands_of_changes_at_once_end_in_the_right_picture() {
    let host = Host::new();
    let follower = Follower::start(&host);
    for round in 0..5 {
        let names: Vec<String> = (0..60).map(|n| format!("v{round}x{n}")).collect();
        for name in &names {
            host.ip(&format!("link add {name} type bridge"));
        }
        if round < 4 {
            for name in &names {
                host.ip(&format!("link del {name}"));
            }
        }
    }
    wait_for("61 interfaces", || follower.links.borrow().iter().count() == 61);
    let links = follower.links.borrow();
    assert!(links.iter().all(|link| link.name.as_str() == "lo" || link.name.as_str().starts_with("v4x")));
}

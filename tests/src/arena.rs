//! A small network for one data plane: a node as the lab's first one, pods, endpoints elsewhere and clients. Several
//! of them share one API server, so that different programs carry the same Services on "the same" node side by side.
//!
//! ```text
//! client 10.200.0.0/16 ── 192.0.2.200 ─┐              ┌─ p1 .. p3  10.244.1.11 .. .13
//!                                    (switch) ── node ─┼─ p4  10.244.1.128/25, a client only
//! remote 10.244.2.11 .. .14 ── 192.0.2.12 ─┘   n1, .11 └─ 203.0.113.0/24, the way to the API server
//! ```
//!
//! IPv6 likewise: `fd00:200::/64`, `fd00:244:1::11` and so on. Routes lead the load-balancer addresses to the node.
//! Nothing forwards by bridging, so no setting of the machine's bridges matters.

use std::net::IpAddr;
use std::sync::mpsc::{self, Sender};

use serde_json::{Value, json};

use crate::control;
use crate::error::{Error, Result};
use crate::http;
use crate::lab::Lab;
use crate::netns;
use crate::plan::{Families, HostName};
use crate::spawn::Process;

/// Hosts of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A client outside the cluster, with 65,536 addresses to choose from.
    Client,
    /// The node that carries the Services.
    Node,
    /// A pod on the node that is an endpoint: 1 to 3.
    Pod(u8),
    /// A pod on the node that is none, with a hundred addresses.
    Fourth,
    /// Everything on other nodes.
    Remote,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Client, Self::Node, Self::Pod(1), Self::Pod(2), Self::Pod(3), Self::Fourth, Self::Remote];

    fn word(self) -> String {
        match self {
            Self::Client => "client".into(),
            Self::Node => "node".into(),
            Self::Pod(number) => format!("p{number}"),
            Self::Fourth => "p4".into(),
            Self::Remote => "remote".into(),
        }
    }

    /// The addresses at which endpoints can be there, IPv4 then IPv6 of each.
    #[must_use]
    pub fn endpoints(self) -> Vec<IpAddr> {
        let texts: Vec<String> = match self {
            Self::Node => vec!["192.0.2.11".into(), "2001:db8:50::11".into()],
            Self::Pod(number) => vec![format!("10.244.1.1{number}"), format!("fd00:244:1::1{number}")],
            Self::Remote => {
                (11..15).flat_map(|n| [format!("10.244.2.{n}"), format!("fd00:244:2::{n}")]).collect()
            }
            Self::Client | Self::Fourth => Vec::new(),
        };
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

/// One such network.
#[derive(Debug)]
pub struct Arena<'a> {
    pub(crate) lab: &'a Lab,
    /// Tells it from the others of the lab; a letter.
    pub(crate) letter: char,
}

impl<'a> Arena<'a> {
    /// Builds the network of the arena with this letter. It is taken down with the lab.
    pub fn new(lab: &'a Lab, letter: char) -> Result<Self> {
        let arena = Self { lab, letter };
        for place in Place::ALL {
            let netns = arena.netns(place);
            netns::add(&netns)?;
            netns::ip_batch(&netns, &["link set lo up".to_owned()])?;
        }
        arena.switch()?;
        arena.pods()?;
        arena.way_to_the_api()?;
        Ok(arena)
    }

    /// The name of the network namespace of one of its hosts.
    #[must_use]
    pub fn netns(&self, place: Place) -> String {
        format!("lf-{}-{}{}", self.lab.name(), self.letter, place.word())
    }

    /// Runs a closure on a thread of its own at one of its hosts.
    pub fn at<T: Send>(&self, place: Place, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::inside(&self.netns(place), work)
    }

    /// Runs a closure on a thread of its own at one of its hosts and does not wait for its end. Returns once the
    /// closure has said, through the sender it is given, that it is ready.
    pub fn behind(&self, place: Place, work: impl FnOnce(Sender<Result<()>>) + Send + 'static) -> Result<()> {
        let netns = self.netns(place);
        let (ready_out, ready) = mpsc::channel();
        std::thread::spawn(move || match netns::enter(&netns) {
            Ok(()) => work(ready_out),
            Err(error) => drop(ready_out.send(Err(error))),
        });
        ready.recv().map_err(|_| Error::Answer(format!("what was to run at {place:?} ended")))?
    }

    /// The LAN: the switch is a bridge on the host that stands for the other nodes.
    fn switch(&self) -> Result<()> {
        let remote = self.netns(Place::Remote);
        let mut lines = vec![
            "link add lan0 type bridge forward_delay 0 mcast_snooping 0".to_owned(),
            "link set lan0 up".into(),
        ];
        for (place, last) in [(Place::Client, 200), (Place::Node, 11)] {
            let (port, netns) = (place.word(), self.netns(place));
            lines.push(format!("link add {port} type veth peer name eth0 netns {netns}"));
            lines.push(format!("link set {port} master lan0 up"));
            netns::ip_batch(&remote, &lines)?;
            lines.clear();
            netns::ip_batch(
                &netns,
                &[
                    format!("addr add 192.0.2.{last}/24 dev eth0"),
                    format!("addr add 2001:db8:50::{last}/64 dev eth0 nodad"),
                    "link set eth0 up".into(),
                ],
            )?;
        }
        lines.extend([
            "addr add 192.0.2.12/24 dev lan0".into(),
            "addr add 2001:db8:50::12/64 dev lan0 nodad".into(),
        ]);
        for address in Place::Remote.endpoints() {
            lines.push(format!("addr add {address} dev lo"));
        }
        // More endpoints than one lists: who listens at any address answers at these.
        lines.push("route add local 10.244.16.0/20 dev lo".into());
        for (to, via) in [
            ("10.244.1.0/24", "192.0.2.11"),
            ("fd00:244:1::/64", "2001:db8:50::11"),
            ("10.200.0.0/15", "192.0.2.200"),
            ("fd00:200::/31", "2001:db8:50::200"),
        ] {
            lines.push(format!("route add {to} via {via}"));
        }
        netns::ip_batch(&remote, &lines)?;
        // Frames between the client and the node are the switch's, not the host's.
        netns::sysctl(
            &remote,
            &[("bridge/bridge-nf-call-iptables", "0"), ("bridge/bridge-nf-call-ip6tables", "0")],
        )?;
        let node = self.netns(Place::Node);
        let routes = [
            ("10.244.2.0/24", "192.0.2.12"),
            ("10.244.16.0/20", "192.0.2.12"),
            ("fd00:244:2::/64", "2001:db8:50::12"),
            ("10.200.0.0/15", "192.0.2.200"),
            ("fd00:200::/31", "2001:db8:50::200"),
        ];
        let mut lines = routes.map(|(to, via)| format!("route add {to} via {via}")).to_vec();
        // What nobody takes ends on a host that forwards nothing.
        lines.extend([
            "route add default via 192.0.2.12".into(),
            "route add default via 2001:db8:50::12".into(),
            // But for this range (RFC 2544): forwarded once, a SYN that was not translated yet would leave an entry in
            // conntrack, and the next one from its port would not be translated either.
            "route add blackhole 198.18.0.0/15".into(),
        ]);
        netns::ip_batch(&node, &lines)?;
        netns::forward(&node)?;
        // A refusal is a verdict that is compared: the kernel must not hold refusals back when there are many.
        netns::sysctl(
            &node,
            &[
                ("ipv4/icmp_ratelimit", "0"),
                ("ipv6/icmp/ratelimit", "0"),
                ("ipv4/icmp_msgs_per_sec", "100000"),
                ("ipv4/icmp_msgs_burst", "100000"),
            ],
        )?;
        let mut lines = own_range("10.200.0.0/15", "fd00:200::/31");
        lines.extend([
            "route add default via 192.0.2.11".into(),
            "route add default via 2001:db8:50::11".into(),
        ]);
        // Load-balancer addresses that look like neighbours: instead of an ARP answer.
        lines.push("route add 192.0.2.96/27 via 192.0.2.11".into());
        lines.push("route add 2001:db8:50::100/120 via 2001:db8:50::11".into());
        let client = self.netns(Place::Client);
        netns::ip_batch(&client, &lines)?;
        netns::sysctl(&client, &[("ipv6/ip_nonlocal_bind", "1")])
    }

    fn pods(&self) -> Result<()> {
        let node = self.netns(Place::Node);
        for place in [Place::Pod(1), Place::Pod(2), Place::Pod(3), Place::Fourth] {
            let (port, netns) = (place.word(), self.netns(place));
            let last = port.trim_start_matches('p').to_owned();
            let mut lines = vec![
                format!("link add {port} type veth peer name eth0 netns {netns}"),
                format!("link set {port} up"),
                format!("addr add 10.244.1.1 dev {port}"),
                format!("addr add fd00:244:1::1 dev {port} nodad"),
                format!("route add 10.244.1.1{last} dev {port}"),
                format!("route add fd00:244:1::1{last} dev {port}"),
            ];
            if place == Place::Fourth {
                lines.push("route add 10.244.1.128/25 via 10.244.1.14".into());
                lines.push("route add fd00:244:1:0:1::/80 via fd00:244:1::14".into());
            }
            netns::ip_batch(&node, &lines)?;
            let mut lines = vec![
                format!("addr add 10.244.1.1{last}/32 dev eth0"),
                format!("addr add fd00:244:1::1{last}/128 dev eth0 nodad"),
                "link set eth0 up".into(),
                "route add 10.244.1.1 dev eth0".into(),
                "route add fd00:244:1::1 dev eth0".into(),
                "route add default via 10.244.1.1".into(),
                "route add default via fd00:244:1::1".into(),
            ];
            if place == Place::Fourth {
                lines.extend(own_range("10.244.1.128/25", "fd00:244:1:0:1::/80"));
                netns::sysctl(&netns, &[("ipv6/ip_nonlocal_bind", "1")])?;
            }
            netns::ip_batch(&netns, &lines)?;
        }
        Ok(())
    }

    /// A cable of its own to the API server, whose address elsewhere is one of the LAN's.
    fn way_to_the_api(&self) -> Result<()> {
        let router = self.lab.name().netns(HostName::Router);
        let node = self.netns(Place::Node);
        let number = 4 * (u32::from(self.letter) % 32);
        let (theirs, ours) = (number + 1, number + 2);
        let port = format!("api-{}", self.letter);
        netns::ip_batch(
            &router,
            &[
                format!("link add {port} type veth peer name api0 netns {node}"),
                format!("addr add 203.0.113.{theirs}/30 dev {port}"),
                format!("link set {port} up"),
            ],
        )?;
        let api = Families::Ipv4.primary(HostName::Router);
        netns::ip_batch(
            &node,
            &[
                format!("addr add 203.0.113.{ours}/30 dev api0"),
                "link set api0 up".into(),
                format!("route add {api} via 203.0.113.{theirs}"),
            ],
        )
    }
}

/// Lines that make every address of a range the host's own.
fn own_range(v4: &str, v6: &str) -> Vec<String> {
    vec![format!("route add local {v4} dev lo"), format!("route add local {v6} dev lo")]
}

impl Lab {
    /// Ends the controller manager and the scheduler: nothing but the API server and its store goes on.
    pub fn stop_managers(&self) -> Result<()> {
        let running = control::MANAGERS.iter().filter_map(|name| self.state.process(name));
        running.collect::<Vec<_>>().into_iter().try_for_each(Process::kill)
    }

    /// Makes the Node objects of an arena: n1, which the data planes are on, and n2, in zones of their own.
    pub fn arena_nodes(&self) -> Result<()> {
        for number in [1, 2] {
            let mut node = self.node_numbered(number).object();
            if let Some(labels) = node.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
                labels.insert("topology.kubernetes.io/zone".into(), format!("zone-{number}").into());
            }
            self.create("/api/v1/nodes", &node)?;
            let host = HostName::Node(number);
            let addresses: Vec<Value> = (self.families().addresses(host).iter())
                .map(|address| json!({"type": "InternalIP", "address": address.to_string()}))
                .collect();
            let status = json!({"status": {"addresses": addresses}});
            let path = format!("/api/v1/nodes/{host}/status");
            let answer = self.api("PATCH", &path, Some(("application/merge-patch+json", &status)))?;
            http::expect(answer, &[200], "the API server, given the addresses of a node,")?;
        }
        Ok(())
    }
}

//! Kernel parameters that break traffic: said, and raised only where that is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use landfall_core::elect::{NodeSet, VipPlan, Wanted};
use landfall_speaker::host::{self, Finding, Findings, Kind, Settings};
use landfall_speaker::link;
use landfall_speaker::metrics::Metrics;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::host::Host;

const VIPS: [&str; 2] = ["192.0.2.100", "2001:db8:50::100"];
const PODS: [&str; 2] = ["10.244.1.0/24", "fd00:244:1::/64"];
const SOON: Duration = Duration::from_secs(20);

/// The check, running on a host.
pub(crate) struct Checked {
    wanted: Option<watch::Sender<Arc<Wanted>>>,
    findings: watch::Receiver<Findings>,
    thread: Option<JoinHandle<()>>,
}

impl Checked {
    pub(crate) fn start(host: &Host, writable: Option<&str>) -> Self {
        let (wanted_out, wanted) = watch::channel(Arc::new(wanted(&VIPS)));
        let (findings_out, findings) = watch::channel(None);
        let settings =
            Settings { look: Duration::from_millis(100), ..Settings::new(writable.map(PathBuf::from)) };
        let inside = host.share();
        let thread = thread::spawn(move || {
            inside.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (monitor, links) = link::open().await.unwrap();
                let mut tasks = JoinSet::new();
                tasks.spawn(async move { drop(monitor.run().await) });
                let (_pods_out, pods) = watch::channel(PODS.map(|net| net.parse().unwrap()).to_vec());
                let ports = host::Ports { wanted, links, pods, findings: findings_out };
                let _ended = host::run(settings, ports, Metrics::default()).await;
            });
        });
        Self { wanted: Some(wanted_out), findings, thread: Some(thread) }
    }

    /// Waits until what breaks traffic is exactly this.
    pub(crate) fn wait(&self, what: &str, wanted: &[(Kind, &str)]) {
        let deadline = Instant::now() + SOON;
        loop {
            let found: Option<Vec<Finding>> = self.findings.borrow().as_ref().map(breaking);
            let fits = |found: &Vec<Finding>| {
                found.len() == wanted.len()
                    && wanted.iter().all(|(kind, part)| {
                        found.iter().any(|found| found.kind == *kind && found.message.contains(part))
                    })
            };
            if found.as_ref().is_some_and(fits) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {found:#?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the task panicked");
        }
    }
}

fn breaking(findings: &BTreeSet<Finding>) -> Vec<Finding> {
    findings.iter().filter(|finding| finding.breaks).cloned().collect()
}

fn wanted(vips: &[&str]) -> Wanted {
    let plan = VipPlan { pool: None, rules: Arc::new([]), endpoints: NodeSet::Any };
    let vips: BTreeMap<IpAddr, VipPlan> =
        vips.iter().map(|vip| (vip.parse().unwrap(), plan.clone())).collect();
    Wanted { vips, ..Wanted::default() }
}

/// A node with two interfaces: the LAN, and one that the default route leads through.
pub(crate) fn node() -> Host {
    let host = Host::new();
    for line in [
        "link set lo up",
        "link add lan type veth peer name lan-peer",
        "link add out type veth peer name out-peer",
        "link set lan-peer up",
        "link set out-peer up",
        "link set lan up",
        "link set out up",
        "address add 192.0.2.11/24 dev lan",
        "address add 2001:db8:50::11/64 dev lan nodad",
        "address add 198.51.100.11/24 dev out",
        "route add default via 198.51.100.1",
    ] {
        host.ip(line);
    }
    set(&host, &[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/lan/rp_filter", "0")]);
    forward(&host, "1");
    host
}

pub(crate) fn forward(host: &Host, value: &str) {
    set(host, &[("ipv4/ip_forward", value), ("ipv6/conf/all/forwarding", value)]);
}

fn set(host: &Host, values: &[(&str, &str)]) {
    host.run(|| {
        for (name, value) in values {
            std::fs::write(PathBuf::from("/proc/sys/net").join(name), value).expect(name);
        }
    });
}

fn get(host: &Host, name: &str) -> String {
    let path = PathBuf::from("/proc/sys/net").join(name);
    host.run(|| std::fs::read_to_string(&path)).unwrap().trim().to_owned()
}

#[test]
fn forwarding_that_is_off_is_said_and_left_alone() {
    // S134
    let host = node();
    let checked = Checked::start(&host, None);
    checked.wait("all is well", &[]);
    forward(&host, "0");
    let off = [
        (Kind::ForwardingOff, "net.ipv4.ip_forward=0"),
        (Kind::ForwardingOff, "net.ipv4.conf.lan.forwarding=0"),
        (Kind::ForwardingOff, "net.ipv6.conf.all.forwarding=0"),
    ];
    checked.wait("forwarding is off", &off);
    assert_eq!(
        (get(&host, "ipv4/ip_forward"), get(&host, "ipv6/conf/all/forwarding")),
        ("0".into(), "0".into())
    );
    forward(&host, "1");
    checked.wait("forwarding is on again", &[]);
    set(&host, &[("ipv4/conf/lan/forwarding", "0")]);
    checked.wait("one interface is out", &[(Kind::ForwardingOff, "net.ipv4.conf.lan.forwarding=0")]);
    // Without an IPv6 address to serve, nothing needs IPv6.
    set(&host, &[("ipv4/conf/lan/forwarding", "1"), ("ipv6/conf/all/forwarding", "0")]);
    checked.wait("IPv6 is out", &[(Kind::ForwardingOff, "net.ipv6.conf.all.forwarding=0")]);
    checked.wanted.as_ref().unwrap().send_replace(Arc::new(wanted(&VIPS[..1])));
    checked.wait("no IPv6 Service", &[]);
}

#[test]
fn a_strict_reverse_path_is_said_where_the_default_route_leads_elsewhere() {
    // S134
    for strict in ["all", "lan"] {
        let host = node();
        let checked = Checked::start(&host, None);
        checked.wait("all is well", &[]);
        set(&host, &[(&format!("ipv4/conf/{strict}/rp_filter"), "1")]);
        checked.wait(strict, &[(Kind::StrictReversePath, "net.ipv4.conf.lan.rp_filter=1")]);
        set(&host, &[("ipv4/conf/lan/rp_filter", "2")]);
        checked.wait("loose", &[]);
        set(&host, &[("ipv4/conf/lan/rp_filter", "1")]);
        checked.wait("strict again", &[(Kind::StrictReversePath, "lan")]);
        host.ip("route replace default via 192.0.2.1");
        checked.wait("the default route leads through the LAN", &[]);
    }
}

#[test]
fn parameters_are_raised_where_the_user_wants_it_and_never_lowered() {
    // S134
    let host = node();
    forward(&host, "0");
    set(&host, &[("ipv4/conf/lan/rp_filter", "1"), ("ipv4/conf/out/rp_filter", "1")]);
    let checked = Checked::start(&host, Some("/proc/sys/net"));
    checked.wait("all is raised", &[]);
    for (name, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/lan/forwarding", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/lan/rp_filter", "2"),
        // Nothing is wrong there.
        ("ipv4/conf/out/rp_filter", "1"),
    ] {
        assert_eq!(get(&host, name), value, "{name}");
    }
    // Somebody turns it off later.
    forward(&host, "0");
    let deadline = Instant::now() + SOON;
    while get(&host, "ipv4/ip_forward") != "1" || get(&host, "ipv6/conf/all/forwarding") != "1" {
        assert!(Instant::now() < deadline, "they are raised again");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_parameter_that_cannot_be_raised_is_said_with_the_reason() {
    let host = node();
    forward(&host, "0");
    let checked = Checked::start(&host, Some("/nonexistent"));
    let off = [
        (Kind::ForwardingOff, "net.ipv4.ip_forward=0: no IPv4"),
        (Kind::ForwardingOff, "could not be raised: No such file"),
        (Kind::ForwardingOff, "net.ipv6.conf.all.forwarding=0: no IPv6"),
    ];
    checked.wait("nothing can be written", &off);
}

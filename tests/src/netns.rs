//! Network namespaces: the hosts of a lab, and threads that work inside them.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::command;
use crate::error::{Doing, Result};
use crate::plan::{Families, HostName, LabName};

/// Where iproute2 keeps the names of network namespaces.
const FOLDER: &str = "/run/netns";

/// The file that stands for a named network namespace.
#[must_use]
pub(crate) fn path(netns: &str) -> PathBuf {
    Path::new(FOLDER).join(netns)
}

/// Moves the calling thread into a network namespace for good.
pub(crate) fn enter(netns: &str) -> Result<()> {
    let path = path(netns);
    let file = File::open(&path).doing(|| format!("open {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).doing(|| format!("enter network namespace {netns}"))
}

/// Runs a closure on a thread of its own inside a network namespace: every socket it opens is one of that host.
pub(crate) fn inside<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| enter(netns).map(|()| work()));
        match thread.join() {
            Ok(result) => result,
            // A failed assertion inside the closure is the caller's to report.
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Names of the network namespaces of a lab.
#[must_use]
pub(crate) fn of_lab(lab: &LabName) -> Vec<String> {
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| lab.owns_netns(name)).collect()
}

/// Identities (inode numbers) of the given namespaces; a process shows the same number in `/proc/PID/ns/net`.
#[must_use]
pub(crate) fn inodes(names: &[String]) -> BTreeSet<u64> {
    names.iter().filter_map(|name| Some(path(name).metadata().ok()?.ino())).collect()
}

/// Deletes a named network namespace.
pub(crate) fn delete(netns: &str) -> Result<()> {
    command::run(command::tool("ip").args(["netns", "del", netns])).map(|_| ())
}

/// Makes a network namespace in which nothing depends on how the machine is set up: a new namespace takes over the
/// IPv4 settings of the machine's own, which a distribution or a container engine may have changed.
pub(crate) fn add(netns: &str) -> Result<()> {
    command::run(command::tool("ip").args(["netns", "add", netns]))?;
    sysctl(
        netns,
        &[
            ("ipv4/ip_forward", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/arp_ignore", "0"),
            ("ipv4/conf/default/arp_ignore", "0"),
            ("ipv4/conf/all/arp_announce", "0"),
            ("ipv4/conf/default/arp_announce", "0"),
            // No duplicate address detection: addresses are usable at once, and the plan has no duplicates.
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ],
    )
}

pub(crate) fn forward(netns: &str) -> Result<()> {
    sysctl(netns, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])
}

/// Runs lines of `ip` commands inside a network namespace, in one process.
pub(crate) fn ip_batch(netns: &str, lines: &[String]) -> Result<()> {
    let mut text = lines.join("\n");
    text.push('\n');
    command::run_with_input(command::tool("ip").args(["-n", netns, "-batch", "-"]), &text).map(|_| ())
}

/// Sets kernel parameters inside a network namespace; names as below `/proc/sys/net`.
///
/// `/proc/sys/net` shows the namespace of the thread that reads it.
pub(crate) fn sysctl(netns: &str, values: &[(&str, &str)]) -> Result<()> {
    inside(netns, || {
        for (name, value) in values {
            let file = Path::new("/proc/sys/net").join(name);
            // Parameters of a module that is not loaded do not exist, and then need no value.
            if file.exists() {
                std::fs::write(&file, value).doing(|| format!("set {} to {value}", file.display()))?;
            }
        }
        Ok(())
    })?
}

/// Makes the LAN: a bridge that forwards at once and floods multicast as a plain switch does, with the control
/// plane's addresses on it.
pub(crate) fn make_lan(lab: &LabName, families: Families) -> Result<()> {
    let netns = lab.netns(HostName::Router);
    add(&netns)?;
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!(
            "link add lan0 address {} type bridge forward_delay 0 mcast_snooping 0",
            HostName::Router.mac_text()
        ),
    ];
    lines.extend(addresses(families, HostName::Router, "lan0"));
    lines.push("link set lan0 up".to_owned());
    ip_batch(&netns, &lines)?;
    forward(&netns)?;
    // Bridged frames must not meet the router's own netfilter, which a machine with br_netfilter loaded would
    // make them.
    sysctl(
        &netns,
        &[
            ("bridge/bridge-nf-call-iptables", "0"),
            ("bridge/bridge-nf-call-ip6tables", "0"),
            ("bridge/bridge-nf-call-arptables", "0"),
        ],
    )
}

/// Makes a host and connects it to the LAN; its port on the bridge has the host's name. Nodes get routes to the
/// pod networks of the other nodes, as the network of a cloud or a routing CNI would give them.
pub(crate) fn make_host(lab: &LabName, families: Families, host: HostName, nodes: u8) -> Result<()> {
    let (lan, netns) = (lab.netns(HostName::Router), lab.netns(host));
    add(&netns)?;
    ip_batch(
        &lan,
        &[
            format!("link add {host} type veth peer name eth0 address {} netns {netns}", host.mac_text()),
            format!("link set {host} master lan0 up"),
        ],
    )?;
    let mut lines = vec!["link set lo up".to_owned()];
    lines.extend(addresses(families, host, "eth0"));
    lines.push("link set eth0 up".to_owned());
    lines.extend(
        families.addresses(HostName::Router).iter().map(|via| format!("route add default via {via}")),
    );
    if let HostName::Node(own) = host {
        for other in (1..=nodes).filter(|other| *other != own) {
            lines.extend(pod_routes(families, other));
        }
    }
    ip_batch(&netns, &lines)?;
    if matches!(host, HostName::Node(_)) {
        forward(&netns)?;
    }
    Ok(())
}

/// The `ip` lines that route a node's pod networks to the node.
#[must_use]
pub(crate) fn pod_routes(families: Families, node: u8) -> Vec<String> {
    let gateways = families.addresses(HostName::Node(node));
    families
        .pod_cidrs(node)
        .iter()
        .zip(gateways)
        .map(|(cidr, via)| format!("route add {cidr} via {via}"))
        .collect()
}

fn addresses(families: Families, host: HostName, device: &str) -> Vec<String> {
    families.pick(
        format!("addr add {}/24 dev {device}", host.ipv4()),
        format!("addr add {}/64 dev {device} nodad", host.ipv6()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_networks_are_routed_to_their_node_in_each_family() {
        assert_eq!(
            pod_routes(Families::Dual, 3),
            ["route add 10.244.3.0/24 via 192.0.2.13", "route add fd00:244:3::/64 via 2001:db8:50::13"]
        );
        assert_eq!(pod_routes(Families::Ipv6, 1), ["route add fd00:244:1::/64 via 2001:db8:50::11"]);
    }
}

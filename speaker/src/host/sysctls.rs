//! Kernel parameters: which of them would break traffic, and to what they are raised where the user wants that.
//!
//! A value is never lowered, and nothing is set back. `net.bridge.bridge-nf-call-iptables` belongs to the CNI plugin;
//! `nf_conntrack_tcp_be_liberal` is off with kube-proxy's defaults too, and our table drops what comes to the address of
//! a Service and conntrack calls invalid.

use std::collections::BTreeSet;
use std::io;

use landfall_core::addr::Family;

use super::proc::{self, Parameters};
use super::{Finding, Kind, Surroundings, Writable};

/// What kube-proxy sees to by default (`pkg/proxy/apis/config/v1alpha1/defaults.go`): connections per processor and in
/// all, and how long an established connection and one that waits to be closed are kept, in seconds.
const CONNECTIONS_PER_PROCESSOR: u64 = 32_768;
const LEAST_CONNECTIONS: u64 = 131_072;
const ESTABLISHED_S: u64 = 86_400;
const CLOSE_WAIT_S: u64 = 3_600;

/// kube-proxy's bound on what it sets, which counts here for machines with more processors than that makes sense for.
const MOST_CONNECTIONS: u64 = 1_048_576;

/// A table of connections is called full when so many per cent are in use.
const FULL_PERCENT: u64 = 95;

/// A parameter that should be higher.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Low {
    /// Its name as a path below `/proc/sys/net`.
    name: String,
    value: u64,
    wanted: u64,
    kind: Kind,
    breaks: bool,
    /// What comes of it.
    effect: String,
}

/// Looks at every parameter and raises those it may. What is left is returned.
pub fn check(around: &Surroundings, writable: &Writable) -> BTreeSet<Finding> {
    let host = Parameters::of_this_host();
    let mut findings = BTreeSet::new();
    for low in low(&host, around) {
        let raised = writable.as_ref().map(|root| raise(&host, &Parameters(root.clone()), &low));
        match raised {
            Some(Ok(false)) => {}
            Some(Ok(true)) => {
                tracing::info!(
                    parameter = dotted(&low.name),
                    from = low.value,
                    to = low.wanted,
                    "kernel parameter raised"
                );
            }
            Some(Err(error)) => {
                findings.insert(low.finding(&format!("; it could not be raised: {error}")));
            }
            None => {
                findings.insert(low.finding(""));
            }
        }
    }
    findings.extend(full(&host));
    findings
}

/// The parameters that are too low, in the order in which they are to be raised.
fn low(host: &Parameters, around: &Surroundings) -> Vec<Low> {
    let mut low = forwarding(host, around);
    low.extend(reverse_path(host, around));
    low.extend(conntrack(host, around));
    low
}

fn forwarding(host: &Parameters, around: &Surroundings) -> Vec<Low> {
    let mut low = Vec::new();
    let mut need = |name: String, effect: &str| {
        if let Some(value) = host.get(&name).filter(|value| *value == 0) {
            let effect = effect.to_owned();
            low.push(Low { name, value, wanted: 1, kind: Kind::ForwardingOff, breaks: true, effect });
        }
    };
    if around.families.contains(&Family::V4) {
        need("ipv4/ip_forward".to_owned(), "no IPv4 connection to a Service reaches a pod through this node");
        // Setting the first sets all of these; one that was turned off since then keeps its interface out.
        for iface in around.lan.get(&Family::V4).into_iter().flatten() {
            let effect = format!("no IPv4 connection to a Service that comes in on {iface} reaches a pod");
            need(format!("ipv4/conf/{iface}/forwarding"), &effect);
        }
    }
    if around.families.contains(&Family::V6) {
        need(
            "ipv6/conf/all/forwarding".to_owned(),
            "no IPv6 connection to a Service reaches a pod through this node",
        );
    }
    low
}

/// Strict reverse-path filtering harms where clients behind a router come in on an interface that the way back to them
/// does not lead through (RFC 3704, section 2.2). The higher of the two values counts (`ip-sysctl.rst`), so
/// that 2 is the looser one although it is higher.
fn reverse_path(host: &Parameters, around: &Surroundings) -> Vec<Low> {
    let all = host.get("ipv4/conf/all/rp_filter").unwrap_or(0);
    let defaults = proc::default_routes_v4();
    let Some(lan) = around.lan.get(&Family::V4) else { return Vec::new() };
    let strict = |name: &String| host.get(name).unwrap_or(0).max(all) == 1;
    lan.iter()
        .filter(|iface| !defaults.contains(iface))
        .map(|iface| (iface, format!("ipv4/conf/{iface}/rp_filter")))
        .filter(|(_, name)| strict(name))
        .map(|(iface, name)| Low {
            name,
            value: 1,
            wanted: 2,
            kind: Kind::StrictReversePath,
            breaks: true,
            effect: format!(
                "clients behind a router on {iface} are not served there, as this node's default route leads \
                 elsewhere (2 is loose)"
            ),
        })
        .collect()
}

/// What kube-proxy would raise.
fn conntrack(host: &Parameters, around: &Surroundings) -> Vec<Low> {
    let connections =
        (around.processors * CONNECTIONS_PER_PROCESSOR).clamp(LEAST_CONNECTIONS, MOST_CONNECTIONS);
    [
        (
            "netfilter/nf_conntrack_max",
            connections,
            Kind::ConntrackFull,
            "a node with many connections drops new ones",
        ),
        (
            "netfilter/nf_conntrack_tcp_timeout_established",
            ESTABLISHED_S,
            Kind::ConntrackShort,
            "connections that are idle for longer break",
        ),
        (
            "netfilter/nf_conntrack_tcp_timeout_close_wait",
            CLOSE_WAIT_S,
            Kind::ConntrackShort,
            "connections that one side has closed break when the other is silent for longer",
        ),
    ]
    .into_iter()
    .filter_map(|(name, wanted, kind, effect)| {
        let value = host.get(name).filter(|value| *value < wanted)?;
        Some(Low { name: name.to_owned(), value, wanted, kind, breaks: false, effect: effect.to_owned() })
    })
    .collect()
}

/// A table that is full now is trouble whatever its size.
fn full(host: &Parameters) -> Option<Finding> {
    let most = host.get("netfilter/nf_conntrack_max").filter(|most| *most > 0)?;
    let used = host.get("netfilter/nf_conntrack_count")?;
    (used.saturating_mul(100) >= most.saturating_mul(FULL_PERCENT)).then(|| Finding {
        kind: Kind::ConntrackFull,
        breaks: true,
        // Without the number in use: it changes all the time, and a finding should stay the same.
        message: format!(
            "the table of connections is full (net.netfilter.nf_conntrack_max={most}): new connections are dropped"
        ),
    })
}

/// Raises one parameter; false when it has come by itself, as those of interfaces do with that of the host.
fn raise(host: &Parameters, writable: &Parameters, low: &Low) -> io::Result<bool> {
    if low.name == "ipv6/conf/all/forwarding" {
        keep_advertised_routes(host, writable)?;
    }
    if host.get(&low.name).is_some_and(|value| value >= low.wanted) {
        return Ok(false);
    }
    writable.set(&low.name, low.wanted).map(|()| true)
}

/// A host that forwards IPv6 ignores router advertisements where `accept_ra` is 1: it would lose the default route it
/// has from one. 2 means that they count although it forwards (`ip-sysctl.rst`). Only the interfaces that have such a
/// route: on those of pods it would let a pod say where this node's packets go.
fn keep_advertised_routes(host: &Parameters, writable: &Parameters) -> io::Result<()> {
    for iface in proc::advertised_routes_v6() {
        let name = format!("ipv6/conf/{iface}/accept_ra");
        if host.get(&name) == Some(1) {
            writable.set(&name, 2)?;
            tracing::info!(parameter = dotted(&name), from = 1, to = 2, "kernel parameter raised");
        }
    }
    Ok(())
}

impl Low {
    fn finding(&self, but: &str) -> Finding {
        let Self { value, wanted, kind, breaks, effect, name } = self;
        let message =
            format!("{}={value}: {effect}; it should be {wanted}{}{but}", dotted(name), at_least(*kind));
        Finding { kind: *kind, breaks: *breaks, message }
    }
}

const fn at_least(kind: Kind) -> &'static str {
    match kind {
        Kind::ConntrackFull | Kind::ConntrackShort => " at least",
        Kind::ForwardingOff | Kind::StrictReversePath | Kind::ForeignFilter => "",
    }
}

/// The name as sysctl(8) has it: dots for slashes, and in the name of an interface the other way round.
fn dotted(name: &str) -> String {
    let turn = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    format!("net.{}", name.chars().map(turn).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_named_as_sysctl_names_it() {
        for (path, name) in [
            ("ipv4/ip_forward", "net.ipv4.ip_forward"),
            ("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
            ("ipv4/conf/eth0.7/rp_filter", "net.ipv4.conf.eth0/7.rp_filter"),
        ] {
            assert_eq!(dotted(path), name);
        }
    }

    #[test]
    fn a_finding_says_what_is_wrong_what_comes_of_it_and_what_to_do() {
        let low = Low {
            name: "ipv4/ip_forward".to_owned(),
            value: 0,
            wanted: 1,
            kind: Kind::ForwardingOff,
            breaks: true,
            effect: "nothing works".to_owned(),
        };
        assert_eq!(low.finding("").message, "net.ipv4.ip_forward=0: nothing works; it should be 1");
    }
}

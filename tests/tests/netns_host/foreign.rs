//! Filter tables of others, as docker, firewalld, ufw and CNI plugins make them: named where they drop what is
//! forwarded to the pods, never changed.

use std::io::Write;
use std::process::{Command, Stdio};

use landfall_speaker::host::Kind;

use crate::host::Host;
use crate::sysctls::{Checked, node};

/// A node with a bridge for its pods and one for docker.
fn node_with_bridges() -> Host {
    let host = node();
    for line in [
        "link add cni0 type bridge",
        "address add 10.244.1.1/24 dev cni0",
        "address add fd00:244:1::1/64 dev cni0 nodad",
        "link set cni0 up",
        "link add docker0 type bridge",
        "address add 172.17.0.1/16 dev docker0",
        "link set docker0 up",
    ] {
        host.ip(line);
    }
    host
}

/// Runs a program on the host with this text as its input.
fn feed(host: &Host, program: &str, arguments: &[&str], text: &str) {
    let output = host.run(|| {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} is installed: {error}"));
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
}

fn ruleset(host: &Host) -> String {
    let output = host.run(|| Command::new("nft").args(["list", "ruleset"]).output()).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What docker leaves behind, and whether somebody lets the pods pass in it.
fn docker(extra: &str) -> String {
    format!(
        "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n:DOCKER -\n:DOCKER-USER -\n:DOCKER-FORWARD -\n\
         {extra}\
         -A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n-A DOCKER-USER -j RETURN\n\
         -A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A DOCKER-FORWARD -i docker0 -j ACCEPT\n-A DOCKER-FORWARD -o docker0 -j DOCKER\n\
         -A DOCKER ! -i docker0 -o docker0 -j DROP\nCOMMIT\n"
    )
}

#[test]
fn dockers_policy_is_named_until_the_pods_pass_and_left_as_it_is() {
    for (restore, table, pods) in [
        ("iptables-nft-restore", "ip filter", "10.244.0.0/16"),
        ("ip6tables-nft-restore", "ip6 filter", "fd00:244::/32"),
    ] {
        let host = node_with_bridges();
        let checked = Checked::start(&host, None);
        checked.wait("nobody filters", &[]);
        feed(&host, restore, &[], &docker(""));
        let before = ruleset(&host);
        let named = format!("chain FORWARD of table {table} (policy drop) drops");
        checked.wait("docker is there", &[(Kind::ForeignFilter, &named)]);
        assert_eq!(ruleset(&host), before, "it is left alone");
        // Only one way: answers do not come back.
        feed(&host, restore, &[], &docker("-A FORWARD -o cni0 -j ACCEPT\n"));
        checked.wait("half of it", &[(Kind::ForeignFilter, "answers of pods")]);
        // As flannel and kube-proxy do it.
        for extra in [
            format!("-A FORWARD -s {pods} -j ACCEPT\n-A FORWARD -d {pods} -j ACCEPT\n"),
            "-A FORWARD -m comment --comment pods -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                 -A FORWARD -o cni0 -j ACCEPT\n"
                .to_owned(),
            "-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\n".to_owned(),
        ] {
            feed(&host, restore, &[], &docker(""));
            checked.wait("docker again", &[(Kind::ForeignFilter, &named)]);
            feed(&host, restore, &[], &docker(&extra));
            checked.wait(&extra, &[]);
        }
    }
}

#[test]
fn a_mark_that_our_packets_do_not_have_lets_nothing_pass() {
    for (restore, table) in [("iptables-nft-restore", "ip filter"), ("ip6tables-nft-restore", "ip6 filter")] {
        let host = node_with_bridges();
        let checked = Checked::start(&host, None);
        feed(
            &host,
            restore,
            &[],
            &docker(
                "-A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n",
            ),
        );
        checked.wait("kube-proxy's exception", &[(Kind::ForeignFilter, table)]);
    }
}

#[test]
fn tables_of_nftables_are_judged_by_their_rules() {
    let chain = |rules: &str, policy: &str| {
        format!(
            "table inet other {{\n chain forward {{ type filter hook forward priority 0; policy {policy};\n{rules}\n }}\n}}\n"
        )
    };
    let both =
        [(Kind::ForeignFilter, "chain forward of table inet other (policy drop) drops new connections")];
    for (what, text, found) in [
        ("an empty chain that drops", chain("", "drop"), &both[..]),
        ("a chain that accepts", chain("tcp dport 22 drop", "accept"), &[]),
        (
            "as firewalld has it",
            chain(
                "ct state { established, related } accept\nct status dnat accept\niifname \"lo\" accept\n\
                 ct state invalid drop\nreject with icmpx admin-prohibited",
                "accept",
            ),
            &[],
        ),
        (
            "the same without its line about translated connections",
            chain(
                "ct state { established, related } accept\niifname \"lo\" accept\nct state invalid drop\n\
                 reject with icmpx admin-prohibited",
                "accept",
            ),
            &[(
                Kind::ForeignFilter,
                "chain forward of table inet other (policy accept) drops new connections",
            )],
        ),
        (
            "a map of verdicts",
            chain("ct state vmap { established : accept, related : accept, invalid : drop }", "drop"),
            &both[..],
        ),
        (
            "a map of verdicts, and the pods",
            chain(
                "ct state vmap { established : accept, related : accept, invalid : drop }\noifname \"cni0\" accept",
                "drop",
            ),
            &[],
        ),
        ("other interfaces by their beginning", chain("iifname \"docker*\" accept", "drop"), &both[..]),
        ("the LAN", chain("iifname \"la*\" accept\noifname \"lan\" accept", "drop"), &[]),
        (
            "a client's address may be any",
            chain(
                "ip saddr 198.51.100.0/24 accept\nip6 saddr 2001:db8:7::/48 accept\nct state established accept",
                "drop",
            ),
            &[],
        ),
    ] {
        let host = node_with_bridges();
        feed(&host, "nft", &["-f", "-"], &text);
        let checked = Checked::start(&host, None);
        checked.wait(what, found);
    }
}

#[test]
fn our_own_table_and_other_hooks_are_nobodys_business() {
    let host = node_with_bridges();
    let chain = "{ type filter hook forward priority 0; policy drop; }";
    let input = chain.replace("forward", "input");
    feed(
        &host,
        "nft",
        &["-f", "-"],
        &format!("table inet landfall {{\nchain x {chain}\n}}\ntable inet host {{\nchain y {input}\n}}\n"),
    );
    let checked = Checked::start(&host, None);
    checked.wait("nothing", &[]);
}

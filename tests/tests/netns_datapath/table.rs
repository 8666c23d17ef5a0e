//! The table beside others, and as nft shows it.

use landfall_core::addr::Family;
use landfall_core::service::Affinity;

use crate::rig::{FAMILIES, NODE, Web, both, data_path, pod_addr, vip};
use crate::world::{Met, World};

#[test]
fn it_decides_before_kube_proxy_does() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).apply(&mut path);
    Web::new(101, &[]).apply(&mut path);
    // What kube-proxy would do, at its place, for every port: another endpoint.
    let rival = |pod: &str| {
        format!(
            "table inet rival {{
               chain pre {{ type nat hook prerouting priority -100; policy accept;
                 ip daddr 192.0.2.96/27 meta l4proto tcp dnat ip to {v4}:8080
                 ip6 daddr 2001:db8:50::100/120 meta l4proto tcp dnat ip6 to [{v6}]:8080
               }}
             }}",
            v4 = pod_addr(pod, Family::V4),
            v6 = pod_addr(pod, Family::V6)
        )
    };
    world.run_with("node", "nft", &["-f", "-"], &rival("p2"));
    for family in FAMILIES {
        assert_eq!(world.tcp("client", vip(family, 100)).pod(), "p1", "{family}");
        assert_eq!(
            world.tcp("client", vip(family, 101)),
            Met::Refused,
            "{family}: no endpoints is a decision"
        );
        let mut undefined = vip(family, 100);
        undefined.set_port(81);
        assert_eq!(world.tcp("client", undefined), Met::Refused, "{family}: so is an undefined port");
        assert_eq!(world.tcp("client", vip(family, 102)).pod(), "p2", "{family}: not ours");
    }
}

#[test]
fn a_cluster_ip_is_left_to_whoever_serves_it() {
    // S34 to S36, S42, S44, S50, S93
    let world = World::new();
    let (v4, v6) = (pod_addr("p1", Family::V4), pod_addr("p1", Family::V6));
    let rules = format!(
        "meta l4proto {{ tcp, udp }} ip daddr 10.96.0.10 th dport 80 dnat ip to {v4}:8080
         meta l4proto {{ tcp, udp }} ip6 daddr fd00:96::10 th dport 80 dnat ip6 to [{v6}]:8080"
    );
    let proxy = format!(
        "table inet proxy {{
           chain pre {{ type nat hook prerouting priority -100; policy accept; {rules}
           }}
           chain out {{ type nat hook output priority -100; policy accept; {rules}
           }}
         }}"
    );
    world.run_with("node", "nft", &["-f", "-"], &proxy);
    for (host, vias) in [("client", NODE), ("node", ["192.0.2.12", "2001:db8:50::12"])] {
        for (net, via) in ["10.96.0.0/16", "fd00:96::/64"].into_iter().zip(vias) {
            world.run(host, "ip", &["route", "add", net, "via", via]);
        }
    }
    let meet = || {
        let hosts = ["client", "p2", "node"].into_iter();
        let all = hosts.flat_map(|host| {
            ["10.96.0.10:80", "[fd00:96::10]:80"].map(|to| (host, both(&world, host, to.parse().unwrap())))
        });
        all.collect::<Vec<_>>()
    };
    let before = meet();
    assert!(before.iter().all(|(_, met)| met.iter().all(|one| one.pod() == "p1")), "{before:?}");
    let mut path = data_path(&world);
    // Ports and pods that could be mistaken for those of the other Service.
    Web::new(100, &["p2"]).local().node_port(30_080).apply(&mut path);
    Web::new(101, &[]).apply(&mut path);
    assert_eq!(meet(), before, "the same pod sees the same clients");
}

#[test]
fn nft_lists_the_table_and_takes_its_own_listing_back() {
    let world = World::new();
    let mut path = data_path(&world);
    Web::new(100, &["p1", "p2", "p3"]).apply(&mut path);
    Web::new(101, &["p1", "p3"]).local().only(&["192.0.2.0/24", "2001:db8:50::/64"]).apply(&mut path);
    let mut sticky = Web::new(102, &["p1", "p2"]);
    sticky.service.affinity = Affinity::ClientIp { timeout_s: 10_800 };
    sticky.apply(&mut path);
    // Records of clients are listed too.
    for family in FAMILIES {
        assert_eq!(world.tcp("client", vip(family, 102)).pod().len(), 2);
    }
    Web::new(103, &[]).apply(&mut path);

    let listed = world.run("node", "nft", &["list", "table", "inet", "landfall"]);
    for part in [
        "typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport",
        "192.0.2.100 . tcp . 80 . 0 : 10.244.1.11 . 8080",
        "2001:db8:50::100 . udp . 80 comment \"default/web100\" : 100:3",
        "100:3 : goto n3",
        "192.0.2.101 . tcp . 80 comment \"default/web101\" : 2300:1",
        "2300:1 : goto fwb_l1",
        "jhash ip6 saddr . th sport mod 3 seed 0x5eed map @ep6",
        "jhash ip saddr mod 2 seed 0x5eed map @ep4",
        "offset 65536",
        "dnat ip to ip daddr . meta l4proto . th dport . ip saddr map @aff4",
        "192.0.2.102 . tcp . 80 : jump t4_10800",
        "ct original proto-dst . ct original ip6 saddr timeout 3h : ip6 daddr . th dport }",
        "192.0.2.102 . tcp . 80 . 192.0.2.200 timeout 3h expires",
        "192.0.2.103 . tcp . 80 comment \"default/web103\" : 500:1",
        "2001:db8:50::103 . udp . 80 comment \"default/web103\" : 500:1",
        "500:1 : goto rej",
    ] {
        assert!(listed.contains(part), "{part:?} is not in\n{listed}");
    }
    // Loaded somewhere else, it is listed the same. nft 1.0.6 does not know the flags of the table.
    let lines: Vec<&str> = listed.lines().filter(|line| !line.trim().starts_with("flags owner")).collect();
    // It aborts on a rule that updates a map by a key of several fields longer than sixteen bytes, its own included.
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.contains("update @aff6")).collect();
    let plain = lines.join("\n") + "\n";
    world.run_with("client2", "nft", &["-f", "-"], &plain);
    assert_eq!(sorted(&world.run("client2", "nft", &["list", "table", "inet", "landfall"])), sorted(&plain));
    world.run("node", "nft", &["list", "ruleset"]);
}

/// Elements of a hash come in any order: lines by themselves, sorted, and without the time that passes.
fn sorted(listing: &str) -> Vec<String> {
    let mut parts: Vec<String> = listing
        .lines()
        // The first line names the program that owns the table.
        .map(|line| line.split(" #").next().unwrap_or(line))
        .flat_map(|line| line.split(", "))
        .map(|part| {
            part.trim().trim_start_matches("elements = {").trim_end_matches(['}', ',', ' ']).trim().to_owned()
        })
        .map(|part| without_time(&part))
        .filter(|part| !part.is_empty())
        .collect();
    parts.sort();
    parts
}

/// An element without the time it has left.
fn without_time(part: &str) -> String {
    let Some((before, rest)) = part.split_once(" expires ") else { return part.to_owned() };
    let (_, behind) = rest.split_once(' ').unwrap_or_default();
    format!("{before} {behind}").trim().to_owned()
}

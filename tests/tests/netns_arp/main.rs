//! The announcer on real interfaces, as a third host on the LAN sees it. Root is needed; without it the tests fail.

#[cfg(test)]
#[path = "../support/host.rs"]
mod host;
#[cfg(test)]
mod links;
#[cfg(test)]
mod station;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use host::{Host, Lan};
use landfall_speaker::l2::Settings;
use landfall_speaker::l2::arp::{Arp, Operation};
use landfall_speaker::link::Mac;
use station::{Announcer, SOON, Station, is_answer, is_gratuitous, wait_for};

const NODE: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
const NEW: Mac = Mac([2, 0, 0, 0, 0, 0x12]);
const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
const OWNED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
const QUIET: Settings = Settings { refresh: Duration::ZERO, seed: 0 };

/// A node and a client on one LAN.
struct Setup {
    lan: Lan,
    node: Host,
    client: Host,
}

impl Setup {
    fn new() -> Self {
        let setup = Self { lan: Lan::new(), node: Host::new(), client: Host::new() };
        setup.lan.connect(&setup.node, "node", "eth0", &NODE.to_string());
        setup.node.ip("address add 192.0.2.11/24 dev eth0");
        setup.lan.connect(&setup.client, "client", "eth0", &CLIENT.to_string());
        setup.wait_for_the_lan();
        setup
    }

    /// The ports of a switch forward a moment after the carrier is there.
    fn wait_for_the_lan(&self) {
        let ends = [Station::new(&self.node, "eth0", NODE), Station::new(&self.client, "eth0", CLIENT)];
        for (from, to) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
            let deadline = Instant::now() + SOON;
            let arrived = || {
                from.ask(Ipv4Addr::new(198, 51, 100, 1));
                to.next(Instant::now() + Duration::from_millis(20)).is_some_and(|seen| seen.from == from.mac)
            };
            while !arrived() {
                assert!(Instant::now() < deadline, "the LAN does not forward");
            }
        }
    }

    fn start(&self, settings: Settings) -> (Announcer, Station) {
        let station = Station::new(&self.client, "eth0", CLIENT);
        let announcer = Announcer::start(&self.node, settings);
        announcer.wait_for_links("the node's interface", |links| links.holding(OWNED.into()).is_some());
        (announcer, station)
    }
}

#[test]
fn only_an_owned_address_is_answered_and_only_to_the_asker() {
    let setup = Setup::new();
    let (mut announcer, station) = setup.start(QUIET);
    announcer.own(&[(OWNED, "eth0")]);
    // Frames are answered in order: an answer for the first address would come before that for the second.
    station.ask(OTHER);
    station.ask(OWNED);
    let seen = station.until("the answer", |seen| is_answer(seen, OWNED));
    let answer = seen.last().unwrap();
    assert_eq!((answer.to, answer.from, answer.arp.sender_mac), (CLIENT, NODE, NODE));
    assert_eq!((answer.arp.target_mac, answer.arp.target_ip), (CLIENT, station.ip));
    assert!(seen.iter().all(|seen| seen.arp.sender_ip != OTHER), "{seen:#?}");
    announcer.own(&[(OTHER, "eth0")]);
    station.ask(OWNED);
    station.ask(OTHER);
    let seen = station.until("the answer", |seen| is_answer(seen, OTHER));
    assert!(!seen.iter().any(|seen| is_answer(seen, OWNED)), "given up, yet answered: {seen:#?}");
    // Counted after it is sent.
    wait_for("both answers to be counted", || announcer.count(|counters| &counters.replies) == 2);
}

#[test]
fn requests_by_broadcast_or_to_the_node_and_probes_are_answered() {
    let setup = Setup::new();
    let (mut announcer, mut station) = setup.start(QUIET);
    announcer.own(&[(OWNED, "eth0")]);
    for sender in [Ipv4Addr::new(192, 0, 2, 200), Ipv4Addr::UNSPECIFIED] {
        station.ip = sender;
        for to in [Mac::BROADCAST, NODE] {
            station.send(&station.request(OWNED).encode(to));
            let seen = station.until("the answer", |seen| is_answer(seen, OWNED));
            let answer = seen.last().unwrap();
            assert_eq!(
                (answer.to, answer.arp.sender_mac, answer.arp.target_ip),
                (CLIENT, NODE, sender),
                "{to}"
            );
        }
    }
}

#[test]
fn a_request_to_another_station_is_not_answered_even_where_the_interface_sees_it() {
    let setup = Setup::new();
    setup.node.ip("link set eth0 promisc on");
    let (mut announcer, station) = setup.start(QUIET);
    announcer.own(&[(OWNED, "eth0")]);
    station.send(&station.request(OWNED).encode(Mac([2, 0, 0, 0, 0, 0x77])));
    let before = station.request(OWNED);
    station.send(&Arp { sender_ip: Ipv4Addr::new(192, 0, 2, 201), ..before }.encode(Mac::BROADCAST));
    let seen = station.until("the answer to the second", |seen| is_answer(seen, OWNED));
    assert_eq!(seen.last().unwrap().arp.target_ip, Ipv4Addr::new(192, 0, 2, 201), "{seen:#?}");
}

#[test]
fn a_gained_address_is_announced_five_times_in_both_forms_and_then_refreshed() {
    let setup = Setup::new();
    let (mut announcer, station) = setup.start(Settings { refresh: Duration::from_secs(2), seed: 1 });
    let gained = Instant::now();
    announcer.own(&[(OWNED, "eth0")]);
    // Confirming what is owned must not add anything.
    announcer.own(&[(OWNED, "eth0")]);
    let seen = station.listen(Duration::from_secs(8));
    for operation in [Operation::Request, Operation::Reply] {
        let frames = seen.iter().filter(|s| is_gratuitous(s, OWNED) && s.arp.operation == operation);
        let frames: Vec<_> =
            frames.inspect(|s| assert_eq!((s.from, s.arp.sender_mac), (NODE, NODE))).collect();
        let after: Vec<u128> = frames.iter().map(|s| (s.at - gained).as_millis()).collect();
        assert!(after.len() >= 6, "five, and a refresh: {after:?}");
        for (n, expected) in [0, 1100, 2200, 3300, 4400].into_iter().enumerate() {
            assert!((expected..expected + 700).contains(&after[n]), "{operation:?} {n}: {after:?}");
        }
        assert!((5900..7600).contains(&after[5]), "refreshed after 1.5 to 2.5 s: {after:?}");
    }
    announcer.own(&[]);
    let after_the_loss = station.listen(Duration::from_secs(3));
    assert!(after_the_loss.iter().skip_while(|s| s.at < gained).all(|s| s.arp.sender_ip != OWNED));
    assert_eq!(announcer.count(|counters| &counters.send_errors), 0);
}

#[test]
fn a_changed_hardware_address_is_announced_and_answered_with_at_once() {
    let setup = Setup::new();
    let (mut announcer, station) = setup.start(QUIET);
    announcer.own(&[(OWNED, "eth0")]);
    station.ask_until(OWNED, |arp| arp.sender_mac == NODE);
    setup.node.ip(&format!("link set eth0 address {NEW}"));
    station.until("the announcement", |seen| is_gratuitous(seen, OWNED) && seen.arp.sender_mac == NEW);
    station.ask(OWNED);
    let seen = station.until("the answer", |seen| is_answer(seen, OWNED));
    assert_eq!(seen.last().unwrap().arp.sender_mac, NEW, "{seen:#?}");
}

#[test]
fn a_link_that_goes_and_comes_back_answers_again_within_a_second() {
    let setup = Setup::new();
    let (mut announcer, station) = setup.start(QUIET);
    announcer.own(&[(OWNED, "eth0")]);
    station.ask_until(OWNED, |arp| arp.sender_mac == NODE);
    setup.lan.disconnect("node");
    announcer.wait_for_links("the interface to go", |links| links.holding(OWNED.into()).is_none());
    setup.lan.connect(&setup.node, "node", "eth0", &NEW.to_string());
    let took = station.ask_until(OWNED, |arp| arp.sender_mac == NEW);
    assert!(took < Duration::from_secs(1), "re-created: {took:?}");
    setup.lan.carrier("node", false);
    announcer.wait_for_links("the carrier to go", |links| links.iter().all(|link| !link.announces()));
    setup.lan.carrier("node", true);
    let took = station.ask_until(OWNED, |arp| arp.sender_mac == NEW);
    assert!(took < Duration::from_secs(1), "carrier back: {took:?}");
}

#[test]
fn a_renamed_link_is_found_under_its_new_name_only() {
    let setup = Setup::new();
    let (mut announcer, station) = setup.start(QUIET);
    announcer.own(&[(OWNED, "eth0")]);
    station.ask_until(OWNED, |arp| arp.sender_mac == NODE);
    for line in ["link set eth0 down", "link set eth0 name lan7", "link set lan7 up"] {
        setup.node.ip(line);
    }
    announcer.wait_for_links("the new name", |links| {
        links.iter().any(|link| link.name.as_str() == "lan7" && link.announces())
    });
    announcer.own(&[(OTHER, "lan7"), (OWNED, "eth0")]);
    // The switch forwards again a moment after the link is up.
    station.ask_until(OTHER, |arp| arp.sender_mac == NODE);
    station.ask(OWNED);
    station.ask(OTHER);
    let seen = station.until("the answer", |seen| is_answer(seen, OTHER));
    assert!(!seen.iter().any(|seen| is_answer(seen, OWNED)), "{seen:#?}");
}

#[test]
fn an_address_is_answered_on_its_own_interface_only() {
    let setup = Setup::new();
    let second = Lan::new();
    let elsewhere = Host::new();
    second.connect(&setup.node, "node", "eth1", &NEW.to_string());
    second.connect(&elsewhere, "client", "eth0", &CLIENT.to_string());
    let (mut announcer, first) = setup.start(QUIET);
    let other_side = Station::new(&elsewhere, "eth0", CLIENT);
    announcer.own(&[(OWNED, "eth0"), (OTHER, "eth1")]);
    for (station, here, there, mac) in [(&first, OWNED, OTHER, NODE), (&other_side, OTHER, OWNED, NEW)] {
        station.ask_until(here, |arp| arp.sender_mac == mac);
        station.ask(there);
        station.ask(here);
        let seen = station.until("the answer", |seen| is_answer(seen, here));
        assert_eq!(seen.last().unwrap().arp.sender_mac, mac);
        assert!(seen.iter().all(|seen| seen.arp.sender_ip != there), "{seen:#?}");
    }
}

#[test]
fn malformed_frames_are_counted_and_change_nothing() {
    let setup = Setup::new();
    let (mut announcer, station) = setup.start(QUIET);
    announcer.own(&[(OWNED, "eth0")]);
    let good = station.request(OWNED).encode(Mac::BROADCAST);
    let with = |at: usize, byte: u8| {
        let mut frame = good;
        frame[at] = byte;
        frame.to_vec()
    };
    // Cut short; hardware type, protocol type and lengths wrong; an operation nobody knows; a group as the sender.
    let bad = [
        good[..24].to_vec(),
        good[..41].to_vec(),
        with(15, 6),
        with(16, 0),
        with(18, 8),
        with(21, 9),
        with(22, 1),
    ];
    for frame in &bad {
        station.send(frame);
    }
    station.ask(OWNED);
    let seen = station.until("the answer", |seen| is_answer(seen, OWNED));
    assert_eq!(seen.iter().filter(|seen| is_answer(seen, OWNED)).count(), 1, "{seen:#?}");
    assert_eq!(announcer.count(|counters| &counters.malformed), bad.len() as u64);
    assert_eq!(announcer.count(|counters| &counters.requests), 1);
}

#[test]
fn another_station_that_uses_an_owned_address_is_counted() {
    let setup = Setup::new();
    let (mut announcer, station) = setup.start(QUIET);
    announcer.own(&[(OWNED, "eth0")]);
    for arp in Arp::gratuitous(OWNED, CLIENT) {
        station.send(&arp.encode(Mac::BROADCAST));
    }
    wait_for("both frames", || announcer.count(|counters| &counters.conflicts) == 2);
    assert_eq!(announcer.count(|counters| &counters.replies), 0);
}

#[test]
fn a_flood_of_requests_for_other_addresses_does_not_stop_the_answers() {
    let setup = Setup::new();
    let (mut announcer, station) = setup.start(QUIET);
    announcer.own(&[(OWNED, "eth0")]);
    let flooder = Station::new(&setup.client, "eth0", CLIENT);
    let flood = std::thread::spawn(move || {
        for n in 0..20_000_u32 {
            flooder.ask(Ipv4Addr::from(0xc633_6400 + n));
        }
    });
    let mut during = 0;
    while !flood.is_finished() {
        station.ask_until(OWNED, |arp| arp.sender_mac == NODE);
        during += 1;
    }
    flood.join().unwrap();
    station.ask_until(OWNED, |arp| arp.sender_mac == NODE);
    assert!(during > 0, "no question was asked during the flood");
    // What the socket's buffer could not hold is lost, and rightly: but not most of it.
    assert!(announcer.count(|counters| &counters.requests) > 10_000);
}

#[test]
fn a_thousand_addresses_gained_at_once_are_all_announced() {
    let setup = Setup::new();
    let (mut announcer, station) = setup.start(QUIET);
    let vips: Vec<Ipv4Addr> = (0..1000).map(|n| Ipv4Addr::from(0xc633_6400 + n)).collect();
    announcer.own(&vips.iter().map(|vip| (*vip, "eth0")).collect::<Vec<_>>());
    let mut missing: BTreeSet<(Ipv4Addr, bool)> =
        vips.iter().flat_map(|v| [(*v, true), (*v, false)]).collect();
    let deadline = Instant::now() + SOON;
    while !missing.is_empty() {
        let seen = station.next(deadline).unwrap_or_else(|| panic!("{} not announced", missing.len()));
        missing.remove(&(seen.arp.sender_ip, seen.arp.operation == Operation::Request));
    }
}

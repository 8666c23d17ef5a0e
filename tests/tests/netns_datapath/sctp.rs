//! SCTP, by packets made by hand: the kernel translates it without having sockets of it.

use landfall_core::addr::Family;

use crate::rig::{FAMILIES, Web, client_addr, data_path, pod_addr, vip};
use crate::wire::{Ear, Mouth, SCTP, answers, chunk, icmp, sctp};
use crate::world::{POD_PORT, World};

/// Tags as [`sctp`] gives them.
const CLIENT: u32 = 0x0101_0101;
const POD: u32 = 0x0202_0202;
const PORT: u16 = 80;

/// Two ends of an association that has begun.
struct Ends<'a> {
    world: &'a World,
    family: Family,
    pods: [(&'static str, Ear, Mouth); 3],
}

impl<'a> Ends<'a> {
    fn of(world: &'a World, family: Family) -> Self {
        let pods = ["p1", "p2", "p3"]
            .map(|pod| (pod, Ear::on(world, pod, family), Mouth::of(world, pod, family, SCTP)));
        Self { world, family, pods }
    }

    /// What a host sends reaches that pod; returns the address and port the pod saw.
    #[track_caller]
    fn reaches(&self, from: &Mouth, last: u8, bytes: &[u8], pod: &str) -> (std::net::IpAddr, u16) {
        from.send(vip(self.family, last).ip(), bytes);
        let (_, ear, _) = self.pods.iter().find(|(name, ..)| *name == pod).unwrap();
        let met = ear.next(SCTP, POD_PORT);
        assert_eq!(met.to, pod_addr(pod, self.family));
        assert_eq!(met.chunk(), Some(bytes[12]), "the checksum is right for the new ports: {met:?}");
        (met.from, met.source_port())
    }

    /// The whole handshake with that pod.
    #[track_caller]
    fn associate(&self, host: &str, from: &Mouth, last: u8, port: u16, pod: &str) -> std::net::IpAddr {
        let heard = Ear::on(self.world, if host == "node" { "client" } else { host }, self.family);
        let (_, _, mouth) = self.pods.iter().find(|(name, ..)| *name == pod).unwrap();
        let mut seen = None;
        for (sent, answer) in [(chunk::INIT, chunk::INIT_ACK), (chunk::COOKIE_ECHO, chunk::COOKIE_ACK)] {
            let tag = if sent == chunk::INIT { 0 } else { POD };
            let peer = self.reaches(from, last, &sctp(port, PORT, tag, sent), pod);
            assert_eq!(*seen.get_or_insert(peer), peer, "the same association");
            mouth.send(peer.0, &sctp(POD_PORT, peer.1, CLIENT, answer));
            if host == "node" {
                continue;
            }
            let got = heard.next(SCTP, port);
            assert_eq!((got.from, got.source_port()), (vip(self.family, last).ip(), PORT), "{host}");
            assert_eq!(got.chunk(), Some(answer), "{host}: {got:?}");
        }
        seen.unwrap().0
    }
}

#[test]
fn an_association_reaches_a_pod_and_its_answers_come_back() {
    // S95, S37 to S40
    let world = World::new();
    let mut path = data_path(&world);
    for family in FAMILIES {
        let ends = Ends::of(&world, family);
        for host in ["client", "p2", "node"] {
            let from = Mouth::of(&world, host, family, SCTP);
            for pod in ["p1", "p3"] {
                Web::new(100, &[pod]).sctp().apply(&mut path);
                let seen = ends.associate(host, &from, 100, 5001, pod);
                assert!(
                    ![client_addr(family), pod_addr("p2", family)].contains(&seen),
                    "{host} {pod}: {seen}"
                );
            }
            Web::new(101, &["p1"]).sctp().local().apply(&mut path);
            let seen = ends.associate(host, &from, 101, 5002, "p1");
            match host {
                "client" => assert_eq!(seen, client_addr(family)),
                "p2" => assert_eq!(seen, pod_addr("p2", family)),
                _ => {}
            }
        }
    }
}

#[test]
fn an_association_to_nothing_is_refused_and_only_its_beginning_is() {
    // S49, S56, S77, X28: a chunk of a live association, should it come here, is not.
    let world = World::new();
    world.run("node", "sysctl", &["-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]);
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).apply(&mut path);
    Web::new(101, &[]).sctp().apply(&mut path);
    Web::new(102, &["p3"]).sctp().local().apply(&mut path);
    Web::new(103, &["p1"]).sctp().only(&["192.0.2.201/32", "2001:db8:50::201/128"]).apply(&mut path);
    for family in FAMILIES {
        let (ear, mouth) = (Ear::on(&world, "client", family), Mouth::of(&world, "client", family, SCTP));
        let echo = Mouth::of(&world, "client", family, icmp(family));
        let mut port = 6000;
        for last in [100, 101, 102, 103] {
            for kind in [chunk::INIT, chunk::DATA, chunk::ABORT, chunk::SHUTDOWN_ACK] {
                port += 1;
                let tag = if kind == chunk::INIT { 0 } else { POD };
                mouth.send(vip(family, last).ip(), &sctp(port, PORT, tag, kind));
                echo.ping(vip(family, 100).ip(), port);
                let (_, before) = ear.until(|packet| answers(packet, port));
                let refused = before.iter().any(|packet| packet.is_refusal_of(port));
                assert_eq!(refused, last < 102 && kind == chunk::INIT, "{family} {last} {kind}: {before:?}");
                assert!(before.iter().all(|packet| packet.protocol != SCTP), "{before:?}");
            }
        }
    }
}

#[test]
fn an_association_is_forgotten_when_its_endpoint_goes_and_no_other_is() {
    // S126 to S129: SCTP like UDP, since its next association has the same ports.
    let world = World::new();
    world.run("node", "sysctl", &["-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]);
    let mut path = data_path(&world);
    for family in FAMILIES {
        let ends = Ends::of(&world, family);
        let from = Mouth::of(&world, "client", family, SCTP);
        Web::new(100, &["p1"]).sctp().apply(&mut path);
        Web::new(101, &["p1"]).sctp().apply(&mut path);
        for last in [100, 101] {
            ends.associate("client", &from, last, 7000, "p1");
        }
        let data = sctp(7000, PORT, POD, chunk::DATA);
        Web::new(100, &["p1", "p2", "p3"]).sctp().apply(&mut path);
        ends.reaches(&from, 100, &data, "p1");
        Web::new(100, &["p2"]).sctp().apply(&mut path);
        ends.associate("client", &from, 100, 7000, "p2");
        ends.reaches(&from, 101, &data, "p1");
        // To none at all, and back.
        Web::new(100, &[]).sctp().apply(&mut path);
        let heard = Ear::on(&world, "client", family);
        from.send(vip(family, 100).ip(), &sctp(7000, PORT, 0, chunk::INIT));
        heard.until(|packet| packet.is_refusal_of(7000));
        Web::new(100, &["p3"]).sctp().apply(&mut path);
        ends.associate("client", &from, 100, 7000, "p3");
        ends.reaches(&from, 101, &data, "p1");
        for last in [100, 101] {
            path.remove_service(&Web::new(last, &[]).service.key);
        }
        path.commit().unwrap();
    }
}

//! What becomes of everything else that is addressed to a load-balancer address.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use landfall_core::addr::Family;

use crate::rig::{FAMILIES, Web, client_addr, data_path, pod_addr, vip};
use crate::wire::{
    Ear, Mouth, Packet, SCTP, TCP, UDP, answers, chunk, datagram, icmp, sctp, segment, summed,
};
use crate::world::World;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// A SYN that asks for congestion notification is one too (RFC 3168, 6.1.1).
const ECN: u8 = 0xc0;

/// Generic routing encapsulation: a protocol nobody speaks here.
const GRE: u8 = 47;

/// Everything a host may send to an address.
fn medley(family: Family, from: SocketAddr, to: SocketAddr) -> Vec<(u8, Vec<u8>)> {
    let mut made = Vec::new();
    let mut undefined = to;
    undefined.set_port(81);
    for to in [to, undefined] {
        for flags in [SYN, SYN | ECN, ACK, RST, RST | ACK, FIN | ACK, SYN | ACK, 0, 0x29] {
            made.push((TCP, segment(from, to, flags)));
        }
        for kind in [chunk::INIT, chunk::DATA, chunk::ABORT, chunk::COOKIE_ECHO] {
            made.push((SCTP, sctp(from.port(), to.port(), 1, kind)));
        }
    }
    made.push((UDP, datagram(from, undefined, b"who")));
    // A time stamp request, a node information query; an error about nothing.
    let (question, nothing) = if family == Family::V4 { (13, 3) } else { (139, 1) };
    for kind in [question, nothing] {
        made.push((icmp(family), summed([&[kind, 0, 0, 0, 0, 1, 0, 1][..], &[0; 32]].concat())));
    }
    made.push((GRE, vec![0, 0, 8, 0, 1, 2, 3, 4]));
    made
}

/// Whether the node asks who has an address (RFC 4861): that is no packet of anybody else.
fn is_neighbour_talk(packet: &Packet) -> bool {
    packet.protocol == 58 && (133..=137).contains(&packet.payload[0])
}

#[test]
fn nothing_addressed_to_a_load_balancer_address_is_ever_forwarded() {
    let world = World::new();
    // Somebody on the LAN would take it all. Nobody is to be told of the shorter way.
    for host in ["node", "client", "client2"] {
        for setting in [
            "ipv4.conf.all.send_redirects",
            "ipv4.conf.eth0.send_redirects",
            "ipv6.conf.eth0.accept_redirects",
        ] {
            world.run(host, "sysctl", &["-qw", &format!("net.{setting}=0")]);
        }
    }
    for (family, host) in FAMILIES.into_iter().zip(["32", "128"]) {
        for last in [100, 101, 102, 103] {
            let addr = format!("{}/{host}", vip(family, last).ip());
            world.run("client2", "ip", &["addr", "add", &addr, "dev", "eth0"]);
        }
    }
    let mut path = data_path(&world);
    for ours in [false, true] {
        if ours {
            Web::new(100, &["p1"]).apply(&mut path);
            Web::new(101, &[]).apply(&mut path);
            Web::new(102, &["p3"]).local().apply(&mut path);
        }
        for family in FAMILIES {
            for (host, source) in [("client", client_addr(family)), ("p2", pod_addr("p2", family))] {
                let ear = Ear::on(&world, "client2", family);
                let protocols = [TCP, UDP, SCTP, icmp(family), GRE];
                let mouths = protocols.map(|protocol| (protocol, Mouth::of(&world, host, family, protocol)));
                let say = |protocol: u8, to: SocketAddr, bytes: &[u8]| {
                    mouths
                        .iter()
                        .filter(|(of, _)| *of == protocol)
                        .for_each(|(_, mouth)| mouth.send(to.ip(), bytes));
                };
                for last in [100, 101, 102] {
                    let to = vip(family, last);
                    for (number, (protocol, bytes)) in
                        (9000..).zip(medley(family, SocketAddr::new(source, 9000), to))
                    {
                        say(protocol, to, &bytes);
                        // The same way, to an address that is never ours: what came before it is through.
                        let (from, fence) = (SocketAddr::new(source, number), vip(family, 103));
                        say(UDP, fence, &datagram(from, fence, b"fence"));
                        let (_, before) = ear.until(|packet| {
                            packet.to == fence.ip()
                                && packet.protocol == UDP
                                && packet.source_port() == number
                        });
                        let through: BTreeSet<u8> = before
                            .iter()
                            .filter(|packet| packet.to == to.ip() && !is_neighbour_talk(packet))
                            .map(|packet| packet.protocol)
                            .collect();
                        let wanted = if ours { BTreeSet::new() } else { BTreeSet::from([protocol]) };
                        assert_eq!(through, wanted, "{host} {family} {last} {bytes:x?}");
                    }
                }
            }
        }
    }
}

#[test]
fn only_what_begins_a_flow_is_refused_and_never_a_segment_of_a_live_one() {
    // X28
    let world = World::new();
    world.run("node", "sysctl", &["-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]);
    let mut path = data_path(&world);
    Web::new(100, &["p1"]).apply(&mut path);
    Web::new(101, &[]).apply(&mut path);
    for family in FAMILIES {
        let mut undefined = vip(family, 100);
        undefined.set_port(81);
        let ear = Ear::on(&world, "client", family);
        let [tcp, udp, echo] =
            [TCP, UDP, icmp(family)].map(|protocol| Mouth::of(&world, "client", family, protocol));
        let mut port = 10_000;
        for to in [undefined, vip(family, 101)] {
            for flags in [SYN, SYN | ECN, ACK, RST, RST | ACK, FIN, FIN | ACK, SYN | ACK, 0, 0x29] {
                port += 1;
                let from = SocketAddr::new(client_addr(family), port);
                tcp.send(to.ip(), &segment(from, to, flags));
                echo.ping(vip(family, 100).ip(), port);
                let (_, before) = ear.until(|packet| answers(packet, port));
                let resets = before.iter().filter(|packet| {
                    packet.protocol == TCP && packet.port() == port && packet.payload[13] & RST != 0
                });
                let wanted = usize::from(flags & !ECN == SYN);
                assert_eq!(resets.count(), wanted, "{to} {flags:x}");
                assert!(before.iter().all(|packet| packet.error().is_none()), "{to} {flags:x} {before:?}");
            }
            // The second datagram of a flow that never was is the first of the next.
            for _ in 0..2 {
                port += 1;
                let from = SocketAddr::new(client_addr(family), port);
                udp.send(to.ip(), &datagram(from, to, b"who"));
                ear.until(|packet| packet.is_refusal_of(port));
            }
        }
        // A live one goes on when its front end has gone, or has no endpoint any more.
        let mut live = world.stream("client", vip(family, 100));
        Web::new(100, &[]).apply(&mut path);
        assert!(live.echo(), "{family}");
        path.remove_service(&Web::new(100, &[]).service.key);
        path.commit().unwrap();
        assert!(live.echo(), "{family}");
        Web::new(100, &["p1"]).apply(&mut path);
        assert!(live.echo(), "{family}");
    }
}

//! What the network says about packets of a translated flow.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use landfall_core::addr::Family;

use crate::rig::{FAMILIES, Web, client_addr, data_path, pod_addr, vip};
use crate::wire::{Ear, Mouth, Packet, TCP, UDP, icmp, summed};
use crate::world::{POD_PORT, World, met_udp};

const DEADLINE: Duration = Duration::from_secs(10);

/// The error of a router that cannot pass on a packet longer than `mtu` (RFC 1191, RFC 4443 3.2).
fn too_big(about: &Packet, mtu: u16) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    match Family::of(about.from) {
        // The header and eight bytes are the least that it has to say.
        Family::V4 => summed([&[3, 4, 0, 0, 0, 0, high, low], &about.whole[..28]].concat()),
        Family::V6 => [&[2, 0, 0, 0, 0, 0, high, low], &about.whole[..]].concat(),
    }
}

/// A packet that the pod could send now: TCP takes no error about what has been acknowledged.
fn next_of(mut segment: Packet) -> Packet {
    let header = segment.whole.len() - segment.payload.len();
    let sequence = u32::from_be_bytes(segment.payload[4..8].try_into().unwrap());
    let data = segment.payload.len() - usize::from(segment.payload[12] >> 4) * 4;
    let next = sequence.wrapping_add(u32::try_from(data).unwrap());
    segment.whole[header + 4..header + 8].copy_from_slice(&next.to_be_bytes());
    segment
}

/// Waits until a pod's kernel knows that packets to an address must not be longer.
fn learns(world: &World, pod: &str, to: IpAddr, mtu: u16) {
    let begun = Instant::now();
    loop {
        let route = world.run(pod, "ip", &["route", "get", &to.to_string()]);
        if route.contains(&format!("mtu {mtu} ")) {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "{pod}: {route}");
    }
}

/// Sends the error from a router on the client's side, and follows it to the pod.
fn follow(world: &World, last: u8, pod: &str, about: &Packet, mtu: u16) {
    let family = Family::of(about.from);
    let ear = Ear::on(world, pod, family);
    let router = Mouth::of(world, "client2", family, icmp(family));
    router.send(vip(family, last).ip(), &too_big(about, mtu));
    let (error, _) = ear.until(|packet| packet.error().is_some());
    let (kind, code, inner) = error.error().unwrap();
    let wanted = if family == Family::V4 { (3, 4) } else { (2, 0) };
    assert_eq!((kind, code, error.to), (wanted.0, wanted.1, pod_addr(pod, family)), "{error:?}");
    assert_eq!((inner.from, inner.source_port()), (pod_addr(pod, family), POD_PORT), "{inner:?}");
    if last == 101 {
        assert_eq!((inner.to, inner.port()), (client_addr(family), about.port()), "{inner:?}");
    } else {
        assert_ne!(inner.to, client_addr(family), "the pod knows the node only: {inner:?}");
    }
    learns(world, pod, inner.to, mtu);
}

#[test]
fn a_path_mtu_error_from_the_clients_side_reaches_the_pod_with_what_it_is_about() {
    let world = World::new();
    let mut path = data_path(&world);
    // A shorter one each time: longer ones are not believed while the last is remembered.
    let mut mtu = 1480;
    for family in FAMILIES {
        for (last, pod) in [(100, "p1"), (101, "p1"), (100, "p3")] {
            let web = Web::new(last, &[pod]);
            if last == 101 { web.local() } else { web }.apply(&mut path);
            let to = vip(family, last);
            let ear = Ear::on(&world, "client", family);
            let answer = |protocol, port: u16| {
                move |packet: &Packet| {
                    packet.protocol == protocol && packet.from == to.ip() && packet.port() == port
                }
            };

            let from = world.inside("client", || udp(to));
            let (about, _) = ear.until(answer(UDP, from));
            mtu -= 10;
            follow(&world, last, pod, &about, mtu);

            let mut stream = world.stream("client", to);
            assert!(stream.echo());
            let from = stream.port();
            // Greeting or echo: whatever comes last, the next one's number follows from it.
            let (mut about, _) = ear.until(answer(TCP, from));
            let fence = world.inside("client", || udp(to));
            let (_, rest) = ear.until(answer(UDP, fence));
            if let Some(last) = rest.into_iter().rfind(answer(TCP, from)) {
                about = last;
            }
            mtu -= 10;
            follow(&world, last, pod, &next_of(about), mtu);
            assert!(stream.echo(), "{family} {last} {pod}");
        }
    }
}

/// Asks a pod who it is, and returns the port it was asked from.
fn udp(to: SocketAddr) -> u16 {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.connect(to).unwrap();
    met_udp(&socket, to).pod();
    socket.local_addr().unwrap().port()
}

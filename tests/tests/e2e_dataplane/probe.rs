//! Flows from the hosts of an arena, and what comes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use landfall_lab::arena::{Arena, Place};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Long enough for a loaded machine; who compares asks again before it takes silence for the answer.
const SILENCE: Duration = Duration::from_millis(700);
/// An ICMP refusal (kube-proxy's) of a SYN comes back over veth while connect(2) still holds the socket, and then counts
/// as a soft error only (`tcp_v4_err`, `tcp_v6_err`): the one for the second SYN, sent after a second, ends the attempt.
const SECOND_SYN: Duration = Duration::from_millis(1_700);
/// Flows under way at once from one host.
const AT_ONCE: usize = 160;
/// Flows of a question after which no more are tried if none was answered, unless many are asked for.
const FIRST: u32 = 2;
const MANY: u32 = 32;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// Clients outside, 10.200.0.0/16 and `fd00:200::/32`, each flow from another address.
    Clients,
    /// Clients outside in 10.201.0.0/16 and `fd00:201::/32`.
    Others,
    /// A pod that is an endpoint itself.
    Endpoint,
    /// A pod that is none, each flow from another address.
    Pod,
    /// The node.
    Node,
}

impl Source {
    pub(crate) const ALL: [Self; 5] = [Self::Clients, Self::Others, Self::Endpoint, Self::Pod, Self::Node];

    fn place(self) -> Place {
        match self {
            Self::Clients | Self::Others => Place::Client,
            Self::Endpoint => Place::Pod(1),
            Self::Pod => Place::Fourth,
            Self::Node => Place::Node,
        }
    }

    /// Whether every flow comes from another address.
    pub(crate) fn many(self) -> bool {
        matches!(self, Self::Clients | Self::Others | Self::Pod)
    }

    /// The address of one of its flows.
    pub(crate) fn address(self, v6: bool, number: u32) -> IpAddr {
        let [_, _, third, fourth] = number.to_be_bytes();
        let (v4, pieces) = match self {
            Self::Clients => ([10, 200, third, fourth], [0xfd00, 0x200, 0]),
            Self::Others => ([10, 201, third, fourth], [0xfd00, 0x201, 0]),
            Self::Pod => ([10, 244, 1, 130 + fourth % 120], [0xfd00, 0x244, 1]),
            Self::Endpoint => ([10, 244, 1, 11], [0xfd00, 0x244, 1]),
            Self::Node => ([192, 0, 2, 11], [0x2001, 0xdb8, 0x50]),
        };
        if !v6 {
            return Ipv4Addr::from(v4).into();
        }
        let [a, b, c] = pieces;
        let last = match self {
            Self::Endpoint | Self::Node => return Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0x11).into(),
            _ => u16::from_be_bytes([third, fourth]),
        };
        Ipv6Addr::new(a, b, c, 0, u16::from(self == Self::Pod), 0, 1, last).into()
    }
}

/// Where a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Vip,
    NodePort,
    External,
    /// A port that no Service has, of a load-balancer address.
    Undefined,
}

/// One question that is put to both data planes.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) service: usize,
    pub(crate) door: Door,
    pub(crate) from: Source,
    pub(crate) to: SocketAddr,
    pub(crate) udp: bool,
    pub(crate) affinity: bool,
}

/// What came of a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// An endpoint answered; whether it saw the client's own address, else which.
    Answered(SocketAddr, Option<IpAddr>),
    /// Two flows from one address met two endpoints, though the Service has affinity.
    Moved,
    Refused,
    Silence,
    /// An error that is none of these.
    Odd(String),
}

/// Everything that came of a probe's flows.
pub(crate) type Outcome = BTreeSet<Verdict>;

/// Puts questions to one data plane, each with that many flows; adds to what is known.
pub(crate) fn ask(
    arena: &Arena<'_>,
    probes: &[(usize, &Probe)],
    flows: u32,
    known: &mut BTreeMap<usize, Outcome>,
) {
    let places = BTreeSet::from_iter(Source::ALL.map(Source::place));
    let found: Vec<(usize, Outcome)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (places.into_iter())
            .map(|place| {
                let here: Vec<_> =
                    probes.iter().copied().filter(|(_, probe)| probe.from.place() == place).collect();
                scope.spawn(move || arena.at(place, || ask_here(&here, flows)).expect("the host is there"))
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("the probes end")).collect()
    });
    for (number, outcome) in found {
        known.entry(number).or_default().extend(outcome);
    }
}

fn ask_here(probes: &[(usize, &Probe)], flows: u32) -> Vec<(usize, Outcome)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let room = Semaphore::new(AT_ONCE);
        let some = async |probe: &Probe, flows: u32| -> Outcome {
            let flows = (0..flows).map(async |_| {
                let _room = room.acquire().await.expect("never closed");
                one(probe).await
            });
            futures::future::join_all(flows).await.into_iter().collect()
        };
        let asked = probes.iter().map(async |(number, probe)| {
            let mut met = some(probe, if flows < MANY { flows.min(FIRST) } else { flows }).await;
            if flows < MANY && met.iter().any(|verdict| matches!(verdict, Verdict::Answered(..))) {
                met.extend(some(probe, flows.saturating_sub(FIRST)).await);
            }
            (*number, met)
        });
        futures::future::join_all(asked).await
    })
}

/// One flow; two from the same address when the Service has affinity.
async fn one(probe: &Probe) -> Verdict {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    // Scattered, so that a few flows meet both halves of a network.
    let from = probe.from.address(probe.to.is_ipv6(), number.wrapping_mul(25_717) % 65_521);
    // Below the range from which the kernel chooses, and below the NodePorts.
    let port = |n: u32| 10_000 + u16::try_from(n % 20_000).expect("below 65,536");
    let first = flow(SocketAddr::new(from, port(number)), probe).await;
    if !probe.affinity {
        return first;
    }
    let again = COUNT.fetch_add(1, Ordering::Relaxed);
    match (&first, flow(SocketAddr::new(from, port(again)), probe).await) {
        (Verdict::Answered(a, _), Verdict::Answered(b, _)) if *a != b => Verdict::Moved,
        _ => first,
    }
}

async fn flow(from: SocketAddr, probe: &Probe) -> Verdict {
    let met =
        async { if probe.udp { datagram(from, probe.to).await } else { connection(from, probe.to).await } };
    match timeout(if probe.udp { SILENCE } else { SECOND_SYN }, met).await {
        Err(_) => Verdict::Silence,
        Ok(Ok(words)) => parse(&words, from.ip()),
        Ok(Err(error)) => match error.kind() {
            // A packet refused on the host that sends it fails with "not permitted".
            ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Verdict::Refused,
            ErrorKind::TimedOut => Verdict::Silence,
            _ => Verdict::Odd(error.to_string()),
        },
    }
}

async fn connection(from: SocketAddr, to: SocketAddr) -> std::io::Result<Vec<u8>> {
    let socket = if to.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    socket.bind(from)?;
    let stream = socket.connect(to).await?;
    let mut buffer = [0; 256];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(len) => return Ok(buffer[..len].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn datagram(from: SocketAddr, to: SocketAddr) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(from).await?;
    socket.connect(to).await?;
    socket.send(b"who").await?;
    let mut buffer = [0; 256];
    let len = socket.recv(&mut buffer).await?;
    Ok(buffer[..len].to_vec())
}

fn parse(words: &[u8], from: IpAddr) -> Verdict {
    let text = String::from_utf8_lossy(words);
    let mut words = text.split_whitespace();
    let by = words.next().and_then(|word| word.parse().ok());
    let seen = words.next().and_then(|word| word.parse::<IpAddr>().ok());
    match (by, seen) {
        (Some(by), Some(seen)) => Verdict::Answered(by, (seen != from).then_some(seen)),
        _ => Verdict::Odd(text.into_owned()),
    }
}

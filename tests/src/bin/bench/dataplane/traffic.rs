//! Connections and bytes from the client.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use landfall_lab::arena::{Arena, Place};
use nix::libc::linger;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;
use tokio::net::{TcpListener, TcpStream as TokioStream};
use tokio::task::JoinSet;

use crate::stats::Samples;

/// Where a server says which of its addresses and ports it was reached at.
pub(crate) const GREETING: u16 = 9000;
/// Where one says so too and reads all that comes.
pub(crate) const BULK: u16 = 9001;
/// A pod itself, without any Service.
pub(crate) const DIRECT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 244, 1, 11)), GREETING);

/// What a path can carry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic {
    /// New connections a second, from one client that makes one after the other.
    pub(crate) rate: f64,
    /// From the first packet to the handshake's end.
    pub(crate) connect: Samples,
    /// Gigabits a second of one connection, and of 64 together.
    pub(crate) one: f64,
    pub(crate) many: f64,
}

/// Starts the servers behind the Services.
pub(crate) fn serve(arena: &Arena<'_>) -> anyhow::Result<()> {
    for place in [Place::Pod(1), Place::Pod(2), Place::Pod(3), Place::Remote] {
        for port in [GREETING, BULK] {
            arena.behind(place, move |ready| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let Ok(runtime) = runtime else { return };
                runtime.block_on(async {
                    let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await else { return };
                    let _ = ready.send(Ok(()));
                    let mut tasks = JoinSet::new();
                    loop {
                        if let Ok((stream, _)) = listener.accept().await {
                            tasks.spawn(take(stream));
                        }
                        while tasks.try_join_next().is_some() {}
                    }
                });
            })?;
        }
    }
    Ok(())
}

/// Says where it was reached, and reads what comes.
async fn take(stream: TokioStream) {
    let Ok(at) = stream.local_addr() else { return };
    let at = SocketAddr::new(at.ip().to_canonical(), at.port());
    // The first bytes of a connection always find room.
    if stream.writable().await.is_err() || stream.try_write(format!("{at}\n").as_bytes()).is_err() {
        return;
    }
    // Zeroed pages that nobody writes cost nothing: who only greets does not pay for who reads.
    let mut buffer = vec![0; 256 << 10];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// One connection: how long the handshake took and where it ended, within the time each.
pub(crate) fn connect(to: SocketAddr, within: Duration) -> anyhow::Result<(Duration, SocketAddr)> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, within).with_context(|| format!("connect to {to}"))?;
    let took = begin.elapsed();
    stream.set_read_timeout(Some(within.max(Duration::from_millis(100))))?;
    let mut buffer = [0; 64];
    let len = stream.read(&mut buffer).with_context(|| format!("greeted by {to}"))?;
    let text = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned();
    // Ended by a reset: else the client would run out of ports, each of which waits a minute.
    let at_once = linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, Linger, &at_once)?;
    Ok((took, text.trim().parse().with_context(|| format!("the words of {to}: {text:?}"))?))
}

/// When all of these are served first; nothing when that takes too long.
pub(crate) fn wait_served(
    arena: &Arena<'_>,
    doors: &[SocketAddr],
    within: Duration,
) -> anyhow::Result<Option<Instant>> {
    let begin = Instant::now();
    Ok(arena.at(Place::Client, || {
        for door in doors {
            while connect(*door, Duration::from_millis(20)).is_err() {
                if begin.elapsed() > within {
                    return None;
                }
            }
        }
        Some(Instant::now())
    })?)
}

/// Measures a path for that many seconds each.
pub(crate) fn measure(arena: &Arena<'_>, to: SocketAddr, seconds: u64) -> anyhow::Result<Traffic> {
    let time = Duration::from_secs(seconds);
    arena.at(Place::Client, || {
        let mut traffic = Traffic::default();
        let begin = Instant::now();
        let mut count = 0_u32;
        while begin.elapsed() < time {
            let (took, _) = connect(to, Duration::from_secs(1)).with_context(|| format!("after {count}"))?;
            traffic.connect.push(took);
            count += 1;
        }
        traffic.rate = f64::from(count) / begin.elapsed().as_secs_f64();
        traffic.one = throughput(to, 1, time)?;
        traffic.many = throughput(to, 64, time)?;
        anyhow::Ok(traffic)
    })?
}

/// Gigabits a second of that many connections together; what fills buffers at first is not counted.
fn throughput(to: SocketAddr, connections: usize, time: Duration) -> anyhow::Result<f64> {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
            stream.set_write_timeout(Some(Duration::from_secs(1)))?;
            streams.push(stream);
        }
        for mut stream in streams {
            let (stop, sent) = (&stop, &sent);
            scope.spawn(move || {
                let bytes = vec![0; 64 << 10];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(len) = stream.write(&bytes) else { return };
                    sent.fetch_add(len as u64, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        let (begin, before) = (Instant::now(), sent.load(Ordering::Relaxed));
        std::thread::sleep(time);
        let bytes = sent.load(Ordering::Relaxed) - before;
        let seconds = begin.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        Ok(bytes as f64 * 8.0 / seconds / 1e9)
    })
}

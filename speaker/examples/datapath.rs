//! Times the data path against the running kernel: a full load, the exchange of one endpoint, a Service more and
//! less, a change of scale, and the atomic replacement of everything; and beside it the same kind of change through
//! the `nft` program, smaller, as what it is compared with.
//!
//! Run it as root; it makes a network namespace for itself and leaves nothing behind.
//!
//! ```text
//! cargo run --release -p landfall-speaker --example datapath [SERVICES] [ENDPOINTS]
//! ```

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, Frontend, FrontendKey, Route, Spread};
use landfall_core::name::ServiceKey;
use landfall_core::service::Protocol;
use landfall_speaker::datapath::DataPath;
use landfall_speaker::nft;
use nix::sched::{CloneFlags, unshare};

/// How often each small change is timed.
const TIMES: u32 = 100;
/// How many Services the `nft` program gets: it needs minutes for what the encoder does in a moment.
const PEER_SERVICES: u32 = 1000;

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<u32>());
    let services = numbers.next().transpose()?.unwrap_or(10_000);
    let endpoints = numbers.next().transpose()?.unwrap_or(10);
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own (run as root)")?;
    let port = NonZeroU16::new(80).context("a port")?;

    println!("{services} Services x {endpoints} endpoints");
    let mut path = DataPath::new(nft::Kernel::open()?, 1);
    stage_all(&mut path, services, endpoints, port);
    let (took, full) = timed(|| path.commit())?;
    println!("full load             {took:>10.1?}  {} operations, {} bytes", full.operations, full.bytes);
    report("one endpoint exchanged", TIMES, |turn| {
        let index = turn * 97 % services;
        set(&mut path, index, endpoints, 1 + turn % 2, port);
        Ok(path.commit().map(|_| ())?)
    })?;
    report("one endpoint more or less", TIMES, |turn| {
        set(&mut path, turn * 89 % services, endpoints - 1, 0, port);
        Ok(path.commit_ready().map(|_| ())?)
    })?;
    path.commit()?;
    report("a Service more or less", TIMES, |turn| {
        if turn % 2 == 0 {
            set(&mut path, services + turn, endpoints, 0, port);
        } else {
            path.remove_service(&service(services + turn - 1));
        }
        Ok(path.commit_ready().map(|_| ())?)
    })?;
    path.commit()?;
    report("verify", TIMES, |_| Ok(path.verify().map(|_| ())?))?;
    drop(path);

    let mut next = DataPath::new(nft::Kernel::open()?, 1);
    stage_all(&mut next, services, endpoints, port);
    let (took, _) = timed(|| next.commit())?;
    println!("replaced by the next process {took:>10.1?}");
    println!("most memory used      {:>7} kB", peak_memory().unwrap_or_default());
    peer(PEER_SERVICES.min(services), endpoints)
}

fn timed<T, E: Into<anyhow::Error>>(work: impl FnOnce() -> Result<T, E>) -> anyhow::Result<(Duration, T)> {
    let began = Instant::now();
    let done = work().map_err(Into::into)?;
    Ok((began.elapsed(), done))
}

fn report(what: &str, times: u32, mut work: impl FnMut(u32) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut took = (0..times)
        .map(|turn| timed(|| work(turn)).map(|(took, ())| took))
        .collect::<anyhow::Result<Vec<_>>>()?;
    took.sort_unstable();
    let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
    println!(
        "{what:<26} min {:>9.1?}  p50 {:>9.1?}  p90 {:>9.1?}  max {:>9.1?}",
        at(0),
        at(50),
        at(90),
        took.last().copied().unwrap_or_default()
    );
    Ok(())
}

fn service(index: u32) -> ServiceKey {
    ServiceKey::new("default", format!("s{index}"))
}

fn vip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + index)
}

fn endpoint(service: u32, index: u32, version: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + service * 64 + index * 3 + version)
}

fn stage_all(path: &mut DataPath<nft::Kernel>, services: u32, endpoints: u32, port: NonZeroU16) {
    (0..services).for_each(|index| set(path, index, endpoints, 0, port));
}

/// A Service with one front end; `version` changes the address of its first endpoint and nothing else.
fn set(path: &mut DataPath<nft::Kernel>, index: u32, endpoints: u32, version: u32, port: NonZeroU16) {
    let targets = (0..endpoints)
        .map(|each| Target { addr: endpoint(index, each, if each == 0 { version } else { 0 }).into(), port })
        .collect();
    let front = Frontend {
        owned: true,
        admission: Admission::Anyone,
        spread: Spread::Flow,
        affinity: None,
        route: Route::Cluster { targets },
        draining: Box::default(),
        lost: Box::default(),
    };
    let key = FrontendKey { addr: vip(index).into(), protocol: Protocol::Tcp, port };
    path.set_service(&service(index), vec![(key, front)]);
}

/// The greatest resident memory so far, in kB.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The same maps, loaded and changed by the `nft` program.
fn peer(services: u32, endpoints: u32) -> anyhow::Result<()> {
    let mut script = String::from(
        "table inet peer {\n\
           map ep { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service; size 262144; }\n\
           map svc { type ipv4_addr . inet_proto . inet_service : verdict; size 32768; }\n\
           chain n {\n counter drop\n }\n\
         }\n",
    );
    for index in 0..services {
        let vip = vip(index);
        writeln!(script, "add element inet peer svc {{ {vip} . tcp . 80 : goto n }}")?;
        for each in 0..endpoints {
            let to = endpoint(index, each, 0);
            writeln!(script, "add element inet peer ep {{ {vip} . tcp . 80 . {each} : {to} . 80 }}")?;
        }
    }
    println!("through the nft program, {services} Services x {endpoints} endpoints");
    let (took, ()) = timed(|| nft(&script))?;
    println!("full load             {took:>10.1?}");
    report("one endpoint exchanged", 10, |turn| {
        let (vip, old, new) = (vip(turn), endpoint(turn, 0, 0), endpoint(turn, 0, 1));
        nft(&format!(
            "delete element inet peer ep {{ {vip} . tcp . 80 . 0 : {old} . 80 }}\n\
             add element inet peer ep {{ {vip} . tcp . 80 . 0 : {new} . 80 }}\n"
        ))
    })
}

fn nft(script: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft")?;
    child.stdin.take().context("a pipe")?.write_all(script.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refused");
    Ok(())
}

//! Endpoints that change, seen from the client.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use landfall_lab::arena::{Arena, Place};
use landfall_lab::spawn::Process;
use tokio::sync::oneshot;

use super::WITHIN;
use super::cluster::{Cluster, FLIP, ROLL};
use super::report;
use super::traffic::{BULK, connect};
use crate::client::{LIMIT, with_api};
use crate::stats::Samples;

/// What a minute of changes cost.
#[derive(Debug, Clone, Default)]
pub(crate) struct Churn {
    /// CPU time of the data plane's process.
    pub(crate) cpu: Duration,
    /// The longest time from a change to its first effect.
    pub(crate) longest: Duration,
    /// Slices that were changed, and in how long.
    pub(crate) slices: usize,
    pub(crate) took: Duration,
}

/// How long it takes until the client meets an endpoint where it is now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    /// From the moment the change is sent to the API server.
    pub(crate) asked: Samples,
    /// From the moment another watch of the API server's sees it.
    pub(crate) seen: Samples,
}

/// Moves the one endpoint of a Service and waits until the client meets it where it is now.
pub(crate) fn flips(cluster: &Cluster<'_>, arena: &Arena<'_>, rounds: u8) -> anyhow::Result<Changes> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (out, events) = mpsc::channel();
    std::thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            with_api(cluster.lab, async |client| {
                tokio::select! {
                    ended = watch_flip(client, out) => ended,
                    _ = stopped => Ok(()),
                }
            })
        });
        let mut changes = Changes::default();
        // The state at the start: from here on the watch sees changes.
        seen(&events, None)?;
        for round in 0..rounds {
            // A change is measured, not one that has to wait until packets under way around the last one are gone.
            std::thread::sleep(Duration::from_millis(250));
            let begin = Instant::now();
            let (wanted, met) = flip(cluster, arena, round)?;
            let seen = seen(&events, Some(&wanted))?;
            changes.asked.push(met - begin);
            changes.seen.push(met.saturating_duration_since(seen));
        }
        drop(stop);
        watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        anyhow::Ok(changes)
    })
}

/// When the watch saw the endpoint at this address.
fn seen(events: &mpsc::Receiver<(String, Instant)>, wanted: Option<&str>) -> anyhow::Result<Instant> {
    loop {
        let (at, when) = events.recv_timeout(LIMIT).context("a watch of the API server")?;
        if wanted.is_none_or(|wanted| wanted == at) {
            return Ok(when);
        }
    }
}

/// Tells where the endpoint of the Service is, and when that was seen.
async fn watch_flip(client: kube::Client, out: mpsc::Sender<(String, Instant)>) -> anyhow::Result<()> {
    let api: Api<EndpointSlice> = Api::namespaced(client, "default");
    let config = watcher::Config::default().fields("metadata.name=a-flip-0");
    let mut events = pin!(watcher::watcher(api, config).touched_objects());
    while let Some(slice) = events.next().await {
        let when = Instant::now();
        let at = slice?.endpoints.into_iter().flat_map(|endpoint| endpoint.addresses).next();
        if out.send((at.unwrap_or_default(), when)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Where the endpoint is now, and when the client first met it there.
fn flip(cluster: &Cluster<'_>, arena: &Arena<'_>, round: u8) -> anyhow::Result<(String, Instant)> {
    // A fresh change each time: the last one left it at the pod of the round before.
    let number = 1 + (round + 1) % 3;
    let wanted = format!("10.244.1.{}", 10 + number);
    cluster.point_flip(number)?;
    let begin = Instant::now();
    arena.at(Place::Client, || {
        while begin.elapsed() < WITHIN {
            let met = connect(FLIP, Duration::from_millis(50));
            if met.is_ok_and(|(_, at)| at.ip().to_string() == wanted) {
                return Ok((wanted, Instant::now()));
            }
        }
        anyhow::bail!("the endpoint has not moved within {WITHIN:?}")
    })?
}

/// Changes one percent of all endpoints each second; meanwhile an endpoint that is looked at moves again and again.
pub(crate) fn churn(
    cluster: &Cluster<'_>,
    arena: &Arena<'_>,
    process: Process,
    seconds: u64,
) -> anyhow::Result<Churn> {
    let (user, system) = report::cpu(process)?;
    let over = AtomicBool::new(false);
    let begin = Instant::now();
    let (slices, longest) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut longest, mut round) = (Duration::ZERO, 0_u8);
            while !over.load(Ordering::Relaxed) {
                round = (round + 1) % 240;
                let begin = Instant::now();
                let (_, met) = flip(cluster, arena, round)?;
                longest = longest.max(met - begin);
                // One a second, so that who is quick is not given more to do.
                std::thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
            }
            anyhow::Ok(longest)
        });
        let changed = with_api(cluster.lab, async |client| {
            let mut changed = 0;
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            for _ in 0..seconds {
                // An API server that cannot keep up gets the next second's changes at once: the same for all.
                tick.tick().await;
                cluster.churn(&client, cluster.one_percent()).await?;
                changed += cluster.one_percent();
            }
            Ok(changed)
        });
        over.store(true, Ordering::Relaxed);
        let longest = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        anyhow::Ok((changed?, longest?))
    })?;
    let took = begin.elapsed();
    let (user_now, system_now) = report::cpu(process)?;
    Ok(Churn { cpu: (user_now + system_now).saturating_sub(user + system), longest, slices, took })
}

/// Rolls a thousand endpoints; the time runs from the first change sent to the first of 200 connections in a row that
/// meet none of the old ones.
pub(crate) fn roll(cluster: &Cluster<'_>, arena: &Arena<'_>) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    cluster.roll()?;
    arena.at(Place::Client, || {
        let (mut row, mut first) = (0, begin);
        while begin.elapsed() < WITHIN {
            let now = Instant::now();
            if connect(ROLL, Duration::from_millis(200)).is_ok_and(|(_, at)| at.port() == BULK) {
                first = if row == 0 { now } else { first };
                row += 1;
            } else {
                row = 0;
            }
            if row == 200 {
                return Ok(first - begin);
            }
        }
        anyhow::bail!("old endpoints are met after {WITHIN:?}")
    })?
}

//! The task that keeps the sockets as they are wanted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::State;
use super::listeners::{Listeners, Target};
use super::others::{self, KUBE_PROXY, Seat};
use crate::metrics::Metrics;
use crate::sync::Notice;

/// How often ports that somebody else has are tried again, and kube-proxy is looked for.
const LOOK: Duration = Duration::from_secs(5);

/// Most sockets, where the host allows more open files than it has ports: two families of the default range for
/// `NodePort`s are 5,536.
const MOST: u64 = 8192;

/// Open files that are left to everything else.
const OTHER_FILES: u64 = 512;

/// Whether the ports are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Where no kube-proxy, and nobody in its place, runs on the node.
    Auto,
    /// Wherever a port is free.
    Always,
    /// Nowhere.
    Never,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            other => Err(format!("{other:?} is neither \"auto\" nor \"always\" nor \"never\"")),
        }
    }
}

/// What the user has decided.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether the ports are served.
    pub mode: Mode,
    /// Where the health of the node is served; `None`: not at all.
    pub node: Option<SocketAddr>,
    /// How often ports that could not be opened are tried again.
    pub again: Duration,
}

impl Settings {
    /// With the time between two attempts that suits kube-proxy.
    #[must_use]
    pub const fn new(mode: Mode, node: Option<SocketAddr>) -> Self {
        Self { mode, node, again: LOOK }
    }
}

/// Nobody says any more what there is to answer.
#[derive(Debug, thiserror::Error)]
#[error("the sender of the health state ended")]
pub struct StateGone;

/// Serves the ports until the sender of the state ends.
pub async fn run(
    settings: Settings,
    mut state: watch::Receiver<State>,
    notices: mpsc::Sender<Notice>,
    metrics: Metrics,
) -> Result<(), StateGone> {
    let mut listeners = Listeners::new(state.clone(), notices, room_for_sockets());
    let mut seat = Seat::default();
    let mut served = false;
    loop {
        let ours = match settings.mode {
            Mode::Never => false,
            Mode::Always => true,
            Mode::Auto => seat.ours(kube_proxy(&listeners, &settings), Instant::now()),
        };
        if ours != served {
            served = ours;
            tracing::info!(served, "health-check ports: {}", if ours { "ours" } else { "kube-proxy's" });
        }
        let wanted = if ours { wanted(&state.borrow_and_update(), settings.node) } else { BTreeMap::new() };
        let missing = listeners.become_like(&wanted).await;
        metrics.health_check_ports.set(i64::try_from(listeners.open()).unwrap_or(i64::MAX));
        metrics.health_check_ports_missing.set(i64::try_from(missing).unwrap_or(i64::MAX));
        tokio::select! {
            changed = state.changed() => changed.map_err(|_| StateGone)?,
            () = sleep(settings.again) => {}
        }
    }
}

fn wanted(state: &State, node: Option<SocketAddr>) -> BTreeMap<SocketAddr, Target> {
    let services = state.sockets().into_iter().map(|(addr, key)| (addr, Target::Service(key.clone())));
    services.chain(node.map(|addr| (addr, Target::Node))).collect()
}

/// Whether kube-proxy is there. A port that is open here is no sign of it.
fn kube_proxy(listeners: &Listeners, settings: &Settings) -> bool {
    let own = settings.node.filter(|addr| listeners.has(*addr)).map(|addr| addr.port());
    let signs: Vec<u16> = KUBE_PROXY.into_iter().filter(|port| Some(*port) != own).collect();
    others::listening(&signs).unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot read who listens on this node");
        false
    })
}

/// How many sockets may be open. A program starts with a soft limit of 1,024 files on many hosts; the hard one is
/// what the administrator has decided.
fn room_for_sockets() -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
        let wanted = hard.min(MOST + OTHER_FILES).max(soft);
        if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft }
    });
    usize::try_from(files.saturating_sub(OTHER_FILES).clamp(64, MOST)).unwrap_or(64)
}

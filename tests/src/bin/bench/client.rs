//! The two ends of a measurement: a connection to the API server, and a client outside the cluster.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::core::v1::Service;
use landfall_lab::{Lab, recorder};

/// How long one thing is waited for at most.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// Runs a future with a client of the lab's API server.
pub(crate) fn with_api<T: Send>(
    lab: &Lab,
    work: impl AsyncFnOnce(kube::Client) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    lab.door().open(work)?
}

/// The first address in the status of a Service.
pub(crate) fn address(service: &Service) -> Option<IpAddr> {
    recorder::addresses(service).first().copied()
}

/// A client outside the cluster that is told an address and says when it first got an answer from there.
pub(crate) struct Prober {
    ask: mpsc::SyncSender<SocketAddr>,
    answer: mpsc::Receiver<Option<Instant>>,
}

impl Prober {
    /// Starts the client on the host `client`; it lives as long as `scope`.
    pub(crate) fn start<'scope>(scope: &'scope std::thread::Scope<'scope, '_>, lab: &'scope Lab) -> Self {
        let (ask, asked) = mpsc::sync_channel::<SocketAddr>(1);
        let (reply, answer) = mpsc::sync_channel(1);
        scope.spawn(move || {
            for server in asked {
                let Ok(host) = lab.host("client") else { break };
                let answered = first_answer(&host, server);
                // The next Service may get the same address: its client does not know it yet.
                let forgotten = host.forget_neighbour(server.ip());
                if reply.send(answered.filter(|_| forgotten.is_ok())).is_err() {
                    break;
                }
            }
        });
        Self { ask, answer }
    }

    /// When the first answer came, or an error when none did in time.
    pub(crate) fn first_answer(&self, server: SocketAddr) -> anyhow::Result<Instant> {
        self.ask.send(server)?;
        self.answer.recv()?.with_context(|| format!("no answer from {server} within {LIMIT:?}"))
    }
}

fn first_answer(host: &landfall_lab::Host<'_>, server: SocketAddr) -> Option<Instant> {
    let begin = Instant::now();
    while begin.elapsed() < LIMIT {
        // A client that got no SYN-ACK tries again; one second is what TCP itself would wait.
        if host.http_get(server, Duration::from_secs(1)).is_ok_and(|answer| answer.status == 200) {
            return Some(Instant::now());
        }
    }
    None
}

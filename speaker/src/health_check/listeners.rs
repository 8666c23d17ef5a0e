//! The sockets, each with a task of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyper::Request;
use hyper::StatusCode;
use hyper::body::Incoming;
use k8s_openapi::jiff::Timestamp;
use landfall_core::name::ServiceKey;
use landfall_runtime::http::{self, HttpError};
use landfall_runtime::serve::{self, Answer, Connections};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{State, answer};
use crate::sync::Notice;

/// Connections to all of these ports at the same time. A load balancer keeps one open for a moment, every few seconds.
const MAX_CONNECTIONS: usize = 256;

/// What a socket answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// One Service.
    Service(ServiceKey),
    /// The node.
    Node,
}

/// The open sockets.
pub(super) struct Listeners {
    state: watch::Receiver<State>,
    connections: Connections,
    open: BTreeMap<SocketAddr, Open>,
    /// The sockets whose failure was told: once is enough.
    told: BTreeSet<SocketAddr>,
    notices: mpsc::Sender<Notice>,
    /// At most so many, so that there are files left for everything else.
    most: usize,
}

struct Open {
    target: Target,
    /// A set of one: the task can then be waited for when it is ended.
    task: JoinSet<()>,
}

impl Listeners {
    pub(super) fn new(state: watch::Receiver<State>, notices: mpsc::Sender<Notice>, most: usize) -> Self {
        let connections = Connections::at_most(MAX_CONNECTIONS);
        Self { state, connections, open: BTreeMap::new(), told: BTreeSet::new(), notices, most }
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn has(&self, addr: SocketAddr) -> bool {
        self.open.contains_key(&addr)
    }

    /// Closes what is not wanted and opens what is; returns how many are missing. A port that somebody else has stays
    /// with him and is tried again the next time.
    pub(super) async fn become_like(&mut self, wanted: &BTreeMap<SocketAddr, Target>) -> usize {
        let unwanted =
            |(addr, open): (&SocketAddr, &Open)| (wanted.get(addr) != Some(&open.target)).then_some(*addr);
        let unwanted: Vec<_> = self.open.iter().filter_map(unwanted).collect();
        for addr in unwanted {
            if let Some(mut open) = self.open.remove(&addr) {
                // Waited for, so that another Service can have the port at once.
                open.task.shutdown().await;
            }
        }
        self.told.retain(|addr| wanted.contains_key(addr));
        let mut missing = 0;
        for (addr, target) in wanted {
            if self.open.contains_key(addr) {
                continue;
            }
            if self.open.len() >= self.most {
                missing += 1;
                continue;
            }
            match http::listen(*addr).await {
                Ok(listener) => {
                    let mut task = JoinSet::new();
                    let respond = self.respond(target.clone(), addr.ip());
                    task.spawn(serve::serve(listener, self.connections.clone(), respond));
                    self.open.insert(*addr, Open { target: target.clone(), task });
                    self.told.remove(addr);
                }
                Err(error) => {
                    missing += 1;
                    self.tell(*addr, target, &error);
                }
            }
        }
        missing
    }

    fn tell(&mut self, addr: SocketAddr, target: &Target, error: &HttpError) {
        let HttpError::Listen { source, .. } = error;
        if !self.told.insert(addr) {
            return;
        }
        tracing::warn!(%addr, error = error as &dyn Error, "cannot serve a health-check port, trying again");
        let Target::Service(service) = target else { return };
        let Some(uid) = self.state.borrow().checks.get(service).map(|check| Arc::clone(&check.uid)) else {
            return;
        };
        let notice =
            Notice::NoHealthCheck { service: service.clone(), uid, addr, reason: source.to_string() };
        // Full: users have enough to read.
        let _ = self.notices.try_send(notice);
    }

    fn respond(
        &self,
        target: Target,
        at: IpAddr,
    ) -> impl Fn(&Request<Incoming>) -> Answer + Clone + Send + use<> {
        let state = self.state.clone();
        move |request| {
            let (now, clock) = (Instant::now(), Timestamp::now());
            let state = state.borrow();
            match (&target, request.uri().path()) {
                (Target::Service(key), _) => answer::service(&state, key, at, now),
                (Target::Node, "/healthz") => answer::node_health(&state, now, clock),
                (Target::Node, "/livez") => answer::node_life(&state, now, clock),
                (Target::Node, _) => {
                    let mut answer = Answer::new("404 page not found\n".to_owned().into());
                    *answer.status_mut() = StatusCode::NOT_FOUND;
                    answer
                }
            }
        }
    }
}

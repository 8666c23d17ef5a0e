//! One leader among the replicas, by a Lease.
//!
//! The leader renews every second. It believes itself to be the leader until 3.4 s after the start of its
//! last renewal that succeeded, on its own monotonic clock; others take over when they have seen no renewal for the
//! Lease's duration, on theirs. Clocks are never compared. A request that the leader sends in its last moment times
//! out (`REQUEST_TIMEOUT`) before anybody else can be the leader.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::send::{self, SendError};

/// The name of the Lease.
pub const NAME: &str = "landfall-controller";
/// How long a Lease holds without a renewal.
const DURATION_S: i32 = 5;
/// Time between renewals, and between looks at somebody else's Lease.
const RENEW: Duration = Duration::from_secs(1);
/// How soon a failed renewal is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How long after the start of its last renewal a leader believes in itself.
const DEADLINE: Duration = Duration::from_millis(3_400);
/// Of failures in a row, the first and then each of these is logged.
const SAY_EVERY: u32 = 20;
/// The longest a request takes: what is sent before the deadline is over before the Lease is.
pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Why leading ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// The API server did not answer in time, or refused.
    #[error("the leader's Lease could not be renewed for {0:?}, so another replica may lead now")]
    NotRenewed(Duration),
    /// Somebody else has the Lease.
    #[error("the leader's Lease is held by {0:?} now")]
    Taken(String),
}

/// Whether this replica may act as the leader. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Term {
    until: Arc<Mutex<Instant>>,
}

impl Term {
    /// A term that lasts until the given moment, if it is not extended.
    fn new(until: Instant) -> Self {
        Self { until: Arc::new(Mutex::new(until)) }
    }

    /// Whether the term lasts still.
    #[must_use]
    pub fn lasts(&self) -> bool {
        Instant::now() < self.until()
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// What to do about a Lease that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sight {
    /// It is free, or ours from an earlier life.
    Take,
    /// Somebody else holds it; look again.
    Wait,
}

/// Somebody else's Lease as it was last seen to change.
#[derive(Debug, Default)]
struct Rival {
    version: Option<String>,
    since: Option<Instant>,
}

impl Rival {
    /// Judges a Lease read at `now`.
    fn judge(&mut self, lease: &Lease, identity: &str, now: Instant) -> Sight {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder.is_empty() || holder == identity {
            return Sight::Take;
        }
        if self.since.is_none() || self.version != lease.metadata.resource_version {
            self.version.clone_from(&lease.metadata.resource_version);
            self.since = Some(now);
        }
        let duration = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(DURATION_S);
        let duration = Duration::from_secs(u64::try_from(duration).unwrap_or_default());
        match self.since {
            Some(since) if now.duration_since(since) > duration => Sight::Take,
            _ => Sight::Wait,
        }
    }
}

/// A replica that stands for leader, or leads.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    metrics: Metrics,
    /// The Lease as we last wrote it.
    held: Option<Lease>,
}

impl Candidate {
    /// A replica of that identity, which has to be its own alone.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: &str, metrics: Metrics) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.to_owned(), metrics, held: None }
    }

    /// Waits until this replica is the leader. `reached` is called whenever the API server has answered.
    pub async fn acquire(&mut self, reached: impl Fn()) -> Term {
        let mut rival = Rival::default();
        let mut failures = 0_u32;
        loop {
            let started = Instant::now();
            match self.attempt(&mut rival).await {
                Ok(true) => {
                    reached();
                    tracing::info!(identity = self.identity, "leading");
                    return Term::new(started + DEADLINE);
                }
                Ok(false) => {
                    failures = 0;
                    reached();
                }
                Err(error) => {
                    if failures.is_multiple_of(SAY_EVERY) {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "cannot stand for leader, trying on");
                    }
                    failures = failures.wrapping_add(1);
                }
            }
            tokio::time::sleep_until(started + RENEW / 2).await;
        }
    }

    async fn attempt(&mut self, rival: &mut Rival) -> Result<bool, SendError> {
        let Some(mut lease) = send::request(REQUEST_TIMEOUT, self.api.get_opt(NAME)).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                spec: Some(self.spec(None)),
            };
            let created =
                send::request(REQUEST_TIMEOUT, self.api.create(&PostParams::default(), &lease)).await;
            return self.taken(created);
        };
        if rival.judge(&lease, &self.identity, Instant::now()) == Sight::Wait {
            return Ok(false);
        }
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        let replaced =
            send::request(REQUEST_TIMEOUT, self.api.replace(NAME, &PostParams::default(), &lease)).await;
        self.taken(replaced)
    }

    fn taken(&mut self, result: Result<Lease, SendError>) -> Result<bool, SendError> {
        self.metrics.wrote("lease", send::outcome(&result));
        match result {
            Ok(lease) => {
                self.held = Some(lease);
                Ok(true)
            }
            // Another replica was faster.
            Err(SendError::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = old.is_some_and(|old| old.holder_identity.as_deref() == Some(&self.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION_S),
            acquire_time: old.filter(|_| ours).and_then(|old| old.acquire_time.clone()).or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    /// Renews until that fails for too long or somebody else has the Lease. Never returns otherwise.
    pub async fn hold(&mut self, term: &Term) -> LeaderError {
        let mut next = Instant::now() + RENEW;
        loop {
            tokio::time::sleep_until(next.min(term.until())).await;
            if !term.lasts() {
                return LeaderError::NotRenewed(DEADLINE);
            }
            let started = Instant::now();
            match self.renew().await {
                Ok(()) => {
                    term.extend(started + DEADLINE);
                    next = started + RENEW;
                }
                Err(error) => {
                    let reason = &error as &dyn std::error::Error;
                    tracing::warn!(error = reason, "cannot renew the leader's Lease");
                    if let Some(holder) = self.other_holder().await {
                        term.extend(Instant::now());
                        return LeaderError::Taken(holder);
                    }
                    next = Instant::now() + RETRY;
                }
            }
        }
    }

    async fn renew(&mut self) -> Result<(), SendError> {
        let Some(lease) = &mut self.held else { return Err(SendError::Gone) };
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let result =
            send::request(REQUEST_TIMEOUT, self.api.replace(NAME, &PostParams::default(), lease)).await;
        self.metrics.wrote("lease", send::outcome(&result));
        *lease = result?;
        Ok(())
    }

    /// After a failed renewal: who holds the Lease, if not we. A renewal that took effect although its answer was
    /// lost leaves us with an old version: the new one is taken over here.
    async fn other_holder(&mut self) -> Option<String> {
        let lease = send::request(REQUEST_TIMEOUT, self.api.get(NAME)).await.ok()?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if holder == self.identity {
            self.held = Some(lease);
            return None;
        }
        Some(holder)
    }

    /// Gives the Lease up, so that another replica need not wait it out. Call it when nothing is on its way any more.
    pub async fn release(&mut self) {
        let Some(lease) = &mut self.held else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let result =
            send::request(REQUEST_TIMEOUT, self.api.replace(NAME, &PostParams::default(), lease)).await;
        match result {
            Ok(_) => tracing::info!("gave up leading"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot give up the leader's Lease");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(5),
                // A renewal time far in the future must not matter: clocks are not compared.
                renew_time: Some(MicroTime("2099-01-01T00:00:00Z".parse().unwrap())),
                ..LeaseSpec::default()
            }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_only_after_it_stood_still_for_its_duration() {
        let mut rival = Rival::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_millis(seconds);
        assert_eq!(rival.judge(&lease("other", "1"), "me", at(0)), Sight::Wait);
        assert_eq!(rival.judge(&lease("other", "1"), "me", at(4_900)), Sight::Wait);
        assert_eq!(rival.judge(&lease("other", "2"), "me", at(5_100)), Sight::Wait, "it was renewed");
        assert_eq!(rival.judge(&lease("other", "2"), "me", at(10_000)), Sight::Wait);
        assert_eq!(rival.judge(&lease("other", "2"), "me", at(10_200)), Sight::Take);
    }

    #[tokio::test]
    async fn a_lease_that_was_given_up_or_is_ours_is_taken_at_once() {
        for holder in ["", "me"] {
            assert_eq!(Rival::default().judge(&lease(holder, "1"), "me", Instant::now()), Sight::Take);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_ends_by_itself() {
        let term = Term::new(Instant::now() + DEADLINE);
        tokio::time::advance(DEADLINE.saturating_sub(Duration::from_millis(1))).await;
        assert!(term.lasts());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!term.lasts());
    }

    #[test]
    fn what_a_leader_sends_is_over_before_another_can_lead() {
        let lease = Duration::from_secs(u64::try_from(DURATION_S).unwrap());
        assert!(DEADLINE + REQUEST_TIMEOUT < lease);
        assert!(RENEW + REQUEST_TIMEOUT < DEADLINE, "one lost renewal is survived");
    }
}

//! Keeps this node's Lease fresh. Frames that vanish make a request hang rather than fail, so each has a time limit;
//! dropping it closes its connection, and the next one starts on another.

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use landfall_core::claim::Publication;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::Identity;
use super::record::{lease, lease_name};

/// Between two renewals; in step with `Timing::renew`.
const PERIOD: Duration = Duration::from_secs(1);
/// At least this between two renewals when what there is to say keeps changing.
const CHANGES: Duration = Duration::from_millis(50);
/// Between the starts of two attempts while they fail.
const RETRY: Duration = Duration::from_millis(250);
/// The time limit of a renewal: below a second, so that a lost one leaves room for the next.
const LIMIT: Duration = Duration::from_millis(900);
/// Three of four attempts after a failure are short ones: a lost handshake packet is sent again only after a second,
/// so the first attempt after frames pass again should not be far away. The fourth is for an API server that is slow.
const SHORT_LIMIT: Duration = Duration::from_millis(400);
/// The field manager of the Lease's fields.
const MANAGER: &str = "landfall-speaker";

/// How a renewal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// The API server has it.
    Done {
        /// How many attempts had failed since the one before that succeeded.
        after_failures: u32,
    },
    /// It failed or took too long.
    Failed,
}

/// Renews for ever: each second, and at once when there is something new to say.
pub(super) struct Renewer {
    pub(super) identity: Identity,
    pub(super) run: Timestamp,
    pub(super) api: Api<Lease>,
    pub(super) said: watch::Receiver<Publication>,
    pub(super) outcomes: mpsc::Sender<Renewal>,
}

impl Renewer {
    /// Ends only when nobody listens any more.
    pub(super) async fn run(mut self) -> Option<Infallible> {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let outcome = self.renew(failures).await;
            failures = if outcome == Renewal::Failed { failures + 1 } else { 0 };
            self.outcomes.send(outcome).await.ok()?;
            if failures > 0 {
                sleep_until(started + RETRY).await;
                continue;
            }
            sleep_until(started + CHANGES).await;
            tokio::select! {
                () = sleep_until(started + PERIOD) => {}
                changed = self.said.changed() => changed.ok()?,
            }
        }
    }

    async fn renew(&mut self, failures: u32) -> Renewal {
        let said = self.said.borrow_and_update().clone();
        let lease = lease(&self.identity, self.run, Timestamp::now(), &said);
        let limit = if failures.is_multiple_of(4) { LIMIT } else { SHORT_LIMIT };
        // Forced, since whatever else has written these fields does not know what this speaker sees.
        let params = PatchParams::apply(MANAGER).force();
        let name = lease_name(&self.identity.node);
        let answer = timeout(limit, self.api.patch(&name, &params, &Patch::Apply(&lease))).await;
        let problem = match answer {
            Ok(Ok(_)) => {
                if failures > 0 {
                    tracing::info!(failures, "the Lease of this node is renewed again");
                }
                return Renewal::Done { after_failures: failures };
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        if failures == 0 {
            tracing::warn!(problem, "cannot renew the Lease of this node; what it announces stays as it is");
        } else {
            tracing::debug!(problem, failures, "still cannot renew the Lease of this node");
        }
        Renewal::Failed
    }
}

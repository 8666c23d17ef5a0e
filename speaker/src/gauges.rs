//! Keeps the gauges about the other speakers, and readiness, in step with what ownership reports.

use std::sync::Arc;

use landfall_runtime::health::Gate;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::ownership::Peers;

/// Ownership reports no more.
#[derive(Debug, thiserror::Error)]
#[error("the sender of the peers ended")]
pub struct InputClosed;

/// Follows the peers until their sender ends. `in_touch` opens with the first contact and stays open: a node that
/// loses the API server goes on serving, and calling it unready would help nobody.
pub async fn run(
    mut peers: watch::Receiver<Arc<Peers>>,
    metrics: Metrics,
    in_touch: Gate,
) -> Result<(), InputClosed> {
    loop {
        peers.changed().await.map_err(|_| InputClosed)?;
        let seen = Arc::clone(&peers.borrow_and_update());
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.peers.set(count(seen.nodes.len()));
        metrics.peers_alive.set(count(seen.nodes.values().filter(|peer| peer.living).count()));
        metrics.in_touch.set(i64::from(seen.in_touch));
        if seen.in_touch {
            in_touch.set(true);
        }
    }
}

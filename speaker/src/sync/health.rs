//! What the loop tells those who ask after the health of this node.

use k8s_openapi::jiff::Timestamp;
use landfall_core::name::ServiceKey;
use tokio::time::Instant;

use super::{Report, Sync};

impl Sync {
    /// Something has been reported: the node may be another one, and there may be work now.
    pub(super) fn note_health(&self) {
        let addresses = self.view.health_check_addresses();
        let eligible = self.view.eligible();
        self.ports.health.send_if_modified(|state| {
            state.eligible = eligible;
            state.pending = state.pending.or(self.oldest);
            let moved = state.addresses != addresses;
            state.addresses = addresses;
            moved
        });
        let pods = super::pod_cidrs(&self.view, &self.cluster_cidrs);
        self.ports.pods.send_if_modified(|known| {
            let changed = *known != pods;
            if changed {
                *known = pods.to_vec();
            }
            changed
        });
    }

    /// These Services go to the data path.
    pub(super) fn note_health_checks(&self, keys: &[ServiceKey]) {
        self.ports.health.send_if_modified(|state| {
            // Every one of them: `any` would stop at the first.
            let moved = keys.iter().filter(|key| state.set_check(key, self.view.health_check(key))).count();
            moved > 0
        });
    }

    /// The data path has said what became of its work.
    pub(super) fn note_outcome(&self, report: &Report) {
        self.ports.health.send_if_modified(|state| {
            match report {
                Report::Committed { .. } => {
                    state.pending = self.oldest;
                    state.updated = Some(Timestamp::now());
                }
                // What it was handed is not done, whatever has been committed before it.
                Report::Refused { .. } => state.pending = Some(state.pending.unwrap_or_else(Instant::now)),
            }
            false
        });
    }
}

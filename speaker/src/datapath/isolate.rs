//! Which Services a kernel does not take, so that the others go in without them.
//!
//! The kernel names the operation it refused, and one operation inserts elements of many Services. So the Services are
//! tried in ever smaller groups, each in a table of its own that never comes to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_core::name::ServiceKey;

use super::DataPath;
use super::books::{Books, Plan};
use super::rules::Builder;
use crate::kernel::{ApplyError, Kernel, chain};
use crate::nft::model::{Batch, Op, TableFlags};

/// The table of the trials.
const TRIAL: &str = "landfall-trial";

/// So many Services are looked for one by one. If there are more, something else is wrong, and groups with a bad one
/// in them stay out as they are.
const SINGLED_OUT: usize = 100;

impl<K: Kernel> DataPath<K> {
    /// The Services that the kernel does not take, and why. Nothing of them is in the kernel.
    #[must_use]
    pub const fn refused(&self) -> &BTreeMap<ServiceKey, String> {
        &self.refused
    }

    /// Stages those of them again that the kernel would take now.
    pub fn retry_refused(&mut self) -> Result<(), ApplyError> {
        let refused: Vec<ServiceKey> = self.refused.keys().cloned().collect();
        for service in refused {
            match self.trial(std::slice::from_ref(&service)) {
                Ok(()) => self.readmit(&service),
                Err(error) if error.is_verdict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A refused Service is wanted in the kernel again.
    pub(super) fn readmit(&mut self, service: &ServiceKey) {
        if self.refused.remove(service).is_some() {
            self.dirty.extend(self.services.get(service).into_iter().flatten());
        }
    }

    /// Finds those among some Services that the kernel does not take, and leaves them out from now on. Whether there is
    /// any.
    pub(super) fn isolate(&mut self, suspects: Vec<ServiceKey>) -> Result<bool, ApplyError> {
        let before = self.refused.len();
        // When not even a table without Services is taken, it is not for any of them.
        if suspects.is_empty() || self.trial(&[]).is_err() {
            return Ok(false);
        }
        let mut groups = vec![suspects];
        while let Some(mut group) = groups.pop() {
            let error = match self.trial(&group) {
                Ok(()) => continue,
                Err(error) if error.is_verdict() => error,
                Err(error) => return Err(error),
            };
            if group.len() > 1 && self.refused.len() - before < SINGLED_OUT {
                let rest = group.split_off(group.len() / 2);
                groups.extend([rest, group]);
                continue;
            }
            let reason = chain(&error);
            for service in group {
                tracing::error!(%service, error = %reason, "the kernel refuses this Service, it is left out");
                self.refused.insert(service, reason.clone());
            }
        }
        Ok(self.refused.len() > before)
    }

    /// Whether the kernel would take a table with these Services and no others.
    fn trial(&mut self, services: &[ServiceKey]) -> Result<(), ApplyError> {
        let (mut books, mut plan) = (Books::default(), Plan::default());
        for service in services {
            for key in self.services.get(service).into_iter().flatten() {
                if let Some(claim) = self.wanted.get(key).filter(|claim| claim.service == *service) {
                    books.set(*key, Some(claim), &mut plan);
                }
            }
        }
        books.set_pods(&self.node.pod_cidrs, &mut plan);
        books.settle(&mut plan);
        books.fix_sizes();
        let mut builder = Builder::new(self.seed);
        builder.push(Op::AddTable(TableFlags::default()));
        builder.maps(|map, family| books.size(map, family));
        builder.fixed_chains();
        plan.into_full(&mut builder);
        // Nothing of a Service is in the chains that the kernel calls, and they cost it more than the rest.
        if services.is_empty() {
            builder.base_chains();
        }
        self.kernel.would_take(&Batch { table: Arc::from(TRIAL), ops: builder.into_ops() })
    }
}

#[cfg(test)]
#[path = "isolate_tests.rs"]
mod tests;

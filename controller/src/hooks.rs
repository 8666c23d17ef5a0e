//! A seam for tests of what is left when the program ends at the worst moment: it is told of every write.

use std::fmt;
use std::sync::Arc;

/// A moment around a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The request is about to be sent.
    Before,
    /// It has been answered.
    After,
}

type Hook = dyn Fn(Moment, &'static str) + Send + Sync;

/// What is called around every write, with what is written. The product calls nothing.
#[derive(Clone, Default)]
pub struct Hooks(Option<Arc<Hook>>);

impl Hooks {
    /// Calls this around every write.
    #[must_use]
    pub fn new(hook: impl Fn(Moment, &'static str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn call(&self, moment: Moment, what: &'static str) {
        if let Some(hook) = &self.0 {
            hook(moment, what);
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hooks(some)" } else { "Hooks(none)" })
    }
}

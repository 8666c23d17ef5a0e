//! Services that lose an address this node still announces: their change waits until the announcer has let go.

use std::collections::HashMap;
use std::time::Duration;

use landfall_core::name::ServiceKey;
use tokio::time::Instant;

/// How long a change waits at most. An announcer takes well under a millisecond; one that hangs must not keep
/// deleted Services in the kernel.
pub(super) const GRACE: Duration = Duration::from_millis(200);

/// What waits, and until when.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// The deadline of each; one that has passed stays until the Service is dealt with, so that it does not
    /// begin again.
    until: HashMap<ServiceKey, Instant>,
    now: Option<Instant>,
}

impl Holds {
    /// Looks at the changed Services again; `announced` says whether one loses an address that is announced yet.
    pub(super) fn update<'a>(
        &mut self,
        now: Instant,
        dirty: impl Iterator<Item = &'a ServiceKey>,
        announced: impl Fn(&ServiceKey) -> bool,
    ) {
        let mut until = HashMap::new();
        for key in dirty.filter(|key| announced(key)) {
            let deadline = self.until.get(key).copied().unwrap_or(now + GRACE);
            until.insert(key.clone(), deadline);
        }
        self.until = until;
        self.now = Some(now);
    }

    /// Whether this Service has to wait.
    pub(super) fn holds(&self, key: &ServiceKey) -> bool {
        self.until.get(key).is_some_and(|until| self.now.is_some_and(|now| now < *until))
    }

    /// Whether nothing has to wait.
    pub(super) fn is_empty(&self) -> bool {
        self.next().is_none()
    }

    /// When the next wait ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.until.values().filter(|until| self.now.is_some_and(|now| now < **until)).min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("shop", name)
    }

    #[test]
    fn a_service_waits_for_its_announcement_to_stop_but_not_for_ever() {
        let (a, b) = (key("a"), key("b"));
        let start = Instant::now();
        let mut holds = Holds::default();
        holds.update(start, [&a, &b].into_iter(), |k| *k == a);
        assert!(holds.holds(&a) && !holds.holds(&b));
        assert_eq!(holds.next(), Some(start + GRACE));

        holds.update(start + GRACE / 2, [&a].into_iter(), |_| true);
        assert_eq!(holds.next(), Some(start + GRACE), "looking again does not prolong the wait");

        holds.update(start + GRACE, [&a].into_iter(), |_| true);
        assert!(!holds.holds(&a) && holds.is_empty(), "the grace is over");
    }

    #[test]
    fn the_wait_ends_when_the_announcement_does() {
        let a = key("a");
        let start = Instant::now();
        let mut holds = Holds::default();
        holds.update(start, [&a].into_iter(), |_| true);
        assert!(!holds.is_empty());
        holds.update(start, [&a].into_iter(), |_| false);
        assert!(!holds.holds(&a) && holds.is_empty());
    }
}

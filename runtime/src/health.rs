//! What `/healthz` and `/readyz` say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The health of a program, shared by the tasks that report it and the endpoint that tells it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    gates: Mutex<Vec<(&'static str, Arc<AtomicBool>)>>,
    pulses: Mutex<Vec<Watched>>,
}

/// A loop that has to beat.
#[derive(Debug)]
struct Watched {
    name: &'static str,
    within: Duration,
    last: Arc<Mutex<Instant>>,
}

/// One condition of readiness: closed until it is opened.
#[derive(Clone, Debug)]
pub struct Gate(Arc<AtomicBool>);

/// The sign of life of one loop.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Mutex<Instant>>);

impl Health {
    /// A program that is alive and ready as long as it registers no gate and no pulse.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition of readiness. The program is not ready until [`Gate::set`] opens it.
    #[must_use]
    pub fn gate(&self, name: &'static str) -> Gate {
        let open = Arc::new(AtomicBool::new(false));
        self.inner.gates.lock().unwrap_or_else(PoisonError::into_inner).push((name, Arc::clone(&open)));
        Gate(open)
    }

    /// Adds a loop that has to beat at least every `within`; when it does not, the program is not alive and
    /// kubelet restarts it. It counts as long as somebody holds the pulse: what ends the loop lets go of it.
    #[must_use]
    pub fn pulse(&self, name: &'static str, within: Duration) -> Pulse {
        let last = Arc::new(Mutex::new(Instant::now()));
        let watched = Watched { name, within, last: Arc::clone(&last) };
        self.inner.pulses.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
        Pulse(last)
    }

    /// The gates that are still closed: the program is ready when there is none.
    #[must_use]
    pub fn closed_gates(&self) -> Vec<&'static str> {
        let gates = self.inner.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter(|(_, open)| !open.load(Ordering::Acquire)).map(|(name, _)| *name).collect()
    }

    /// The loops that have stopped: the program is alive when there is none.
    #[must_use]
    pub fn stopped_pulses(&self) -> Vec<&'static str> {
        let mut pulses = self.inner.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        pulses.retain(|watched| Arc::strong_count(&watched.last) > 1);
        let now = Instant::now();
        let late = |watched: &&Watched| {
            let last = *watched.last.lock().unwrap_or_else(PoisonError::into_inner);
            now.duration_since(last) > watched.within
        };
        pulses.iter().filter(late).map(|watched| watched.name).collect()
    }
}

impl Gate {
    /// Opens (`true`) or closes the gate.
    pub fn set(&self, open: bool) {
        self.0.store(open, Ordering::Release);
    }
}

impl Pulse {
    /// Says that the loop is alive.
    pub fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_waits_for_every_gate() {
        let health = Health::new();
        let (services, pools) = (health.gate("services"), health.gate("pools"));
        assert_eq!(health.closed_gates(), ["services", "pools"]);
        services.set(true);
        assert_eq!(health.closed_gates(), ["pools"]);
        pools.set(true);
        assert!(health.closed_gates().is_empty());
        services.set(false);
        assert_eq!(health.closed_gates(), ["services"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stops_beating_is_named() {
        let health = Health::new();
        let pulse = health.pulse("sync", Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(health.stopped_pulses().is_empty());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(health.stopped_pulses(), ["sync"]);
        pulse.beat();
        assert!(health.stopped_pulses().is_empty());
        drop(pulse);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(health.stopped_pulses().is_empty(), "the loop was ended");
    }
}

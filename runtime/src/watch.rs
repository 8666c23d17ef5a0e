//! Watches of the API server that keep nothing of the objects but what a program makes of them on arrival.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, utils::Backoff};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

/// Objects fetched by one request of the first list: few enough that a page is small in memory, enough that
/// 10,000 objects take 20 requests.
const PAGE: u32 = 500;

/// What a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// A full list begins: everything that is there follows as [`Change::Set`], then comes [`Change::Listed`].
    Listing,
    /// An object that is there, new or changed (or unchanged, during a list).
    Set(T),
    /// An object that is gone, as it last was.
    Gone(T),
    /// The list is complete: what was known before and not named since [`Change::Listing`] is gone.
    Listed,
}

/// How a watch is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An event came.
    Event,
    /// The watch broke and is started again.
    Broken,
}

/// Watches all objects of `api` until the receiver is dropped, converting each on arrival.
///
/// `observe` is called for every event and every failure, for metrics. The channel is bounded by its maker; when
/// it is full the watch waits, and the API server buffers or, in the end, breaks the watch and a new list follows.
pub async fn run<K, T>(
    api: Api<K>,
    convert: impl Fn(K) -> T + Send,
    changes: mpsc::Sender<Change<T>>,
    observe: impl Fn(Outcome) + Send,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Send,
{
    run_into(api, convert, changes, |change| change, observe).await;
}

/// As [`run`], into a channel of something wider: `wrap` says how a change is told there.
pub async fn run_into<K, T, W>(
    api: Api<K>,
    convert: impl Fn(K) -> T + Send,
    changes: mpsc::Sender<W>,
    wrap: impl Fn(Change<T>) -> W + Send,
    observe: impl Fn(Outcome) + Send,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Send,
    W: Send,
{
    let mut events =
        Box::pin(watcher(api, watcher::Config::default().page_size(PAGE)).backoff(Retry::default()));
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => Change::Listing,
            Ok(Event::InitApply(object) | Event::Apply(object)) => Change::Set(convert(object)),
            Ok(Event::Delete(object)) => Change::Gone(convert(object)),
            Ok(Event::InitDone) => Change::Listed,
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), %error, "watch broken, starting again");
                observe(Outcome::Broken);
                continue;
            }
        };
        observe(Outcome::Event);
        if changes.send(wrap(change)).await.is_err() {
            return;
        }
    }
}

/// Waits between attempts: 50 ms, then twice as long each time up to 2 s. The ceiling is low because the watch
/// should be back within seconds after an outage of any length, and one request in 2 s hurts no API server.
#[derive(Clone, Debug)]
pub struct Retry {
    next: Duration,
}

impl Retry {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);
}

impl Default for Retry {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = (wait * 2).min(Self::LONGEST);
        Some(wait)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_watch_is_retried_soon_and_never_given_up() {
        let mut retry = Retry::default();
        let waits: Vec<_> = retry.by_ref().take(8).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        retry.reset();
        assert_eq!(retry.next(), Some(Retry::FIRST));
    }
}

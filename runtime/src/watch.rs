//! Watches of the API server that keep nothing of the objects but what a program makes of them on arrival.

use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
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
    let events = watcher(api, watcher::Config::default().page_size(PAGE)).backoff(Retry::default());
    follow(events, Absent::Unexpected, convert, changes, wrap, observe).await;
}

/// As [`run_into`], for a kind that an API server need not serve: while it answers that it knows no such kind
/// (404), there is none of it, and that is a complete list. It is asked again all the while.
pub async fn run_into_if_served<K, T, W>(
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
    let events = watcher(api, watcher::Config::default().page_size(PAGE)).backoff(Retry::default());
    follow(events, Absent::IsEmpty, convert, changes, wrap, observe).await;
}

/// What it means that the API server does not know the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    /// A failure like any other.
    Unexpected,
    /// That there are no objects of it.
    IsEmpty,
}

async fn follow<K, T, W>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    absent: Absent,
    convert: impl Fn(K) -> T + Send,
    changes: mpsc::Sender<W>,
    wrap: impl Fn(Change<T>) -> W + Send,
    observe: impl Fn(Outcome) + Send,
) where
    K: Resource<DynamicType = ()>,
{
    let mut events = std::pin::pin!(events);
    let mut told_absent = false;
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => Change::Listing,
            Ok(Event::InitApply(object) | Event::Apply(object)) => Change::Set(convert(object)),
            Ok(Event::Delete(object)) => Change::Gone(convert(object)),
            Ok(Event::InitDone) => {
                told_absent = false;
                Change::Listed
            }
            Err(error) if absent == Absent::IsEmpty && not_served(&error) => {
                // Told once: the next attempts find the same.
                if std::mem::replace(&mut told_absent, true) {
                    continue;
                }
                tracing::info!(kind = %K::kind(&()), "not served by this API server: there are none");
                if changes.send(wrap(Change::Listing)).await.is_err() {
                    return;
                }
                Change::Listed
            }
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

/// Whether the API server has no such kind. A list of a kind that it has is never "not found".
fn not_served(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
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
    use futures::stream;
    use k8s_openapi::api::networking::v1::ServiceCIDR;
    use kube::core::Status;

    use super::*;

    /// What is told of these events.
    async fn told(absent: Absent, events: Vec<watcher::Result<Event<ServiceCIDR>>>) -> Vec<Change<String>> {
        let (changes, mut out) = mpsc::channel(16);
        let name = |object: ServiceCIDR| object.metadata.name.unwrap_or_default();
        follow(stream::iter(events), absent, name, changes, |change| change, |_| ()).await;
        let mut told = Vec::new();
        while let Some(change) = out.recv().await {
            told.push(change);
        }
        told
    }

    fn refused(code: u16) -> watcher::Error {
        watcher::Error::InitialListFailed(kube::Error::Api(Status { code, ..Status::default() }.boxed()))
    }

    fn object(name: &str) -> ServiceCIDR {
        let mut object = ServiceCIDR::default();
        object.metadata.name = Some(name.to_owned());
        object
    }

    #[tokio::test]
    async fn a_kind_that_need_not_be_served_is_an_empty_list_while_it_is_not() {
        let events = vec![
            Ok(Event::Init),
            Err(refused(404)),
            Ok(Event::Init),
            Err(refused(404)),
            Ok(Event::Init),
            Ok(Event::InitApply(object("kubernetes"))),
            Ok(Event::InitDone),
        ];
        let expected = [
            Change::Listing,
            // Complete at the first answer, and said once.
            Change::Listing,
            Change::Listed,
            Change::Listing,
            Change::Listing,
            Change::Set("kubernetes".to_owned()),
            Change::Listed,
        ];
        assert_eq!(told(Absent::IsEmpty, events).await, expected);
    }

    #[tokio::test]
    async fn a_kind_that_must_be_there_and_any_other_failure_is_never_an_empty_list() {
        for (absent, code) in [(Absent::Unexpected, 404), (Absent::IsEmpty, 403), (Absent::IsEmpty, 503)] {
            let events = vec![Ok(Event::Init), Err(refused(code))];
            assert_eq!(told(absent, events).await, [Change::Listing], "{absent:?} {code}");
        }
    }

    #[test]
    fn a_broken_watch_is_retried_soon_and_never_given_up() {
        let mut retry = Retry::default();
        let waits: Vec<_> = retry.by_ref().take(8).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        retry.reset();
        assert_eq!(retry.next(), Some(Retry::FIRST));
    }
}

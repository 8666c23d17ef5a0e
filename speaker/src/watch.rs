//! The watches of the API server. Every object is converted on arrival and dropped: nothing here keeps one.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use landfall_core::name::{NodeName, PoolName};
use landfall_crds::{AddressPool, L2Advertisement};
use landfall_runtime::watch::Retry;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::convert::{self, ClassFilter, Interner};
use crate::metrics::{Kind, Metrics};
use crate::ownership::Peers;
use crate::view::{Change, Observed};

/// How many reports may wait for the view. A full queue makes the watches wait, and with them the API server.
pub const QUEUE: usize = 1024;

/// Objects per request of a list: 10,000 objects take 20 requests, and a page stays small in memory.
const PAGE: u32 = 500;

/// Seconds after which a watch is asked for anew where it was. A connection that died without a word is noticed
/// this late at worst; contact with the other speakers coming back is a quicker sign, see [`follow`].
const WATCH_SECONDS: u32 = 60;

/// A report and when it came.
#[derive(Debug)]
pub struct Arrived {
    /// When it came.
    pub at: Instant,
    /// What it says.
    pub observed: Observed,
}

/// Why watching stopped.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A stream that never ends has ended.
    #[error("the watch of {0:?} ended")]
    Ended(Kind),
    /// Nobody takes the reports any more.
    #[error("the receiver of the watches ended")]
    ReceiverClosed,
    /// A task of a watch died.
    #[error("a watch died")]
    Died(#[source] tokio::task::JoinError),
}

/// What all watches share.
#[derive(Clone)]
pub struct Watches {
    /// The API server.
    pub client: Client,
    /// Which Services are ours.
    pub classes: ClassFilter,
    /// Whether this node is in touch with the API server.
    pub peers: watch::Receiver<Arc<Peers>>,
    /// Where the reports go.
    pub out: mpsc::Sender<Arrived>,
    /// Counts events and failures.
    pub metrics: Metrics,
}

/// Runs all watches until the first of them ends, which is an error.
pub async fn run(watches: Watches) -> Result<(), WatchError> {
    let mut tasks = JoinSet::new();
    tasks.spawn(services(watches.clone()));
    tasks.spawn(slices(watches.clone()));
    tasks.spawn(nodes(watches.clone()));
    tasks.spawn(pools(watches.clone()));
    tasks.spawn(advertisements(watches));
    match tasks.join_next().await {
        Some(ended) => ended.map_err(WatchError::Died)?,
        None => Ok(()),
    }
}

async fn services(watches: Watches) -> Result<(), WatchError> {
    let classes = watches.classes.clone();
    let mut names = Interner::default();
    let take = move |object: Service| {
        let facts = convert::service(&object, &classes, &mut names);
        let key = match &facts {
            Some(facts) => facts.service.key.clone(),
            None => convert::service_key(&object, &mut names)?,
        };
        Some(Taken { key, value: facts, version: version(&object) })
    };
    let api = Api::all(watches.client.clone());
    follow(Kind::Service, api, Config::default(), watches, take, Observed::Service).await
}

async fn slices(watches: Watches) -> Result<(), WatchError> {
    let mut names = Interner::default();
    let take = move |object: EndpointSlice| {
        let key = convert::slice_key(&object, &mut names)?;
        let facts = convert::slice(&object, &mut names);
        Some(Taken { key, value: facts, version: version(&object) })
    };
    let api = Api::all(watches.client.clone());
    let labelled = Config::default().labels(convert::SERVICE_NAME);
    follow(Kind::EndpointSlice, api, labelled, watches, take, Observed::Slice).await
}

async fn nodes(watches: Watches) -> Result<(), WatchError> {
    let take = |object: Node| {
        let key = NodeName::new(object.name_any());
        Some(Taken { key, value: Some(convert::node(object)), version: 0 })
    };
    let api = Api::all(watches.client.clone());
    let wrap = |change, _| Observed::Node(change);
    follow(Kind::Node, api, Config::default(), watches, take, wrap).await
}

async fn pools(watches: Watches) -> Result<(), WatchError> {
    let take = |object: AddressPool| {
        let key = PoolName::new(object.name_any());
        Some(Taken { key, value: Some(convert::pool(&object)), version: 0 })
    };
    let api = Api::all(watches.client.clone());
    let wrap = |change, _| Observed::Pool(change);
    follow(Kind::AddressPool, api, Config::default(), watches, take, wrap).await
}

async fn advertisements(watches: Watches) -> Result<(), WatchError> {
    let take = |object: L2Advertisement| {
        let key: Arc<str> = Arc::from(object.name_any());
        Some(Taken { key, value: Some(convert::advertisement(object)), version: 0 })
    };
    let api = Api::all(watches.client.clone());
    let wrap = |change, _| Observed::Advertisement(change);
    follow(Kind::L2Advertisement, api, Config::default(), watches, take, wrap).await
}

/// An object in compact form; no value when it is no concern of ours.
struct Taken<K, V> {
    key: K,
    value: Option<V>,
    version: u64,
}

/// The resource version as a number, zero when it is none. Comparing them is allowed: KEP-5504.
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Follows one kind of object for ever.
///
/// A node that was cut off for a while comes back with connections that look alive and deliver nothing until TCP's
/// growing timers fire. So when contact returns and this watch has not been restarted by an error since it was
/// lost, it is started over.
async fn follow<T, K, V>(
    kind: Kind,
    api: Api<T>,
    config: Config,
    mut watches: Watches,
    mut take: impl FnMut(T) -> Option<Taken<K, V>> + Send,
    wrap: impl Fn(Change<K, V>, u64) -> Observed + Send,
) -> Result<(), WatchError>
where
    T: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    K: Clone + Eq + Hash + Send,
    V: Send,
{
    let config = config.page_size(PAGE).timeout(WATCH_SECONDS);
    let connect = || watcher(api.clone(), config.clone()).backoff(Retry::default()).boxed();
    let mut events = connect();
    let mut list = Listing::default();
    let mut contact = Contact::default();
    let mut broken = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event.ok_or(WatchError::Ended(kind))?,
            changed = watches.peers.changed() => {
                changed.map_err(|_| WatchError::ReceiverClosed)?;
                if contact.stale_after(watches.peers.borrow_and_update().in_touch) {
                    tracing::info!(?kind, "contact is back, starting the watch over");
                    events = connect();
                }
                continue;
            }
        };
        let report = match event {
            Ok(event) => {
                broken = false;
                watches.metrics.watch_event(kind);
                list.report(event, &mut take)
            }
            Err(error) => {
                contact.restarted = true;
                watches.metrics.watch_error(kind);
                // Said once for each time it breaks: an outage has hundreds of failed attempts.
                if std::mem::replace(&mut broken, true) {
                    tracing::debug!(?kind, %error, "watch still broken");
                } else {
                    tracing::warn!(?kind, %error, "watch broken, trying again until it works");
                }
                None
            }
        };
        if let Some((change, version)) = report {
            let arrived = Arrived { at: Instant::now(), observed: wrap(change, version) };
            watches.out.send(arrived).await.map_err(|_| WatchError::ReceiverClosed)?;
        }
    }
}

/// What has been named since a list began.
struct Listing<K> {
    seen: HashSet<K>,
    listing: bool,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self { seen: HashSet::new(), listing: false }
    }
}

impl<K: Clone + Eq + Hash> Listing<K> {
    /// Turns an event of the watcher into a change.
    fn report<T, V>(
        &mut self,
        event: Event<T>,
        mut take: impl FnMut(T) -> Option<Taken<K, V>>,
    ) -> Option<(Change<K, V>, u64)> {
        match event {
            Event::Init => {
                self.seen.clear();
                self.listing = true;
                None
            }
            Event::InitApply(object) | Event::Apply(object) => {
                let Taken { key, value, version } = take(object)?;
                let change = match value {
                    Some(value) => {
                        if self.listing {
                            self.seen.insert(key.clone());
                        }
                        Change::Set(key, value)
                    }
                    None => Change::Delete(key),
                };
                Some((change, version))
            }
            Event::Delete(object) => take(object).map(|taken| (Change::Delete(taken.key), taken.version)),
            Event::InitDone => {
                self.listing = false;
                Some((Change::Listed(std::mem::take(&mut self.seen)), 0))
            }
        }
    }
}

/// Whether a watch may have gone deaf without an error.
#[derive(Debug, Default)]
struct Contact {
    lost: bool,
    restarted: bool,
    ever: bool,
}

impl Contact {
    /// Takes in whether there is contact; true when it is back and the watch is as old as the loss.
    fn stale_after(&mut self, in_touch: bool) -> bool {
        if !in_touch {
            // Before the first contact there is nothing to lose.
            if self.ever && !self.lost {
                self.lost = true;
                self.restarted = false;
            }
            return false;
        }
        self.ever = true;
        std::mem::take(&mut self.lost) && !self.restarted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Objects here are numbers; odd ones are no concern of ours.
    fn run(events: Vec<Event<u64>>) -> Vec<String> {
        let mut list = Listing::default();
        let mut take = |n: u64| Some(Taken { key: n, value: n.is_multiple_of(2).then_some(n), version: n });
        events
            .into_iter()
            .filter_map(|event| list.report(event, &mut take))
            .map(|(change, version)| match change {
                Change::Set(key, _) => format!("set {key} @{version}"),
                Change::Delete(key) => format!("delete {key} @{version}"),
                Change::Listed(seen) => {
                    let mut seen: Vec<_> = seen.into_iter().collect();
                    seen.sort_unstable();
                    format!("listed {seen:?}")
                }
            })
            .collect()
    }

    #[test]
    fn the_end_of_a_list_names_what_it_held() {
        let reports = run(vec![
            Event::Init,
            Event::InitApply(2),
            Event::InitApply(3),
            Event::InitApply(4),
            Event::InitDone,
            Event::Apply(6),
            Event::Apply(5),
            Event::Delete(2),
        ]);
        assert_eq!(
            reports,
            [
                "set 2 @2",
                "delete 3 @3",
                "set 4 @4",
                "listed [2, 4]",
                "set 6 @6",
                "delete 5 @5",
                "delete 2 @2"
            ]
        );
    }

    #[test]
    fn a_list_that_broke_off_leaves_nothing_behind_in_the_next() {
        let reports =
            run(vec![Event::Init, Event::InitApply(2), Event::Init, Event::InitApply(4), Event::InitDone]);
        assert_eq!(reports, ["set 2 @2", "set 4 @4", "listed [4]"]);
    }

    #[test]
    fn only_a_watch_as_old_as_the_loss_of_contact_is_started_over() {
        let mut contact = Contact::default();
        assert!(!contact.stale_after(false) && !contact.stale_after(true), "the first contact is no return");
        assert!(!contact.stale_after(false));
        assert!(!contact.stale_after(false));
        assert!(contact.stale_after(true));
        assert!(!contact.stale_after(true), "once");
        assert!(!contact.stale_after(false));
        contact.restarted = true;
        assert!(!contact.stale_after(true), "an error has started it over already");
    }
}

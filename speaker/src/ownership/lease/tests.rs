//! Several speakers against an API server that lives in memory, on paused time.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use ipnet::IpNet;
use kube::Client;
use kube::client::Body;
use landfall_core::elect::{AdRule, NodeSet, Owned, VipPlan, Wanted};
use landfall_core::name::{Iface, Namespace, NodeName};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Identity, run};
use crate::link::{Link, Links, Mac};
use crate::ownership::{Peers, Ports};

/// Leases in memory. A speaker in `cut` gets no answer to anything, and nothing on a watch it has open.
#[derive(Default)]
struct Server {
    leases: BTreeMap<String, Value>,
    version: u64,
    watches: Vec<(NodeName, Lines)>,
    cut: BTreeSet<NodeName>,
    refusing: bool,
}

type Lines = UnboundedSender<Result<Frame<Bytes>, Infallible>>;
type Shared = Arc<Mutex<Server>>;
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn lock(server: &Shared) -> MutexGuard<'_, Server> {
    server.lock().unwrap()
}

fn answer(status: StatusCode, body: &Value) -> Answer {
    let bytes = Bytes::from(body.to_string());
    let body = StreamBody::new(futures::stream::iter([Ok(Frame::data(bytes))]));
    Response::builder().status(status).body(UnsyncBoxBody::new(body)).unwrap()
}

impl Server {
    fn apply(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = lease["metadata"]["name"].as_str().unwrap().to_owned();
        let event = if self.leases.insert(name, lease.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        let line = Bytes::from(format!("{}\n", json!({ "type": event, "object": lease })));
        let cut = &self.cut;
        self.watches.retain(|(node, watch)| {
            cut.contains(node) || watch.unbounded_send(Ok(Frame::data(line.clone()))).is_ok()
        });
        lease
    }

    fn get(&mut self, node: &NodeName, query: &str) -> Answer {
        assert!(query.contains("labelSelector=landfall.dev%2Fspeaker%3Dtrue"), "{query}");
        if query.contains("watch=true") {
            let (events_in, events) = unbounded();
            self.watches.push((node.clone(), events_in));
            return Response::new(UnsyncBoxBody::new(StreamBody::new(events)));
        }
        let items: Vec<_> = self.leases.values().collect();
        let list = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList",
            "metadata": { "resourceVersion": self.version.to_string() }, "items": items,
        });
        answer(StatusCode::OK, &list)
    }
}

async fn serve(server: Shared, node: NodeName, request: Request<Body>) -> Result<Answer, Infallible> {
    let (parts, body) = request.into_parts();
    if lock(&server).cut.contains(&node) {
        return std::future::pending().await;
    }
    if lock(&server).refusing {
        let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503 });
        return Ok(answer(StatusCode::SERVICE_UNAVAILABLE, &body));
    }
    let path = parts.uri.path();
    assert!(path.starts_with("/apis/coordination.k8s.io/v1/namespaces/landfall-system/leases"), "{path}");
    if parts.method == Method::PATCH {
        let lease = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        return Ok(answer(StatusCode::OK, &lock(&server).apply(lease)));
    }
    assert_eq!(parts.method, Method::GET, "speakers only apply, list and watch");
    Ok(lock(&server).get(&node, parts.uri.query().unwrap_or_default()))
}

/// A speaker's side of the channels, and its task.
struct Speaker {
    name: NodeName,
    wanted: watch::Sender<Arc<Wanted>>,
    links: watch::Sender<Arc<Links>>,
    owned: watch::Receiver<Arc<Owned>>,
    peers: watch::Receiver<Arc<Peers>>,
    tasks: JoinSet<String>,
}

fn links(nets: &[&str]) -> Arc<Links> {
    let link = Link {
        index: 2,
        name: Iface::new("eth0"),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        up: true,
        resolves: true,
        kind: None,
        addresses: nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect(),
    };
    Arc::new([link].into_iter().collect())
}

impl Speaker {
    fn start(server: &Shared, name: &str) -> Self {
        let name = NodeName::new(name);
        let (shared, node) = (Arc::clone(server), name.clone());
        let service = tower::service_fn(move |request| serve(Arc::clone(&shared), node.clone(), request));
        let client = Client::new(service, "default");
        let (wanted, wanted_rx) = watch::channel(Arc::default());
        let (links, links_rx) = watch::channel(links(&["192.0.2.11/24", "2001:db8:50::11/64"]));
        let (owned_tx, owned) = watch::channel(Arc::default());
        let (peers_tx, peers) = watch::channel(Arc::default());
        let identity =
            Identity { namespace: Namespace::new("landfall-system"), node: name.clone(), node_uid: None };
        let ports = Ports { wanted: wanted_rx, links: links_rx, owned: owned_tx, peers: peers_tx };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let Err(error) = run(identity, client, ports).await;
            error.to_string()
        });
        Self { name, wanted, links, owned, peers, tasks }
    }

    fn has(&self, vip: &IpAddr) -> bool {
        self.owned.borrow().vips.contains_key(vip)
    }

    fn count(&self) -> usize {
        self.owned.borrow().vips.len()
    }
}

fn vips() -> Vec<IpAddr> {
    let v4 = (100..116).map(|n| format!("192.0.2.{n}"));
    let v6 = (0x100..0x110).map(|n| format!("2001:db8:50::{n:x}"));
    v4.chain(v6).map(|vip| vip.parse().unwrap()).collect()
}

fn wanted() -> Arc<Wanted> {
    let rules: Arc<[AdRule]> = Arc::from(vec![AdRule::everywhere()]);
    let plan = VipPlan { pool: None, rules, endpoints: NodeSet::Any };
    let vips = vips().into_iter().map(|vip| (vip, plan.clone())).collect();
    Arc::new(Wanted { vips, barred: BTreeSet::new() })
}

async fn start(server: &Shared, name: &str) -> Speaker {
    let speaker = Speaker::start(server, name);
    speaker.wanted.send_replace(wanted());
    sleep(Duration::from_millis(1)).await;
    speaker
}

/// Two speakers that share the addresses.
async fn two() -> (Shared, Speaker, Speaker) {
    let server = Shared::default();
    let (a, b) = (start(&server, "n1").await, start(&server, "n2").await);
    sleep(Duration::from_secs(6)).await;
    assert!(vips().iter().all(|vip| a.has(vip) != b.has(vip)));
    assert!(a.count() > 0 && b.count() > 0);
    (server, a, b)
}

/// Waits until the condition holds and returns how long that took.
async fn within(limit: Duration, condition: impl Fn() -> bool) -> Duration {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "not within {limit:?}");
        sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn two_speakers_share_the_addresses_of_both_families_and_see_each_other() {
    let (_server, a, b) = two().await;
    for (speaker, other) in [(&a, &b), (&b, &a)] {
        let peers = speaker.peers.borrow();
        assert!(peers.in_touch && peers.standing);
        assert_eq!(peers.nodes.keys().collect::<Vec<_>>(), [&other.name]);
        assert!(peers.nodes.values().all(|peer| peer.living));
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_of_a_speaker_before_it_knows_what_is_wanted() {
    let server = Shared::default();
    let speaker = Speaker::start(&server, "n1");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(lock(&server).leases, BTreeMap::new());
    speaker.wanted.send_replace(wanted());
    within(Duration::from_secs(1), || speaker.count() == vips().len()).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_address_is_taken_without_delay() {
    let (_server, a, b) = two().await;
    let vip: IpAddr = "192.0.2.199".parse().unwrap();
    for speaker in [&a, &b] {
        speaker.wanted.send_modify(|wanted| {
            let mut more = Wanted::clone(wanted);
            more.vips.insert(vip, more.vips.values().next().unwrap().clone());
            *wanted = Arc::new(more);
        });
    }
    within(Duration::from_millis(10), || a.has(&vip) != b.has(&vip)).await;
}

#[tokio::test(start_paused = true)]
async fn the_addresses_of_a_speaker_that_ended_are_taken_over_within_five_seconds() {
    let (_server, a, mut b) = two().await;
    let before = a.owned.borrow().vips.clone();
    b.tasks.shutdown().await;
    let took = within(Duration::from_secs(5), || a.count() == vips().len()).await;
    assert!(took > Duration::from_millis(2900), "the Lease lasts four seconds, not {took:?}");
    let now = a.owned.borrow().vips.clone();
    assert!(before.iter().all(|(vip, holding)| now.get(vip) == Some(holding)), "its own are as they were");
}

#[tokio::test(start_paused = true)]
async fn a_speaker_back_within_four_seconds_has_its_addresses_and_the_other_never_took_any() {
    let (server, a, mut b) = two().await;
    let mine = b.owned.borrow().vips.keys().copied().collect::<Vec<_>>();
    let mut taken = a.owned.clone();
    taken.borrow_and_update();
    b.tasks.shutdown().await;
    sleep(Duration::from_millis(2500)).await;
    let b = start(&server, "n2").await;
    within(Duration::from_secs(1), || mine.iter().all(|vip| b.has(vip)) && b.count() == mine.len()).await;
    sleep(Duration::from_secs(10)).await;
    assert!(!taken.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_refuses_or_hangs_changes_nothing_for_anybody() {
    for hangs in [false, true] {
        let (server, a, b) = two().await;
        let mut owned = [a.owned.clone(), b.owned.clone()];
        for owned in &mut owned {
            owned.mark_unchanged();
        }
        {
            let mut server = lock(&server);
            server.refusing = !hangs;
            server.cut.extend(hangs.then(|| [a.name.clone(), b.name.clone()]).into_iter().flatten());
            server.watches.clear();
        }
        sleep(Duration::from_secs(30)).await;
        assert!(!a.peers.borrow().in_touch && !b.peers.borrow().in_touch);
        {
            let mut server = lock(&server);
            server.refusing = false;
            server.cut.clear();
        }
        sleep(Duration::from_secs(10)).await;
        assert!(a.peers.borrow().in_touch && b.peers.borrow().in_touch, "hangs: {hangs}");
        assert!(owned.iter().all(|owned| !owned.has_changed().unwrap()), "hangs: {hangs}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_speaker_that_was_cut_off_goes_silent_within_a_second_and_then_has_its_addresses_again() {
    for away in [5, 60] {
        let (server, a, b) = two().await;
        let mine = b.owned.borrow().vips.keys().copied().collect::<Vec<_>>();
        lock(&server).cut.insert(b.name.clone());
        within(Duration::from_secs(5), || a.count() == vips().len()).await;
        sleep(Duration::from_secs(away)).await;
        assert!(mine.iter().all(|vip| b.has(vip)), "it does not know that it is away");
        lock(&server).cut.clear();
        within(Duration::from_secs(1), || mine.iter().all(|vip| a.has(vip) != b.has(vip))).await;
        within(Duration::from_secs(2), || mine.iter().all(|vip| b.has(vip) && !a.has(vip))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_died_unnoticed_is_opened_anew_and_moves_nothing() {
    let (server, a, b) = two().await;
    let mut owned = [a.owned.clone(), b.owned.clone()];
    for owned in &mut owned {
        owned.mark_unchanged();
    }
    // The connection stays open, but nothing comes out of it.
    let dead = std::mem::take(&mut lock(&server).watches);
    sleep(Duration::from_secs(10)).await;
    assert!(a.peers.borrow().in_touch && b.peers.borrow().in_touch);
    assert!(owned.iter().all(|owned| !owned.has_changed().unwrap()));
    drop(dead);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_the_subnet_hands_over_at_once_for_that_family_only() {
    let (_server, a, b) = two().await;
    b.links.send_replace(links(&["2001:db8:50::11/64"]));
    within(Duration::from_millis(100), || vips()[..16].iter().all(|vip| a.has(vip) && !b.has(vip))).await;
    assert!(vips()[16..].iter().any(|vip| b.has(vip)));
    b.links.send_replace(links(&["192.0.2.11/24", "2001:db8:50::11/64"]));
    within(Duration::from_secs(1), || vips()[..16].iter().any(|vip| b.has(vip))).await;
    sleep(Duration::from_secs(1)).await;
    assert!(vips().iter().all(|vip| a.has(vip) != b.has(vip)));
}

#[tokio::test(start_paused = true)]
async fn ownership_ends_with_a_reason_when_nobody_says_any_more_what_is_wanted() {
    let (_server, _a, mut b) = two().await;
    drop(b.wanted);
    assert_eq!(b.tasks.join_next().await.unwrap().unwrap(), "the sender of wanted addresses ended");
}

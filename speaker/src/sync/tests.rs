//! The loop with the test in place of watches, data path, ownership and announcer.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU16;

use landfall_core::elect::Holding;
use landfall_core::service::{Affinity, ExternalPolicy, Protocol, ServicePort, Sources};
use landfall_runtime::health::Health;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::convert::{NodeFacts, ServiceFacts};
use crate::view::Choices;
use crate::view::{self, Observed};

pub(super) const DEADLINE: Duration = Duration::from_secs(10);
pub(super) const VIPS: [&str; 2] = ["192.0.2.100", "2001:db8:50::100"];

/// The far ends of the loop's channels.
pub(super) struct Rig {
    arrived: mpsc::Sender<Arrived>,
    batches: mpsc::Receiver<Batch>,
    pub(super) reports: mpsc::Sender<Report>,
    wanted: watch::Receiver<Arc<Wanted>>,
    answering: watch::Sender<Arc<Owned>>,
    state: watch::Receiver<Arc<KernelState>>,
    notices: mpsc::Receiver<Notice>,
    pub(super) health: watch::Receiver<health_check::State>,
    _tasks: JoinSet<Result<(), ChannelClosed>>,
}

pub(super) fn rig() -> Rig {
    let (arrived_out, arrived) = mpsc::channel(crate::watch::QUEUE);
    let (batches_out, batches) = mpsc::channel(BATCHES);
    let (reports_out, reports) = mpsc::channel(REPORTS);
    let (wanted_out, wanted) = watch::channel(Arc::default());
    let (answering_out, answering) = watch::channel(Arc::default());
    let (state_out, state) = watch::channel(Arc::default());
    let (notices_out, notices) = mpsc::channel(NOTICES);
    let (health_out, health) = watch::channel(health_check::State::default());
    let ports = Ports {
        arrived,
        batches: batches_out,
        reports,
        wanted: wanted_out,
        answering,
        state: state_out,
        notices: notices_out,
        health: health_out,
        pods: watch::channel(Vec::new()).0,
    };
    let mut tasks = JoinSet::new();
    let pulse = Health::new().pulse("sync", DEADLINE);
    tasks.spawn(Sync::new(NodeName::new("n1"), Choices::default(), Vec::new(), ports).run(pulse));
    Rig {
        arrived: arrived_out,
        batches,
        reports: reports_out,
        wanted,
        answering: answering_out,
        state,
        notices,
        health,
        _tasks: tasks,
    }
}

pub(super) fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

pub(super) fn facts(name: &str, vip: &str) -> ServiceFacts {
    let port =
        ServicePort { name: "".into(), protocol: Protocol::Tcp, port: NonZeroU16::MIN, node_port: None };
    ServiceFacts {
        service: Service {
            key: key(name),
            uid: "u1".into(),
            created: 0,
            vips: vec![vip.parse().unwrap()],
            ports: vec![port],
            external_policy: ExternalPolicy::Cluster,
            sources: Sources::Any,
            sources_on_node_ports: true,
            external_ips: Vec::new(),
            affinity: Affinity::None,
        },
        pools: Vec::new(),
        health_check: None,
    }
}

fn holding(vip: &str, epoch: u64) -> Arc<Owned> {
    let holding = Holding { iface: Iface::new("eth0"), epoch };
    Arc::new(Owned { vips: BTreeMap::from([(vip.parse().unwrap(), holding)]) })
}

impl Rig {
    pub(super) async fn report(&self, observed: Observed) {
        self.arrived.send(Arrived { at: Instant::now(), observed }).await.unwrap();
    }

    async fn transition(&mut self) -> Transition {
        match timeout(DEADLINE, self.notices.recv()).await.unwrap().unwrap() {
            Notice::Announcement(transition) => transition,
            other => panic!("{other:?}"),
        }
    }

    async fn set(&self, name: &str, vip: &str, version: u64) {
        let change = view::Change::Set(key(name), facts(name, vip));
        self.report(Observed::Service(change, version)).await;
    }

    async fn delete(&self, name: &str) {
        self.report(Observed::Service(view::Change::Delete(key(name)), 99)).await;
    }

    /// All lists but those of pools and advertisements end.
    pub(super) async fn listed(&self, services: &[&str]) {
        let seen: HashSet<_> = services.iter().map(|name| key(name)).collect();
        self.report(Observed::Service(view::Change::Listed(seen), 0)).await;
        self.report(Observed::Slice(view::Change::Listed(HashSet::new()), 0)).await;
        self.report(Observed::Node(view::Change::Listed(HashSet::new()))).await;
    }

    async fn policies_listed(&self) {
        self.report(Observed::Pool(view::Change::Listed(HashSet::new()))).await;
        self.report(Observed::Advertisement(view::Change::Listed(HashSet::new()))).await;
    }

    pub(super) async fn batch(&mut self) -> Batch {
        timeout(DEADLINE, self.batches.recv()).await.unwrap().unwrap()
    }

    pub(super) async fn commit(&self, batch: Batch) {
        let vips = batch.changes.into_iter().map(|change| (change.key, change.vips)).collect();
        let report =
            Report::Committed { vips, watermark: batch.watermark, commits: 1, refused: BTreeMap::new() };
        self.reports.send(report).await.unwrap();
    }

    async fn wanted(&mut self, condition: impl Fn(&Wanted) -> bool) {
        timeout(DEADLINE, self.wanted.wait_for(|wanted| condition(wanted))).await.unwrap().unwrap();
    }
}

/// A loop that serves and announces one Service.
async fn serving(name: &str, vip: &str) -> Rig {
    let mut rig = rig();
    rig.set(name, vip, 7).await;
    rig.listed(&[name]).await;
    rig.policies_listed().await;
    let batch = rig.batch().await;
    rig.commit(batch).await;
    rig.wanted(|wanted| wanted.vips.len() == 1).await;
    rig.answering.send_replace(holding(vip, 1));
    rig.transition().await;
    rig
}

#[tokio::test]
async fn the_first_batch_carries_every_service_and_comes_after_the_lists() {
    for vip in VIPS {
        let mut rig = rig();
        rig.set("a", vip, 7).await;
        rig.set("b", vip, 8).await;
        rig.report(Observed::Service(view::Change::Listed([key("a"), key("b")].into()), 0)).await;
        rig.report(Observed::Slice(view::Change::Listed(HashSet::new()), 0)).await;
        // Whatever had been sent before this is answered would be in the channel by now.
        while rig.arrived.capacity() < crate::watch::QUEUE {
            tokio::task::yield_now().await;
        }
        assert!(rig.batches.try_recv().is_err(), "the Nodes are not listed yet");
        rig.report(Observed::Node(view::Change::Listed(HashSet::new()))).await;
        let batch = rig.batch().await;
        assert_eq!(batch.changes.iter().map(|c| c.key.clone()).collect::<Vec<_>>(), [key("a"), key("b")]);
        assert_eq!(batch.watermark, Watermark { services: 8, slices: 0 });
    }
}

#[tokio::test]
async fn an_empty_cluster_gets_its_empty_table() {
    let mut rig = rig();
    rig.listed(&[]).await;
    assert!(rig.batch().await.changes.is_empty());
}

#[tokio::test]
async fn nothing_is_announced_before_the_kernel_serves_it_and_the_policies_are_known() {
    for vip in VIPS {
        let mut rig = rig();
        rig.set("a", vip, 7).await;
        rig.listed(&["a"]).await;
        let batch = rig.batch().await;
        rig.policies_listed().await;
        while rig.arrived.capacity() < crate::watch::QUEUE {
            tokio::task::yield_now().await;
        }
        assert!(!rig.wanted.has_changed().unwrap(), "the kernel has not taken it");
        rig.commit(batch).await;
        rig.wanted(|wanted| wanted.vips.contains_key(&vip.parse().unwrap())).await;
        assert_eq!(rig.state.borrow().watermark, Some(Watermark { services: 7, slices: 0 }));
    }
}

#[tokio::test]
async fn a_deleted_service_leaves_the_kernel_after_its_announcement() {
    for vip in VIPS {
        let mut rig = serving("a", vip).await;
        rig.delete("a").await;
        rig.wanted(|wanted| wanted.vips.is_empty()).await;
        assert!(rig.batches.try_recv().is_err(), "it is announced yet");
        let asked = Instant::now();
        rig.answering.send_replace(Arc::default());
        let batch = rig.batch().await;
        assert!(asked.elapsed() < holds::GRACE, "the announcer's word is enough");
        assert!(matches!(batch.changes.as_slice(), [Change { frontends: None, .. }]), "{batch:?}");
    }
}

#[tokio::test]
async fn an_announcer_that_hangs_delays_a_deletion_and_no_more() {
    for vip in VIPS {
        let mut rig = serving("a", vip).await;
        let began = Instant::now();
        rig.delete("a").await;
        let batch = rig.batch().await;
        assert!(began.elapsed() >= holds::GRACE);
        assert!(matches!(batch.changes.as_slice(), [Change { frontends: None, .. }]), "{batch:?}");
    }
}

#[tokio::test]
async fn other_services_do_not_wait_for_one_that_is_held() {
    for (vip, other) in [(VIPS[0], VIPS[1]), (VIPS[1], VIPS[0])] {
        let mut rig = serving("a", vip).await;
        rig.delete("a").await;
        rig.wanted(|wanted| wanted.vips.is_empty()).await;
        rig.set("b", other, 100).await;
        let batch = rig.batch().await;
        assert_eq!(batch.changes.iter().map(|c| c.key.clone()).collect::<Vec<_>>(), [key("b")]);
        assert_eq!(batch.watermark.services, 7, "the deletion at 99 is not in the kernel");
    }
}

#[tokio::test]
async fn an_address_that_another_service_keeps_is_not_waited_for() {
    for vip in VIPS {
        let mut rig = serving("a", vip).await;
        rig.set("b", vip, 8).await;
        let batch = rig.batch().await;
        rig.commit(batch).await;
        timeout(DEADLINE, rig.state.wait_for(|s| s.watermark.is_some_and(|w| w.services == 8)))
            .await
            .unwrap()
            .unwrap();
        let began = Instant::now();
        rig.delete("a").await;
        rig.batch().await;
        assert!(began.elapsed() < holds::GRACE);
        assert!(rig.wanted.borrow().vips.contains_key(&vip.parse().unwrap()));
    }
}

#[tokio::test]
async fn what_comes_while_the_kernel_is_busy_goes_together() {
    let mut rig = serving("a", VIPS[0]).await;
    rig.set("b", VIPS[1], 8).await;
    // This one fills the queue of one; what follows waits for the data path.
    while rig.batches.is_empty() {
        tokio::task::yield_now().await;
    }
    for n in 0..100 {
        rig.set(&format!("c{n}"), VIPS[1], 9 + n).await;
    }
    while rig.arrived.capacity() < crate::watch::QUEUE {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.batch().await.changes.len(), 1);
    assert_eq!(rig.batch().await.changes.len(), 100);
}

#[tokio::test]
async fn a_refusal_is_told_and_forgotten_with_the_next_success() {
    let mut rig = serving("a", VIPS[0]).await;
    let refused = Report::Refused { services: vec![key("a")], reason: "no space".to_owned() };
    rig.reports.send(refused).await.unwrap();
    let state = timeout(DEADLINE, rig.state.wait_for(|state| !state.refused.is_empty()))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert_eq!(state.refused, BTreeMap::from([(key("a"), "no space".to_owned())]));
    assert!(state.watermark.is_some(), "what is in the kernel stays there");
    rig.reports.send(committed(2, &[])).await.unwrap();
    timeout(DEADLINE, rig.state.wait_for(|state| state.refused.is_empty())).await.unwrap().unwrap();
}

fn committed(commits: u64, refused: &[&str]) -> Report {
    let refused = refused.iter().map(|name| (key(name), "no such thing".to_owned())).collect();
    Report::Committed { vips: Vec::new(), watermark: Watermark::default(), commits, refused }
}

#[tokio::test]
async fn users_of_a_service_that_the_kernel_does_not_take_are_told_once() {
    let mut rig = serving("a", VIPS[0]).await;
    rig.reports.send(committed(2, &["a", "unknown"])).await.unwrap();
    let told = timeout(DEADLINE, rig.notices.recv()).await.unwrap().unwrap();
    let reason = "no such thing".to_owned();
    assert_eq!(told, Notice::Refused { service: key("a"), uid: "u1".into(), reason });
    rig.reports.send(committed(3, &["a"])).await.unwrap();
    timeout(DEADLINE, rig.state.wait_for(|state| state.commits == 3)).await.unwrap().unwrap();
    assert!(rig.notices.try_recv().is_err());
    assert_eq!(rig.state.borrow().refused.len(), 1);
}

#[tokio::test]
async fn gains_and_losses_are_told_once_each() {
    for vip in VIPS {
        let mut rig = serving("a", vip).await;
        rig.answering.send_replace(holding(vip, 1));
        rig.answering.send_replace(Arc::default());
        let lost = rig.transition().await;
        assert_eq!((lost.service, lost.addr, lost.iface), (key("a"), vip.parse().unwrap(), None));
        rig.answering.send_replace(holding(vip, 2));
        let gained = rig.transition().await;
        assert_eq!((gained.iface, &*gained.uid), (Some(Iface::new("eth0")), "u1"));
        assert!(rig.notices.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_service_that_lost_its_address_is_told_of_the_withdrawal() {
    for vip in VIPS {
        let mut rig = serving("a", vip).await;
        rig.answering.send_replace(holding(vip, 2));
        let gained = rig.transition().await;
        assert!(gained.iface.is_some());
        rig.report(Observed::Service(view::Change::Delete(key("a")), 9)).await;
        rig.answering.send_replace(Arc::default());
        let lost = rig.transition().await;
        assert_eq!((lost.service, &*lost.uid, lost.iface), (key("a"), "u1", None));
    }
}

#[tokio::test]
async fn pod_networks_that_change_are_handed_over_without_a_service() {
    let mut rig = serving("a", VIPS[0]).await;
    let cidrs: Vec<IpNet> = ["10.244.1.0/24", "fd00:244:1::/64"].map(|c| c.parse().unwrap()).into();
    let node = NodeFacts { pod_cidrs: cidrs.clone(), ..NodeFacts::default() };
    rig.report(Observed::Node(view::Change::Set(NodeName::new("n1"), node))).await;
    let batch = rig.batch().await;
    assert_eq!((batch.pod_cidrs, batch.changes.len()), (cidrs, 0));
}

#[tokio::test]
async fn the_time_of_a_change_does_not_begin_with_a_report_that_changed_nothing() {
    let mut rig = serving("a", VIPS[0]).await;
    rig.set("a", VIPS[0], 7).await;
    while rig.arrived.capacity() < crate::watch::QUEUE {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    rig.set("b", VIPS[1], 8).await;
    assert!(rig.batch().await.since >= began);
}

#[test]
fn plans_that_wait_for_something_else_than_time_let_the_loop_rest() {
    let now = Instant::now();
    let soon = now + Duration::from_millis(1);
    assert_eq!(alarm(true, soon, now), Some(soon));
    assert_eq!(alarm(true, now, now), None, "the first lists have not come, say");
    assert_eq!(alarm(false, soon, now), None);
}

//! The data path's thread on a kernel in memory.

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};

use landfall_core::addr::AddrRange;
use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, FrontendKey, Spread};
use landfall_core::service::Protocol;
use landfall_runtime::health::Health;
use nix::errno::Errno;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::datapath::layout::TABLE;
use crate::fake::FakeKernel;
use crate::kernel::{Applied, ApplyError, Inspection};
use crate::nft::conntrack::Gone;
use crate::nft::model;
use crate::sync::{BATCHES, Change, REPORTS};

const DEADLINE: Duration = Duration::from_secs(20);
const VIPS: [(&str, &str); 2] = [("192.0.2.100", "10.244.1.5"), ("2001:db8:50::100", "fd00:244:1::5")];

/// A kernel that the test can reach while the thread works on it.
#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<FakeKernel>>);

impl Kernel for Shared {
    fn apply(&mut self, batch: &model::Batch) -> Result<Applied, ApplyError> {
        self.0.lock().unwrap().apply(batch)
    }

    fn inspect(&mut self, table: &str) -> Result<Inspection, ApplyError> {
        self.0.lock().unwrap().inspect(table)
    }

    fn elements(&mut self, table: &str, set: &str) -> Result<Vec<model::Element>, ApplyError> {
        self.0.lock().unwrap().elements(table, set)
    }

    fn table_flags(&self) -> model::TableFlags {
        self.0.lock().unwrap().table_flags()
    }

    fn grace() {
        FakeKernel::grace();
    }

    fn forget(&mut self, gone: &Gone) -> Result<(), ApplyError> {
        self.0.lock().unwrap().forget(gone)
    }
}

struct Rig {
    kernel: Shared,
    batches: mpsc::Sender<Batch>,
    reports: mpsc::Receiver<Report>,
    health: Health,
    metrics: Metrics,
    _thread: JoinSet<Result<(), ApplierStopped>>,
}

fn rig() -> Rig {
    rig_on(FakeKernel::new())
}

fn rig_on(kernel: FakeKernel) -> Rig {
    let kernel = Shared(Arc::new(Mutex::new(kernel)));
    let (batches_out, batches) = mpsc::channel(BATCHES);
    let (reports_out, reports) = mpsc::channel(REPORTS);
    let (health, metrics) = (Health::new(), Metrics::default());
    let (ready, pulse) = (health.gate("data path"), health.pulse("data path", DEADLINE));
    let path = DataPath::new(kernel.clone(), 7);
    let applier = Applier::new(path, (batches, reports_out), metrics.clone(), ready, pulse);
    let (mut thread, runtime) = (JoinSet::new(), Handle::current());
    thread.spawn_blocking(move || applier.run(&runtime));
    Rig { kernel, batches: batches_out, reports, health, metrics, _thread: thread }
}

fn change(name: &str, vip: &str, pod: &str) -> Change {
    let vip: IpAddr = vip.parse().unwrap();
    let key = FrontendKey { addr: vip, protocol: Protocol::Tcp, port: NonZeroU16::new(80).unwrap() };
    let target = Target { addr: pod.parse().unwrap(), port: NonZeroU16::new(8080).unwrap() };
    let route = Route::Cluster { targets: Box::from([target]) };
    let front = Frontend {
        owned: true,
        admission: Admission::Anyone,
        spread: Spread::Flow,
        affinity: None,
        route,
        draining: Box::default(),
        lost: Box::default(),
    };
    Change { key: ServiceKey::new("shop", name), vips: vec![vip], frontends: Some(vec![(key, front)]) }
}

impl Rig {
    async fn send(&self, changes: Vec<Change>, services: u64) {
        let watermark = Watermark { services, slices: 0 };
        let batch = Batch { pod_cidrs: Vec::new(), changes, watermark, since: Instant::now() };
        self.batches.send(batch).await.unwrap();
    }

    async fn report(&mut self) -> Report {
        timeout(DEADLINE, self.reports.recv()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn the_first_batch_makes_the_speaker_ready_and_is_reported_with_its_addresses() {
    for (vip, pod) in VIPS {
        let mut rig = rig();
        assert_eq!(rig.health.closed_gates(), ["data path"]);
        rig.send(vec![change("a", vip, pod)], 7).await;
        let Report::Committed { vips, watermark, commits, .. } = rig.report().await else {
            panic!("refused")
        };
        assert_eq!(vips, [(ServiceKey::new("shop", "a"), vec![vip.parse::<IpAddr>().unwrap()])]);
        assert_eq!((watermark.services, commits), (7, 1));
        assert!(rig.health.closed_gates().is_empty());
        assert!(rig.kernel.0.lock().unwrap().table(TABLE).is_some());
        let metrics = &rig.metrics;
        assert_eq!((metrics.services.get(), metrics.frontends.get(), metrics.endpoints.get()), (1, 1, 1));
    }
}

#[tokio::test]
async fn what_the_kernel_refused_is_told_and_tried_again() {
    // S138
    for (vip, pod) in VIPS {
        let mut rig = rig();
        rig.kernel.0.lock().unwrap().fail_next(Errno::ENOMEM);
        rig.send(vec![change("a", vip, pod)], 7).await;
        let Report::Refused { services, reason } = rig.report().await else { panic!("taken") };
        assert_eq!(services, [ServiceKey::new("shop", "a")]);
        assert!(reason.contains("rejected"), "{reason}");
        let Report::Committed { vips, .. } = rig.report().await else { panic!("refused twice") };
        assert_eq!(vips.len(), 1);
        assert_eq!(rig.metrics.kernel_errors.get(), 1);
    }
}

#[tokio::test]
async fn a_table_that_somebody_deleted_is_written_anew() {
    for (vip, pod) in VIPS {
        let mut rig = rig();
        rig.send(vec![change("a", vip, pod)], 7).await;
        rig.report().await;
        rig.kernel.0.lock().unwrap().delete_table(TABLE);
        let Report::Committed { watermark, commits, .. } = rig.report().await else { panic!("refused") };
        assert_eq!((watermark.services, commits), (7, 2), "nothing else was to do");
        assert!(rig.kernel.0.lock().unwrap().table(TABLE).is_some());
        assert_eq!((rig.metrics.foreign_changes.get(), rig.metrics.full_commits.get()), (1, 2));
    }
}

#[tokio::test]
async fn an_element_that_somebody_removed_is_written_anew_where_it_can_be_removed() {
    for ((vip, pod), map) in VIPS.into_iter().zip(["vip4", "vip6"]) {
        let mut rig = rig_on(FakeKernel::without_ownership());
        rig.send(vec![change("a", vip, pod)], 7).await;
        rig.report().await;
        let element = |rig: &Rig| {
            let kernel = rig.kernel.0.lock().unwrap();
            kernel.table(TABLE).unwrap().set(map).unwrap().elements.values().next().cloned()
        };
        let removed = element(&rig).unwrap();
        let ops = vec![model::Op::Remove { set: map.into(), elements: vec![removed.clone()] }];
        rig.kernel.0.lock().unwrap().stranger(&model::Batch { table: TABLE.into(), ops }).unwrap();
        let Report::Committed { commits: 2, .. } = rig.report().await else { panic!("refused") };
        assert_eq!(element(&rig), Some(removed));
        assert_eq!((rig.metrics.foreign_changes.get(), rig.metrics.full_commits.get()), (1, 2));
    }
}

#[tokio::test]
async fn a_service_that_the_kernel_does_not_take_is_told_and_the_others_are_served() {
    for (vip, pod) in VIPS {
        let other = if vip.contains(':') { "2001:db8:50::101" } else { "192.0.2.101" };
        let spoilt = |at: &str| {
            let mut change = change("bad", at, pod);
            // Ranges that overlap are refused; they are merged long before they get here.
            let host = || AddrRange::new(pod.parse().unwrap(), pod.parse().unwrap()).unwrap();
            for (_, front) in change.frontends.iter_mut().flatten() {
                front.admission = Admission::Ranges(Arc::from([host(), host()]));
            }
            change
        };
        let mut rig = rig();
        rig.send(vec![change("a", vip, pod), spoilt(other)], 7).await;
        let Report::Committed { mut vips, refused, watermark, .. } = rig.report().await else {
            panic!("refused")
        };
        vips.retain(|(_, vips)| !vips.is_empty());
        assert_eq!(vips, [(ServiceKey::new("shop", "a"), vec![vip.parse::<IpAddr>().unwrap()])]);
        let names: Vec<_> = refused.keys().map(|key| key.name.to_string()).collect();
        assert_eq!((names, watermark.services), (vec!["bad".to_owned()], 7));
        assert_eq!(rig.metrics.services.get(), 1);

        // Mended, it goes in and its address may be announced.
        rig.send(vec![change("bad", other, pod)], 8).await;
        let Report::Committed { vips, refused, .. } = rig.report().await else { panic!("refused") };
        let bad = (ServiceKey::new("shop", "bad"), vec![other.parse::<IpAddr>().unwrap()]);
        assert!(vips.contains(&bad) && vips.iter().all(|entry| *entry == bad), "{vips:?}");
        assert!(refused.is_empty());
    }
}

#[tokio::test]
async fn an_address_that_moves_to_another_service_in_one_batch_is_not_contested() {
    for (vip, pod) in VIPS {
        let mut rig = rig();
        rig.send(vec![change("z", vip, pod)], 7).await;
        rig.report().await;
        let gone = Change { frontends: None, vips: Vec::new(), ..change("z", vip, pod) };
        rig.send(vec![change("a", vip, pod), gone], 8).await;
        let Report::Committed { vips, .. } = rig.report().await else { panic!("refused") };
        let names: Vec<_> = vips.iter().map(|(key, vips)| (&*key.name, vips.len())).collect();
        assert_eq!(names, [("z", 0), ("a", 1)]);
        assert_eq!((rig.metrics.services.get(), rig.metrics.frontends.get()), (1, 1));
    }
}

#[tokio::test]
async fn the_table_stays_when_the_thread_ends() {
    // S136
    let Rig { kernel, batches, mut reports, _thread: mut thread, .. } = rig();
    let change = change("a", VIPS[0].0, VIPS[0].1);
    let batch = Batch {
        pod_cidrs: Vec::new(),
        changes: vec![change],
        watermark: Watermark::default(),
        since: Instant::now(),
    };
    batches.send(batch).await.unwrap();
    timeout(DEADLINE, reports.recv()).await.unwrap().unwrap();
    drop(batches);
    assert!(timeout(DEADLINE, thread.join_next()).await.unwrap().unwrap().unwrap().is_err());
    assert!(kernel.0.lock().unwrap().table(TABLE).is_some());
}

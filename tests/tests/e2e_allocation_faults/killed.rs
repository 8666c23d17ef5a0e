//! Controllers that are killed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use landfall_lab::objects::{Object, kill_controllers, wait_leader};
use landfall_lab::product::{POD, cluster, eventually};
use landfall_lab::recorder::Recorder;
use serde_json::json;

use crate::outside::{NoPods, Outside};
use crate::{crowd, pinned, space, wait_served};

/// A tenth of them is deleted or becomes internal, perhaps before it is served.
const SERVICES: usize = 1_100;

/// Kills that the test is about.
const KILLS: usize = 50;

/// Numbers that are the same in each run (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// The controller kills itself before or after its n-th write and is started again at once, over and over, while
/// Services are made, deleted and turned into internal ones.
// A61 A80
#[test]
fn a_controller_killed_before_or_after_any_write_loses_and_doubles_nothing() {
    let ns = space("killed");
    let pool = Object::pool("killed", &pinned(&[&ns], &["198.18.0.0/20"]));
    let _no_pods = NoPods::now();
    let recorder = Recorder::start(cluster(), &[ns.name()]).unwrap();
    let outside = Outside::new(None);
    let (made, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut dice = Dice(0x6c61_6e64_6661_6c6c);
    let (mut kills, mut sides) = (0, [0, 0]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // In portions, so that every life of the controller finds something to do.
            for portion in 0..10 {
                crowd::create(&ns, portion * SERVICES / 10, SERVICES / 10, &made);
                for n in (portion * SERVICES / 10..).take(5) {
                    ns.existing(&format!("web-{n}")).delete();
                    let internal = json!({"type": "ClusterIP", "allocateLoadBalancerNodePorts": null});
                    ns.existing(&format!("web-{}", n + 5)).merge(&json!({"spec": internal}));
                }
                eventually(POD * 2, "most of the portion to be served", || {
                    (recorder.seen().served() + 40 >= (portion + 1) * (SERVICES / 10 - 10)).then_some(())
                });
            }
            done.store(true, Ordering::Relaxed);
        });
        let begin = Instant::now();
        while !done.load(Ordering::Relaxed) || kills < KILLS {
            let side = usize::try_from(dice.roll(2)).unwrap();
            let at = 1 + dice.roll(40);
            let mut life = outside.start(Some(&format!("{}:{at}", ["before", "after"][side])));
            loop {
                match life.ended() {
                    Some(Ok(9)) => {
                        kills += 1;
                        sides[side] += 1;
                        break;
                    }
                    // On a machine that is too busy it may lose its Lease: another life, but no kill.
                    Some(Err(_)) => break,
                    Some(other) => panic!("{other:?}: {}", outside.log()),
                    // All is done and nothing is left to be written: this one lives on.
                    None if done.load(Ordering::Relaxed) && recorder.seen().waiting().next().is_none() => {
                        if kills >= KILLS {
                            break;
                        }
                        churn(&ns, kills);
                    }
                    None => {}
                }
                assert!(begin.elapsed() < POD * 4, "{kills} kills, {} made", made.load(Ordering::Relaxed));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    eprintln!("{kills} kills: {} before a write, {} after one", sides[0], sides[1]);
    assert!(sides.iter().all(|count| *count >= 10), "{sides:?}");
    let healthy = outside.start(None);
    eventually(POD, "every Service to be served", || {
        recorder.seen().waiting().next().is_none().then_some(())
    });
    let served = recorder.seen().served();
    wait_served(&recorder, served, POD);
    assert!(recorder.seen().ever_served() >= 1_000, "{} allocations", recorder.seen().ever_served());
    let retyped = ns.existing("web-5");
    retyped.wait_released();
    // Nothing leaks: the pool counts what is there.
    pool.wait_status("/ipv4/assigned", &served.to_string());
    pool.wait_status("/ipv4/available", &(4_096 - served).to_string());
    crowd::delete(&ns);
    eventually(POD, "all of them to go", || (recorder.seen().served() == 0).then_some(()));
    pool.wait_status("/ipv4/assigned", "0");
    healthy.terminate();
}

/// Something more to do for a controller that has nothing left.
fn churn(ns: &landfall_lab::TestNs, round: usize) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("web-{}", 50 + (n * 7 + round) % 900);
    let service = ns.existing(&name);
    if service.read().is_null() {
        crowd::create(ns, 50 + (n * 7 + round) % 900, 1, &AtomicUsize::new(0));
    } else {
        service.delete();
    }
}

// A3 A61
#[test]
fn a_thousand_services_keep_their_addresses_over_five_kills_of_all_controllers() {
    let lab = cluster();
    let ns = space("a61");
    let pool = Object::pool("a61", &pinned(&[&ns], &["198.18.32.0/22"]));
    let recorder = Recorder::start(lab, &[ns.name()]).unwrap();
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for portion in 0..5 {
                crowd::create(&ns, portion * 200, 200, &made);
                eventually(POD * 2, "the next kill", || {
                    (recorder.seen().served() >= portion * 200 + 100).then_some(())
                });
            }
        });
        for kill in 0..5 {
            // In the middle of a portion, with writes on their way.
            eventually(POD * 2, "Services to be served", || {
                (recorder.seen().served() >= kill * 200 + 20).then_some(())
            });
            kill_controllers(lab);
        }
    });
    wait_served(&recorder, 1_000, POD * 2);
    wait_leader(lab);
    pool.wait_status("/ipv4/assigned", "1000");
    pool.wait_status("/ipv4/available", "24");
}

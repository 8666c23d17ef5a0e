//! Many Services at once, and one namespace that never rests.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use landfall_lab::TestNs;
use landfall_lab::objects::{Object, service_object};
use landfall_lab::product::{cluster, eventually};
use landfall_lab::recorder::Recorder;
use serde_json::json;

use crate::{pinned, space};

/// Who makes Services at the same time.
const CREATORS: usize = 8;

/// How long a request is tried again while the API server is away.
const PATIENCE: Duration = Duration::from_mins(2);

/// Makes the Services `web-FIRST` to `web-(FIRST + COUNT - 1)`, several at a time, trying again while the API server
/// is away; `made` counts them.
pub(crate) fn create(ns: &TestNs, first: usize, count: usize, made: &AtomicUsize) {
    let next = AtomicUsize::new(first);
    std::thread::scope(|scope| {
        for _ in 0..CREATORS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= first + count {
                        break;
                    }
                    create_one(ns, &format!("web-{n}"));
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
}

fn create_one(ns: &TestNs, name: &str) {
    let path = format!("/api/v1/namespaces/{}/services", ns.name());
    let object = service_object(name, &json!({}), &json!({}));
    let begin = Instant::now();
    loop {
        match ns.lab().api("POST", &path, Some(("application/json", &object))) {
            // 409: the attempt before took effect although no answer came.
            Ok(answer) if matches!(answer.status, 201 | 409) => return,
            other if begin.elapsed() > PATIENCE => panic!("{name} cannot be made: {other:?}"),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Deletes every Service of the namespace, several at a time: one request for all of them takes longer than the API
/// server may take for an answer.
pub(crate) fn delete(ns: &TestNs) {
    let path = format!("/api/v1/namespaces/{}/services", ns.name());
    let list = ns.lab().api_get(&path).expect("a list");
    let names = list["items"].as_array().expect("Services").iter();
    let names: Vec<&str> = names.filter_map(|item| item["metadata"]["name"].as_str()).collect();
    std::thread::scope(|scope| {
        let path = &path;
        for names in names.chunks(names.len().div_ceil(CREATORS).max(1)) {
            scope.spawn(move || {
                for name in names {
                    let answer = ns.lab().api("DELETE", &format!("{path}/{name}"), None).expect("an answer");
                    assert!(matches!(answer.status, 200 | 202 | 404), "{}", answer.text());
                }
            });
        }
    });
}

/// The aim is one second; a test's deadline is five times that, since a slow machine is no failure.
const FAIR: Duration = Duration::from_secs(5);

#[test]
fn a_namespace_that_creates_and_deletes_in_a_loop_delays_nobody_else() {
    let (noisy, quiet) = (space("noisy"), space("quiet"));
    let _pool = Object::pool("crowd", &pinned(&[&noisy, &quiet], &["198.18.16.0/20"]));
    let recorder = Recorder::start(cluster(), &[noisy.name(), quiet.name()]).unwrap();
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let waits = std::thread::scope(|scope| {
        for worker in 0..CREATORS {
            let (noisy, stop, rounds) = (&noisy, &stop, &rounds);
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // New names each time: one that is being deleted is still there for a moment.
                    let names: Vec<String> = (0..25).map(|n| format!("noise-{worker}-{round}-{n}")).collect();
                    for name in &names {
                        create_one(noisy, name);
                    }
                    for name in &names {
                        noisy.existing(name).delete();
                    }
                    rounds.fetch_add(names.len(), Ordering::Relaxed);
                }
            });
        }
        let waits: Vec<Duration> = (0..40)
            .map(|n| {
                let name = format!("quiet-{n}");
                let begin = Instant::now();
                create_one(&quiet, &name);
                eventually(FAIR, &format!("an address for {name} amid the noise"), || {
                    recorder.seen().first(&format!("quiet/{name}"))
                })
                .saturating_duration_since(begin)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        waits
    });
    let rounds = rounds.load(Ordering::Relaxed);
    eprintln!("{rounds} Services made and deleted meanwhile; longest wait {:?}", waits.iter().max().unwrap());
    assert!(rounds >= 200, "there was noise: {rounds} Services made and deleted");
    assert!(recorder.seen().wrong.is_empty(), "{:#?}", recorder.seen().wrong);
}

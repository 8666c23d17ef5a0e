//! Temporary measurement.
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
use std::process::Command;
use std::time::{Duration, Instant};
use landfall_speaker::link;
fn rss(what: &str) {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    let g = |k: &str| s.lines().find(|l| l.starts_with(k)).unwrap().to_owned();
    println!("{what}: {} {}", g("VmRSS"), g("VmHWM"));
}
fn ip(line: &str) { assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success()); }
fn main() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        rss("start");
        let t = Instant::now();
        let (monitor, mut links) = link::open().await.unwrap();
        println!("open took {:?}, {} links", t.elapsed(), links.borrow().iter().count());
        rss("open");
        let mut worst = Duration::ZERO; let mut sum = Duration::ZERO;
        let measure = async {
            for n in 0..50u32 {
                links.borrow_and_update();
                let t = std::sync::Arc::new(std::sync::Mutex::new(Instant::now()));
                let t2 = t.clone();
                let h = tokio::task::spawn_blocking(move || {
                    ip(&format!("address {} 198.51.100.7/24 dev lo", if n % 2 == 0 {"add"} else {"del"}));
                    *t2.lock().unwrap() = Instant::now();
                });
                links.changed().await.unwrap();
                let seen = Instant::now();
                h.await.unwrap();
                let d = seen.saturating_duration_since(*t.lock().unwrap());
                worst = worst.max(d); sum += d;
            }
            println!("latency after ip(8) ended: mean {:?} worst {:?}", sum / 50, worst);
            rss("events");
            let b = tokio::task::spawn_blocking(|| {
                let mut s = String::new();
                for r in 0..20 { for n in 0..200 { s += &format!("link set d{n} mtu {}\n", 1400 + r); } }
                std::fs::write("/tmp/lm/batch", s).unwrap();
                let t = Instant::now();
                ip("-batch /tmp/lm/batch");
                println!("batch took {:?}", t.elapsed());
            });
            b.await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            rss("4000 link events");
        };
        tokio::select! { e = monitor.run() => panic!("{e:?}"), () = measure => {} }
    });
}

//! What was measured, and how it is printed.

use std::time::Duration;

use anyhow::Context;
use landfall_lab::arena::Arena;
use landfall_lab::contender::Contender;
use landfall_lab::spawn::Process;

use super::changes::{Changes, Churn};
use super::traffic::Traffic;
use crate::process;

/// Everything measured of one data plane.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// It was not done in time.
    pub(crate) given_up: bool,
    /// From its start until everything is served, and its CPU time until then, for itself and in the kernel.
    pub(crate) start: Option<Duration>,
    pub(crate) start_cpu: Option<(Duration, Duration)>,
    /// Resident now and at the highest, MiB.
    pub(crate) memory: Option<(f64, f64)>,
    /// What is charged to it of the kernel's memory, MiB.
    pub(crate) kernel: Option<f64>,
    pub(crate) direct: Traffic,
    pub(crate) through: Option<Traffic>,
    pub(crate) change: Changes,
    pub(crate) churn: Option<Churn>,
    pub(crate) roll: Option<Duration>,
}

/// User and system time of a process so far.
pub(crate) fn cpu(process: Process) -> anyhow::Result<(Duration, Duration)> {
    process::times_of(&std::fs::read_to_string(format!("/proc/{}/stat", process.pid))?)
}

/// Resident memory of a process in MiB: now, and at the highest.
pub(crate) fn memory(process: Process) -> anyhow::Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    Ok((field(&status, "VmRSS:")?, field(&status, "VmHWM:")?))
}

/// The kernel's memory that is charged to the program in an arena, in MiB.
pub(crate) fn kernel_memory(arena: &Arena<'_>) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    arena.kernel_memory().map(|bytes| bytes as f64 / f64::from(1 << 20))
}

fn field(text: &str, name: &str) -> anyhow::Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("a field of /proc")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

fn seconds(of: Option<Duration>) -> f64 {
    of.map_or(f64::NAN, |time| time.as_secs_f64())
}

impl Figures {
    /// Prints one data plane at one size.
    pub(crate) fn print(&self, contender: Contender, services: usize) {
        let name = contender.to_string();
        let say = |what: &str| println!("{services:6} {name:20} {what}");
        if self.given_up {
            say("not done in 10 min");
            return;
        }
        say(&format!(
            "start to fully programmed {:.2} s, CPU {:.2} s of its own and {:.2} s in the kernel",
            seconds(self.start),
            seconds(self.start_cpu.map(|(user, _)| user)),
            seconds(self.start_cpu.map(|(_, system)| system)),
        ));
        let (now, highest) = self.memory.unwrap_or((f64::NAN, f64::NAN));
        let kernel = self.kernel.unwrap_or(f64::NAN);
        say(&format!("resident {now:.1} MiB, highest {highest:.1} MiB, kernel {kernel:.1} MiB"));
        say(&format!("one endpoint changed: from the request, ms p50/p90/max {}", self.change.asked.line()));
        say(&format!(
            "one endpoint changed: from the watch event, ms p50/p90/max {}",
            self.change.seen.line()
        ));
        if let Some(churn) = &self.churn {
            say(&format!(
                "churn: {} slices in {:.0} s, CPU {:.2} s, longest gap {:.3} s",
                churn.slices,
                churn.took.as_secs_f64(),
                churn.cpu.as_secs_f64(),
                churn.longest.as_secs_f64()
            ));
        }
        say(&format!("1,000 endpoints rolled in {:.2} s", seconds(self.roll)));
        for (what, traffic) in
            [("through the Service", self.through.as_ref()), ("straight to a pod", Some(&self.direct))]
        {
            if let Some(traffic) = traffic {
                say(&format!(
                    "{what}: {:.0} connections/s, connect p50 {:.3} p99 {:.3} ms, 1 flow {:.1}, 64 flows {:.1} Gbit/s",
                    traffic.rate,
                    traffic.connect.percentile(50),
                    traffic.connect.percentile(99),
                    traffic.one,
                    traffic.many
                ));
            }
        }
    }
}

/// Prints how many times longer the others take.
pub(crate) fn print_ratios(all: &[(Contender, Figures)], services: usize) {
    let Some((_, ours)) = all.first() else { return };
    for (contender, theirs) in all.iter().skip(1).filter(|(_, figures)| !figures.given_up) {
        let rate = |figures: &Figures| figures.through.as_ref().map_or(f64::NAN, |traffic| traffic.rate);
        let cpu = |figures: &Figures| seconds(figures.churn.as_ref().map(|churn| churn.cpu));
        let start_cpu = |figures: &Figures| seconds(figures.start_cpu.map(|(user, system)| user + system));
        println!(
            "{services:6} {contender} / landfall: start {:.0}, start CPU {:.0}, change p50 {:.0}, churn CPU {:.1}, roll {:.1}, connections/s {:.2}",
            seconds(theirs.start) / seconds(ours.start),
            start_cpu(theirs) / start_cpu(ours),
            theirs.change.asked.percentile(50) / ours.change.asked.percentile(50),
            cpu(theirs) / cpu(ours),
            seconds(theirs.roll) / seconds(ours.roll),
            rate(theirs) / rate(ours),
        );
    }
}

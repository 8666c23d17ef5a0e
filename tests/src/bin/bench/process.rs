//! What the kernel says about a process.

use std::time::Duration;

use anyhow::Context;
use landfall_lab::Lab;

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every architecture that Linux gives users.
const USER_HZ: u32 = 100;

/// A process whose use of the CPU is measured.
#[derive(Debug, Clone)]
pub(crate) enum Process {
    /// One of the control plane.
    Part(i32),
    /// One on the node n1, by its id there.
    OnNode(String),
}

impl Process {
    /// A part of the control plane.
    pub(crate) fn part(lab: &Lab, name: &str) -> anyhow::Result<Self> {
        lab.part(name).map(Self::Part).with_context(|| format!("{name} does not run"))
    }

    /// A program in a pod on n1.
    pub(crate) fn in_pod(lab: &Lab, program: &str) -> anyhow::Result<Self> {
        let pid = lab.host("n1")?.run(&["pgrep", "-o", "-f", &format!("^/{program}")])?;
        Ok(Self::OnNode(pid.trim().to_owned()))
    }

    /// The time that it has been on a CPU since it was started, for itself and in the kernel.
    pub(crate) fn cpu(&self, lab: &Lab) -> anyhow::Result<Duration> {
        let stat = match self {
            Self::Part(pid) => std::fs::read_to_string(format!("/proc/{pid}/stat"))?,
            Self::OnNode(pid) => lab.host("n1")?.run(&["cat", &format!("/proc/{pid}/stat")])?,
        };
        cpu_of(&stat)
    }
}

fn cpu_of(stat: &str) -> anyhow::Result<Duration> {
    times_of(stat).map(|(user, system)| user + system)
}

/// The times in a line of `/proc/PID/stat`: for itself, and in the kernel.
pub(crate) fn times_of(stat: &str) -> anyhow::Result<(Duration, Duration)> {
    let (user, system) = ticks(stat).context("a line of /proc/PID/stat")?;
    let time = |ticks: u32| Duration::from_secs(1) * ticks / USER_HZ;
    Ok((time(user), time(system)))
}

/// Fields 14 and 15 (utime and stime, proc(5)) of a line of `/proc/PID/stat`.
fn ticks(stat: &str) -> Option<(u32, u32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 2 3 4 70 30 7 8 20 0 1 0 98765 1000 10";
        assert_eq!(ticks(stat), Some((70, 30)));
        assert_eq!(ticks("12 (a"), None);
    }
}

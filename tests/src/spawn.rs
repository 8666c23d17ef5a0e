//! Starting processes that outlive the command: in a session, network namespace and cgroup of the lab.
//!
//! The lab's own program is the launcher (`lab spawn`, not shown in its help): it moves itself to where the new
//! process belongs, starts it and ends. So nothing here forks or runs code between fork and exec.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Hierarchy};
use crate::command;
use crate::error::{Doing, Error, Result};
use crate::netns;
use crate::plan::LabName;

/// A process to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment added to the caller's.
    pub env: BTreeMap<String, String>,
    /// File that takes its output, appended to.
    pub log: PathBuf,
    /// Network namespace.
    pub netns: String,
    /// The lab it belongs to.
    pub lab: LabName,
    /// Cgroup in the lab's.
    pub cgroup: String,
    /// Hierarchies of that cgroup.
    pub hierarchies: Vec<Hierarchy>,
    /// Whether it becomes the first process of mount, process, host name, IPC and cgroup namespaces of its own.
    pub first_of_node: bool,
}

/// A started process: its id and start time, which together never name another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id on the host.
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl Process {
    /// The process that has this id now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, started })
    }

    /// Whether it still runs; one that ended and waits for its parent does not.
    #[must_use]
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal unless it has ended.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Err(nix::errno::Errno::ESRCH) => Ok(()),
            result => result.doing(|| format!("send {signal} to process {}", self.pid)),
        }
    }

    /// Kills it and waits until it has ended.
    pub fn kill(self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let within = Duration::from_secs(10);
        let begin = Instant::now();
        while self.alive() {
            if begin.elapsed() > within {
                let what = format!("the end of process {}", self.pid);
                return Err(Error::Timeout { what, within, last: "it runs".into() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// State and start time of a line of `/proc/PID/stat`; the name in it may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Starts a process through the launcher and returns it once it is in its place.
pub fn spawn(spec: &Spec) -> Result<Process> {
    let json = serde_json::to_string(spec).doing(|| "write a process description")?;
    let mut launcher = Command::new(lab_program()?);
    let text = command::run_with_input(launcher.arg("spawn"), &json)?;
    let ended = || Error::Part {
        what: format!("{} ended at once", spec.argv.first().map_or("", String::as_str)),
        log: crate::error::tail(&spec.log, 20),
    };
    text.trim().parse().ok().and_then(Process::of).ok_or_else(ended)
}

/// The launcher's side of [`spawn`]: reads a [`Spec`] on standard input, prints the new process's id.
pub fn launch(input: impl std::io::Read) -> Result<i32> {
    let spec: Spec = serde_json::from_reader(input).doing(|| "read a process description")?;
    let (program, arguments) =
        spec.argv.split_first().ok_or_else(|| Error::Usage("nothing to start".into()))?;
    setsid().doing(|| "begin a session")?;
    cgroup::join(&spec.hierarchies, &spec.lab, &spec.cgroup)?;
    netns::enter(&spec.netns)?;
    if spec.first_of_node {
        let own = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWPID;
        unshare(own).doing(|| "make namespaces")?;
    }
    let log = OpenOptions::new().create(true).append(true).open(&spec.log);
    let log = log.doing(|| format!("open {}", spec.log.display()))?;
    let errors = log.try_clone().doing(|| "share the log")?;
    let child = Command::new(program)
        .args(arguments)
        .envs(&spec.env)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .doing(|| format!("start {program}"))?;
    i32::try_from(child.id()).map_err(|_| Error::Answer("the system gave an odd process id".into()))
}

/// The `lab` program: this one, or for a test the one that cargo built beside it.
pub fn lab_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LANDFALL_LAB_PROGRAM") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().doing(|| "find this program")?;
    let beside =
        |folder: Option<&Path>| folder.map(|folder| folder.join("lab")).filter(|file| file.is_file());
    if own.file_name().is_some_and(|name| name == "lab") {
        return Ok(own);
    }
    // cargo puts test programs into `deps`, one folder below the binaries.
    beside(own.parent()).or_else(|| beside(own.parent().and_then(Path::parent))).ok_or_else(|| {
        Error::Usage(
            "the program `lab` is not beside this one: build it with `cargo build -p landfall-lab`".into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 10";
        assert_eq!(parse_stat(stat), Some(('S', 98765)));
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn this_process_is_alive_and_a_reused_id_is_not_it() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.alive());
        assert!(!Process { started: own.started + 1, ..own }.alive());
    }
}

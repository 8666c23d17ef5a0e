//! Taking a lab down, from whatever state it is in.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::cgroup::{self, Hierarchy};
use crate::error::{Doing, Result};
use crate::netns;
use crate::plan::LabName;
use crate::spawn::Process;
use crate::state::State;
use crate::wait;

const WITHIN: Duration = Duration::from_secs(20);

/// Ends every process of the lab, then removes its network namespaces, mounts, cgroups and folder. It goes by what
/// the kernel shows and not by what was written down, since a crash may have come before the writing. The caller
/// holds the lab's lock.
pub(crate) fn take_down(state: &State) -> Result<()> {
    let lab = state.name();
    let hierarchies = cgroup::hierarchies()?;
    wait::until_seen(WITHIN, &format!("the end of all processes of lab {lab}"), || {
        let left = processes(&hierarchies, lab);
        for process in &left {
            process.signal(Signal::SIGKILL).map_err(|error| error.to_string())?;
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })?;
    for name in netns::of_lab(lab) {
        netns::delete(&name)?;
    }
    unmount_below(state)?;
    wait::until_seen(WITHIN, &format!("the cgroups of lab {lab} gone"), || {
        let left = cgroup::remove(&hierarchies, lab, None);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })?;
    state.remove()
}

/// The living processes in the lab's cgroups or network namespaces, except this one.
fn processes(hierarchies: &[Hierarchy], lab: &LabName) -> Vec<Process> {
    let mut pids = cgroup::processes(hierarchies, lab, None);
    let namespaces = netns::inodes(&netns::of_lab(lab));
    pids.extend(all_pids().filter(|pid| network_of(*pid).is_some_and(|inode| namespaces.contains(&inode))));
    pids.remove(&i32::try_from(std::process::id()).unwrap_or_default());
    pids.into_iter().filter_map(Process::of).collect()
}

fn all_pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn network_of(pid: i32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|meta| meta.ino())
}

/// Unmounts what is mounted in the lab's folder on the host. The nodes' mounts are in their own namespaces and go
/// with these; this is for what a person mounted.
fn unmount_below(state: &State) -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").doing(|| "read /proc/self/mountinfo")?;
    let folder = format!("{}/", state.folder().display());
    let places: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|place| place.starts_with(&folder))
        .collect();
    for place in places.into_iter().rev() {
        umount2(place, MntFlags::MNT_DETACH).doing(|| format!("unmount {place}"))?;
    }
    Ok(())
}

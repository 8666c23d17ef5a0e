//! Control groups: one per node and one for the control plane, on hosts with cgroup v1, v2 or both.
//!
//! They bound nothing. They give each node a cgroup root of its own, and they are the sure list of a lab's
//! processes when it is taken down.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};
use crate::plan::LabName;

/// Folder of all labs in each hierarchy.
const ROOT: &str = "landfall-lab";

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What it is.
    pub kind: Kind,
}

/// The two generations of cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A v1 hierarchy with its controllers as the mount option names them: `cpu,cpuacct` or `name=systemd`.
    V1(String),
    /// The v2 hierarchy.
    V2,
}

/// The hierarchies of this machine, in the order of their mounts.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo").doing(|| "read /proc/self/mountinfo")?;
    Ok(parse_mounts(&text))
}

fn parse_mounts(mountinfo: &str) -> Vec<Hierarchy> {
    // proc_pid_mountinfo(5): fields up to " - " describe the mount, after it come type, source, super options.
    let parse = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        let mut rest = file_system.split(' ');
        let kind = match rest.next()? {
            "cgroup2" => Kind::V2,
            "cgroup" => {
                let general = ["rw", "ro", "xattr", "noprefix", "clone_children"];
                let options = rest
                    .nth(1)?
                    .split(',')
                    .filter(|o| !general.contains(o) && !o.starts_with("release_agent="));
                Kind::V1(options.collect::<Vec<_>>().join(","))
            }
            _ => return None,
        };
        Some(Hierarchy { mount: PathBuf::from(place), kind })
    };
    mountinfo.lines().filter_map(parse).collect()
}

/// Whether containers of this machine are controlled by v1: then its `memory` hierarchy is mounted.
#[must_use]
pub fn is_v1(hierarchies: &[Hierarchy]) -> bool {
    let names_memory =
        |kind: &Kind| matches!(kind, Kind::V1(names) if names.split(',').any(|name| name == "memory"));
    hierarchies.iter().any(|hierarchy| names_memory(&hierarchy.kind))
}

/// Makes the cgroup `leaf` of a lab in every hierarchy.
pub fn create(hierarchies: &[Hierarchy], lab: &LabName, leaf: &str) -> Result<()> {
    // Another lab that goes down at this moment may take the common parent away between two steps.
    let mut result = try_create(hierarchies, lab, leaf);
    for _ in 0..5 {
        if result.is_ok() {
            break;
        }
        result = try_create(hierarchies, lab, leaf);
    }
    result
}

fn try_create(hierarchies: &[Hierarchy], lab: &LabName, leaf: &str) -> Result<()> {
    for hierarchy in hierarchies {
        let mut folder = hierarchy.mount.clone();
        for part in [ROOT, lab.as_str(), leaf] {
            if hierarchy.kind == Kind::V2 {
                delegate(&folder);
            }
            let parent = folder.clone();
            folder.push(part);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).doing(|| format!("create {}", folder.display()));
                }
                _ => inherit_cpuset(&parent, &folder)?,
            }
        }
    }
    Ok(())
}

/// Hands the controllers a node's kubelet needs down to the children of a v2 cgroup. A controller that the host
/// does not offer there is left out: the kubelet says itself which one it misses.
fn delegate(folder: &Path) {
    for controller in ["cpuset", "cpu", "io", "memory", "pids"] {
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A new v1 cpuset is empty and takes no process until it has CPUs and memory nodes.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), child.join(file));
        let Ok(own) = fs::read_to_string(&to) else { continue };
        // In v2 the same file is empty by default and means "as the parent".
        if own.trim().is_empty() && !child.join("cgroup.controllers").exists() {
            let value = fs::read_to_string(&from).doing(|| format!("read {}", from.display()))?;
            fs::write(&to, value.trim()).doing(|| format!("write {}", to.display()))?;
        }
    }
    Ok(())
}

/// Moves the calling process into a lab's cgroup in every hierarchy.
pub fn join(hierarchies: &[Hierarchy], lab: &LabName, leaf: &str) -> Result<()> {
    for hierarchy in hierarchies {
        let file = hierarchy.mount.join(ROOT).join(lab.as_str()).join(leaf).join("cgroup.procs");
        fs::write(&file, "0").doing(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// All processes in a lab's cgroups; with `leaf`, only those of that one.
#[must_use]
pub fn processes(hierarchies: &[Hierarchy], lab: &LabName, leaf: Option<&str>) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies {
        let folder = hierarchy.mount.join(ROOT).join(lab.as_str());
        let folder = leaf.map_or(folder.clone(), |leaf| folder.join(leaf));
        for folder in tree(&folder) {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        }
    }
    found
}

/// The kernel's memory, in bytes, that is charged to the processes of a leaf, as far as the kernel charges it: v1's
/// `memory.kmem.usage_in_bytes`, or `kernel` in v2's `memory.stat`. Nothing when neither is there.
#[must_use]
pub fn kernel_memory(hierarchies: &[Hierarchy], lab: &LabName, leaf: &str) -> Option<u64> {
    hierarchies.iter().find_map(|hierarchy| {
        let folder = hierarchy.mount.join(ROOT).join(lab.as_str()).join(leaf);
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let v1 = read("memory.kmem.usage_in_bytes").and_then(|text| text.trim().parse().ok());
        let v2 = || read("memory.stat")?.lines().find_map(|line| line.strip_prefix("kernel ")?.parse().ok());
        v1.or_else(v2)
    })
}

/// Removes a lab's cgroups, or one leaf of them; returns the folders that are still there because a dying process
/// keeps them.
#[must_use]
pub fn remove(hierarchies: &[Hierarchy], lab: &LabName, leaf: Option<&str>) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for hierarchy in hierarchies {
        let all = hierarchy.mount.join(ROOT);
        let folder = all.join(lab.as_str());
        let folder = leaf.map_or(folder.clone(), |leaf| folder.join(leaf));
        for folder in tree(&folder).into_iter().rev() {
            if fs::remove_dir(&folder).is_err() && folder.exists() {
                left.push(folder);
            }
        }
        // Goes with the last lab; refused while another one has its folder in it.
        let _ = fs::remove_dir(&all);
    }
    left
}

/// A folder and all below it, parents first.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        open.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        found.push(folder);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_is_read_as_v1_with_its_co_mounted_controllers() {
        let found = parse_mounts(V1);
        let kinds: Vec<Kind> = found.iter().map(|hierarchy| hierarchy.kind.clone()).collect();
        let v1 = |names: &str| Kind::V1(names.to_owned());
        assert_eq!(kinds, [v1("cpu,cpuacct"), v1("memory"), v1("name=systemd"), Kind::V2]);
        assert!(is_v1(&found));
    }

    #[test]
    fn a_unified_host_is_read_as_v2() {
        let found =
            parse_mounts("29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(found, [Hierarchy { mount: "/sys/fs/cgroup".into(), kind: Kind::V2 }]);
        assert!(!is_v1(&found));
    }
}

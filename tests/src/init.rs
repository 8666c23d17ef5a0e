//! The first process of a node: it arranges the node's file system, starts containerd, kube-proxy and the
//! kubelet, keeps them running as a service manager would, and collects orphans. Its end is the node's power cut.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Hierarchy, Kind};
use crate::error::{Doing, Error, Result};

/// Where the node sees its configuration and the lab's programs.
pub const CONFIG: &str = "/run/lab";

/// The file in [`CONFIG`] whose presence says that the API server is ready for this node's kubelet. A kubelet that
/// starts too early waits ever longer between its attempts.
pub const GO: &str = "go";

/// What the first process needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Host name.
    pub name: String,
    /// Folders of the host, each with the place where the node sees it.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// The host's cgroup hierarchies.
    pub hierarchies: Vec<Hierarchy>,
    /// Search path of the services.
    pub path: String,
    /// The container runtime; it starts first.
    pub runtime: Service,
    /// Services that need the runtime and the API server.
    pub services: Vec<Service>,
}

/// A program that is started again one second after it ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Service {
    /// Name of its log below /var/log, without `.log`.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
}

/// Arranges the node and keeps its services; returns only with an error.
pub fn run(spec: &NodeSpec) -> Result<std::convert::Infallible> {
    arrange(spec)?;
    let mut running = vec![(start(&spec.runtime, &spec.path)?, &spec.runtime)];
    while UnixStream::connect("/run/containerd/containerd.sock").is_err()
        || !Path::new(CONFIG).join(GO).exists()
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    for service in &spec.services {
        running.push((start(service, &spec.path)?, service));
    }
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                let Some(slot) = running.iter_mut().find(|(running, _)| *running == pid.as_raw()) else {
                    continue;
                };
                println!("{} ended; started again", slot.1.name);
                std::thread::sleep(Duration::from_secs(1));
                slot.0 = start(slot.1, &spec.path)?;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).doing(|| "wait for services"),
        }
    }
}

fn start(service: &Service, path: &str) -> Result<i32> {
    let (program, arguments) =
        service.argv.split_first().ok_or_else(|| Error::Usage(format!("{} has no program", service.name)))?;
    let log = Path::new("/var/log").join(format!("{}.log", service.name));
    let open = OpenOptions::new().create(true).append(true).open(&log);
    let out = open.doing(|| format!("open {}", log.display()))?;
    let errors = out.try_clone().doing(|| "share a log")?;
    let child = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
        .doing(|| format!("start {program}"))?;
    i32::try_from(child.id()).map_err(|_| Error::Answer("the system gave an odd process id".into()))
}

fn arrange(spec: &NodeSpec) -> Result<()> {
    propagation("/", MsFlags::MS_PRIVATE)?;
    release_namespaces()?;
    mount_new("proc", Path::new("/proc"), "proc", None)?;
    mount_new("sysfs", Path::new("/sys"), "sysfs", None)?;
    mount_cgroups(&spec.hierarchies)?;
    mount_new("tmpfs", Path::new("/run"), "tmpfs", Some("mode=755"))?;
    for folder in ["/run/netns", "/run/lock"] {
        fs::create_dir_all(folder).doing(|| format!("create {folder}"))?;
    }
    bind_all(&spec.binds)?;
    own_host_wide_parameters()?;
    fs::write("/proc/sys/kernel/hostname", &spec.name).doing(|| "set the host name")?;
    // As on a machine of its own: mounts made by the kubelet appear in the containers that ask for that.
    propagation("/", MsFlags::MS_SHARED)
}

fn propagation(place: &str, flag: MsFlags) -> Result<()> {
    mount(None::<&str>, place, None::<&str>, MsFlags::MS_REC | flag, None::<&str>)
        .doing(|| format!("change the propagation of {place}"))
}

fn mount_new(source: &str, place: &Path, kind: &str, options: Option<&str>) -> Result<()> {
    mount(Some(source), place, Some(kind), MsFlags::empty(), options)
        .doing(|| format!("mount {kind} on {}", place.display()))
}

/// Drops this node's copies of the host's named network namespaces. Each would keep another host of the lab (or of
/// another lab) alive after it was deleted.
fn release_namespaces() -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").doing(|| "read /proc/self/mountinfo")?;
    let places = text.lines().filter_map(|line| line.split(' ').nth(4));
    let mut places: Vec<&str> = places.filter(|place| place.starts_with("/run/netns")).collect();
    places.sort_by_key(|place| std::cmp::Reverse(place.len()));
    for place in places {
        // Gone already when it was mounted below one that went before.
        let _ = umount2(place, MntFlags::MNT_DETACH);
    }
    Ok(())
}

fn mount_cgroups(hierarchies: &[Hierarchy]) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    if !cgroup::is_v1(hierarchies) {
        mount_new("cgroup2", root, "cgroup2", None)?;
        // cgroup v2 allows no processes in a group that hands controllers to its children, which the kubelet will
        // want the node's root to do.
        let services = root.join("init");
        fs::create_dir_all(&services).doing(|| format!("create {}", services.display()))?;
        return fs::write(services.join("cgroup.procs"), "0").doing(|| "move into the node's cgroup `init`");
    }
    mount_new("tmpfs", root, "tmpfs", Some("mode=755"))?;
    for hierarchy in hierarchies {
        let Kind::V1(names) = &hierarchy.kind else { continue };
        let place = root.join(names.trim_start_matches("name="));
        fs::create_dir(&place).doing(|| format!("create {}", place.display()))?;
        let options = if names.starts_with("name=") { format!("none,{names}") } else { names.clone() };
        mount_new("cgroup", &place, "cgroup", Some(&options))?;
    }
    Ok(())
}

fn bind_all(binds: &[(PathBuf, PathBuf)]) -> Result<()> {
    for (source, place) in binds {
        if !place.exists() {
            fs::create_dir_all(place).doing(|| format!("create {}", place.display()))?;
        }
        mount(Some(source), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .doing(|| format!("show {} as {}", source.display(), place.display()))?;
    }
    Ok(())
}

/// Gives the node files of its own in place of the parameters that the kubelet sets for a whole machine: the lab
/// leaves the machine it runs on as it is. The boot's identity is new each time, as after a real boot.
fn own_host_wide_parameters() -> Result<()> {
    let folder = Path::new("/run/parameters");
    fs::create_dir_all(folder).doing(|| "create /run/parameters")?;
    for name in [
        "vm/overcommit_memory",
        "vm/panic_on_oom",
        "kernel/panic",
        "kernel/panic_on_oops",
        "kernel/keys/root_maxkeys",
        "kernel/keys/root_maxbytes",
    ] {
        let real = Path::new("/proc/sys").join(name);
        let Ok(value) = fs::read(&real) else { continue };
        cover(folder, &real, &value)?;
    }
    let fresh = fs::read("/proc/sys/kernel/random/uuid").doing(|| "read a random number")?;
    cover(folder, Path::new("/proc/sys/kernel/random/boot_id"), &fresh)
}

fn cover(folder: &Path, real: &Path, value: &[u8]) -> Result<()> {
    let own =
        folder.join(real.strip_prefix("/proc/sys").unwrap_or(real).display().to_string().replace('/', "."));
    fs::write(&own, value).doing(|| format!("write {}", own.display()))?;
    mount(Some(&own), real, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .doing(|| format!("cover {}", real.display()))
}

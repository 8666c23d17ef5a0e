//! What a lab keeps on disk: its description, its processes, keys, logs and the nodes' folders.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::plan::{Families, HostName, KubeProxy, LabName};
use crate::spawn::Process;
use crate::toolchain::Toolchain;

/// Folder of all labs. A plain disk folder that every user of the machine's root shares; nodes keep their
/// containers' overlay mounts in it.
const ROOT: &str = "/var/lib/landfall-lab";

/// Folder of the lock files. They are empty and stay: a lock file that is deleted locks nobody out.
const LOCKS: &str = "/run/landfall-lab";

/// What was asked for when the lab was brought up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    /// Distinguishes this lab from an earlier or later one of the same name.
    pub instance: String,
    /// Number of nodes.
    pub nodes: u8,
    /// Who serves the cluster's Service addresses.
    pub kube_proxy: KubeProxy,
    /// IP families.
    pub families: Families,
    /// The programs it runs.
    pub toolchain: Toolchain,
    /// Set once `up` has come to its end.
    pub complete: bool,
}

impl Description {
    /// All hosts of the lab, the router first.
    #[must_use]
    pub fn hosts(&self) -> Vec<HostName> {
        let mut hosts = vec![HostName::Router, HostName::Client, HostName::Client2];
        hosts.extend((1..=self.nodes).map(HostName::Node));
        hosts
    }
}

/// The state folder of one lab.
#[derive(Debug, Clone)]
pub struct State {
    name: LabName,
    folder: PathBuf,
}

impl State {
    /// The state of the lab called `name`, whether it is up or not.
    #[must_use]
    pub fn of(name: &LabName) -> Self {
        Self { name: name.clone(), folder: Path::new(ROOT).join(name.as_str()) }
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of one host.
    #[must_use]
    pub fn host(&self, host: HostName) -> PathBuf {
        self.folder.join(host.to_string())
    }

    /// A log of the control plane.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join("log").join(format!("{name}.log"))
    }

    /// Excludes every other bringing up or taking down of a lab of this name while the result lives.
    pub fn lock(&self) -> Result<File> {
        self.lock_file("lock")
    }

    /// Excludes every other program that wants to use this lab as its own while the result lives.
    pub fn lock_use(&self) -> Result<File> {
        self.lock_file("use")
    }

    fn lock_file(&self, kind: &str) -> Result<File> {
        fs::create_dir_all(LOCKS).doing(|| format!("create {LOCKS}"))?;
        let path = Path::new(LOCKS).join(format!("{}.{kind}", self.name));
        let file = File::create(&path).doing(|| format!("create {}", path.display()))?;
        file.lock().doing(|| format!("lock {}", path.display()))?;
        Ok(file)
    }

    /// Writes the description.
    pub fn describe(&self, description: &Description) -> Result<()> {
        write_json(&self.path("lab.json"), description)
    }

    /// Reads the description; an error that says to bring the lab up if there is none.
    pub fn description(&self) -> Result<Description> {
        self.existing_description()?.ok_or_else(|| {
            let option =
                if self.name.as_str() == "lab" { String::new() } else { format!(" --name {}", self.name) };
            Error::Usage(format!("the lab \"{}\" is not up: run `lab up{option}` first", self.name))
        })
    }

    /// The description, if the lab is up or was left behind.
    pub fn existing_description(&self) -> Result<Option<Description>> {
        read_json(&self.path("lab.json"))
    }

    /// Notes a process under a name.
    pub fn note(&self, name: &str, process: Process) -> Result<()> {
        write_json(&self.path(&format!("process/{name}.json")), &process)
    }

    /// The process noted under a name, if it is alive.
    #[must_use]
    pub fn process(&self, name: &str) -> Option<Process> {
        let noted: Option<Process> = read_json(&self.path(&format!("process/{name}.json"))).ok()?;
        noted.filter(|process| process.alive())
    }

    /// Removes the folder, and with the last lab the folder of all labs.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(|| format!("remove {}", self.folder.display()));
            }
            _ => {}
        }
        // Refused while another lab has its folder in it.
        let _ = fs::remove_dir(ROOT);
        Ok(())
    }

    /// Copies all logs to `target`, in place of what was there.
    pub fn save_logs(&self, target: &Path) -> Result<()> {
        if target.exists() {
            fs::remove_dir_all(target).doing(|| format!("remove {}", target.display()))?;
        }
        copy_logs(&self.path("log"), target)?;
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            copy_logs(&entry.path().join("log"), &target.join(entry.file_name()))?;
        }
        Ok(())
    }
}

fn copy_logs(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let place = to.join(entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            copy_logs(&entry.path(), &place)?;
        } else if kind.is_file() {
            fs::create_dir_all(to).doing(|| format!("create {}", to.display()))?;
            fs::copy(entry.path(), &place).doing(|| format!("write {}", place.display()))?;
        }
    }
    Ok(())
}

/// Writes a value as JSON, whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let doing = || format!("write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).doing(doing)?;
    }
    let scratch = path.with_extension("new");
    fs::write(&scratch, serde_json::to_vec_pretty(value).doing(doing)?).doing(doing)?;
    fs::rename(&scratch, path).doing(doing)
}

/// Reads a JSON file; `None` when there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).doing(|| format!("read {}", path.display())).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read {}", path.display())),
    }
}

//! Building the lab's real parts from their Go modules, and finding them again.
//!
//! Every component is built by the ordinary `go` client into a folder of the user's cache whose name holds the
//! hash of all that went in: sources, go.mod, go.sum, flags, the Go release. A second checkout finds it there, and
//! a change to one component leaves the others alone.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::command;
use crate::error::{Doing, Error, Result, last_lines};
use crate::oci;

/// How the names of scratch folders in the cache begin.
const UNFINISHED: &str = ".unfinished-";

/// Counts up when the way of building changes, so that caches of the old way are not used.
const RECIPE: &str = "1";

/// Kubernetes' release, stamped into the programs as its own build does; the same as in `kube/kubernetes/go.mod`.
const KUBERNETES_VERSION: (&str, &str, &str) = ("v1.36.3", "1", "36");

const KUBERNETES_PROGRAMS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
];

/// How a component comes out of its module.
enum Kind {
    /// The module's own main package, called `program`; each name of `links` points to it.
    Program { program: &'static str, links: &'static [&'static str] },
    /// The programs of the module's `tool` lines, under their own names.
    Tools,
    /// The module's own main package, as a program and as an image in `image.tar`.
    Image { program: &'static str, image: &'static str },
}

struct Component {
    name: &'static str,
    kind: Kind,
    /// One file that proves the folder whole, beside the atomic rename.
    proof: &'static str,
}

const COMPONENTS: [Component; 7] = [
    Component {
        name: "kubernetes",
        kind: Kind::Program { program: "kube", links: &KUBERNETES_PROGRAMS },
        proof: "kubectl",
    },
    Component { name: "runtime", kind: Kind::Tools, proof: "containerd" },
    Component { name: "cni", kind: Kind::Tools, proof: "ptp" },
    Component { name: "helm", kind: Kind::Tools, proof: "helm" },
    Component {
        name: "registry",
        kind: Kind::Program { program: "registry", links: &[] },
        proof: "registry",
    },
    Component {
        name: "hello",
        kind: Kind::Image { program: "hello", image: "gcr.io/google-samples/node-hello:1.0" },
        proof: "image.tar",
    },
    Component {
        name: "pause",
        kind: Kind::Image { program: "pause", image: "registry.k8s.io/pause:3.10" },
        proof: "image.tar",
    },
];

/// Where the built components are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Toolchain {
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, kubectl.
    pub kubernetes: PathBuf,
    /// containerd, containerd-shim-runc-v2, ctr.
    pub runtime: PathBuf,
    /// The CNI plugins.
    pub cni: PathBuf,
    /// helm.
    pub helm: PathBuf,
    /// registry.
    pub registry: PathBuf,
    /// OCI archives of the images every lab starts with.
    pub images: Vec<PathBuf>,
}

impl Toolchain {
    /// The built components for the sources of this checkout; an error that says to run `lab build` if one is
    /// not there.
    pub fn find(checkout: &Path) -> Result<Self> {
        let places = Places::new(checkout)?;
        let missing: Vec<&str> =
            COMPONENTS.iter().filter(|c| !places.is_built(c)).map(|component| component.name).collect();
        if missing.is_empty() {
            return Ok(places.toolchain());
        }
        Err(Error::Usage(format!("not built yet: {}; run `lab build` first", missing.join(", "))))
    }

    /// Builds what is not in the cache yet, saying on `say` what is being done and how long it took.
    pub fn build(checkout: &Path, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let places = Places::new(checkout)?;
        fs::create_dir_all(&places.cache).doing(|| format!("create {}", places.cache.display()))?;
        let lock_path = places.cache.join("build.lock");
        let lock = File::create(&lock_path).doing(|| format!("create {}", lock_path.display()))?;
        if lock.try_lock().is_err() {
            say("another `lab build` is at work; waiting for it");
            lock.lock().doing(|| format!("lock {}", lock_path.display()))?;
        }
        places.clear_unfinished()?;
        let begin = Instant::now();
        for (number, component) in (1..).zip(&COMPONENTS) {
            let title = format!("[{number}/{}] {}", COMPONENTS.len(), component.name);
            if places.is_built(component) {
                say(&format!("{title}: in the cache"));
                continue;
            }
            let started = Instant::now();
            places.build(component, &mut |progress| say(&format!("{title}: {progress}")))?;
            say(&format!("{title}: built in {:.0} s", started.elapsed().as_secs_f32()));
        }
        say(&format!(
            "all parts are in {} after {:.0} s",
            places.cache.display(),
            begin.elapsed().as_secs_f32()
        ));
        Ok(places.toolchain())
    }
}

/// Where sources are read and results kept, with the hash of each component.
struct Places {
    sources: PathBuf,
    cache: PathBuf,
    go: PathBuf,
    folders: Vec<(&'static str, PathBuf)>,
}

impl Places {
    fn new(checkout: &Path) -> Result<Self> {
        let sources = checkout.join("tests/kube");
        let go = command::find_program("go").ok_or_else(|| {
            Error::Usage("the lab's parts are built with Go 1.26 or newer, and there is no `go`: install it from https://go.dev/dl/".into())
        })?;
        let cache = cache_folder()?;
        // GOTOOLCHAIN may choose another release than the `go` in PATH, and a module's go.mod may demand it.
        let release = command::run(Command::new(&go).arg("version").current_dir(&sources))?;
        let mut folders = Vec::new();
        for component in &COMPONENTS {
            let key = key(component, &sources.join(component.name), release.trim())?;
            folders.push((component.name, cache.join(format!("{}-{key}", component.name))));
        }
        Ok(Self { sources, cache, go, folders })
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.folders.iter().find(|(n, _)| *n == name).map(|(_, folder)| folder.clone()).unwrap_or_default()
    }

    fn is_built(&self, component: &Component) -> bool {
        self.folder(component.name).join(component.proof).exists()
    }

    fn toolchain(&self) -> Toolchain {
        Toolchain {
            kubernetes: self.folder("kubernetes"),
            runtime: self.folder("runtime"),
            cni: self.folder("cni"),
            helm: self.folder("helm"),
            registry: self.folder("registry"),
            images: ["hello", "pause"].map(|name| self.folder(name).join("image.tar")).to_vec(),
        }
    }

    /// Removes what a build that was killed left; the caller holds the lock.
    fn clear_unfinished(&self) -> Result<()> {
        let read = fs::read_dir(&self.cache).doing(|| format!("read {}", self.cache.display()))?;
        for entry in
            read.flatten().filter(|e| e.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()))
        {
            fs::remove_dir_all(entry.path()).doing(|| format!("remove {}", entry.path().display()))?;
        }
        Ok(())
    }

    /// Builds into a scratch folder of the cache and renames it into place, so that a build that was cut off
    /// leaves nothing that looks whole.
    fn build(&self, component: &Component, progress: &mut dyn FnMut(&str)) -> Result<()> {
        let scratch = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.cache)
            .doing(|| format!("create a folder in {}", self.cache.display()))?;
        let out = scratch.path().join("out");
        fs::create_dir(&out).doing(|| format!("create {}", out.display()))?;
        self.go_build(component, &out, progress)?;
        match &component.kind {
            Kind::Program { program, links } => {
                for link in *links {
                    std::os::unix::fs::symlink(program, out.join(link)).doing(|| format!("link {link}"))?;
                }
            }
            Kind::Tools => {}
            Kind::Image { program, image } => {
                oci::write_program_image(&out.join("image.tar"), image, program, &out.join(program))?;
            }
        }
        let place = self.folder(component.name);
        // A folder without its proof is the rest of something older: the rename needs the place empty.
        if place.exists() {
            fs::remove_dir_all(&place).doing(|| format!("remove {}", place.display()))?;
        }
        fs::rename(&out, &place).doing(|| format!("move {} into place", place.display()))
    }

    fn go_build(&self, component: &Component, out: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
        let folder = self.sources.join(component.name);
        let mut go = Command::new(&self.go);
        go.current_dir(&folder)
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .arg("build")
            .arg("-v")
            .args(FLAGS);
        go.arg("-ldflags").arg(linker_flags(component)).arg("-o");
        match &component.kind {
            Kind::Program { program, .. } | Kind::Image { program, .. } => go.arg(out.join(program)).arg("."),
            Kind::Tools => go.arg(format!("{}/", out.display())).arg("tool"),
        };
        go.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = go.spawn().doing(|| format!("start {}", self.go.display()))?;
        let (sender, lines) = mpsc::sync_channel(256);
        let stderr = child.stderr.take();
        let mut text = String::new();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for line in
                    stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok)
                {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
            follow(&lines, &mut text, progress);
        });
        let status = child.wait().doing(|| "wait for go build")?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Part {
            what: format!("go build of {} in {} failed", component.name, folder.display()),
            log: last_lines(&text, 20),
        })
    }
}

/// Reads what `go build -v` says, one package to a line, and reports the count from time to time.
fn follow(lines: &mpsc::Receiver<String>, text: &mut String, progress: &mut dyn FnMut(&str)) {
    const EVERY: Duration = Duration::from_secs(15);
    let begin = Instant::now();
    let (mut packages, mut downloads, mut next) = (0_u32, 0_u32, EVERY);
    loop {
        match lines.recv_timeout(next.saturating_sub(begin.elapsed())) {
            Ok(line) => {
                if line.starts_with("go: downloading") {
                    downloads += 1;
                } else {
                    packages += 1;
                }
                text.push_str(&line);
                text.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let seconds = begin.elapsed().as_secs();
                progress(&format!("{downloads} modules fetched, {packages} packages compiled, {seconds} s"));
                next = begin.elapsed() + EVERY;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

const FLAGS: [&str; 3] = ["-mod=readonly", "-trimpath", "-buildvcs=false"];

fn linker_flags(component: &Component) -> String {
    let mut flags = "-s -w".to_owned();
    if component.name == "kubernetes" {
        let (version, major, minor) = KUBERNETES_VERSION;
        for (variable, value) in [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)] {
            flags.extend([" -X k8s.io/component-base/version.", variable, "=", value]);
        }
    }
    flags
}

/// The first 16 hexadecimal digits of the hash of everything that goes into a component.
fn key(component: &Component, folder: &Path, go_release: &str) -> Result<String> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for text in [RECIPE, component.name, go_release, &linker_flags(component), &FLAGS.join(" ")] {
        part(text.as_bytes());
    }
    if let Kind::Image { image, .. } = &component.kind {
        part(image.as_bytes());
    }
    let read = fs::read_dir(folder).doing(|| format!("read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = read.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for file in files {
        part(file.file_name().unwrap_or_default().as_encoded_bytes());
        part(&fs::read(&file).doing(|| format!("read {}", file.display()))?);
    }
    Ok(format!("{:x}", hash.finalize()).chars().take(16).collect())
}

/// Where the lab keeps what it need not make again; the folder may be deleted at any time.
pub fn cache_folder() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("landfall-lab"))
        .ok_or_else(|| Error::Usage("set HOME or XDG_CACHE_HOME: the lab keeps its built parts there".into()))
}

/// The checkout that this program works for: the current folder or the nearest above it that holds the lab's
/// sources, else the one it was compiled from.
pub fn checkout() -> Result<PathBuf> {
    let is_checkout = |folder: &Path| folder.join("tests/kube/kubernetes/go.mod").is_file();
    let here = std::env::current_dir().doing(|| "find the current folder")?;
    let compiled_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    here.ancestors()
        .chain(compiled_from)
        .find(|folder| is_checkout(folder))
        .map(Path::to_path_buf)
        .ok_or_else(|| {
            Error::Usage("run this inside a Landfall checkout (the folder that holds tests/kube)".into())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_with_sources_and_go_release_only() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("go.mod"), "module x\n").unwrap();
        let key_of = |release: &str| key(&COMPONENTS[1], folder.path(), release).unwrap();
        let first = key_of("go1");
        assert_eq!(first.len(), 16);
        assert_eq!(first, key_of("go1"));
        assert_ne!(first, key_of("go2"));
        fs::write(folder.path().join("go.sum"), "").unwrap();
        assert_ne!(first, key_of("go1"));
    }

    #[test]
    fn the_stamped_version_is_the_one_of_the_module() {
        let manifest =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("kube/kubernetes/go.mod")).unwrap();
        let (version, major, minor) = KUBERNETES_VERSION;
        assert!(manifest.contains(&format!("k8s.io/kubernetes {version}\n")), "{version}");
        assert!(version.starts_with(&format!("v{major}.{minor}.")));
    }
}

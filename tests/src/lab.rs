//! A lab as a whole: up, down, and what can be asked of it while it is up.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cgroup::{self, Hierarchy};
use crate::command;
use crate::control::{self, ControlPlane, api, api_get, kubeconfig};
use crate::down;
use crate::error::{Doing, Error, Result};
use crate::http;
use crate::netns;
use crate::node::Node;
use crate::pki::Pki;
use crate::plan::{Families, HostName, KubeProxy, LabName, MAX_NODES};
use crate::preflight;
use crate::reaper::Reaper;
use crate::registry;
use crate::state::{Description, State};
use crate::toolchain::Toolchain;
use crate::wait;

/// How long all nodes together may take to become ready.
const NODES_WITHIN: Duration = Duration::from_secs(90);

/// What a lab is to be like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name; labs of different names run side by side.
    pub name: LabName,
    /// Number of nodes, up to 50. Without any it is a control plane for an [`Arena`](crate::arena::Arena).
    pub nodes: u8,
    /// Who serves the cluster's Service addresses.
    pub kube_proxy: KubeProxy,
    /// IP families.
    pub families: Families,
    /// Another lab's store ([`Lab::save_store`]), to begin with a copy of it.
    pub store: Option<PathBuf>,
}

impl Options {
    /// Three dual-stack nodes with kube-proxy in nftables mode.
    #[must_use]
    pub fn named(name: LabName) -> Self {
        Self { name, nodes: 3, kube_proxy: KubeProxy::Nftables, families: Families::Dual, store: None }
    }
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    pub(crate) state: State,
    pub(crate) description: Description,
    pub(crate) hierarchies: Vec<Hierarchy>,
}

impl Lab {
    /// Brings a lab up; whatever was left of an earlier one of that name is taken down first. `say` is told the
    /// steps. When this fails or the calling process dies half-way, what was made is taken down again.
    pub fn up(checkout: &Path, options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        let (lab, reaper) = Self::up_watched(checkout, options, say)?;
        reaper.release()?;
        Ok(lab)
    }

    /// As [`Lab::up`], for a lab that is to go down when this process ends.
    pub(crate) fn up_watched(
        checkout: &Path,
        options: &Options,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<(Self, Reaper)> {
        preflight::check(options.kube_proxy)?;
        if options.nodes > MAX_NODES {
            return Err(Error::Usage(format!("a lab has at most {MAX_NODES} nodes")));
        }
        let description = Description {
            instance: instance(),
            nodes: options.nodes,
            kube_proxy: options.kube_proxy,
            families: options.families,
            toolchain: Toolchain::find(checkout)?,
            complete: false,
        };
        let state = State::of(&options.name);
        let _lock = state.lock()?;
        down::take_down(&state)?;
        let mut lab = Self { state, description, hierarchies: cgroup::hierarchies()? };
        fs::create_dir_all(lab.state.folder())
            .doing(|| format!("create {}", lab.state.folder().display()))?;
        lab.state.describe(&lab.description)?;
        let reaper = Reaper::start(&lab.state, &lab.description)?;
        let built = lab.build_up(options.store.as_deref(), say).and_then(|()| {
            lab.description.complete = true;
            lab.state.describe(&lab.description)
        });
        if let Err(error) = built {
            say(&format!("the logs are in {}", lab.save_logs(checkout)?.display()));
            down::take_down(&lab.state)?;
            reaper.release()?;
            return Err(error);
        }
        Ok((lab, reaper))
    }

    /// The lab of that name, which must be up.
    pub fn attach(name: &LabName) -> Result<Self> {
        let state = State::of(name);
        let description = state.description()?;
        Ok(Self { state, description, hierarchies: cgroup::hierarchies()? })
    }

    /// Takes a lab down, whatever is left of it. Not an error when there is nothing.
    pub fn down(name: &LabName) -> Result<()> {
        let state = State::of(name);
        let _lock = state.lock()?;
        down::take_down(&state)
    }

    /// Copies all logs to `target/lab-logs/NAME` of the checkout and returns that folder.
    pub fn save_logs(&self, checkout: &Path) -> Result<PathBuf> {
        let logs = checkout.join("target/lab-logs").join(self.name().as_str());
        self.state.save_logs(&logs)?;
        Ok(logs)
    }

    /// Ends the API server and its store and keeps a copy of what is in the store, for [`Options::store`]. The lab is of
    /// no use afterwards.
    pub fn save_store(&self, to: &Path) -> Result<()> {
        self.stop_managers()?;
        for part in ["kube-apiserver", "etcd"] {
            let Some(process) = self.state.process(part) else { continue };
            process.signal(Signal::SIGTERM)?;
            let ended = || if process.alive() { None } else { Some(()) };
            wait::until(Duration::from_secs(30), &format!("the end of {part}"), ended)?;
        }
        copy_folder(&self.state.path("etcd"), to)
    }

    fn build_up(&self, store: Option<&Path>, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let begin = Instant::now();
        let step = |what: &str| say(&format!("{:5.1} s  {what}", begin.elapsed().as_secs_f32()));
        let name = self.name();
        cgroup::create(&self.hierarchies, name, control::CGROUP)?;
        Pki::at(self.state.path("pki")).create(self.families(), self.description.nodes)?;
        self.write_kubeconfigs()?;
        netns::make_lan(name, self.families())?;
        if let Some(store) = store {
            copy_folder(store, &self.state.path("etcd"))?;
        }
        self.control_plane().start_stores()?;
        self.control_plane().start_proxy()?;
        for host in [HostName::Client, HostName::Client2] {
            netns::make_host(name, self.families(), host, self.description.nodes)?;
        }
        for known in registry::KNOWN_HOSTS {
            registry::write_mirror(
                &self.state.path("certs.d"),
                known,
                self.families().primary(HostName::Router),
            )?;
        }
        self.power_on_all()?;
        step("network, etcd, registry and API server started, nodes powered on");
        self.push_own_images()?;
        self.control_plane().wait_ready()?;
        step("API server ready");
        self.control_plane().start_managers()?;
        // A copied store has it.
        if store.is_none() {
            self.allow_kube_proxy()?;
        }
        for node in self.nodes() {
            self.create("/api/v1/nodes", &node.object())?;
            node.release_kubelet()?;
        }
        let nodes: Vec<Node<'_>> = self.nodes().collect();
        wait::until_seen(NODES_WITHIN, "all nodes ready", || nodes.iter().try_for_each(Node::readiness))?;
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        // Without it the first pods would be refused and tried again much later.
        wait::until_seen(NODES_WITHIN, "the default service account", || api_get(name, account))?;
        step(&format!("{} nodes ready", self.description.nodes));
        Ok(())
    }

    fn write_kubeconfigs(&self) -> Result<()> {
        let pki = Pki::at(self.state.path("pki"));
        let server = self.families().primary(HostName::Router);
        ["admin", "system:kube-controller-manager", "system:kube-scheduler"]
            .iter()
            .try_for_each(|user| pki.write_kubeconfig(&kubeconfig(&self.state, user), user, server))
    }

    fn power_on_all(&self) -> Result<()> {
        let lan = self.name().netns(HostName::Router);
        let nodes: Vec<Node<'_>> = self.nodes().collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = nodes
                .iter()
                .map(|node| scope.spawn(|| node.configure().and_then(|()| node.power_on())))
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        for node in 1..=self.description.nodes {
            netns::ip_batch(&lan, &netns::pod_routes(self.families(), node))?;
        }
        Ok(())
    }

    fn push_own_images(&self) -> Result<()> {
        let address = control::registry_address(&self.description);
        netns::inside(&self.name().netns(HostName::Router), || {
            wait::until_seen(Duration::from_secs(30), "the registry", || {
                http::get(address, "/v2/", Duration::from_secs(5))
            })
        })??;
        let images = self.description.toolchain.images.clone();
        images.iter().try_for_each(|image| self.push(image, None).map(|_| ()))
    }

    fn allow_kube_proxy(&self) -> Result<()> {
        let binding = serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "lab:kube-proxy"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"}],
        });
        self.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding)
    }

    pub(crate) fn create(&self, path: &str, object: &Value) -> Result<()> {
        let answer = api(self.name(), "POST", path, Some(("application/json", object)))?;
        http::expect(answer, &[201], &format!("the API server, given an object for {path},")).map(|_| ())
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &LabName {
        self.state.name()
    }

    /// Its IP families.
    #[must_use]
    pub fn families(&self) -> Families {
        self.description.families
    }

    /// Whether it was brought up completely and its store still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.description.complete && self.state.process("etcd").is_some()
    }

    /// Number of nodes.
    #[must_use]
    pub fn node_count(&self) -> u8 {
        self.description.nodes
    }

    /// Its state folder: logs, keys, the nodes' disks.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.state.folder()
    }

    pub(crate) fn control_plane(&self) -> ControlPlane<'_> {
        ControlPlane { state: &self.state, description: &self.description, hierarchies: &self.hierarchies }
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        (1..=self.description.nodes).map(|number| self.node_numbered(number))
    }

    pub(crate) fn node_numbered(&self, number: u8) -> Node<'_> {
        Node { state: &self.state, description: &self.description, hierarchies: &self.hierarchies, number }
    }

    pub(crate) fn node(&self, host: HostName) -> Result<Node<'_>> {
        match host {
            HostName::Node(number) if number <= self.description.nodes => Ok(self.node_numbered(number)),
            other => Err(Error::Usage(format!(
                "{other} is no node of this lab: its nodes are n1 to n{}",
                self.description.nodes
            ))),
        }
    }
}

/// Copies a folder and all in it, whole or not at all.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let scratch = to.with_extension("new");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).doing(|| format!("remove {}", scratch.display()))?;
    }
    command::run(command::tool("cp").arg("-a").arg(from).arg(&scratch))?;
    fs::rename(&scratch, to).doing(|| format!("write {}", to.display()))
}

/// A word that no other run of the lab has.
fn instance() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), since.as_nanos())
}

//! A lab as a whole: up, down, and what can be asked of it while it is up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::cgroup::{self, Hierarchy};
use crate::command;
use crate::control::{self, ControlPlane, api, api_get, kubeconfig};
use crate::down;
use crate::error::{Doing, Error, Result};
use crate::host::Host;
use crate::http;
use crate::netns;
use crate::node::Node;
use crate::oci::{Archive, ImageName};
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
    /// Number of nodes, 1 to [`MAX_NODES`].
    pub nodes: u8,
    /// Who serves the cluster's Service addresses.
    pub kube_proxy: KubeProxy,
    /// IP families.
    pub families: Families,
}

impl Options {
    /// Three dual-stack nodes with kube-proxy in nftables mode.
    #[must_use]
    pub fn named(name: LabName) -> Self {
        Self { name, nodes: 3, kube_proxy: KubeProxy::Nftables, families: Families::Dual }
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
        if !(1..=MAX_NODES).contains(&options.nodes) {
            return Err(Error::Usage(format!("a lab has 1 to {MAX_NODES} nodes")));
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
        let built = lab.build_up(say).and_then(|()| {
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

    fn build_up(&self, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let begin = Instant::now();
        let step = |what: &str| say(&format!("{:5.1} s  {what}", begin.elapsed().as_secs_f32()));
        let name = self.name();
        cgroup::create(&self.hierarchies, name, control::CGROUP)?;
        Pki::at(self.state.path("pki")).create(self.families(), self.description.nodes)?;
        self.write_kubeconfigs()?;
        netns::make_lan(name, self.families())?;
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
        self.allow_kube_proxy()?;
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

    fn create(&self, path: &str, object: &Value) -> Result<()> {
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

    fn node_numbered(&self, number: u8) -> Node<'_> {
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

    /// A host of the lab: `client`, `client2`, `router`, `n1` and so on.
    pub fn host(&self, name: &str) -> Result<Host<'_>> {
        let host: HostName = name.parse()?;
        if matches!(host, HostName::Node(_)) {
            self.node(host)?;
        }
        Ok(Host { lab: self, name: host })
    }

    /// The administrator's kubeconfig; it works from the network namespace of the host `router`.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig(&self.state, "admin")
    }

    /// A command for kubectl or helm, in the router's network namespace, as the cluster's administrator.
    #[must_use]
    pub fn tool(&self, program: &Path) -> Command {
        let mut command = command::tool("nsenter");
        command
            .arg(format!("--net={}", netns::path(&self.name().netns(HostName::Router)).display()))
            .arg("--")
            .arg(program);
        command.env("KUBECONFIG", kubeconfig(&self.state, "admin"));
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.state.path("helm").join(folder));
        }
        command
    }

    /// The command `kubectl` of this lab.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        let mut command = self.tool(&self.description.toolchain.kubernetes.join("kubectl"));
        command.env("KUBECACHEDIR", self.state.path("kubectl-cache"));
        command
    }

    /// The command `helm` of this lab.
    #[must_use]
    pub fn helm_command(&self) -> Command {
        self.tool(&self.description.toolchain.helm.join("helm"))
    }

    /// Runs kubectl to its end and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        command::run(self.kubectl_command().args(arguments))
    }

    /// Applies manifests (`kubectl apply`).
    pub fn apply(&self, yaml: &str) -> Result<String> {
        command::run_with_input(self.kubectl_command().args(["apply", "--filename=-"]), yaml)
    }

    /// What `kubectl get ARGUMENTS --output=json` prints.
    pub fn get_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.kubectl_command();
        let text = command::run(command.arg("get").args(arguments).arg("--output=json"))?;
        serde_json::from_str(&text)
            .doing(|| format!("read the answer to kubectl get {}", arguments.join(" ")))
    }

    /// A GET at an API path, as `/api/v1/nodes`: two milliseconds instead of kubectl's hundred.
    pub fn api_get(&self, path: &str) -> Result<Value> {
        let answer = api_get(self.name(), path)?;
        serde_json::from_slice(&answer.body).doing(|| format!("read the answer to {path}"))
    }

    /// Pushes an OCI archive to the lab's registry, under the name written in it or another; returns the name.
    pub fn push(&self, archive: &Path, name: Option<&str>) -> Result<String> {
        let opened = Archive::open(archive)?;
        let name = match name {
            Some(name) => name.to_owned(),
            None => opened.image_name()?.ok_or_else(|| {
                Error::Usage(format!(
                    "{0} does not say its image's name: push it as {0}=NAME:TAG",
                    archive.display()
                ))
            })?,
        };
        let image = ImageName::parse(&name)?;
        let registry = control::registry_address(&self.description);
        registry::write_mirror(&self.state.path("certs.d"), &image.host, registry.ip())?;
        netns::inside(&self.name().netns(HostName::Router), || registry::push(registry, &opened, &image))??;
        Ok(name)
    }

    /// Pushes the images that this checkout built and installs the chart with Helm, waiting until it is ready.
    pub fn install(&self, checkout: &Path, arguments: &[&str]) -> Result<String> {
        for part in ["controller", "speaker"] {
            let archive = checkout.join(format!("target/images/{part}.tar"));
            if !archive.is_file() {
                return Err(Error::Usage(format!(
                    "{} is not there: run `make images` first",
                    archive.display()
                )));
            }
            self.push(&archive, None)?;
        }
        // Host network and NET_ADMIN are more than the default Pod Security level of a cluster may allow.
        self.apply(
            r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "landfall-system", "labels": {
                "pod-security.kubernetes.io/enforce": "privileged",
                "pod-security.kubernetes.io/audit": "privileged",
                "pod-security.kubernetes.io/warn": "privileged"}}}"#,
        )?;
        let mut helm = self.helm_command();
        helm.args(["upgrade", "--install", "landfall"]).arg(checkout.join("charts/landfall"));
        helm.args(["--namespace", "landfall-system", "--create-namespace", "--wait", "--timeout=120s"]);
        if self.description.kube_proxy == KubeProxy::None {
            helm.arg(format!("--set=apiServer.host={}", self.families().primary(HostName::Router)));
            helm.arg(format!("--set=apiServer.port={}", crate::plan::API_PORT));
        }
        command::run(helm.args(arguments))
    }

    /// The command that runs a program on a host, with nothing on its standard input.
    pub(crate) fn command_on(&self, host: HostName) -> Result<Command> {
        let mut command = if let HostName::Node(_) = host {
            self.node(host)?.command()?
        } else {
            let mut command = command::tool("ip");
            command.args(["netns", "exec", &self.name().netns(host)]);
            command
        };
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Lines for a person: the nodes and whether they are ready, the hosts' addresses, the parts that run.
    #[must_use]
    pub fn status(&self) -> String {
        let mut lines = vec![format!(
            "lab {}: {} nodes, kube-proxy {}, families {}{}",
            self.name(),
            self.description.nodes,
            self.description.kube_proxy.mode().unwrap_or("none"),
            self.families().list("ipv4", "ipv6"),
            if self.description.complete { "" } else { " (not completely up)" },
        )];
        for part in ["etcd", "registry", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
            let running = if self.state.process(part).is_some() { "running" } else { "stopped" };
            lines.push(format!("{part:24} {running}"));
        }
        for host in self.description.hosts() {
            let addresses: Vec<String> =
                self.families().addresses(host).iter().map(ToString::to_string).collect();
            let state = match self.node(host) {
                Ok(node) => {
                    node.readiness().map_or_else(|why| format!("not ready: {why}"), |()| "Ready".into())
                }
                Err(_) => String::new(),
            };
            lines.push(
                format!("{:24} {}  {state}", host.to_string(), addresses.join(" ")).trim_end().to_owned(),
            );
        }
        lines.push(format!("logs and state           {}", self.folder().display()));
        lines.join("\n")
    }
}

/// A word that no other run of the lab has.
fn instance() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), since.as_nanos())
}

//! What can be asked of a lab that is up: its hosts, kubectl, Helm, the registry.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::command;
use crate::control::{self, api_get, kubeconfig};
use crate::error::{Doing, Error, Result};
use crate::host::Host;
use crate::http::Response;
use crate::lab::Lab;
use crate::netns;
use crate::oci::{Archive, ImageName};
use crate::plan::{HostName, KubeProxy};
use crate::registry;

impl Lab {
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

    /// A request at an API path as the administrator; a body comes with its content type. The answer comes back
    /// whatever its status.
    pub fn api(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<Response> {
        control::api(self.name(), method, path, body)
    }

    /// The process id of a part of the control plane, as `kube-apiserver`, while it runs.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<i32> {
        self.state.process(name).map(|process| process.pid)
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

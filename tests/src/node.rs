//! The nodes: their configuration, power on and power off.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use serde_json::{Value, json};

use crate::cgroup::{self, Hierarchy};
use crate::command;
use crate::control;
use crate::error::{Doing, Error, Result, tail};
use crate::init::{CONFIG, GO, NodeSpec, Service};
use crate::netns;
use crate::pki::{Pki, node_user};
use crate::plan::{Families, HostName};
use crate::spawn::{self, Spec};
use crate::state::{Description, State, write_json};
use crate::wait;

/// One node of a lab.
pub(crate) struct Node<'a> {
    /// The lab's state folder.
    pub state: &'a State,
    /// What was asked for.
    pub description: &'a Description,
    /// Hierarchies for its cgroup.
    pub hierarchies: &'a [Hierarchy],
    /// Number of the node, from 1.
    pub number: u8,
}

impl Node<'_> {
    fn host(&self) -> HostName {
        HostName::Node(self.number)
    }

    fn name(&self) -> String {
        self.host().to_string()
    }

    fn folder(&self) -> PathBuf {
        self.state.host(self.host())
    }

    /// Writes the configuration of everything that runs on the node.
    pub(crate) fn configure(&self) -> Result<()> {
        let folder = self.folder();
        for part in [
            "config/cni",
            "config/certs.d",
            "config/kubernetes",
            "config/runtime",
            "config/plugins",
            "var-lib",
            "log",
        ] {
            let path = folder.join(part);
            fs::create_dir_all(&path).doing(|| format!("create {}", path.display()))?;
        }
        let config = folder.join("config");
        let server = self.description.families.primary(HostName::Router);
        let pki = Pki::at(self.state.path("pki"));
        pki.write_kubeconfig(&config.join("kubelet.kubeconfig"), &node_user(self.number), server)?;
        pki.write_kubeconfig(&config.join("kube-proxy.kubeconfig"), "system:kube-proxy", server)?;
        let authority = pki.file("ca.crt");
        fs::copy(&authority, config.join("ca.crt")).doing(|| format!("copy {}", authority.display()))?;
        let put = |name: &str, text: String| {
            let path = config.join(name);
            fs::write(&path, text).doing(|| format!("write {}", path.display()))
        };
        put("containerd.toml", containerd_config(self.snapshotter()?, cgroup::is_v1(self.hierarchies)))?;
        put("kubelet.json", kubelet_config().to_string())?;
        put("cni/10-lab.conflist", cni_config(self.description.families, self.number).to_string())?;
        write_json(&folder.join("node.json"), &self.spec())
    }

    /// The overlay file system cannot lie on another one, as it would when the machine is itself a container.
    fn snapshotter(&self) -> Result<&'static str> {
        let folder = self.folder();
        let found = statfs(&folder).doing(|| format!("look at the file system of {}", folder.display()))?;
        Ok(if found.filesystem_type() == OVERLAYFS_SUPER_MAGIC { "native" } else { "overlayfs" })
    }

    fn spec(&self) -> NodeSpec {
        let folder = self.folder();
        let toolchain = &self.description.toolchain;
        let bind = |source: &Path, place: &str| (source.to_path_buf(), PathBuf::from(place));
        let at = |name: &str| format!("{CONFIG}/{name}");
        let mut services = Vec::new();
        if let Some(mode) = self.description.kube_proxy.mode() {
            services.push(Service {
                name: "kube-proxy".into(),
                argv: vec![
                    at("kubernetes/kube-proxy"),
                    format!("--kubeconfig={}", at("kube-proxy.kubeconfig")),
                    format!("--proxy-mode={mode}"),
                    format!("--hostname-override={}", self.name()),
                    format!("--cluster-cidr={}", self.description.families.cluster_cidrs()),
                    // The maximum is one number for the whole machine.
                    "--conntrack-max-per-core=0".into(),
                ],
            });
        }
        let addresses: Vec<String> =
            self.description.families.addresses(self.host()).iter().map(ToString::to_string).collect();
        services.push(Service {
            name: "kubelet".into(),
            argv: vec![
                at("kubernetes/kubelet"),
                format!("--config={}", at("kubelet.json")),
                format!("--kubeconfig={}", at("kubelet.kubeconfig")),
                format!("--hostname-override={}", self.name()),
                format!("--node-ip={}", addresses.join(",")),
            ],
        });
        NodeSpec {
            name: self.name(),
            // The last two cover folders in which the sources of the others may lie.
            binds: vec![
                bind(&folder.join("config"), CONFIG),
                bind(&self.state.path("certs.d"), &at("certs.d")),
                bind(&toolchain.kubernetes, &at("kubernetes")),
                bind(&toolchain.runtime, &at("runtime")),
                bind(&toolchain.cni, &at("plugins")),
                bind(&folder.join("log"), "/var/log"),
                bind(&folder.join("var-lib"), "/var/lib"),
            ],
            hierarchies: self.hierarchies.to_vec(),
            path: format!(
                "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                at("kubernetes"),
                at("runtime")
            ),
            runtime: Service {
                name: "containerd".into(),
                argv: vec![at("runtime/containerd"), "--config".into(), at("containerd.toml")],
            },
            services,
        }
    }

    /// Makes the node's network and starts its first process.
    pub(crate) fn power_on(&self) -> Result<()> {
        netns::make_host(self.state.name(), self.description.families, self.host(), self.description.nodes)?;
        cgroup::create(self.hierarchies, self.state.name(), &self.name())?;
        let process = spawn::spawn(&Spec {
            argv: vec![
                spawn::lab_program()?.display().to_string(),
                "node-init".into(),
                self.folder().join("node.json").display().to_string(),
            ],
            env: BTreeMap::new(),
            log: self.folder().join("log/init.log"),
            netns: self.state.name().netns(self.host()),
            lab: self.state.name().clone(),
            cgroup: self.name(),
            hierarchies: self.hierarchies.to_vec(),
            first_of_node: true,
        })?;
        self.state.note(&self.name(), process)
    }

    /// Lets the node's kubelet and kube-proxy start.
    pub(crate) fn release_kubelet(&self) -> Result<()> {
        let file = self.folder().join("config").join(GO);
        fs::write(&file, "").doing(|| format!("write {}", file.display()))
    }

    /// Cuts the power: the network first, so that no frame leaves a dying node, then all processes at once, then
    /// what the kernel remembers (addresses, routes, conntrack, nftables) with the network namespace. What is in
    /// /var/lib stays, as on a disk.
    pub(crate) fn power_off(&self) -> Result<()> {
        let lan = self.state.name().netns(HostName::Router);
        let port = self.name();
        netns::ip_batch(&lan, &[format!("link set {port} down")])?;
        if let Some(process) = self.state.process(&port) {
            process.kill()?;
        }
        let within = Duration::from_secs(10);
        wait::until_seen(within, &format!("no process left on {port}"), || {
            let left = cgroup::processes(self.hierarchies, self.state.name(), Some(&port));
            let left: Vec<_> = left.into_iter().filter_map(spawn::Process::of).collect();
            for process in &left {
                process.signal(nix::sys::signal::Signal::SIGKILL).map_err(|error| error.to_string())?;
            }
            if left.is_empty() { Ok(()) } else { Err(format!("{} processes", left.len())) }
        })?;
        netns::ip_batch(&lan, &[format!("link del {port}")])?;
        netns::delete(&self.state.name().netns(self.host()))?;
        wait::until_seen(within, &format!("the cgroups of {port} gone"), || {
            let left = cgroup::remove(self.hierarchies, self.state.name(), Some(&port));
            if left.is_empty() { Ok(()) } else { Err(format!("{} folders", left.len())) }
        })
    }

    /// A command that runs inside the node: in all its namespaces, with its programs in the search path.
    pub(crate) fn command(&self) -> Result<Command> {
        let process = self.state.process(&self.name()).ok_or_else(|| self.is_off())?;
        let mut command = command::tool("nsenter");
        command.args([
            "--target",
            &process.pid.to_string(),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
            "--wd=/",
            "--",
        ]);
        command.env("PATH", self.spec().path);
        Ok(command)
    }

    /// The error for a node that does not run, with the reason if its first process wrote one.
    #[must_use]
    pub(crate) fn is_off(&self) -> Error {
        Error::Part {
            what: format!("node {} is off", self.name()),
            log: tail(&self.folder().join("log/init.log"), 10),
        }
    }

    /// The Node object, made before the kubelet registers so that it has the pod networks of the plan from its
    /// first moment.
    #[must_use]
    pub(crate) fn object(&self) -> Value {
        let cidrs = self.description.families.pod_cidrs(self.number);
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name(), "labels": {
                "kubernetes.io/hostname": self.name(),
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": crate::oci::go_architecture(),
            }},
            "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
        })
    }

    /// Whether the API server says that the node is ready; if not, why.
    pub(crate) fn readiness(&self) -> std::result::Result<(), String> {
        if self.state.process(&self.name()).is_none() {
            return Err(self.is_off().to_string());
        }
        let path = format!("/api/v1/nodes/{}", self.name());
        let answer = control::api_get(self.state.name(), &path).map_err(|error| error.to_string())?;
        let node: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let ready = conditions.into_iter().find(|c| c.get("type").and_then(Value::as_str) == Some("Ready"));
        let text =
            |key: &str| ready.and_then(|r| r.get(key)).and_then(Value::as_str).unwrap_or("not reported yet");
        // The taint goes a moment after the condition turns; until then no pod is placed here.
        let tainted =
            node.pointer("/spec/taints").and_then(Value::as_array).is_some_and(|taints| !taints.is_empty());
        match (text("status"), tainted) {
            ("True", false) => Ok(()),
            ("True", true) => Err(format!("{} still has a taint", self.name())),
            _ => Err(format!("{} {}", self.name(), text("message"))),
        }
    }
}

fn containerd_config(snapshotter: &str, cgroup_v1: bool) -> String {
    let plugin = |name: &str| format!("plugins.\"io.containerd.cri.v1.{name}\"");
    let (images, runtime) = (plugin("images"), plugin("runtime"));
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[{images}]
  snapshotter = "{snapshotter}"
[{images}.pinned_images]
  sandbox = "registry.k8s.io/pause:3.10"
[{images}.registry]
  config_path = "{CONFIG}/certs.d"
[{runtime}]
  disable_cgroup = {cgroup_v1}
  disable_apparmor = true
  restrict_oom_score_adj = true
[{runtime}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{runtime}.cni]
  bin_dirs = ["{CONFIG}/plugins"]
  conf_dir = "{CONFIG}/cni"
"#
    )
}

fn kubelet_config() -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{CONFIG}/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDomain": "cluster.local",
        "resolvConf": "/dev/null",
        // The nodes share one machine: none of them reserves, bounds or evicts on account of the others.
        "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
        "failCgroupV1": false, "failSwapOn": false, "localStorageCapacityIsolation": false,
        "evictionHard": {"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100,
        // Lowering the score below the caller's takes CAP_SYS_RESOURCE, which a machine may lack.
        "oomScoreAdj": 0,
    })
}

fn cni_config(families: Families, node: u8) -> Value {
    let ranges: Vec<Value> = families.pod_cidrs(node).iter().map(|cidr| json!([{"subnet": cidr}])).collect();
    let routes: Vec<Value> = families.pick("0.0.0.0/0", "::/0").iter().map(|to| json!({"dst": to})).collect();
    json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [
        {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": ranges, "routes": routes}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_an_address_and_a_default_route_of_each_family_of_the_lab() {
        for (families, subnets, routes) in [
            (Families::Dual, vec!["10.244.2.0/24", "fd00:244:2::/64"], 2),
            (Families::Ipv4, vec!["10.244.2.0/24"], 1),
            (Families::Ipv6, vec!["fd00:244:2::/64"], 1),
        ] {
            let config = cni_config(families, 2);
            let ranges = config.pointer("/plugins/0/ipam/ranges").unwrap().as_array().unwrap();
            let found: Vec<&str> = ranges.iter().map(|range| range[0]["subnet"].as_str().unwrap()).collect();
            assert_eq!(found, subnets);
            assert_eq!(config.pointer("/plugins/0/ipam/routes").unwrap().as_array().unwrap().len(), routes);
        }
    }
}

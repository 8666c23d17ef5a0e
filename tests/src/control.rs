//! The control plane: etcd, the registry, the API server, its managers, and a plain-HTTP door to the API for the
//! lab's own use. All run in the router's network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use crate::cgroup::Hierarchy;
use crate::error::{Doing, Error, Result, tail};
use crate::http::{self, Request, Response};
use crate::netns;
use crate::pki::Pki;
use crate::plan::{API_PORT, HostName, LabName, REGISTRY_PORT};
use crate::registry;
use crate::spawn::{self, Spec};
use crate::state::{Description, State};
use crate::wait;

/// Cgroup of the control plane.
pub(crate) const CGROUP: &str = "control-plane";
/// What runs beside the API server and works through it.
pub(crate) const MANAGERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// Where `kubectl proxy` listens inside the router's namespace: the API without TLS and tokens.
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_SOCKET: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);

/// How long the API server may take to become ready.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// The control plane of one lab.
pub(crate) struct ControlPlane<'a> {
    /// Its state folder.
    pub state: &'a State,
    /// What was asked for.
    pub description: &'a Description,
    /// Hierarchies for its cgroup.
    pub hierarchies: &'a [Hierarchy],
}

impl ControlPlane<'_> {
    /// Starts etcd, the registry and the API server, without waiting for them.
    pub(crate) fn start_stores(&self) -> Result<()> {
        let logs = self.state.path("log");
        fs::create_dir_all(&logs).doing(|| format!("create {}", logs.display()))?;
        self.start("etcd", self.etcd())?;
        let config = self.state.path("registry.yaml");
        let storage = self.state.path("registry");
        fs::write(&config, registry::configuration(&storage))
            .doing(|| format!("write {}", config.display()))?;
        let program = self.description.toolchain.registry.join("registry");
        self.start("registry", vec![text(&program), "serve".into(), text(&config)])?;
        self.start_apiserver(&[])
    }

    /// Starts the API server (anew) with more flags than the lab's own, without waiting for it.
    pub(crate) fn start_apiserver(&self, more: &[&str]) -> Result<()> {
        let mut argv = self.apiserver();
        argv.extend(more.iter().map(|flag| (*flag).to_owned()));
        self.start("kube-apiserver", argv)
    }

    /// Starts the door to the API used by [`api`].
    pub(crate) fn start_proxy(&self) -> Result<()> {
        let mut argv = self.kube("kubectl", "admin");
        argv.extend(["proxy".into(), format!("--port={}", PROXY.port()), "--accept-hosts=.*".into()]);
        // Requests that this proxy would refuse by default (exec, attach) are as open to the lab's own kubectl.
        argv.push("--reject-paths=^$".into());
        self.start("kubectl-proxy", argv)
    }

    /// Waits until the API server says that it is ready.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let look = || {
            if self.state.process("kube-apiserver").is_none() {
                return Ok(Err("the API server has ended".to_owned()));
            }
            match api_get(self.state.name(), "/readyz") {
                Ok(_) => Ok(Ok(())),
                Err(error) => Err(error),
            }
        };
        let ready = wait::until_seen(READY_WITHIN, "the API server ready", look);
        let failed = match ready {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(words)) => words,
            Err(error) => error.to_string(),
        };
        Err(Error::Part { what: failed, log: tail(&self.state.log("kube-apiserver"), 20) })
    }

    /// Starts the [`MANAGERS`]: the controller manager and the scheduler.
    pub(crate) fn start_managers(&self) -> Result<()> {
        let pki = Pki::at(self.state.path("pki"));
        let mut manager = self.kube("kube-controller-manager", "system:kube-controller-manager");
        manager.extend([
            // The node-ipam controller would hand out pod networks in the order in which nodes appear; the
            // plan gives each node the network of its number.
            "--controllers=*,-node-ipam-controller".to_owned(),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--kube-api-qps=100".to_owned(),
            "--kube-api-burst=200".to_owned(),
            format!("--service-account-private-key-file={}", text(&pki.file("service-accounts.key"))),
            format!("--root-ca-file={}", text(&pki.file("ca.crt"))),
        ]);
        let [controller_manager, kube_scheduler] = MANAGERS;
        self.start(controller_manager, manager)?;
        let mut scheduler = self.kube("kube-scheduler", "system:kube-scheduler");
        scheduler.extend(["--leader-elect=false".into(), "--secure-port=0".into()]);
        self.start(kube_scheduler, scheduler)
    }

    fn etcd(&self) -> Vec<String> {
        let peer = "http://127.0.0.1:2380";
        let mut argv = vec![self.program("etcd")];
        argv.extend([
            format!("--data-dir={}", text(&self.state.path("etcd"))),
            // A lab that loses its machine is made anew, so its store need not survive that.
            "--unsafe-no-fsync".into(),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ]);
        argv
    }

    fn apiserver(&self) -> Vec<String> {
        let families = self.description.families;
        let pki = Pki::at(self.state.path("pki"));
        let key = |name: &str| text(&pki.file(name));
        let mut argv = vec![self.program("kube-apiserver")];
        argv.extend([
            format!("--etcd-servers={ETCD}"),
            format!("--advertise-address={}", families.primary(HostName::Router)),
            format!("--bind-address={}", if families.v6() { "::" } else { "0.0.0.0" }),
            format!("--secure-port={API_PORT}"),
            format!("--tls-cert-file={}", key("apiserver.crt")),
            format!("--tls-private-key-file={}", key("apiserver.key")),
            format!("--kubelet-client-certificate={}", key("kubelet-client.crt")),
            format!("--kubelet-client-key={}", key("kubelet-client.key")),
            // Node names resolve nowhere in the lab.
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--service-account-key-file={}", key("service-accounts.pub")),
            format!("--service-account-signing-key-file={}", key("service-accounts.key")),
            format!("--service-cluster-ip-range={}", families.service_cidrs()),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            format!("--token-auth-file={}", key("tokens.csv")),
            "--allow-privileged".into(),
            format!("--cert-dir={}", text(&self.state.path("pki"))),
        ]);
        argv
    }

    /// A Kubernetes program with the kubeconfig of a user.
    fn kube(&self, program: &str, user: &str) -> Vec<String> {
        vec![self.program(program), format!("--kubeconfig={}", text(&kubeconfig(self.state, user)))]
    }

    fn program(&self, name: &str) -> String {
        text(&self.description.toolchain.kubernetes.join(name))
    }

    fn start(&self, name: &str, argv: Vec<String>) -> Result<()> {
        let process = spawn::spawn(&Spec {
            argv,
            env: BTreeMap::new(),
            log: self.state.log(name),
            netns: self.state.name().netns(HostName::Router),
            lab: self.state.name().clone(),
            cgroup: CGROUP.into(),
            hierarchies: self.hierarchies.to_vec(),
            first_of_node: false,
        })?;
        self.state.note(name, process)
    }
}

/// The kubeconfig of one user of the control plane.
#[must_use]
pub(crate) fn kubeconfig(state: &State, user: &str) -> std::path::PathBuf {
    state.path(&format!("{}.kubeconfig", user.replace(':', "-")))
}

/// Asks the API server of a lab, as its administrator, without the cost of starting kubectl. The answer comes back
/// whatever its status.
pub(crate) fn api(lab: &LabName, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<Response> {
    let bytes = body.map(|(_, value)| value.to_string()).unwrap_or_default();
    let headers: Vec<String> = body.iter().map(|(kind, _)| format!("Content-Type: {kind}")).collect();
    netns::inside(&lab.netns(HostName::Router), || {
        let mut reader = bytes.as_bytes();
        let length = reader.len() as u64;
        let body = body.is_some().then_some((&mut reader as &mut dyn std::io::Read, length));
        http::send(PROXY, Request { method, path, headers: &headers, body }, Duration::from_secs(10))
    })?
}

/// A successful answer to a GET.
pub(crate) fn api_get(lab: &LabName, path: &str) -> Result<Response> {
    http::expect(api(lab, "GET", path, None)?, &[200], &format!("the API server, asked for {path},"))
}

/// Asks etcd through its JSON gateway (etcd's documentation, "gRPC gateway").
pub(crate) fn etcd(lab: &LabName, path: &str, body: &Value) -> Result<Value> {
    let bytes = body.to_string();
    let answer = netns::inside(&lab.netns(HostName::Router), || {
        let mut reader = bytes.as_bytes();
        let length = reader.len() as u64;
        let request = Request { method: "POST", path, headers: &[], body: Some((&mut reader, length)) };
        http::send(ETCD_SOCKET, request, Duration::from_secs(10))
    })??;
    let answer = http::expect(answer, &[200], &format!("etcd, asked for {path},"))?;
    serde_json::from_slice(&answer.body).doing(|| format!("read etcd's answer to {path}"))
}

/// Address of the registry as seen inside the lab.
#[must_use]
pub(crate) fn registry_address(description: &Description) -> SocketAddr {
    SocketAddr::new(description.families.primary(HostName::Router), REGISTRY_PORT)
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

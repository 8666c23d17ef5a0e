//! The programs that carry Services on the node of an [`Arena`]: Landfall's speaker and kube-proxy, as processes of
//! their own and without a kubelet.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::arena::{Arena, Place};
use crate::cgroup;
use crate::error::{Error, Result};
use crate::pki::Pki;
use crate::plan::{Families, HostName, KubeProxy};
use crate::spawn::{self, Process, Spec};
use crate::toolchain::checkout;

/// Who carries the Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// Landfall's speaker, as `make images` built it.
    Landfall,
    /// kube-proxy of the lab's Kubernetes release in nftables mode.
    Nftables,
    /// The same in iptables mode.
    Iptables,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Landfall => "landfall",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        })
    }
}

impl Arena<'_> {
    /// Starts the program on the node, in a cgroup of its own; its log is `log/NAME-LETTER.log` in the lab's folder.
    /// `more` are flags of its own.
    pub fn start(&self, contender: Contender, more: &[&str]) -> Result<Process> {
        let state = &self.lab.state;
        // The way to the API server is an IPv4 one.
        let server = Families::Ipv4.primary(HostName::Router);
        let user = if contender == Contender::Landfall { "admin" } else { "system:kube-proxy" };
        let config = state.path(&format!("arena-{}.kubeconfig", self.letter));
        Pki::at(state.path("pki")).write_kubeconfig(&config, user, server)?;
        let config = config.display().to_string();
        let node = HostName::Node(1);
        let (name, mut argv, mut env) = match contender {
            Contender::Landfall => {
                let argv = vec![
                    speaker()?.display().to_string(),
                    format!("--node-name={node}"),
                    "--external-ips=true".into(),
                ];
                ("speaker", argv, BTreeMap::from([("KUBECONFIG".to_owned(), config)]))
            }
            Contender::Nftables | Contender::Iptables => {
                let kind = match contender {
                    Contender::Iptables => KubeProxy::Iptables,
                    _ => KubeProxy::Nftables,
                };
                let argv = vec![
                    self.lab.description.toolchain.kubernetes.join("kube-proxy").display().to_string(),
                    format!("--kubeconfig={config}"),
                    format!("--proxy-mode={}", kind.mode().unwrap_or_default()),
                    format!("--hostname-override={node}"),
                    format!("--cluster-cidr={}", self.lab.families().cluster_cidrs()),
                    "--conntrack-max-per-core=0".into(),
                ];
                ("kube-proxy", argv, BTreeMap::new())
            }
        };
        argv.extend(more.iter().map(|flag| (*flag).to_owned()));
        env.extend([("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())]);
        cgroup::create(&self.lab.hierarchies, self.lab.name(), &self.cgroup())?;
        spawn::spawn(&Spec {
            argv,
            env,
            log: state.log(&format!("{name}-{}", self.letter)),
            netns: self.netns(Place::Node),
            lab: self.lab.name().clone(),
            cgroup: self.cgroup(),
            hierarchies: self.lab.hierarchies.clone(),
            first_of_node: false,
        })
    }

    /// The kernel's memory in bytes that is charged to the program that was started, its packet rules included; see
    /// [`cgroup::kernel_memory`].
    #[must_use]
    pub fn kernel_memory(&self) -> Option<u64> {
        cgroup::kernel_memory(&self.lab.hierarchies, self.lab.name(), &self.cgroup())
    }

    fn cgroup(&self) -> String {
        format!("arena-{}", self.letter)
    }
}

/// The speaker's program, of the last `make images`.
fn speaker() -> Result<PathBuf> {
    let path = checkout()?.join("target/x86_64-unknown-linux-musl/release/landfall-speaker");
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::Usage(format!("{} is not there: run `make images` first", path.display())))
}

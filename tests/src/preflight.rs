//! What the machine must have before a lab can be brought up, each lack said in one sentence with its cure.

use nix::unistd::geteuid;

use crate::command::find_program;
use crate::error::{Error, Result};
use crate::plan::KubeProxy;

/// Programs with the Debian package that brings them.
const PROGRAMS: [(&str, &str); 6] = [
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("nsenter", "util-linux"),
];

/// Checks the user and the programs.
pub(crate) fn check(kube_proxy: KubeProxy) -> Result<()> {
    root()?;
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if kube_proxy == KubeProxy::Iptables && find_program("iptables").is_none() {
        packages.push("iptables");
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "the lab needs programs that are missing here: apt-get install {}",
        packages.join(" ")
    )))
}

/// Checks that the caller is root, who alone can make namespaces for whole nodes.
pub fn root() -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Usage("the lab makes network namespaces, mounts and cgroups: run it as root (sudo)".into()))
}

//! The `lab` command: real Kubernetes clusters on one machine.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand, ValueEnum};
use landfall_lab::{
    Error, Families, Fault, KubeProxy, Lab, LabName, Options, Toolchain, checkout, init, reaper, root, spawn,
};

#[derive(Parser)]
#[command(name = "lab", version, about = "Real Kubernetes clusters on one machine, in namespaces")]
struct Cli {
    /// Name of the lab; labs of different names run side by side.
    #[arg(long, global = true, env = "LANDFALL_LAB", default_value = "lab")]
    name: LabName,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build Kubernetes, containerd, Helm and the rest from their Go modules into the user's cache.
    Build,
    /// Bring a lab up.
    Up(Up),
    /// Show nodes, hosts and the parts that run.
    Status,
    /// Run kubectl as the cluster's administrator.
    Kubectl(Words),
    /// Run helm as the cluster's administrator.
    Helm(Words),
    /// Run a command on a host: client, client2, router, n1, n2 and so on.
    Exec {
        /// The host.
        host: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Push this checkout's images (target/images) and install the chart (charts/landfall) with Helm.
    Install(Words),
    /// Push OCI archives to the lab's registry, each as ARCHIVE or ARCHIVE=NAME:TAG.
    Push {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<String>,
    },
    /// Do a fault to a node or the API server, or repair it.
    Fault {
        /// What happens.
        kind: FaultKind,
        /// A node; for `apiserver`: stop or start.
        target: String,
    },
    /// Take the lab down and leave nothing of it.
    Down,
    /// Start a process of a lab, described on standard input.
    #[command(hide = true)]
    Spawn,
    /// Be the first process of a node.
    #[command(hide = true)]
    NodeInit {
        /// Description of the node.
        spec: PathBuf,
    },
    /// Wait on standard input and take the lab down when it ends.
    #[command(hide = true)]
    Reap {
        /// The lab that may be taken down; no other of its name.
        #[arg(long)]
        instance: String,
    },
}

#[derive(Args)]
struct Up {
    /// Number of nodes; 0 for a control plane alone.
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Who serves the cluster's Service addresses.
    #[arg(long, value_enum, default_value = "nftables")]
    kube_proxy: KubeProxy,
    /// IP families of nodes, pods and Services.
    #[arg(long, value_enum, default_value = "dual")]
    ip_families: Families,
}

#[derive(Args)]
struct Words {
    /// Arguments passed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FaultKind {
    /// The node's cable is pulled: it sees its carrier go.
    CarrierDown,
    /// The cable is put back.
    CarrierUp,
    /// Frames vanish both ways, the node's carrier stays up.
    Silence,
    /// Frames pass again.
    Unsilence,
    /// The node loses its power.
    Kill,
    /// The node starts anew with what is on its disk.
    Boot,
    /// Stop or start the API server.
    Apiserver,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            let usage = matches!(error.downcast_ref(), Some(Error::Usage(_)));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let name = &cli.name;
    match cli.command {
        Verb::Build => {
            Toolchain::build(&checkout()?, &mut |line| say(line))?;
        }
        Verb::Up(up) => bring_up(name, &up)?,
        Verb::Status => say(&attach(name)?.status()),
        Verb::Kubectl(Words { words }) => return replace(attach(name)?.kubectl_command().args(words)),
        Verb::Helm(Words { words }) => return replace(attach(name)?.helm_command().args(words)),
        Verb::Exec { host, words } => {
            let lab = attach(name)?;
            return replace(lab.host(&host)?.command()?.stdin(std::process::Stdio::inherit()).args(words));
        }
        Verb::Install(Words { words }) => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            say(&attach(name)?.install(&checkout()?, &words)?);
        }
        Verb::Push { archives } => {
            let lab = attach(name)?;
            for word in &archives {
                let (archive, name) =
                    word.split_once('=').map_or((word.as_str(), None), |(a, n)| (a, Some(n)));
                say(&format!("pushed {}", lab.push(Path::new(archive), name)?));
            }
        }
        Verb::Fault { kind, target } => fault(&attach(name)?, kind, &target)?,
        Verb::Down => {
            root()?;
            Lab::down(name)?;
        }
        Verb::Spawn => say(&spawn::launch(std::io::stdin())?.to_string()),
        Verb::NodeInit { spec } => {
            let text = std::fs::read(&spec).with_context(|| format!("read {}", spec.display()))?;
            match init::run(&serde_json::from_slice(&text)?)? {}
        }
        Verb::Reap { instance } => reaper::watch(name, &instance)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line; a reader that has gone away is no failure of ours.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{}", line.trim_end());
}

fn attach(name: &LabName) -> anyhow::Result<Lab> {
    root()?;
    Ok(Lab::attach(name)?)
}

fn bring_up(name: &LabName, up: &Up) -> anyhow::Result<()> {
    root()?;
    if Lab::attach(name).is_ok_and(|lab| lab.is_running()) {
        let again = format!("the lab \"{name}\" is up already; `lab down` takes it down");
        return Err(Error::Usage(again).into());
    }
    let options = Options {
        nodes: up.nodes,
        kube_proxy: up.kube_proxy,
        families: up.ip_families,
        ..Options::named(name.clone())
    };
    Lab::up(&checkout()?, &options, &say)?;
    Ok(())
}

fn fault(lab: &Lab, kind: FaultKind, target: &str) -> anyhow::Result<()> {
    let fault = match (kind, target) {
        (FaultKind::Apiserver, "stop") => return Ok(lab.stop_apiserver()?),
        (FaultKind::Apiserver, "start") => return Ok(lab.start_apiserver()?),
        (FaultKind::Apiserver, _) => {
            return Err(
                Error::Usage("say `lab fault apiserver stop` or `lab fault apiserver start`".into()).into()
            );
        }
        (FaultKind::CarrierDown, _) => Fault::CarrierDown,
        (FaultKind::CarrierUp, _) => Fault::CarrierUp,
        (FaultKind::Silence, _) => Fault::Silence,
        (FaultKind::Unsilence, _) => Fault::Unsilence,
        (FaultKind::Kill, _) => Fault::Kill,
        (FaultKind::Boot, _) => Fault::Boot,
    };
    Ok(lab.fault(fault, target)?)
}

/// Becomes another program, so that its exit code, terminal and signals are the caller's own.
fn replace(command: &mut Command) -> anyhow::Result<ExitCode> {
    let error = command.exec();
    Err(anyhow!(error).context(format!("start {}", command.get_program().to_string_lossy())))
}

//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows what Landfall does in a cluster.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-landfall",
    bin_name = "kubectl landfall",
    version,
    after_help = "Exit codes: 0 the report was printed, 1 the cluster was not reached or refused, 2 wrong arguments."
)]
pub(crate) struct Cli {
    /// Which cluster.
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How the cluster is reached; the same names as kubectl's.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// Kubeconfig file; without it KUBECONFIG, then ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; without it the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pools, load-balanced Services, their addresses, and which node answers for each
    Status(Status),
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Services of this namespace; without it the context's
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_namespaces")]
    pub(crate) namespace: Option<String>,
    /// Services of all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// The loadBalancerClass that Landfall serves in this cluster
    #[arg(long, value_name = "CLASS", default_value = "landfall.dev/landfall")]
    pub(crate) load_balancer_class: String,
    /// Tables for people or JSON for programs
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// Form of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Two tables.
    Table,
    /// One JSON object.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn connection_flags_may_follow_the_subcommand_as_with_kubectl() {
        let cli = Cli::try_parse_from(["kubectl-landfall", "status", "-A", "--context", "lab", "-o", "json"])
            .unwrap();
        assert_eq!(cli.connection.context.as_deref(), Some("lab"));
        let Command::Status(status) = cli.command;
        assert!(status.all_namespaces);
        assert_eq!(status.output, Output::Json);
    }

    #[test]
    fn one_namespace_and_all_of_them_exclude_each_other() {
        let error = Cli::try_parse_from(["kubectl-landfall", "status", "-A", "-n", "default"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
        assert_eq!(error.exit_code(), 2);
    }
}

//! `kubectl landfall`: shows what Landfall does in a cluster. The only program of the project that prints.

mod args;
mod collect;
mod render;
mod report;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command, Output};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when the error stream is gone too.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let Command::Status(status) = cli.command;
    let config = collect::config(&cli.connection).await?;
    let report = collect::report(config, &status).await?;
    let text = match status.output {
        Output::Table => render::table(&report),
        Output::Json => render::json(&report)?,
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // A reader such as head may have seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

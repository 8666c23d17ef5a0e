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
            let _ = writeln!(std::io::stderr(), "error: {}", explain(&error));
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

/// The error with its causes, without those that the text before has repeated already: the client library's
/// errors print their sources themselves.
fn explain(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::explain;

    #[test]
    fn a_cause_is_told_once() {
        let told =
            anyhow!("no route to host").context("connecting: no route to host").context("listing services");
        assert_eq!(explain(&told), "listing services: connecting: no route to host");
    }

    #[test]
    fn no_cause_is_left_out() {
        assert_eq!(explain(&anyhow!("c").context("b").context("a")), "a: b: c");
    }
}

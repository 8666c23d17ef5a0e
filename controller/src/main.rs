//! The controller of Landfall.

use std::process::ExitCode;

use clap::Parser;
use landfall_controller::args::Args;
use landfall_controller::{cleanup, run};

/// The word that makes the program clean up instead of running.
const CLEANUP: &str = "cleanup";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut words: Vec<_> = std::env::args_os().collect();
    let asked = words.iter().position(|word| word == CLEANUP);
    let ended = if let Some(at) = asked {
        words.remove(at);
        let args = cleanup::Args::parse_from(words);
        match landfall_runtime::telemetry::init(&args.log) {
            Ok(()) => cleanup::run(args).await.map(|_| ()),
            Err(error) => return unusable(&error),
        }
    } else {
        let args = Args::parse();
        match landfall_runtime::telemetry::init(&args.log) {
            Ok(()) => run::run(args).await,
            Err(error) => return unusable(&error),
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("ending: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn unusable(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("landfall-controller: {error}");
    ExitCode::from(2)
}

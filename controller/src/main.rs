//! The controller of Landfall.

use std::process::ExitCode;

use clap::Parser;
use landfall_controller::args::Args;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match landfall_runtime::telemetry::init(&args.log) {
        Ok(()) => landfall_controller::run::run(args).await,
        Err(error) => {
            eprintln!("landfall-controller: {error}");
            return ExitCode::from(2);
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

//! Landfall speaker.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use landfall_runtime::telemetry;
use landfall_speaker::args::Args;
use landfall_speaker::run;

/// Two: one conversion of a page of objects does not keep ARP requests waiting, and memory stays small on hosts
/// with many processors.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::init(&args.log) {
        eprintln!("landfall-speaker: {:#}", anyhow::Error::from(error));
        return ExitCode::from(2);
    }
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(run::run(args));
    // The data path's thread ends with its channels; it is given a moment to finish what it is writing.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

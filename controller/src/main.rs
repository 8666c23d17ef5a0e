//! The controller of Landfall.

use clap::Parser;
use landfall_controller::args::Args;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    landfall_runtime::telemetry::init(&args.log)?;
    landfall_controller::run::run(args).await
}

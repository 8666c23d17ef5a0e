//! The controller of Landfall, able to kill itself around any of its writes: the tests start it again and look at
//! what is left.

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use landfall_controller::hooks::{Hooks, Moment};

/// When it is to kill itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Death {
    after: bool,
    /// The write, counted from 1.
    write: u64,
}

impl FromStr for Death {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (side, write) = text.split_once(':').ok_or("as before:3 or after:3")?;
        let after = match side {
            "before" => false,
            "after" => true,
            other => return Err(format!("{other} is neither before nor after")),
        };
        Ok(Self { after, write: write.parse().map_err(|error| format!("{write}: {error}"))? })
    }
}

#[derive(Parser)]
#[command(name = "faulty-controller")]
struct Faulty {
    #[command(flatten)]
    controller: landfall_controller::args::Args,
    /// When it kills itself, as before:3 or after:3; never if not given
    #[arg(long)]
    die: Option<Death>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Faulty::parse();
    if let Err(error) = landfall_runtime::telemetry::init(&args.controller.log) {
        eprintln!("faulty-controller: {error}");
        return ExitCode::from(2);
    }
    let hooks = args.die.map_or_else(Hooks::default, deadly);
    match landfall_controller::run::run_with(args.controller, hooks).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faulty-controller: ending: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Kills this process as nobody can survive it, at the moment asked for.
fn deadly(death: Death) -> Hooks {
    let writes = AtomicU64::new(0);
    let moment = if death.after { Moment::After } else { Moment::Before };
    Hooks::new(move |now, what| {
        // The leader's Lease is no write about Services; its loss is another test's matter.
        if now == moment && what != "event" && writes.fetch_add(1, Ordering::Relaxed) + 1 == death.write {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Faulty::command().debug_assert();
    }

    #[test]
    fn a_death_is_a_side_and_a_number() {
        assert_eq!("before:3".parse(), Ok(Death { after: false, write: 3 }));
        assert_eq!("after:1".parse(), Ok(Death { after: true, write: 1 }));
        for text in ["", "before", "during:3", "after:x"] {
            assert!(text.parse::<Death>().is_err(), "{text}");
        }
    }
}

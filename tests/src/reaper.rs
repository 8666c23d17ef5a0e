//! A small process that takes a lab down when the one that brought it up dies without saying that it may stay.
//!
//! It waits on a pipe of which the other end is in the watched process alone. However that process ends (a panic,
//! Ctrl-C, SIGKILL), the kernel closes the pipe.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::down;
use crate::error::{Doing, Result};
use crate::plan::LabName;
use crate::spawn;
use crate::state::{Description, State};

/// What the watched process writes so that the lab stays.
const KEEP: &[u8] = b"keep";

/// The watched side.
#[derive(Debug)]
pub struct Reaper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Reaper {
    /// Starts watching the calling process for this lab.
    pub fn start(state: &State, description: &Description) -> Result<Self> {
        let mut command = Command::new(spawn::lab_program()?);
        command.args(["reap", "--name", state.name().as_str(), "--instance", &description.instance]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Out of the caller's process group from its first moment, so that a signal meant for the caller's group, such
        // as Ctrl-C, does not end the watch as well.
        command.process_group(0);
        let mut child = command.spawn().doing(|| "start the lab's reaper")?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Ends the watch; the lab stays.
    pub fn release(mut self) -> Result<()> {
        if let Some(mut pipe) = self.pipe.take() {
            pipe.write_all(KEEP).doing(|| "tell the lab's reaper to end")?;
        }
        self.child.wait().doing(|| "wait for the lab's reaper").map(|_| ())
    }
}

/// The watching side: returns when the watch was ended, or after taking the lab down.
pub fn watch(name: &LabName, instance: &str) -> Result<()> {
    let mut said = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut said);
    if said == KEEP {
        return Ok(());
    }
    let state = State::of(name);
    let _lock = state.lock()?;
    // By the time the lock is free, another lab may have taken the name.
    if state.existing_description()?.is_some_and(|description| description.instance == instance) {
        return down::take_down(&state);
    }
    Ok(())
}

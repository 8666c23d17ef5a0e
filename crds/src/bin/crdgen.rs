//! Writes the definitions of our kinds into the chart, or checks that they are there as they should be.
//!
//! `crdgen [--check] [DIR]`; DIR is `charts/landfall/crds` if not given.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use landfall_crds::manifest;

fn main() -> ExitCode {
    let mut check = false;
    let mut dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/landfall/crds"));
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--check" => check = true,
            "--help" | "-h" => {
                println!("usage: crdgen [--check] [DIR]");
                return ExitCode::SUCCESS;
            }
            other => dir = PathBuf::from(other),
        }
    }
    match run(&dir, check) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(stale) => {
            eprintln!("crdgen: {stale} file(s) differ from the types in crds/src: run make generate");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many files are not as they should be (none after writing).
fn run(dir: &Path, check: bool) -> Result<usize, Box<dyn std::error::Error>> {
    let mut stale = 0;
    for (name, definition) in manifest::all() {
        let path = dir.join(name);
        let wanted = manifest::yaml(&definition)?;
        let found = std::fs::read_to_string(&path).ok();
        if found.as_deref() == Some(wanted.as_str()) {
            continue;
        }
        if check {
            eprintln!("crdgen: {} differs", path.display());
            stale += 1;
        } else {
            std::fs::create_dir_all(dir)?;
            std::fs::write(&path, wanted)?;
        }
    }
    Ok(stale)
}

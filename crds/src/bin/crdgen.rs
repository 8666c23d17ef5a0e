//! Writes what is generated from the types: the definitions of our kinds into the chart and the table of conditions
//! into the documentation. Or checks that they are there as they should be.
//!
//! `crdgen [--check] [ROOT]`; ROOT is this checkout if not given.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use landfall_crds::{conditions, manifest};

fn main() -> ExitCode {
    let mut check = false;
    let mut root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--check" => check = true,
            "--help" | "-h" => {
                println!("usage: crdgen [--check] [ROOT]");
                return ExitCode::SUCCESS;
            }
            other => root = PathBuf::from(other),
        }
    }
    match run(&root, check) {
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
fn run(root: &Path, check: bool) -> Result<usize, Box<dyn std::error::Error>> {
    let mut stale = 0;
    for (path, wanted) in files()? {
        let path = root.join(path);
        let found = std::fs::read_to_string(&path).ok();
        if found.as_deref() == Some(wanted.as_str()) {
            continue;
        }
        if check {
            eprintln!("crdgen: {} differs", path.display());
            stale += 1;
        } else {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(&path, wanted)?;
        }
    }
    Ok(stale)
}

/// Every generated file: its path in the checkout and what should stand in it.
fn files() -> Result<Vec<(PathBuf, String)>, manifest::ManifestError> {
    let mut files = vec![(PathBuf::from("docs/conditions.md"), conditions::markdown())];
    for (name, definition) in manifest::all() {
        files.push((Path::new("charts/landfall/crds").join(name), manifest::yaml(&definition)?));
    }
    Ok(files)
}

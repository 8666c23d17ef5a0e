//! A lab for a test program: brought up by the first test that asks, taken down when the program ends.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::command;
use crate::control::{api, api_get};
use crate::error::{Doing, Error, Result};
use crate::http;
use crate::lab::{Lab, Options};
use crate::plan::LabName;
use crate::reaper::Reaper;
use crate::state::State;
use crate::toolchain;
use crate::wait;

/// The lab with what keeps it: the reaper watches this process through a pipe that lives as long as the process.
struct Shared {
    lab: Lab,
    _reaper: Reaper,
    _use: File,
}

static SHARED: OnceLock<Result<Shared, String>> = OnceLock::new();

impl Lab {
    /// The one lab of this test program. The first caller's options decide; the name in them is replaced by
    /// [`Lab::test_name`]. When the program ends, however it ends, the lab goes down.
    pub fn shared(options: impl FnOnce() -> Options) -> Result<&'static Self> {
        shared(options).map(|shared| &shared.lab)
    }

    /// The name of this test program's lab: the same in each run, so that a run cleans up after one that was cut
    /// off, and another one in another checkout, so that two of them run side by side.
    pub fn test_name(suffix: &str) -> Result<LabName> {
        let program = std::env::current_exe().doing(|| "find this program")?;
        test_name(&program, &toolchain::checkout()?, suffix).parse()
    }

    /// A fresh Kubernetes namespace of this program's shared lab; deleted when the value is dropped. If that
    /// happens in a panic, a report of the lab's state is printed first.
    pub fn namespace(&'static self, name: &str) -> Result<TestNs> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let made = api(self.name(), "POST", "/api/v1/namespaces", Some(("application/json", &object)))?;
        http::expect(made, &[201], "the API server, asked for a namespace,")?;
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        wait::until_seen(
            Duration::from_secs(30),
            &format!("the service account of namespace {name}"),
            || api_get(self.name(), &account),
        )?;
        Ok(TestNs { lab: self, name: name.to_owned() })
    }
}

fn shared(options: impl FnOnce() -> Options) -> Result<&'static Shared> {
    let made = SHARED.get_or_init(|| bring_up(options).map_err(|error| format!("{error}{}", causes(&error))));
    made.as_ref().map_err(|words| Error::Part { what: format!("no lab: {words}"), log: String::new() })
}

fn bring_up(options: impl FnOnce() -> Options) -> Result<Shared> {
    let checkout = toolchain::checkout()?;
    let options = Options { name: Lab::test_name("")?, ..options() };
    let exclusive = State::of(&options.name).lock_use()?;
    let (lab, reaper) = Lab::up_watched(&checkout, &options, &|line| eprintln!("{line}"))?;
    Ok(Shared { lab, _reaper: reaper, _use: exclusive })
}

fn causes(error: &Error) -> String {
    let mut text = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.extend([": ".to_owned(), error.to_string()]);
        cause = error.source();
    }
    text
}

/// Short enough for a lab's name: `t-`, ten characters at most of the program's name without cargo's hash (its
/// first six and last four, so that related names differ), four digits for the checkout, and the suffix.
fn test_name(program: &Path, checkout: &Path, suffix: &str) -> String {
    let stem = program.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let is_hash = |text: &str| text.len() == 16 && text.chars().all(|c| c.is_ascii_hexdigit());
    let stem =
        stem.rsplit_once('-').filter(|(_, hash)| is_hash(hash)).map_or(stem.as_str(), |(stem, _)| stem);
    let plain: Vec<char> = stem.chars().filter(char::is_ascii_alphanumeric).collect();
    let plain: String = match plain.len() {
        ..=10 => plain.iter().collect(),
        all => plain.iter().take(6).chain(plain.iter().skip(all - 4)).collect(),
    };
    let place = format!("{:x}", Sha256::digest(checkout.as_os_str().as_encoded_bytes()));
    let place: String = place.chars().take(4).collect();
    format!("t-{plain}-{place}{suffix}")
}

/// A Kubernetes namespace of one test.
#[derive(Debug)]
pub struct TestNs {
    lab: &'static Lab,
    name: String,
}

impl TestNs {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab it is in.
    #[must_use]
    pub fn lab(&self) -> &'static Lab {
        self.lab
    }

    /// Runs kubectl with this namespace as the default.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        command::run(self.lab.kubectl_command().args(["--namespace", &self.name]).args(arguments))
    }

    /// Applies manifests; those without a namespace land in this one.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let mut kubectl = self.lab.kubectl_command();
        kubectl.args(["--namespace", &self.name, "apply", "--filename=-"]);
        command::run_with_input(&mut kubectl, yaml)
    }

    /// What `kubectl get ARGUMENTS --output=json` prints for this namespace.
    pub fn get_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["--namespace", &self.name];
        all.extend(arguments);
        self.lab.get_json(&all)
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match toolchain::checkout() {
                Ok(checkout) => self.lab.print_report(&checkout, &self.name),
                Err(error) => eprintln!("{error}"),
            }
        }
        let path = format!("/api/v1/namespaces/{}", self.name);
        // The lab goes down soon after, so a namespace that stays is no harm; a second panic here would be.
        if let Err(error) = api(self.lab.name(), "DELETE", &path, None) {
            eprintln!("namespace {} was not deleted: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_lab_has_the_same_valid_name_in_every_run_and_another_in_another_checkout() {
        let name = |program: &str, checkout: &str| test_name(Path::new(program), Path::new(checkout), "");
        let first = name("/x/target/debug/deps/e2e_main_job-0123456789abcdef", "/x");
        assert!(first.starts_with("t-e2emainjob-"), "{first}");
        assert_ne!(name("/x/e2e_allocation", "/x"), name("/x/e2e_allocation_faults", "/x"));
        assert_eq!(first, name("/x/target/debug/deps/e2e_main_job-fedcba9876543210", "/x"));
        assert_ne!(first, name("/y/target/debug/deps/e2e_main_job-0123456789abcdef", "/y"));
        assert!(first.parse::<LabName>().is_ok());
    }
}

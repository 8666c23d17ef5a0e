//! Running the programs of the host, with errors that show the command line and what it said.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::{Doing, Error, Result, last_lines};

/// Runs a command to its end and returns its standard output; a failure carries the end of its output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    check(command, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end with `input` on its standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().doing(|| format!("start `{}`", line(command)))?;
    // A program that ends early closes its input; its own message says more than our broken pipe.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().doing(|| format!("wait for `{}`", line(command)))?;
    check(command, &output)?;
    written.doing(|| format!("write to `{}`", line(command)))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever its status.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().doing(|| format!("start `{}`", line(command)))
}

fn check(command: &Command, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(Error::Command {
        command: line(command),
        status: output.status.to_string(),
        output: last_lines(&String::from_utf8_lossy(text), 20),
    })
}

/// The command line as a person would type it.
#[must_use]
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A command for a program of the host, found also in the folders that a plain user's search path lacks; whatever
/// it starts in turn finds its programs the same way.
pub(crate) fn tool(name: &str) -> Command {
    let mut command = Command::new(find_program(name).unwrap_or_else(|| name.into()));
    if let Ok(path) = std::env::join_paths(search_path()) {
        command.env("PATH", path);
    }
    command
}

/// Where a program is, looked up as [`tool`] does.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    search_path().map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn search_path() -> impl Iterator<Item = PathBuf> {
    const USUAL: [&str; 7] =
        ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/local/go/bin"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&path).collect();
    own.into_iter().chain(USUAL.iter().map(PathBuf::from))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_and_its_words() {
        let error = run(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c echo no such thing >&2; exit 3` ended with exit status: 3: no such thing"
        );
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(run_with_input(&mut Command::new("cat"), "one\ntwo\n").unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_program_that_exists_nowhere_is_not_found() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }
}

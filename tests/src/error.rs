//! The one error type of the lab: each variant is an operation that failed.

use std::io;
use std::path::Path;
use std::time::Duration;

/// What can go wrong in the lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The person at the keyboard has to do something first; the text says what. The `lab` command ends with 2.
    #[error("{0}")]
    Usage(String),
    /// A system call or a file operation failed; the text says on what.
    #[error("{what}")]
    Io {
        /// The operation and its object, as "read /etc/hosts".
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("`{command}` ended with {status}: {output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended, in words.
        status: String,
        /// The last lines of what it wrote.
        output: String,
    },
    /// Something did not become true in time.
    #[error("after {} s still waiting: {what}; last seen: {last}", .within.as_secs_f32())]
    Timeout {
        /// What was awaited.
        what: String,
        /// How long.
        within: Duration,
        /// The last state observed.
        last: String,
    },
    /// A part of the lab did not work; the text says which, `log` holds its last lines.
    #[error("{what}{}{log}", if .log.is_empty() { "" } else { "; last lines of its log:\n" })]
    Part {
        /// What failed.
        what: String,
        /// The end of the relevant log, or nothing.
        log: String,
    },
    /// A peer (registry, API server, a host under test) answered otherwise than expected.
    #[error("{0}")]
    Answer(String),
}

/// The lab's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds to a system error the operation that met it.
pub(crate) trait Doing<T> {
    /// Turns the error into [`Error::Io`] with the text made by `what`.
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::Io { what: what().into(), source: source.into() })
    }
}

/// The last `lines` lines of a text file; empty when it cannot be read, since a missing log must not hide the
/// failure it would have explained.
#[must_use]
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    last_lines(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()), lines)
}

/// The last `lines` lines of `text`.
#[must_use]
pub(crate) fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_in_order() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 5), "a");
        assert_eq!(last_lines("", 5), "");
    }

    #[test]
    fn a_timeout_names_what_was_awaited_and_what_was_seen() {
        let error = Error::Timeout {
            what: "nodes ready".into(),
            within: Duration::from_secs(3),
            last: "n1 not ready".into(),
        };
        assert_eq!(error.to_string(), "after 3 s still waiting: nodes ready; last seen: n1 not ready");
    }
}

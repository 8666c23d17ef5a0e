//! Logs.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Flags that say what is logged and how; flatten them into a program's own flags.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or per module such as `info,landfall_speaker=debug`
    #[arg(long, env = "LANDFALL_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How log lines look
    #[arg(long, env = "LANDFALL_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("--log {filter:?} is not a filter")]
    Filter {
        /// The text as given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Logging was already set up in this process.
    #[error("logging is already set up")]
    Twice,
}

/// The Kubernetes client reports every failed request and every broken watch by itself, which during an outage of
/// the API server is several lines a second; whoever sent the request reports it better. A filter of the user goes
/// before.
const QUIET: &str = "kube_client::client=off";

/// Sets up logging for the whole process, to standard error. Call it once, first.
pub fn init(args: &LogArgs) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", args.log))
        .map_err(|source| TelemetryError::Filter { filter: args.log.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| TelemetryError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_filter_is_named() {
        let args = LogArgs { log: "info,=,".to_owned(), log_format: LogFormat::Text };
        assert_eq!(init(&args).unwrap_err().to_string(), r#"--log "info,=," is not a filter"#);
    }
}

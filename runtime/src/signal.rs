//! The signals that end a program.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM (kubelet ends the pod) or SIGINT (Ctrl-C) and returns its name.
///
/// The handlers are installed when the future is first polled; from then on neither signal kills the process.
pub async fn shutdown() -> std::io::Result<&'static str> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

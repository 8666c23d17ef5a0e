//! Whether somebody else serves these ports on this node.
//!
//! kube-proxy has two ports of its own, 10256 for its health and 10249 for its metrics; whoever stands in for it takes
//! the first one too. Where one of them is listened on, the ports of the Services are its affair: racing for them would
//! make it write a warning about each.

use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use tokio::time::Instant;

/// The ports of kube-proxy: health and metrics (`--healthz-bind-address`, `--metrics-bind-address`).
pub(super) const KUBE_PROXY: [u16; 2] = [10_256, 10_249];

/// After kube-proxy was seen its ports are left to it for so long: it may only be restarting.
const RESTART: Duration = Duration::from_secs(30);

/// The state `TCP_LISTEN` in `/proc/net/tcp` (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// Who may serve the ports now.
#[derive(Debug, Default)]
pub struct Seat {
    seen: Option<Instant>,
}

impl Seat {
    /// Whether they are ours, given whether kube-proxy is listening now.
    pub fn ours(&mut self, kube_proxy: bool, now: Instant) -> bool {
        if kube_proxy {
            self.seen = Some(now);
        }
        self.seen.is_none_or(|seen| now.saturating_duration_since(seen) >= RESTART)
    }
}

/// Whether somebody listens on one of these TCP ports, at whatever address, in the network namespace of this thread.
pub(super) fn listening(ports: &[u16]) -> io::Result<bool> {
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match std::fs::File::open(table) {
            Ok(file) => {
                if holds(BufReader::new(file), ports)? {
                    return Ok(true);
                }
            }
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Listening sockets come first in the table (`net/ipv4/tcp_ipv4.c`, `listening_get_first`), so the connections of a
/// busy node are never read.
fn holds(table: impl BufRead, ports: &[u16]) -> io::Result<bool> {
    for line in table.lines().skip(1) {
        let line = line?;
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
        if state != LISTEN {
            return Ok(false);
        }
        let port = local.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
        if port.is_some_and(|port| ports.contains(&port)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
                      0: 00000000:2810 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
                      1: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
                      2: 0100007F:2809 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0\n";
    const V6: &str = "  sl  local_address                         remote_address                        st\n\
                      0: 00000000000000000000000000000000:2810 00000000000000000000000000000000:0000 0A 0:0\n";

    #[test]
    fn only_sockets_that_listen_count() {
        for (table, port, found) in [
            (V4, 10_256, true),
            (V4, 22, true),
            (V4, 10_249, false),
            (V4, 80, false),
            (V6, 10_256, true),
            (V6, 10_249, false),
            ("", 10_256, false),
            ("header\nnonsense\n", 10_256, false),
        ] {
            assert_eq!(holds(table.as_bytes(), &[port]).unwrap(), found, "{port} in {table}");
        }
    }

    #[test]
    fn a_kube_proxy_that_restarts_finds_its_ports_free() {
        // S120
        let start = Instant::now();
        let mut seat = Seat::default();
        assert!(
            seat.ours(false, start),
            "nobody is there: a restart of the speaker must not close the ports"
        );
        assert!(!seat.ours(true, start));
        assert!(!seat.ours(false, start + RESTART / 2));
        assert!(seat.ours(false, start + RESTART));
        assert!(!seat.ours(true, start + RESTART * 2), "it is back");
    }
}

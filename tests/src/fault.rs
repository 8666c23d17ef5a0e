//! Faults: what can go wrong with a node, its cable or the API server.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::command;
use crate::control::{self, MANAGERS};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::netns;
use crate::plan::{API_PORT, HostName};
use crate::wait;

/// A fault, or its repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The node's port on the LAN goes down: the node sees its carrier go.
    CarrierDown,
    /// The port comes up again.
    CarrierUp,
    /// The port drops all frames in both directions while the node's carrier stays up: the node does not know.
    Silence,
    /// The port forwards again.
    Unsilence,
    /// The node loses its power: no process, no network, nothing in memory is left.
    Kill,
    /// The node starts anew with what is on its disk.
    Boot,
}

impl Lab {
    /// Does a fault to a node, or repairs it.
    pub fn fault(&self, fault: Fault, node: &str) -> Result<()> {
        let host: HostName = node.parse()?;
        let node = self.node(host)?;
        match fault {
            Fault::CarrierDown => self.port(host, "down"),
            Fault::CarrierUp => self.port(host, "up"),
            Fault::Silence => self.port_state(host, "0"),
            Fault::Unsilence => self.port_state(host, "3"),
            Fault::Kill if self.state.process(&host.to_string()).is_none() => {
                Err(Error::Usage(format!("{host} is off already; boot it")))
            }
            Fault::Kill => node.power_off(),
            Fault::Boot => {
                if self.state.process(&host.to_string()).is_some() {
                    return Err(Error::Usage(format!("{host} is on; kill it first")));
                }
                node.power_on()
            }
        }
    }

    fn port(&self, host: HostName, state: &str) -> Result<()> {
        netns::ip_batch(&self.name().netns(HostName::Router), &[format!("link set {host} {state}")])
    }

    /// Sets a bridge port's state; the numbers are those of the kernel's `BR_STATE_DISABLED` and
    /// `BR_STATE_FORWARDING` (`linux/if_bridge.h`).
    fn port_state(&self, host: HostName, state: &str) -> Result<()> {
        let lan = self.name().netns(HostName::Router);
        let mut bridge = command::tool("bridge");
        bridge.args(["-n", &lan, "link", "set", "dev", &host.to_string(), "state", state]);
        command::run(&mut bridge).map(|_| ())
    }

    /// Kills the API server; etcd and everything else stay. Returns when nobody listens at its port any more: the
    /// kernel closes the sockets of a program of many threads a little after its first thread has ended.
    pub fn stop_apiserver(&self) -> Result<()> {
        let Some(process) = self.state.process("kube-apiserver") else { return Ok(()) };
        process.kill()?;
        let at = SocketAddr::new(self.families().primary(HostName::Router), API_PORT);
        netns::inside(&self.name().netns(HostName::Router), || {
            wait::until(Duration::from_secs(10), "the API server's port to be free", || {
                TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_err().then_some(())
            })
        })?
    }

    /// Starts the API server again, waits until it is ready and starts the controller manager and the scheduler
    /// anew. A control plane with several replicas does the same: they end when they cannot renew their lease and
    /// are started again. Left alone, client-go's watches wait up to a minute before they ask again
    /// (`tools/cache/reflector.go`: 30 s, doubled by jitter).
    pub fn start_apiserver(&self) -> Result<()> {
        self.start_apiserver_with(&[])
    }

    /// As [`Lab::start_apiserver`], with more flags than the lab's own (a later one of a name wins).
    pub fn start_apiserver_with(&self, more: &[&str]) -> Result<()> {
        let stopped = self.state.process("kube-apiserver").is_none();
        if stopped {
            self.control_plane().start_apiserver(more)?;
        }
        self.control_plane().wait_ready()?;
        if stopped {
            for manager in MANAGERS {
                if let Some(process) = self.state.process(manager) {
                    process.kill()?;
                }
            }
            self.control_plane().start_managers()?;
        }
        Ok(())
    }

    /// Makes etcd forget every version of every object but the present ones: a watch that is behind can only
    /// begin again. Returns the revision.
    pub fn compact_etcd(&self) -> Result<u64> {
        let now = control::etcd(self.name(), "/v3/kv/range", &json!({"key": "Lw=="}))?;
        let revision = now.pointer("/header/revision").and_then(Value::as_str).unwrap_or_default();
        let known = revision.parse().map_err(|_| Error::Answer(format!("etcd names no revision: {now}")))?;
        control::etcd(self.name(), "/v3/kv/compaction", &json!({"revision": revision, "physical": true}))?;
        Ok(known)
    }
}

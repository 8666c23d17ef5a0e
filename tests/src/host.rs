//! A host of a running lab, as tests use it.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::capture::ArpCapture;
use crate::command;
use crate::error::Result;
use crate::http::{self, Response};
use crate::lab::Lab;
use crate::netns;
use crate::plan::HostName;

/// A host of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) name: HostName,
}

impl Host<'_> {
    /// Its name and, through it, its place in the address plan.
    #[must_use]
    pub fn name(&self) -> HostName {
        self.name
    }

    /// A command that runs on the host: on a node in all its namespaces, else in its network namespace. Arguments,
    /// starting with the program, are the caller's to add.
    pub fn command(&self) -> Result<Command> {
        self.lab.command_on(self.name)
    }

    /// Runs a program on the host to its end and returns its standard output.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        command::run(self.command()?.args(words))
    }

    /// Runs a closure on a thread of its own inside the host's network namespace: sockets it opens are the host's.
    pub fn in_netns<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::inside(&self.lab.name().netns(self.name), work)
    }

    /// `GET /` over a connection of its own; `timeout` bounds connecting and each read.
    pub fn http_get(&self, server: SocketAddr, timeout: Duration) -> Result<Response> {
        self.http_get_path(server, "/", timeout)
    }

    /// `GET path`, as [`Host::http_get`].
    pub fn http_get_path(&self, server: SocketAddr, path: &str, timeout: Duration) -> Result<Response> {
        self.in_netns(|| http::get(server, path, timeout))?
    }

    /// Starts to record the ARP frames that the host sends and receives.
    pub fn capture_arp(&self) -> Result<ArpCapture> {
        ArpCapture::start(&self.lab.name().netns(self.name))
    }

    /// The MAC address that the host's neighbour table holds for an address on the LAN, if it holds one.
    pub fn neighbour(&self, address: IpAddr) -> Result<Option<String>> {
        let text = self.run(&["ip", "neigh", "show", "to", &address.to_string(), "dev", "eth0"])?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
        Ok(words.nth(1).map(str::to_owned))
    }

    /// Forgets what the host's neighbour table holds for an address.
    pub fn forget_neighbour(&self, address: IpAddr) -> Result<()> {
        self.run(&["ip", "neigh", "flush", "to", &address.to_string(), "dev", "eth0"]).map(|_| ())
    }
}

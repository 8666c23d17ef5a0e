//! Hosts on a LAN: network namespaces without a name, which end with the process that holds them, whatever happens.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
pub(crate) struct Host {
    netns: File,
}

impl Host {
    /// A host with nothing but a loopback interface.
    pub(crate) fn new() -> Self {
        let netns = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own (are you root?)");
            File::open("/proc/thread-self/ns/net").expect("the namespace of this thread")
        });
        Self { netns: netns.join().expect("a thread in a new network namespace") }
    }

    /// Runs a closure on a thread inside the host.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the host for good.
    pub(crate) fn enter(&self) {
        setns(&self.netns, CloneFlags::CLONE_NEWNET).expect("to enter a network namespace");
    }

    /// Another handle of the same host.
    pub(crate) fn share(&self) -> Self {
        Self { netns: self.netns.try_clone().expect("a second descriptor") }
    }

    /// Runs `ip` with these arguments inside the host.
    pub(crate) fn ip(&self, arguments: &str) {
        let output = self.run(|| Command::new("ip").args(arguments.split_whitespace()).output());
        let output = output.expect("iproute2 is installed");
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The number of an interface.
    pub(crate) fn index(&self, name: &str) -> u32 {
        self.run(|| if_nametoindex(name)).expect("an interface of this name")
    }

    /// A name for this host that `ip link add … netns` understands.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd())
    }
}

/// A switch: a bridge in a namespace of its own.
pub(crate) struct Lan {
    switch: Host,
}

impl Lan {
    /// A switch without ports, which forwards at once.
    pub(crate) fn new() -> Self {
        let switch = Host::new();
        switch.ip("link add lan0 type bridge forward_delay 0 mcast_snooping 0");
        switch.ip("link set lan0 up");
        Self { switch }
    }

    /// Gives a host an interface of this name and hardware address on the LAN. `port` is the switch's side.
    pub(crate) fn connect(&self, host: &Host, port: &str, name: &str, mac: &str) {
        let netns = host.path();
        self.switch.ip(&format!("link add {port} type veth peer name {name} address {mac} netns {netns}"));
        self.switch.ip(&format!("link set {port} master lan0 up"));
        host.ip(&format!("link set {name} up"));
    }

    /// Takes a host's interface away, as if the card were pulled out.
    pub(crate) fn disconnect(&self, port: &str) {
        self.switch.ip(&format!("link del {port}"));
    }

    /// Cuts or restores the carrier of a host's interface.
    pub(crate) fn carrier(&self, port: &str, up: bool) {
        self.switch.ip(&format!("link set {port} {}", if up { "up" } else { "down" }));
    }
}

//! A small network of namespaces for data path tests: two clients, a router-less LAN, two nodes, and pods with real
//! servers behind them. Addresses are those of the lab.
//!
//! ```text
//! client .200 ─┐            ┌─ node .11 ── p1 10.244.1.11, p2 10.244.1.12   (the data path under test runs here)
//! client2 .201 ┴─ LAN ──────┴─ node2 .12 ── p3 10.244.2.11
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// The port of every pod's server, TCP and UDP.
pub(crate) const POD_PORT: u16 = 8080;
/// Long enough for a loaded machine, short enough for a test that expects silence.
const SILENCE: Duration = Duration::from_millis(600);
/// Answers come in well under a millisecond; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(5);

const HOSTS: [&str; 7] = ["client", "client2", "node", "node2", "p1", "p2", "p3"];

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// What a client met.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Met {
    /// A pod answered: its name, and the address it saw the client under.
    Pod(String, IpAddr),
    /// The connection was refused.
    Refused,
    /// Nothing came back.
    Silence,
}

impl Met {
    /// The name of the pod; fails the test when none answered.
    #[track_caller]
    pub(crate) fn pod(&self) -> &str {
        match self {
            Self::Pod(name, _) => name,
            other => panic!("expected a pod, met {other:?}"),
        }
    }

    /// The address the pod saw; fails the test when none answered.
    #[track_caller]
    pub(crate) fn seen(&self) -> IpAddr {
        match self {
            Self::Pod(_, seen) => *seen,
            other => panic!("expected a pod, met {other:?}"),
        }
    }
}

/// The namespaces, and the servers in them.
pub(crate) struct World {
    id: String,
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
}

impl World {
    /// Builds everything. Needs root; without it the test fails.
    pub(crate) fn new() -> Self {
        let id = format!("lfdp{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        sweep();
        let mut world = Self { id, stop: Arc::default(), servers: Vec::new() };
        for host in HOSTS.iter().chain(["lan"].iter()) {
            ip(&["netns", "add", &world.netns(host)]);
            // Forwarded packets ask for neighbours by link-local address, which is not usable while duplicate
            // address detection goes on.
            world.sysctl(host, &[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")]);
        }
        world.lan();
        world.node("node", 1, &[("p1", 11), ("p2", 12)]);
        world.node("node2", 2, &[("p3", 11)]);
        world.batch(
            "node",
            &["route add 10.244.2.0/24 via 192.0.2.12", "route add fd00:244:2::/64 via 2001:db8:50::12"],
        );
        world.batch(
            "node2",
            &["route add 10.244.1.0/24 via 192.0.2.11", "route add fd00:244:1::/64 via 2001:db8:50::11"],
        );
        for client in ["client", "client2"] {
            // Instead of an ARP answer: load-balancer addresses are behind the first node.
            world.batch(
                client,
                &[
                    "route add 192.0.2.96/27 via 192.0.2.11",
                    "route add 2001:db8:50::100/120 via 2001:db8:50::11",
                ],
            );
        }
        for pod in ["p1", "p2", "p3"] {
            world.serve(pod);
        }
        world
    }

    fn netns(&self, host: &str) -> String {
        format!("{}-{host}", self.id)
    }

    fn lan(&self) {
        self.batch("lan", &["link add br0 type bridge forward_delay 0 mcast_snooping 0", "link set br0 up"]);
        for (host, last) in [("client", 200), ("client2", 201), ("node", 11), ("node2", 12)] {
            let peer = self.netns(host);
            self.batch(
                "lan",
                &[
                    &format!("link add {host} type veth peer name eth0 netns {peer}"),
                    &format!("link set {host} master br0 up"),
                ],
            );
            self.batch(
                host,
                &[
                    "link set lo up",
                    &format!("addr add 192.0.2.{last}/24 dev eth0"),
                    &format!("addr add 2001:db8:50::{last}/64 dev eth0 nodad"),
                    "link set eth0 up",
                ],
            );
        }
    }

    fn node(&self, node: &str, number: u8, pods: &[(&str, u8)]) {
        self.sysctl(node, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]);
        self.batch(
            node,
            &[
                "link add cni0 type bridge forward_delay 0 mcast_snooping 0",
                &format!("addr add 10.244.{number}.1/24 dev cni0"),
                &format!("addr add fd00:244:{number}::1/64 dev cni0 nodad"),
                "link set cni0 up",
            ],
        );
        for (pod, last) in pods {
            let peer = self.netns(pod);
            self.batch(
                node,
                &[
                    &format!("link add {pod} type veth peer name eth0 netns {peer}"),
                    &format!("link set {pod} master cni0 up"),
                    // As CNI plugins do: a pod that reaches itself comes back on the port it left by.
                    &format!("link set {pod} type bridge_slave hairpin on"),
                ],
            );
            self.batch(
                pod,
                &[
                    "link set lo up",
                    &format!("addr add 10.244.{number}.{last}/24 dev eth0"),
                    &format!("addr add fd00:244:{number}::{last}/64 dev eth0 nodad"),
                    "link set eth0 up",
                    &format!("route add default via 10.244.{number}.1"),
                    &format!("route add default via fd00:244:{number}::1"),
                ],
            );
        }
    }

    /// A second LAN, on an interface of its own, between the first node and `client2`, which then sends by it to
    /// load-balancer addresses, from the addresses given back. Neither takes a packet from the wrong side.
    pub(crate) fn second_lan(&self) -> [IpAddr; 2] {
        let peer = self.netns("client2");
        self.batch("node", &[&format!("link add eth1 type veth peer name eth1 netns {peer}")]);
        for (host, last) in [("node", 11), ("client2", 201)] {
            self.batch(
                host,
                &[
                    &format!("addr add 198.51.100.{last}/24 dev eth1"),
                    &format!("addr add 2001:db8:51::{last}/64 dev eth1 nodad"),
                    "link set eth1 up",
                ],
            );
            self.sysctl(host, &[("ipv4/conf/eth0/rp_filter", "1"), ("ipv4/conf/eth1/rp_filter", "1")]);
        }
        self.batch(
            "client2",
            &[
                "route replace 192.0.2.96/27 via 198.51.100.11",
                "route replace 2001:db8:50::100/120 via 2001:db8:51::11",
            ],
        );
        ["198.51.100.201", "2001:db8:51::201"].map(|addr| addr.parse().expect("an address"))
    }

    /// Lets the node forget flows that are over within a second: what thousands of short ones leave behind would be
    /// looked at with each change.
    pub(crate) fn forget_soon(&self) {
        let names = ["udp_timeout", "tcp_timeout_close", "tcp_timeout_time_wait", "tcp_timeout_syn_sent"];
        let names = names.map(|name| format!("netfilter/nf_conntrack_{name}"));
        self.sysctl("node", &names.each_ref().map(|name| (name.as_str(), "1")));
    }

    fn sysctl(&self, host: &str, values: &[(&str, &str)]) {
        self.inside(host, || {
            for (name, value) in values {
                std::fs::write(format!("/proc/sys/net/{name}"), value).expect(name);
            }
        });
    }

    fn batch(&self, host: &str, lines: &[&str]) {
        let mut child = Command::new("ip")
            .args(["-n", &self.netns(host), "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("iproute2");
        let mut input = child.stdin.take().expect("a pipe");
        for line in lines {
            writeln!(input, "{line}").expect("ip reads its batch");
        }
        drop(input);
        assert!(child.wait().expect("ip ends").success(), "{host}: {lines:?}");
    }

    /// Runs a closure on a thread of its own inside a host.
    pub(crate) fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.netns(host);
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(&netns);
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program inside a host and returns what it printed; fails the test when it fails.
    pub(crate) fn run(&self, host: &str, program: &str, args: &[&str]) -> String {
        self.run_with(host, program, args, "")
    }

    /// The same, with something to read.
    pub(crate) fn run_with(&self, host: &str, program: &str, args: &[&str], input: &str) -> String {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.netns(host), program])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("iproute2");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        assert!(
            output.status.success(),
            "{program} {args:?}: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts the server of a pod, or of a host.
    pub(crate) fn serve(&mut self, pod: &'static str) {
        let netns = self.netns(pod);
        let stop = Arc::clone(&self.stop);
        let (ready_out, ready) = std::sync::mpsc::channel();
        self.servers.push(thread::spawn(move || {
            enter(&netns);
            let listener = TcpListener::bind(("::", POD_PORT)).expect("a TCP port");
            let datagrams = UdpSocket::bind(("::", POD_PORT)).expect("a UDP port");
            listener.set_nonblocking(true).expect("a non-blocking socket");
            datagrams.set_nonblocking(true).expect("a non-blocking socket");
            ready_out.send(()).expect("somebody waits");
            server(pod, &stop, &listener, &datagrams);
        }));
        ready.recv().expect("the server is up");
    }

    /// A TCP connection from a host, and what came of it.
    pub(crate) fn tcp(&self, host: &str, to: SocketAddr) -> Met {
        self.inside(host, || met_tcp(to))
    }

    /// A datagram from a new port of a host, and what came of it.
    pub(crate) fn udp(&self, host: &str, to: SocketAddr) -> Met {
        self.inside(host, || met_udp(&udp_socket(to), to))
    }

    /// Several attempts from one host, each from a new port; inside one thread, so that they are quick.
    pub(crate) fn many(&self, host: &str, udp: bool, to: SocketAddr, times: usize) -> Vec<Met> {
        self.inside(host, || {
            (0..times).map(|_| if udp { met_udp(&udp_socket(to), to) } else { met_tcp(to) }).collect()
        })
    }

    /// The same with TCP, and time for a lost packet to be sent again.
    pub(crate) fn patient(&self, host: &str, to: SocketAddr, times: usize) -> Vec<Met> {
        self.inside(host, || (0..times).map(|_| connect(to, PATIENCE)).collect())
    }

    /// A connection that stays.
    pub(crate) fn stream(&self, host: &str, to: SocketAddr) -> Stream {
        self.inside(host, || {
            let mut stream = Stream(TcpStream::connect_timeout(&to, PATIENCE).expect("a connection"));
            stream.0.set_read_timeout(Some(PATIENCE)).expect("a time limit");
            stream.line();
            stream
        })
    }

    /// Whether a host answers ping.
    pub(crate) fn ping(&self, host: &str, to: IpAddr) -> bool {
        let netns = self.netns(host);
        let status = Command::new("ip")
            .args(["netns", "exec", &netns, "ping", "-n", "-c1", "-W1", &to.to_string()])
            .stdout(Stdio::null())
            .status();
        status.expect("ping").success()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for server in self.servers.drain(..) {
            let _ = server.join();
        }
        for host in HOSTS.iter().chain(["lan"].iter()) {
            let _ = Command::new("ip").args(["netns", "del", &self.netns(host)]).status();
        }
    }
}

/// A connection whose other end says everything back.
pub(crate) struct Stream(TcpStream);

impl Stream {
    /// Sends a line and waits for it to come back.
    pub(crate) fn echo(&mut self) -> bool {
        self.0.write_all(b"still here\n").is_ok() && self.line() == "still here"
    }

    /// Sends a line that nobody answers any more.
    pub(crate) fn is_cut(&mut self) -> bool {
        self.0.set_read_timeout(Some(SILENCE)).expect("a time limit");
        !self.echo()
    }

    /// The port on this side.
    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().expect("a bound socket").port()
    }

    /// Sends a line that is answered by a reset.
    pub(crate) fn is_reset(&mut self) -> bool {
        // The reset may come before the write, or between it and the look for an answer.
        let met = self.0.write_all(b"still here\n").and_then(|()| self.0.read_exact(&mut [0]));
        met.is_err_and(|error| [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()))
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.0.read(&mut byte).is_ok_and(|read| read == 1) && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).into_owned()
    }
}

/// Deletes what earlier processes left behind when they were killed.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("lfdp").and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        if owner.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            // Another process may be sweeping too.
            let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        }
    }
}

fn ip(args: &[&str]) {
    let status = Command::new("ip").args(args).status().expect("iproute2");
    assert!(status.success(), "ip {args:?} (are you root?)");
}

fn enter(netns: &str) {
    let file = File::open(format!("/run/netns/{netns}")).expect("the namespace");
    setns(file, CloneFlags::CLONE_NEWNET).expect("entering it");
}

fn udp_socket(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind((any, 0)).expect("a port");
    socket.connect(to).expect("a route");
    socket
}

/// What comes back for a datagram on a connected socket.
pub(crate) fn met_udp(socket: &UdpSocket, to: SocketAddr) -> Met {
    let mut answer = [0; 256];
    socket.set_read_timeout(Some(SILENCE)).expect("a time limit");
    if let Err(error) = socket.send(b"who") {
        return failed(&error, to);
    }
    match socket.recv(&mut answer) {
        Ok(len) => parse(&answer[..len]),
        Err(error) => failed(&error, to),
    }
}

fn met_tcp(to: SocketAddr) -> Met {
    connect(to, SILENCE)
}

fn connect(to: SocketAddr, patience: Duration) -> Met {
    let stream = match TcpStream::connect_timeout(&to, patience) {
        Ok(stream) => stream,
        Err(error) => return failed(&error, to),
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    // Ended by a reset: thousands of connections that linger would make each further one slower.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an open connection");
    let mut answer = Vec::new();
    match BufReader::new(&stream).read_until(b'\n', &mut answer) {
        Ok(_) => parse(&answer),
        Err(error) => failed(&error, to),
    }
}

fn failed(error: &std::io::Error, to: SocketAddr) -> Met {
    match error.kind() {
        // A datagram refused on the host that sends it fails with "not permitted".
        ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Met::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Met::Silence,
        other => panic!("{to}: {other} ({error})"),
    }
}

fn parse(answer: &[u8]) -> Met {
    let text = String::from_utf8_lossy(answer);
    let mut words = text.split_whitespace();
    let name = words.next().expect("a name").to_owned();
    Met::Pod(name, words.next().and_then(|addr| addr.parse().ok()).expect("an address"))
}

/// Says its name and the client's address to everybody, and everything back that a connection sends.
fn server(name: &str, stop: &AtomicBool, listener: &TcpListener, datagrams: &UdpSocket) {
    let mut open: Vec<TcpStream> = Vec::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        while let Ok((mut stream, peer)) = listener.accept() {
            idle = false;
            let greeting = format!("{name} {}\n", peer.ip().to_canonical());
            stream.set_nonblocking(true).expect("a non-blocking socket");
            if stream.write_all(greeting.as_bytes()).is_ok() {
                open.push(stream);
            }
        }
        while let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
            idle = false;
            let _ = datagrams.send_to(format!("{name} {}\n", peer.ip().to_canonical()).as_bytes(), peer);
        }
        open.retain_mut(|stream| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(len) => {
                idle = false;
                stream.write_all(&buffer[..len]).is_ok()
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        if idle {
            thread::sleep(Duration::from_micros(300));
        }
    }
}

//! Health-check ports as a load balancer outside the cluster meets them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use landfall_core::name::ServiceKey;
use landfall_speaker::health_check::{self, Check, Mode, Settings, State};
use landfall_speaker::metrics::Metrics;
use landfall_speaker::sync::{NOTICES, Notice};
use tokio::sync::{mpsc, watch};

use crate::host::Host;

const NODE: [&str; 2] = ["192.0.2.11", "2001:db8:50::11"];
const PORT: u16 = 30_400;
/// How often ports are tried again here, and how long a test waits at most.
const AGAIN: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(20);

/// A node that serves its ports until the state's sender is dropped.
struct Node {
    host: Host,
    state: Option<watch::Sender<State>>,
    served: Option<JoinHandle<()>>,
    notices: Option<mpsc::Receiver<Notice>>,
}

impl Node {
    fn new() -> Self {
        let host = Host::new();
        host.ip("link set lo up");
        host.ip("address add 192.0.2.11/24 dev lo");
        host.ip("address add 2001:db8:50::11/64 dev lo nodad");
        Self { host, state: None, served: None, notices: None }
    }

    fn serve(&mut self, mode: Mode) {
        let (sender, state) = watch::channel(node(&[]));
        let (notices_out, notices) = mpsc::channel(NOTICES);
        let inside = self.host.share();
        let served = thread::spawn(move || {
            inside.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let settings =
                Settings { again: AGAIN, ..Settings::new(mode, Some("[::]:10256".parse().unwrap())) };
            let _ended =
                runtime.block_on(health_check::run(settings, state, notices_out, Metrics::default()));
        });
        (self.state, self.served, self.notices) = (Some(sender), Some(served), Some(notices));
    }

    fn tell(&self, state: State) {
        self.state.as_ref().unwrap().send_replace(state);
    }

    /// The first line of the answer, or why there is none.
    fn ask(&self, addr: &str, port: u16, path: &str) -> String {
        self.host.run(|| request(addr, port, path)).unwrap_or_else(|error| error.to_string())
    }

    fn wait(&self, addr: &str, port: u16, wanted: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let met = self.ask(addr, port, "/healthz");
            if met.starts_with(wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{addr} {port}: {met}, not {wanted}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn listen(&self, addr: &str, port: u16) -> TcpListener {
        self.host.run(|| TcpListener::bind(SocketAddr::new(addr.parse().unwrap(), port))).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.state = None;
        if let Some(served) = self.served.take() {
            let ended = served.join();
            assert!(ended.is_ok() || thread::panicking(), "the task panicked");
        }
    }
}

fn request(addr: &str, port: u16, path: &str) -> std::io::Result<String> {
    let addr: IpAddr = addr.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(addr, port), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A node with Services that have these many endpoints here in each family.
fn node(services: &[(&str, u16, usize)]) -> State {
    let check = |(name, port, local): &(&str, u16, usize)| {
        let port = NonZeroU16::new(*port).unwrap();
        (
            ServiceKey::new("shop", *name),
            Check { uid: "u1".into(), port, local_v4: Some(*local), local_v6: Some(*local) },
        )
    };
    let checks: BTreeMap<_, _> = services.iter().map(check).collect();
    State { checks, addresses: NODE.map(|addr| addr.parse().unwrap()).to_vec(), ..State::default() }
}

const OK: &str = "HTTP/1.1 200 ";
const UNAVAILABLE: &str = "HTTP/1.1 503 ";
const REFUSED: &str = "Connection refused";

#[test]
fn ports_open_change_and_close_with_their_services() {
    // S112, S113, S119
    let mut node_ = Node::new();
    node_.serve(Mode::Auto);
    for addr in NODE {
        node_.wait(addr, PORT, REFUSED);
    }
    node_.tell(node(&[("web", PORT, 2)]));
    for addr in NODE {
        node_.wait(addr, PORT, OK);
        let answer = node_.ask(addr, PORT, "/any/path");
        let answer = answer.to_ascii_lowercase();
        for part in [
            "content-type: application/json\r\n",
            "x-content-type-options: nosniff\r\n",
            "x-load-balancing-endpoint-weight: 2\r\n",
            "\t\"localendpoints\": 2,\n",
        ] {
            assert!(answer.contains(part), "{part:?} in {answer}");
        }
    }
    // A number changes without a notification.
    let web = ServiceKey::new("shop", "web");
    node_.state.as_ref().unwrap().send_if_modified(|state| {
        let empty = Check { local_v4: Some(0), local_v6: Some(0), ..state.checks[&web].clone() };
        state.set_check(&web, Some(empty))
    });
    for addr in NODE {
        assert!(node_.ask(addr, PORT, "/").starts_with(UNAVAILABLE), "{addr}");
    }
    // Another Service takes over the port, at once.
    node_.tell(node(&[("api", PORT, 1)]));
    for addr in NODE {
        node_.wait(addr, PORT, OK);
        assert!(node_.ask(addr, PORT, "/").contains("\"name\": \"api\""), "{addr}");
    }
    node_.tell(node(&[]));
    for addr in NODE {
        node_.wait(addr, PORT, REFUSED);
    }
}

#[test]
fn a_port_that_somebody_has_is_left_to_him_and_taken_when_it_is_free() {
    // S118, S120
    for addr in NODE {
        let mut node_ = Node::new();
        let theirs = node_.listen(addr, PORT);
        node_.serve(Mode::Always);
        node_.tell(node(&[("web", PORT, 1), ("api", PORT + 1, 1)]));
        node_.wait(addr, PORT + 1, OK);
        let told = node_.notices.as_mut().unwrap().try_recv().unwrap();
        let told_addr = match &told {
            Notice::NoHealthCheck { addr, .. } => *addr,
            other => panic!("{other:?}"),
        };
        let web = ServiceKey::new("shop", "web");
        assert_eq!((told.service(), told_addr), (&web, SocketAddr::new(addr.parse().unwrap(), PORT)));
        theirs.set_nonblocking(true).unwrap();
        assert_eq!(theirs.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody disturbs it");
        drop(theirs);
        node_.wait(addr, PORT, OK);
        assert!(node_.notices.as_mut().unwrap().try_recv().is_err(), "{addr}: told once");
    }
}

#[test]
fn where_kube_proxy_runs_every_port_is_its_own() {
    // S120: at the start, and when it comes later.
    for (addr, sign) in [("0.0.0.0", 10_256), ("127.0.0.1", 10_249), ("::", 10_256)] {
        let mut node_ = Node::new();
        let theirs = node_.listen(addr, sign);
        node_.serve(Mode::Auto);
        node_.tell(node(&[("web", PORT, 1)]));
        // Were it served, it would be after the first of these looks.
        thread::sleep(AGAIN * 4);
        assert!(node_.ask(NODE[0], PORT, "/").starts_with(REFUSED), "{addr} {sign}");
        drop(theirs);
    }
    let mut node_ = Node::new();
    node_.serve(Mode::Auto);
    node_.tell(node(&[("web", PORT, 1)]));
    for addr in NODE {
        node_.wait(addr, PORT, OK);
        node_.wait(addr, 10_256, OK);
    }
    let _theirs = node_.listen("127.0.0.1", 10_249);
    for addr in NODE {
        node_.wait(addr, PORT, REFUSED);
        node_.wait(addr, 10_256, REFUSED);
    }
}

#[test]
fn the_node_answers_for_itself_until_it_is_to_go() {
    // S121
    let mut node_ = Node::new();
    node_.serve(Mode::Auto);
    for addr in NODE {
        node_.wait(addr, 10_256, OK);
    }
    node_.tell(State { eligible: false, ..node(&[]) });
    for addr in NODE {
        node_.wait(addr, 10_256, UNAVAILABLE);
        assert!(node_.ask(addr, 10_256, "/livez").starts_with(OK), "{addr}");
        assert!(node_.ask(addr, 10_256, "/metrics").starts_with("HTTP/1.1 404 "), "{addr}");
    }
}

#[test]
fn clients_that_hold_connections_open_shut_nobody_out() {
    let mut node_ = Node::new();
    node_.serve(Mode::Auto);
    node_.tell(node(&[("web", PORT, 1), ("api", PORT + 1, 1)]));
    for addr in NODE {
        node_.wait(addr, PORT, OK);
        node_.wait(addr, PORT + 1, OK);
        let to = SocketAddr::new(addr.parse().unwrap(), PORT);
        let held: Vec<TcpStream> = node_.host.run(|| {
            let half = || {
                let mut stream = TcpStream::connect_timeout(&to, SOON).unwrap();
                // It may have been ended already, for a younger one.
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nX: ");
                stream
            };
            (0..400).map(|_| half()).collect()
        });
        assert!(node_.ask(addr, PORT, "/").starts_with(OK), "{addr}");
        assert!(node_.ask(addr, PORT + 1, "/").starts_with(OK), "{addr}: another port");
        drop(held);
    }
}

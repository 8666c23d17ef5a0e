//! A way to the API server on which the watch of Services can be held up and cut, while all else goes through.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_lab::product::cluster;

/// Where the lab's `kubectl proxy` listens in the router's namespace.
const UPSTREAM: &str = "127.0.0.1:8001";

/// A proxy in the router's namespace; it lives as long as the test program.
#[derive(Clone, Default)]
pub(crate) struct Proxy {
    /// Whether answers to watches of Services are held up.
    stalled: Arc<AtomicBool>,
    /// The clients' ends of connections that carry a watch of Services.
    watches: Arc<Mutex<Vec<TcpStream>>>,
    /// Watches that were asked for.
    asked: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts one and says where it listens.
    pub(crate) fn start() -> (Self, SocketAddr) {
        let proxy = Self::default();
        let shared = proxy.clone();
        let at = cluster().host("router").unwrap().in_netns(move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let at = listener.local_addr().unwrap();
            // A thread started here stays in this namespace.
            std::thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let shared = shared.clone();
                    std::thread::spawn(move || shared.serve(client));
                }
            });
            at
        });
        (proxy, at.unwrap())
    }

    /// Holds up what the API server says in watches of Services.
    pub(crate) fn stall(&self) {
        self.stalled.store(true, Ordering::SeqCst);
    }

    /// Cuts the watches that are held up, and lets new ones through.
    pub(crate) fn cut(&self) {
        self.stalled.store(false, Ordering::SeqCst);
        for stream in self.watches.lock().unwrap().drain(..) {
            // Closed by the other side already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How often a watch of Services was asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn serve(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(UPSTREAM) else { return };
        let watch = Arc::new(AtomicBool::new(false));
        let (mut from_client, mut to_client) = (client.try_clone().unwrap(), client.try_clone().unwrap());
        let (mut from_server, mut to_server) = (server.try_clone().unwrap(), server);
        let (shared, flag) = (self.clone(), Arc::clone(&watch));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count) = from_client.read(&mut buffer) {
                let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
                // A request without a body comes in one piece; HTTP/1.1 carries nothing else while it is watched.
                let head = String::from_utf8_lossy(bytes);
                if head.starts_with("GET /api/v1/services?")
                    && head.lines().next().is_some_and(|line| line.contains("watch=true"))
                {
                    shared.asked.fetch_add(1, Ordering::SeqCst);
                    shared.watches.lock().unwrap().push(client.try_clone().unwrap());
                    flag.store(true, Ordering::SeqCst);
                }
                if to_server.write_all(bytes).is_err() {
                    break;
                }
            }
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = from_server.read(&mut buffer) {
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            // What came while it was held up is lost with the connection.
            let mut held = false;
            while watch.load(Ordering::SeqCst) && self.stalled.load(Ordering::SeqCst) {
                held = true;
                std::thread::sleep(Duration::from_millis(5));
            }
            if held || to_client.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    }
}

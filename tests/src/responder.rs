//! Endpoints that say who they are: every connection and datagram is answered with the address and port it arrived
//! at and the address it came from.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::arena::{Arena, Place};
use crate::error::{Doing, Result};

/// The ports at which every endpoint answers, over TCP and UDP.
pub const PORTS: [u16; 3] = [8080, 8081, 8082];

impl Arena<'_> {
    /// Starts the servers of all hosts that can be endpoints: one thread each, until the process ends.
    pub fn serve(&self) -> Result<()> {
        for place in Place::ALL {
            let addresses = place.endpoints();
            if addresses.is_empty() {
                continue;
            }
            self.behind(place, move |ready| {
                if let Err(error) = serve(&addresses, &ready) {
                    let _ = ready.send(Err(error));
                }
            })?;
        }
        Ok(())
    }
}

fn serve(addresses: &[IpAddr], ready: &Sender<Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.doing(|| "start a runtime")?;
    let mut tasks = JoinSet::new();
    runtime.block_on(async {
        for address in addresses {
            for port in PORTS {
                let at = SocketAddr::new(*address, port);
                let listener = TcpListener::bind(at).await.doing(|| format!("listen at {at}"))?;
                let socket = UdpSocket::bind(at).doing(|| format!("take datagrams at {at}"))?;
                std::thread::spawn(move || datagrams(&socket, at));
                tasks.spawn(connections(listener, at));
            }
        }
        let _ = ready.send(Ok(()));
        // None of them ends.
        while tasks.join_next().await.is_some() {}
        Ok(())
    })
}

async fn connections(listener: TcpListener, at: SocketAddr) {
    loop {
        // A connection that was reset before it was taken is the client's affair.
        let Ok((stream, peer)) = listener.accept().await else { continue };
        // The first bytes of a connection always find room.
        if stream.writable().await.is_ok() {
            let _ = stream.try_write(&words(at, peer));
        }
    }
}

/// A thread of its own: a task that waits for room to answer one client would keep the others waiting.
fn datagrams(socket: &UdpSocket, at: SocketAddr) {
    // An answer that finds no room within this time is lost, as datagrams are.
    let _ = socket.set_write_timeout(Some(Duration::from_millis(100)));
    let mut buffer = [0; 64];
    loop {
        // An error here tells of an earlier answer that found nobody.
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&words(at, peer), peer);
        }
    }
}

fn words(at: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    format!("{at} {}\n", peer.ip().to_canonical()).into_bytes()
}

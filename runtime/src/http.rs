//! The HTTP endpoint of a program: `/healthz`, `/readyz` and `/metrics`, nothing else.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::serve::{self, Answer, Connections};

/// Connections served at the same time: kubelet and a few scrapers need a handful, and more would let anybody who
/// reaches the port take the program's memory.
const MAX_CONNECTIONS: usize = 64;
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Why the endpoint does not work.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address as given.
        addr: SocketAddr,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
}

/// Opens the listening socket. `[::]` serves IPv4 as well; on a host without IPv6 it becomes `0.0.0.0`.
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, HttpError> {
    match TcpListener::bind(addr).await {
        Ok(listener) => Ok(listener),
        Err(_) if addr.ip().is_unspecified() && addr.is_ipv6() => {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
            TcpListener::bind(v4).await.map_err(|source| HttpError::Listen { addr, source })
        }
        Err(source) => Err(HttpError::Listen { addr, source }),
    }
}

/// Answers requests until it is dropped.
pub async fn serve(listener: TcpListener, health: Health, metrics: Arc<Registry>) {
    let answer =
        move |request: &Request<Incoming>| respond(request.method(), request.uri().path(), &health, &metrics);
    serve::serve(listener, Connections::at_most(MAX_CONNECTIONS), answer).await;
}

fn respond(method: &Method, path: &str, health: &Health, metrics: &Registry) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match path {
        "/healthz" => verdict("stopped", &health.stopped_pulses()),
        "/readyz" => verdict("waiting for", &health.closed_gates()),
        "/metrics" => {
            let mut body = String::new();
            match prometheus_client::encoding::text::encode(&mut body, metrics) {
                Ok(()) => with_type(StatusCode::OK, body, OPEN_METRICS),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be encoded\n".to_owned()),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n".to_owned()),
    }
}

fn verdict(what: &str, against: &[&str]) -> Answer {
    if against.is_empty() {
        text(StatusCode::OK, "ok\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, format!("{what}: {}\n", against.join(", ")))
    }
}

fn text(status: StatusCode, body: String) -> Answer {
    with_type(status, body, TEXT)
}

fn with_type(status: StatusCode, body: String, content_type: HeaderValue) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinSet;

    use super::*;
    use crate::serve::HEADER_TIMEOUT;

    async fn get(addr: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_are_served_over_both_families() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let health = Health::new();
            let gate = health.gate("services");
            let mut registry = Registry::default();
            let requests: Counter = Counter::default();
            registry.register("requests", "Requests", requests.clone());
            requests.inc();
            let listener = listen(addr.parse().unwrap()).await.unwrap();
            let addr = listener.local_addr().unwrap();
            let mut tasks = JoinSet::new();
            tasks.spawn(serve(listener, health, Arc::new(registry)));

            assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200 "), "{addr}");
            let waiting = get(addr, "/readyz").await;
            assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.ends_with("waiting for: services\n"));
            gate.set(true);
            assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 200 "), "{addr}");
            assert!(get(addr, "/metrics").await.contains("requests_total 1\n"), "{addr}");
            assert!(get(addr, "/").await.starts_with("HTTP/1.1 404 "), "{addr}");
        }
    }

    #[tokio::test]
    async fn connections_held_open_shut_nobody_out() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listen(addr.parse().unwrap()).await.unwrap();
            let addr = listener.local_addr().unwrap();
            let mut tasks = JoinSet::new();
            tasks.spawn(serve(listener, Health::new(), Arc::new(Registry::default())));
            let mut held = Vec::new();
            for _ in 0..3 * MAX_CONNECTIONS {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await.unwrap();
                held.push(stream);
            }
            // Far below the time after which an unfinished request is given up.
            let answer = tokio::time::timeout(HEADER_TIMEOUT / 2, get(addr, "/healthz")).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{addr}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        assert_eq!(listen(addr).await.unwrap_err().to_string(), format!("cannot listen on {addr}"));
    }
}

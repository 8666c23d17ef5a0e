//! HTTP answers to requests without a body, within bounds that no client can pass.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// How long a client may take to send its request, and a connection may live in all.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(2);

/// What a client gets.
pub type Answer = Response<Full<Bytes>>;

/// The connections of one or more listeners, bounded together. One more ends the oldest: an answer takes a
/// millisecond, so whoever holds connections open shuts nobody out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    by_age: Arc<Mutex<VecDeque<AbortHandle>>>,
    most: usize,
}

impl Connections {
    /// Admits so many at the same time.
    #[must_use]
    pub fn at_most(most: usize) -> Self {
        Self { by_age: Arc::new(Mutex::new(VecDeque::with_capacity(most))), most }
    }

    fn admit(&self, connection: AbortHandle) {
        let mut by_age = self.by_age.lock().unwrap_or_else(PoisonError::into_inner);
        by_age.retain(|connection| !connection.is_finished());
        if by_age.len() >= self.most
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        by_age.push_back(connection);
    }
}

/// Answers requests until it is dropped, which ends its connections too.
pub async fn serve<F>(listener: TcpListener, connections: Connections, answer: F)
where
    F: Fn(&Request<Incoming>) -> Answer + Clone + Send + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.admit(tasks.spawn(connection(stream, answer.clone()))),
                // Out of file descriptors or a client that went away: the next one may be served.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, answer: impl Fn(&Request<Incoming>) -> Answer + Send) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        std::future::ready(Ok::<_, Infallible>(answer(&request)))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off is its own affair.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, served).await;
}

//! Announcing on the local segment: answers ARP for the addresses this node owns, and tells the segment when it
//! gains one.

pub mod arp;
mod responder;
mod socket;
mod task;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use landfall_core::elect::Owned;
use tokio::sync::watch;

use crate::link::Links;

/// The channels that connect the announcer to the rest of the speaker.
#[derive(Debug)]
pub struct Ports {
    /// In: the addresses to announce.
    pub owned: watch::Receiver<Arc<Owned>>,
    /// In: the interfaces of this node.
    pub links: watch::Receiver<Arc<Links>>,
    /// Out: the addresses answered for, sent after the change is in force. What is not in here gets no answer.
    pub answering: watch::Sender<Arc<Owned>>,
}

/// How to announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The mean time between two repetitions of an announcement after the first five seconds; zero for none.
    pub refresh: Duration,
    /// Spreads the repetitions of different nodes in time.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { refresh: Duration::from_secs(30), seed: 0 }
    }
}

/// What has happened on the wire since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// ARP requests received, for whatever address.
    pub requests: AtomicU64,
    /// ARP replies sent.
    pub replies: AtomicU64,
    /// Gratuitous ARP frames sent, requests and replies alike.
    pub gratuitous: AtomicU64,
    /// Frames ignored because they are not well-formed ARP for IPv4 over Ethernet.
    pub malformed: AtomicU64,
    /// Frames in which another station uses an owned address as its own.
    pub conflicts: AtomicU64,
    /// Frames that could not be sent.
    pub send_errors: AtomicU64,
}

/// Why announcing stopped.
#[derive(Debug, thiserror::Error)]
pub enum L2Error {
    /// The side that says what is owned, or the one that reports interfaces, is gone.
    #[error("the sender of {0} ended")]
    InputClosed(&'static str),
}

/// Announces until dropped; nothing is sent when it ends.
pub async fn run(settings: Settings, ports: Ports, counters: Arc<Counters>) -> Result<Infallible, L2Error> {
    task::Task::new(settings, ports, counters).run().await
}

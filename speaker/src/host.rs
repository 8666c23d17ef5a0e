//! What on this node would break the traffic although our own table is right: kernel parameters, and the filter tables
//! of others. It is looked at when the speaker starts, when addresses or interfaces change, and every minute; what is
//! wrong is said in the log, in an Event on the Node, in a metric and in a condition of the `SpeakerStatus`.
//!
//! Nothing is changed unless the user has asked for it: see [`sysctls`].

pub mod foreign;
mod proc;
pub mod sysctls;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::IpNet;
use landfall_core::addr::Family;
use landfall_core::name::Iface;

pub use task::{Gone, Ports, Settings, run};

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The kernel does not forward packets.
    ForwardingOff,
    /// The kernel drops packets of clients that it would answer through another interface.
    StrictReversePath,
    /// The table of connections is full, or likely to be.
    ConntrackFull,
    /// A connection is forgotten sooner than kube-proxy would have it.
    ConntrackShort,
    /// A filter table of somebody else drops what is forwarded.
    ForeignFilter,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::ForwardingOff,
        Self::StrictReversePath,
        Self::ConntrackFull,
        Self::ConntrackShort,
        Self::ForeignFilter,
    ];

    /// Its name, which is the reason of the condition and of the Event.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForwardingOff => "ForwardingOff",
            Self::StrictReversePath => "StrictReversePath",
            Self::ConntrackFull => "ConntrackFull",
            Self::ConntrackShort => "ConntrackShort",
            Self::ForeignFilter => "ForeignFilter",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// Whether it breaks traffic; else it is advice, which only the log and the metric give.
    pub breaks: bool,
    /// What is wrong, what comes of it and what to do, in a sentence or two.
    pub message: String,
}

/// All that is wrong; `None` before the first look.
pub type Findings = Option<BTreeSet<Finding>>;

/// What the check has to know of this node and of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The families that are to be forwarded.
    pub families: BTreeSet<Family>,
    /// The interfaces on which load-balancer addresses are announced, by family.
    pub lan: BTreeMap<Family, BTreeSet<Iface>>,
    /// The networks of this node's pods, as far as they are known.
    pub pods: Vec<IpNet>,
    /// Processors of this machine.
    pub processors: u64,
}

/// Where kernel parameters may be set: a folder that is `/proc/sys/net` and writable. `None`: nowhere.
pub type Writable = Option<PathBuf>;

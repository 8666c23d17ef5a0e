//! The speaker: announces the addresses of load-balanced Services from one node and carries their traffic to the
//! pods. The program is `main.rs`; everything it does is in here, so that tests can use the parts.

pub mod args;
pub mod convert;
pub mod datapath;
pub mod events;
pub mod fake;
pub mod gauges;
pub mod health_check;
pub mod host;
pub mod kernel;
pub mod l2;
pub mod link;
pub mod metrics;
pub mod nft;
pub mod ownership;
pub mod run;
pub mod status;
pub mod sync;
pub mod view;
pub mod watch;

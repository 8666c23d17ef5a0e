//! Landfall speaker.

pub mod args;
pub mod convert;
pub mod datapath;
pub mod fake;
pub mod kernel;
pub mod l2;
pub mod link;
pub mod metrics;
pub mod nft;
pub mod ownership;
pub mod view;
pub mod watch;

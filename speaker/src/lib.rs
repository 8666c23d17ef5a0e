//! Landfall speaker.

pub mod args;
pub mod convert;
pub mod l2;
pub mod link;
pub mod metrics;
pub mod ownership;
pub mod view;
pub mod watch;

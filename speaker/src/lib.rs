//! Landfall speaker.

pub mod l2;
pub mod link;
pub mod ownership;

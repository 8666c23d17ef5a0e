//! Landfall controller.

fn main() {}

//! Landfall speaker.

fn main() {}

//! Landfall speaker.

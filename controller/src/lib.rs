//! Landfall controller.

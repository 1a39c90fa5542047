//! What holds of every parser here that reads bytes from outside, whatever the bytes: a file for each.
//!
//! The package `longshore-fuzz` calls them. Each panics where its property does not hold.

mod addresses;
mod batches;
mod configuration;
mod connections;
mod frames;
mod records;
mod values;
mod websockets;

pub use addresses::addresses;
pub use batches::batches;
pub use configuration::configuration;
pub use connections::connections;
pub use frames::frames;
pub use records::{records, segments};
pub use values::values;
pub use websockets::websockets;

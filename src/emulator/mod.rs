//! An Event Hubs-compatible broker in the box.

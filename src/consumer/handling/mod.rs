//! One call of a handler: what it is called with, how it is run, and how its report comes back.

pub(crate) mod batch;
pub(crate) mod blocking;
pub(crate) mod call;
pub(crate) mod handler;
pub(crate) mod panics;
pub(crate) mod renewals;
pub(crate) mod running;
pub(crate) mod scope;
pub(crate) mod slots;
pub(crate) mod unit;

//! What every implementation of a port must do: suites for stores, sinks and transports of your own.
//!
//! A suite is a list of cases. Each case gets a port that is new and empty, and panics if the port does something
//! else than the engine relies on. `examples/own_stores` tests a checkpoint store over SQLite and a dead-letter
//! sink over a file in this way.
//!
//! ```
//! use longshore::checkpoint_store::memory::MemoryCheckpointStore;
//! use longshore::testing::contract;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // #[tokio::test]
//! contract::checkpoint_stores().hold(async || MemoryCheckpointStore::new()).await;
//! # }
//! ```
//!
//! `examples/own_stores` has a checkpoint store over SQLite and a dead-letter sink over a file that hold
//! theirs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a case that does not hold is told by a panic, as in any test"
)]

mod checkpoint_store;
mod dead_letter_sink;
mod failure_store;
mod lease_store;
mod transport;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

pub use checkpoint_store::checkpoint_stores;
pub use dead_letter_sink::{KeptLetter, LettersUnderTest, dead_letter_sinks};
pub use failure_store::failure_stores;
pub use lease_store::lease_stores;
pub use transport::{HubUnderTest, transports};

/// The cases that every implementation of a port must hold.
pub struct Contract<P: ?Sized> {
    cases: Vec<Case<P>>,
}

struct Case<P: ?Sized> {
    name: &'static str,
    run: fn(Arc<P>) -> BoxFuture<'static, ()>,
}

impl<P: ?Sized> Contract<P> {
    /// The names of its cases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.cases.iter().map(|case| case.name)
    }

    /// Leaves out a case that a medium cannot hold.
    ///
    /// # Panics
    /// Where there is no such case.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let before = self.cases.len();
        self.cases.retain(|case| case.name != name);
        assert!(self.cases.len() < before, "there is no case {name}");
        self
    }

    /// Runs one case, on a port that is new and empty. Use it for one test for each case.
    ///
    /// # Panics
    /// If the case does not hold, or if there is no such case.
    pub async fn hold_one(&self, name: &str, port: Arc<P>) {
        let case = self.cases.iter().find(|case| case.name == name);
        let case = case.unwrap_or_else(|| panic!("there is no case {name}"));
        // A test that fails shows it.
        println!("the contract: {name}");
        (case.run)(port).await;
    }
}

impl<P: ?Sized> fmt::Debug for Contract<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Functions of a port as the cases of its contract.
macro_rules! cases {
    ($($case:ident,)*) => {
        $crate::testing::contract::Contract {
            cases: vec![$($crate::testing::contract::Case {
                name: stringify!($case),
                run: |port| futures::FutureExt::boxed($case(port)),
            },)*],
        }
    };
}

use cases;

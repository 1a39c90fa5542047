//! Connections that the blocks of large files may have beside the one that each file has.
//!
//! A file is never kept waiting: its own connection counts, and is not asked for. What is left up to
//! the limit is for blocks. A block gives its connection back when it is here, so a file that comes
//! meanwhile finds room soon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    most_per_host: Option<usize>,
    used: Mutex<Used>,
    given_back: Notify,
}

#[derive(Debug, Default)]
struct Used {
    all: usize,
    /// Counted where hosts have a limit.
    by_host: HashMap<Arc<str>, usize>,
}

/// A connection that counts. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    connections: &'a Connections,
    host: Option<Arc<str>>,
}

impl Connections {
    pub(super) fn new(most: usize, most_per_host: Option<usize>) -> Self {
        Self { most, most_per_host, used: Mutex::default(), given_back: Notify::new() }
    }

    /// The same, with another limit for each host.
    pub(super) fn with_most_per_host(self, most_per_host: Option<usize>) -> Self {
        Self::new(self.most, most_per_host)
    }

    /// Counts the one that a file has anyway.
    pub(super) fn of_file(&self, host: &str) -> Connection<'_> {
        self.counted(&mut self.used(), host)
    }

    /// One for a block, if there is one left.
    pub(super) fn of_block(&self, host: &str) -> Option<Connection<'_>> {
        let mut used = self.used();
        self.is_left(&used, host).then(|| self.counted(&mut used, host))
    }

    /// Whether there is one left for a block. Nobody hears of the question.
    pub(super) fn has_left(&self, host: &str) -> bool {
        self.is_left(&self.used(), host)
    }

    fn is_left(&self, used: &Used, host: &str) -> bool {
        let of_host = used.by_host.get(host).copied().unwrap_or(0);
        used.all < self.most && self.most_per_host.is_none_or(|most| of_host < most)
    }

    /// Whether files may have more than one at all.
    pub(super) fn are_shared(&self) -> bool {
        self.most > 1 && self.most_per_host.is_none_or(|most| most > 1)
    }

    /// Completes when one is given back after this call.
    pub(super) fn given_back(&self) -> Notified<'_> {
        self.given_back.notified()
    }

    fn counted(&self, used: &mut Used, host: &str) -> Connection<'_> {
        used.all += 1;
        let host = self.most_per_host.map(|_| Arc::<str>::from(host));
        if let Some(host) = &host {
            *used.by_host.entry(Arc::clone(host)).or_default() += 1;
        }
        Connection { connections: self, host }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let mut used = self.connections.used();
        used.all = used.all.saturating_sub(1);
        if let Some(host) = &self.host
            && let Some(of_host) = used.by_host.get_mut(host)
        {
            *of_host -= 1;
            if *of_host == 0 {
                used.by_host.remove(host);
            }
        }
        drop(used);
        self.connections.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_never_kept_waiting_and_blocks_have_what_is_left() {
        let connections = Connections::new(3, None);
        let (one, two) = (connections.of_file("a"), connections.of_file("a"));
        let block = connections.of_block("a").expect("one is left");
        assert!(connections.of_block("a").is_none());
        let _three = connections.of_file("b");
        drop(block);
        assert!(connections.of_block("a").is_none(), "a file has it");
        drop((one, two));
        assert!(connections.of_block("b").is_some());
        assert!(connections.are_shared() && !Connections::new(1, None).are_shared());
    }

    #[test]
    fn a_host_has_no_more_than_its_own_limit() {
        let connections = Connections::new(10, Some(2));
        let file = connections.of_file("a");
        let block = connections.of_block("a").expect("the second one");
        assert!(connections.of_block("a").is_none() && connections.of_block("b").is_some());
        drop((file, block));
        assert!(connections.used().by_host.is_empty());
        assert!(!Connections::new(10, Some(1)).are_shared());
    }
}

//! Whether a look at a folder is quick enough to be taken where it is asked for.
//!
//! A look at a file of a local disk takes a few microseconds; to have another thread take it costs ten
//! times that. Over a network it may take as long as the network does, and holds up all that its thread
//! would do. So a look is taken by a thread that may block, and at once only as long as looks are quick.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A look that takes no longer is quick.
const QUICK: Duration = Duration::from_micros(50);

/// So many looks in a row are to be quick, before one is taken at once.
const QUICK_LOOKS: u32 = 16;

/// Quick looks in a row, as far as they matter.
#[derive(Debug, Default)]
pub(super) struct LookPace(AtomicU32);

impl LookPace {
    /// Whether the next look may be taken at once.
    pub(super) fn is_quick(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= QUICK_LOOKS
    }

    /// A look took so long.
    pub(super) fn on_looked(&self, took: Duration) {
        if took > QUICK {
            self.0.store(0, Ordering::Relaxed);
        } else if !self.is_quick() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a call returned, and how long it took.
pub(super) fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let returned = call();
    (returned, begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_taken_at_once_while_they_are_quick() {
        let pace = LookPace::default();
        for _ in 0..QUICK_LOOKS {
            assert!(!pace.is_quick());
            pace.on_looked(QUICK);
        }
        assert!(pace.is_quick());
        pace.on_looked(QUICK * 2);
        assert!(!pace.is_quick(), "one that is slow, and others wait for it no more");
        let (four, took) = timed(|| 2 + 2);
        assert!(four == 4 && took < Duration::from_secs(60));
    }
}

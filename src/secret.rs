//! Text that must not be seen: no `Debug`, no `Display`, one way to read it.

use std::fmt;
use std::sync::Arc;

/// A key, a token, a connection string. `Debug` shows that there is one, and nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// The text itself: for the call that needs it, and for no log, error or report.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Some(Secret::new("canary"))), "Some((hidden))");
        assert_eq!(Secret::new("canary").reveal(), "canary");
    }
}

//! What goes with a commit, beside the bytes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::BlobNote;
pub use crate::config::AccessTier;

/// What goes with a commit. A store leaves out what it has no place for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Commit {
    /// Which work the blob is of.
    pub note: Option<BlobNote>,
    /// What must be there for the blob to take its place.
    pub expected: ExpectedBlob,
    /// What kind of content it is, as HTTP says it.
    pub content_type: Option<String>,
    /// Names and values that stay with the blob, as its store takes them.
    pub metadata: BTreeMap<String, String>,
    /// When its content was changed last, if that is to be kept.
    pub modified: Option<SystemTime>,
    /// The access tier; `None` is that of the account.
    pub tier: Option<AccessTier>,
}

impl Commit {
    /// A commit with this note.
    pub fn new(note: BlobNote) -> Self {
        Self { note: Some(note), ..Self::default() }
    }

    /// It replaces this and nothing else.
    #[must_use]
    pub fn with_expected(mut self, expected: ExpectedBlob) -> Self {
        self.expected = expected;
        self
    }

    /// Its content is of this kind.
    #[must_use]
    pub fn with_content_type(mut self, content_type: Option<String>) -> Self {
        self.content_type = content_type;
        self
    }

    /// These names and values stay with it.
    #[must_use]
    pub fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = metadata;
        self
    }

    /// Its content was changed last at this time.
    #[must_use]
    pub fn with_modified(mut self, modified: Option<SystemTime>) -> Self {
        self.modified = modified;
        self
    }

    /// It is put into this access tier.
    #[must_use]
    pub fn with_tier(mut self, tier: Option<AccessTier>) -> Self {
        self.tier = tier;
        self
    }
}

/// What a commit may replace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ExpectedBlob {
    /// Whatever is there.
    #[default]
    Anything,
    /// Nothing: there is no such blob.
    Absent,
    /// The blob as it was found: [`FoundBlob::version`](super::FoundBlob::version).
    Version(String),
}
